"""Images, label maps and the names of what they show.

A `LabelMap` holds *indices* into its scheme (0 background, k the k-th structure); files carry the scheme's *ids*
(MM-WHS writes 500 for the left ventricle). The two meet only in `io` and in `LabelMap.to_ids` / `from_ids`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.values import Whole, value

Modality = Literal["ct", "mr", "unknown"]


Byte = Annotated[Whole, Field(ge=0, le=255)]


@value(frozen=True)
class Structure:
    """One anatomical structure: its name, the id files carry, and a display colour (r, g, b), 0 to 255."""

    name: Annotated[str, Field(min_length=1)]
    id: Whole
    color: tuple[Byte, Byte, Byte]


@value(frozen=True)
class LabelScheme:
    """An ordered set of structures; index k of a label map is ``structures[k - 1]``."""

    name: str
    structures: tuple[Structure, ...]

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.structures)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(s.id for s in self.structures)

    @classmethod
    def of_ids(cls, ids: Iterable[int]) -> LabelScheme:
        """A scheme that names structures by their ids ("label 3"); 0 is background."""
        known = sorted({int(i) for i in ids} - {0})
        if len(known) > 254:
            raise BadInput(f"{len(known)} different ids; a label map holds 254 structures at most")
        return cls("ids", tuple(Structure(f"label {i}", i, (160, 160, 160)) for i in known))

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(max(self.ids, default=0))


# Colours from the Okabe-Ito palette: distinguishable with any colour vision.
MMWHS = LabelScheme(
    "mmwhs",
    (
        Structure("left ventricle", 500, (213, 94, 0)),
        Structure("right ventricle", 600, (86, 180, 233)),
        Structure("left atrium", 420, (230, 159, 0)),
        Structure("right atrium", 550, (0, 114, 178)),
        Structure("myocardium", 205, (0, 158, 115)),
    ),
)
HIPPOCAMPUS = LabelScheme(
    "hippocampus",
    (Structure("anterior hippocampus", 1, (230, 159, 0)), Structure("posterior hippocampus", 2, (86, 180, 233))),
)


@dataclass(frozen=True)
class NiftiHeader:
    """The orientation fields of a NIfTI file as stored, so that what is written for it carries the same ones.

    Float fields are the file's own (float32 in NIfTI-1, float64 in NIfTI-2). ``pixdim``: qfac, three voxel sizes.
    ``quaternion`` b, c, d and ``offset`` x, y, z make the qform; ``srow`` is the sform, three rows of four. ``units``:
    xyzt_units. ``extra_axes``: axes of length one behind the third.
    """

    version: Literal[1, 2]
    qform_code: int
    sform_code: int
    pixdim: tuple[float, ...]
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    srow: tuple[float, ...]
    units: int = 2
    extra_axes: int = 0


@dataclass(frozen=True)
class DicomSeries:
    """What a file made from a DICOM series says of it: its identifiers and the patient's.

    ``slices``: SOP instance UID and frame number (from 1; 0 for a file of one frame) of each slice along the volume's
    third axis. ``patient``: attribute and value of the patient and study modules. Not printed: it names a person.
    """

    study: str
    series: str
    frame_of_reference: str
    modality: str
    sop_class: str
    slices: tuple[tuple[str, int], ...] = field(repr=False)
    patient: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A scalar image: float32 [X, Y, Z] in the source's own intensities (HU for CT), its grid and modality.

    ``notes`` are one-line findings of the reader worth showing (voxels that were filled, an orientation that was
    guessed). ``header``: of the NIfTI file it came from, else None; ``series``: likewise of DICOM.
    ``unknown``: bool [X, Y, Z], True where nothing was measured (NaN, padding), or None where everything was; ``data``
    is filled there. ``modality_reason``: why ``modality`` is what it is, as the end of a sentence.
    """

    data: NDArray[np.float32]
    grid: Grid
    modality: Modality = "unknown"
    name: str = "volume"
    notes: tuple[str, ...] = ()
    header: NiftiHeader | None = None
    unknown: NDArray[np.bool_] | None = None
    modality_reason: str = ""
    series: DicomSeries | None = None

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape or self.data.dtype != np.float32:
            raise ValueError(f"data must be float32 {self.grid.shape}, not {self.data.dtype} {self.data.shape}")
        if self.unknown is not None and (self.unknown.shape != self.grid.shape or self.unknown.dtype != np.bool_):
            raise ValueError(f"unknown must be bool {self.grid.shape}, not {self.unknown.dtype} {self.unknown.shape}")

    @classmethod
    def from_array(
        cls, data: ArrayLike, affine: ArrayLike, *, modality: Modality = "unknown", name: str = "array"
    ) -> Volume:
        """A volume of an array [X, Y, Z] of finite numbers and its ``affine`` [4, 4], voxel indices to RAS+ mm."""
        return cls(_finite(data, name), _grid(np.shape(data), affine, name), modality, name)

    @classmethod
    def from_nibabel(cls, image: SpatialImage, *, modality: Modality = "unknown", name: str = "image") -> Volume:
        """A volume of a nibabel image: its scaled values, its affine in mm."""
        return cls.from_array(_values(image), _affine_mm(image), modality=modality, name=name)

    def to_nibabel(self) -> nib.Nifti1Image:
        """The same as a NIfTI image of float32, millimetres."""
        return _nifti(self.data, self.grid)

    def __repr__(self) -> str:
        return f"Volume({self.name!r}, {self.grid.words}, {self.modality})"

    def named(self, modality: Modality) -> Volume:
        """The same with the modality that the user says it is, above what the file says or looks like."""
        return replace(self, modality=modality, modality_reason="as you named it")

    def sha256(self) -> str:
        """SHA-256 of the voxels (little-endian float32, C order): whether two runs saw the same image."""
        return hashlib.sha256(np.ascontiguousarray(self.data, dtype="<f4").data).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class LabelMap:
    """A segmentation: uint8 [X, Y, Z] indices into ``scheme`` (0 is background) on ``grid``; its reader's ``notes``."""

    data: NDArray[np.uint8]
    grid: Grid
    scheme: LabelScheme
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape or self.data.dtype != np.uint8:
            raise ValueError(f"data must be uint8 of shape {self.grid.shape}, not {self.data.dtype} {self.data.shape}")
        if self.data.size and int(self.data.max()) > len(self.scheme):
            raise ValueError(f"label index {int(self.data.max())} is beyond the {len(self.scheme)} of the scheme")

    def to_ids(self) -> NDArray[Any]:
        """The same map with the scheme's ids, in the smallest unsigned type that holds them."""
        return self.id_table[self.data]

    @property
    def id_table(self) -> NDArray[Any]:
        """The id of each index, 0 for the background, in the smallest unsigned type that holds them."""
        table = np.zeros(len(self.scheme) + 1, dtype=self.scheme.id_dtype)
        table[1:] = self.scheme.ids
        return table

    @classmethod
    def from_ids(cls, ids: NDArray[Any], grid: Grid, scheme: LabelScheme, *, ignore_unknown: bool = False) -> LabelMap:
        """Label ids [X, Y, Z] to indices; ids the scheme does not know raise `BadInput` (or become background)."""
        if len(scheme) > 255:
            raise BadInput(f"{len(scheme)} structures; a label map holds 255 at most")
        data = np.zeros(ids.shape, dtype=np.uint8)
        for index, id_ in enumerate(scheme.ids, start=1):
            data[ids == id_] = index
        unknown = [int(v) for v in np.unique(ids[data == 0]) if v != 0]
        if unknown and not ignore_unknown:
            raise BadInput(
                f"label map holds ids {unknown[:8]} that scheme '{scheme.name}' does not know (it knows "
                f"{list(scheme.ids)})"
            )
        return cls(data, grid, scheme)

    @classmethod
    def from_nibabel(cls, image: SpatialImage, scheme: LabelScheme | None = None, *, name: str = "labels") -> LabelMap:
        """A nibabel image of ids as a label map; ``scheme`` None names the structures by their ids."""
        ids = np.asarray(_values(image))
        grid = _grid(ids.shape, _affine_mm(image), name)
        if not (np.isfinite(ids).all() and (ids == np.round(ids)).all() and (ids >= 0).all() and (ids < 2**16).all()):
            raise BadInput(f"{name}: is no label map; ids are whole numbers from 0 to 65535")
        whole = ids.astype(np.uint16)
        return cls.from_ids(whole, grid, scheme or LabelScheme.of_ids(np.unique(whole)))

    def to_nibabel(self) -> nib.Nifti1Image:
        """The same as a NIfTI image of the scheme's ids, millimetres."""
        return _nifti(self.to_ids(), self.grid)

    def __repr__(self) -> str:
        return f"LabelMap({self.scheme.name!r}, {len(self.scheme)} structures, {self.grid.words})"

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each structure, ml."""
        # Slabs that the cache holds, and of these the few with labels. A bincount would first make eight bytes of every
        # voxel.
        rows = max(1, 2**20 // max(1, self.data[:1].size))
        slabs = [slab for i in range(0, len(self.data), rows) if (slab := self.data[i : i + rows]).any()]
        return {
            name: float(sum(np.count_nonzero(slab == k) for slab in slabs)) * self.grid.voxel_volume_ml
            for k, name in enumerate(self.scheme.names, start=1)
        }


def _grid(shape: tuple[int, ...], affine: ArrayLike, name: str) -> Grid:
    if len(shape) != 3:
        raise BadInput(f"{name}: has {len(shape)} axes; give one three-dimensional image")
    try:
        return Grid((shape[0], shape[1], shape[2]), np.asarray(affine, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name}: {error}") from error


def _finite(data: ArrayLike, name: str) -> NDArray[np.float32]:
    values = np.asarray(data)
    if values.dtype.kind not in "biuf":
        raise BadInput(f"{name}: holds {values.dtype} values; give real numbers")
    converted = values.astype(np.float32)
    if not np.isfinite(converted).all():
        raise BadInput(f"{name}: holds values that are not finite (or beyond float32); replace them first")
    return converted


def _values(image: SpatialImage) -> NDArray[Any]:
    values: NDArray[Any] = np.asanyarray(image.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return values


def _affine_mm(image: SpatialImage) -> NDArray[np.float64]:
    scale = {"meter": 1000.0, "micron": 0.001}
    units = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    if image.affine is None:
        raise BadInput("the image has no affine; give one with Volume.from_array")
    return np.diag([*[scale.get(units, 1.0)] * 3, 1.0]) @ np.asarray(image.affine, dtype=np.float64)


def _nifti(data: NDArray[Any], grid: Grid) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    return image
