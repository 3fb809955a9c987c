"""What every reader gives: the stored array, the affine, and how much may be read.

`Source` keeps the stored numbers and the scale apart: images become float32 from it, label ids stay exact integers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import DicomSeries, Modality, NiftiHeader, Structure
from diffatlas.io.atomic import shown

SPACING_MM = (1e-3, 1e3)
# Volumes of a series that are listed to choose from.
MAX_CHOICES = 1000
STORED = frozenset(np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"))


@dataclass(frozen=True)
class Limits:
    """How much a reader takes: voxels of one volume, and bytes of one file once decompressed.

    ``contained``: every format is decoded in a process of its own, as for files of strangers, for ``max_seconds`` at
    most (`diffatlas.io.contained`). Without it files are decoded in this process, except for compressed pixels of
    DICOM, whose decoders can crash: such a file is read in a process of its own, unless ``compressed`` says that this
    is that process.
    """

    max_voxels: int = 1024**3
    max_bytes: int = 8 * 1024**3
    contained: bool = False
    max_seconds: float = 120.0
    compressed: bool = False

    @property
    def decoder_bytes(self) -> int:
        """What a decoder may allocate: the stored file and the volume, side by side, and what libraries need."""
        return 2 * min(self.max_bytes, 8 * self.max_voxels) + (512 << 20)

    def check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], volumes: int = 1) -> None:
        """Refuse from the header, before anything is allocated; ``shape`` [X, Y, Z] of one of ``volumes``."""
        size = "x".join(str(n) for n in shape)
        voxels = 1
        for n in shape:
            voxels *= int(n)
        if voxels > self.max_voxels:
            raise BadInput(
                f"{shown(path)}: {size} is {voxels:.3g} voxels, the limit is {self.max_voxels:.3g}; "
                "crop it or resample it to larger voxels"
            )
        if voxels * volumes * dtype.itemsize > self.max_bytes:
            raise BadInput(
                f"{shown(path)}: {volumes} x {size} of {dtype} is {voxels * volumes * dtype.itemsize:.3g} "
                f"bytes, the limit is {self.max_bytes:.3g}; crop it or split it into single volumes"
            )
        # The stored array and its float32 copy stand side by side while a file is read.
        needed, memory = voxels * (dtype.itemsize + 4), _memory_bytes()
        if memory is not None and needed > memory:
            raise BadInput(
                f"{shown(path)}: {size} needs {needed / 2**30:.1f} GiB, this machine has "
                f"{memory / 2**30:.1f} GiB; crop it or resample it to larger voxels"
            )


@dataclass(frozen=True, eq=False)
class Source:
    """One volume as its file holds it.

    ``data``: [X, Y, Z] in the stored type, native byte order; the value is ``data * slope + inter`` with ``scale`` =
    (slope, inter). ``grid``: mm, RAS+. ``modality``: what the file says of itself, or None. ``volumes``: length of the
    series the volume was taken from. ``format``: for people. ``padding``: the stored number that the file itself gives
    to voxels where nothing was acquired, or None. ``series``: what was read, where it is DICOM. ``structures``:
    that a file of labels names itself, and ``known``: the name that each of them has here by its code, or "".
    """

    data: NDArray[Any]
    grid: Grid
    format: str
    scale: tuple[float, float] = (1.0, 0.0)
    header: NiftiHeader | None = None
    modality: Modality | None = None
    volumes: int = 1
    notes: tuple[str, ...] = ()
    padding: float | None = None
    series: DicomSeries | None = None
    structures: tuple[Structure, ...] = ()
    known: tuple[str, ...] = ()


def make_grid(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> Grid:
    """`Grid` from a file's affine (mm, RAS+), or `BadInput` where it places no voxel: NaN, singular, absurd spacing."""
    name = shown(path)
    mend = "mend the header with a tool you trust, or convert the original again"
    if not np.isfinite(affine).all():
        raise BadInput(f"{name}: the orientation (affine) holds NaN or infinite numbers; {mend}")
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing == 0).any():
        raise BadInput(f"{name}: the orientation (affine) is zero along an axis; {mend}")
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        raise BadInput(f"{name}: voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm cannot be right; {mend}")
    # 0.01 is a parallelepiped a hundredth as thick as the box of the same edges: two axes nearly coincide.
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.01:
        raise BadInput(f"{name}: the axes of the orientation (affine) nearly coincide; {mend}")
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def pick_volume(path: Path, volumes: int, index: int | None) -> int:
    """Which volume of a series is meant; `SeveralVolumes` for a series without an index."""
    name = shown(path)
    if index is None:
        if volumes > 1:
            raise SeveralVolumes(
                f"{name}: holds a series of {volumes} volumes, 0 to {volumes - 1}; choose one, or save it as a file of "
                "its own",
                tuple(f"volume {number}" for number in range(min(volumes, MAX_CHOICES))),
            )
        return 0
    if not 0 <= index < volumes:
        raise BadInput(f"{name}: has no volume {index}; its {volumes} volume(s) are 0 to {volumes - 1}")
    return int(index)


def _memory_bytes() -> int | None:
    """Physical memory of this machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
