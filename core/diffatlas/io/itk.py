"""SimpleITK for DICOM, imported on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.io.atomic import shown, suffix_of

T = TypeVar("T")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 1 << 20
DATA_KEYS = ("data file", "datafile", "elementdatafile")


def _sitk() -> Any:
    """SimpleITK with its warnings off: they go to the terminal past everything Python can catch."""
    import SimpleITK

    sitk: Any = SimpleITK  # which carries no types
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def _call(path: Path, function: Callable[[], T]) -> T:
    """Run one ITK call; whatever it cannot read is the user's file."""
    try:
        return function()
    except MemoryError as error:
        raise BadInput(
            f"{shown(path)}: not enough memory to read it; crop it or resample it to larger voxels"
        ) from error
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        reason = reason.rsplit("ERROR: ", 1)[-1].replace(str(path.parent), "").strip()
        raise BadInput(f"{shown(path)}: could not be read ({reason}); copy it again or convert it") from error


def _reader(path: Path, *, dicom: bool = False) -> Any:
    """A reader bound to one decoder: a file is never handed to another format's parser because of its content."""
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    if dicom:
        reader.SetImageIO("GDCMImageIO")
    else:
        reader.SetImageIO("NrrdImageIO" if suffix_of(path) in (".nrrd", ".nhdr") else "MetaImageIO")
    return reader


def _described(reader: Any, path: Path) -> tuple[tuple[int, int, int], int, np.dtype[Any]]:
    """Shape [X, Y, Z], number of volumes and stored type, after ReadImageInformation."""
    sitk, name = _sitk(), shown(path)
    size = [int(n) for n in reader.GetSize()]
    components = int(reader.GetNumberOfComponents())
    if components != 1:
        raise BadInput(
            f"{name}: holds {components} values per voxel (color, vectors or a series); save one intensity per voxel"
        )
    types = {
        sitk.sitkUInt8: "u1", sitk.sitkUInt16: "u2", sitk.sitkUInt32: "u4", sitk.sitkUInt64: "u8",
        sitk.sitkInt8: "i1", sitk.sitkInt16: "i2", sitk.sitkInt32: "i4", sitk.sitkInt64: "i8",
        sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
    }  # fmt: skip
    stored = types.get(reader.GetPixelID())
    if stored is None:
        raise BadInput(f"{name}: its voxels are neither integers nor real numbers; save the magnitude image as float32")
    if len(size) < 3:
        raise BadInput(f"{name}: is a {len(size)}-D image; a volume with three axes is needed")
    if any(n > 1 for n in size[4:]):
        raise BadInput(f"{name}: has shape {'x'.join(map(str, size))}; save one volume with three axes")
    if min(size) < 1:
        raise BadInput(f"{name}: the header claims a size of {'x'.join(map(str, size))}; it is damaged")
    return (size[0], size[1], size[2]), size[3] if len(size) > 3 else 1, np.dtype(stored)


def _array(image: Any) -> NDArray[Any]:
    """ITK's voxels as [X, Y, Z]."""
    data: NDArray[Any] = _sitk().GetArrayFromImage(image)
    return data.transpose(2, 1, 0)


def _affine(image: Any) -> NDArray[np.float64]:
    """Voxel index to RAS+ mm of a 3-D ITK image."""
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ lps
