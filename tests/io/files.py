"""Files for the tests of readers and writers, and how nibabel sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from diffatlas.geometry.volume import MMWHS, LabelMap, Volume

# A rotation about (1, 2, 3) by 0.4 rad (Rodrigues' formula).
AXIS = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
CROSS = np.cross(np.eye(3), AXIS) * -1
ROTATION = np.eye(3) + np.sin(0.4) * CROSS + (1 - np.cos(0.4)) * CROSS @ CROSS


def oblique() -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = ROTATION * (0.7, 1.3, 2.9)
    affine[:3, 3] = (-31.25, 17.1, 403.3)
    # What a NIfTI-1 sform can hold.
    return affine.astype(np.float32).astype(np.float64)


def load(path: Path) -> Any:
    """An image of nibabel, whose types say too little of it."""
    return nib.load(path)


def numbered(shape: tuple[int, int, int] = (5, 6, 7)) -> NDArray[np.int16]:
    """Every voxel its own value."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def labels_on(volume: Volume) -> LabelMap:
    data = (np.arange(volume.data.size).reshape(volume.grid.shape) % 6).astype(np.uint8)
    return LabelMap(data, volume.grid, MMWHS)


def codes(path: Path) -> tuple[Any, ...]:
    """Affine, both codes and both matrices of a file, as nibabel sees them."""
    image = load(path)
    header = image.header
    qform, sform = header.get_qform(), header.get_sform()
    return (
        image.shape,
        image.affine.tobytes(),
        int(header["qform_code"]),
        int(header["sform_code"]),
        qform.tobytes(),
        sform.tobytes(),
    )


def world_by_itk(image: Any, index: tuple[int, int, int]) -> NDArray[np.float64]:
    return np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)


def write_series(
    folder: Path, data: NDArray[np.int16], affine_lps: NDArray[np.float64], uid: str, tag: str = "CT"
) -> None:
    """One file a slice, position and direction as ``affine_lps`` has them (its third column may be oblique)."""
    folder.mkdir(exist_ok=True)
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    row, column = affine_lps[:3, 0] / spacing[0], affine_lps[:3, 1] / spacing[1]
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(data.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(data[:, :, k].T)[None])
        image.SetSpacing((spacing[0], spacing[1], spacing[2]))
        position = affine_lps[:3, 3] + k * affine_lps[:3, 2]
        normal = np.cross(row, column)
        image.SetDirection(np.stack([row, column, normal], axis=1).ravel().tolist())
        image.SetOrigin(position.tolist())
        image.SetMetaData("0008|0060", tag)
        image.SetMetaData("0020|000e", uid)
        image.SetMetaData("0020|000d", "1.2.3")
        image.SetMetaData("0008|0018", f"{uid}.{k}")
        image.SetMetaData("0020|0013", str(k))
        image.SetMetaData("0020|0032", "\\".join(f"{v:.8g}" for v in position))
        image.SetMetaData("0020|0037", "\\".join(f"{v:.8g}" for v in (*row, *column)))
        # File names against the order of the slices: position must decide.
        writer.SetFileName(str(folder / f"{uid}-{99 - k}.dcm"))
        writer.Execute(image)
