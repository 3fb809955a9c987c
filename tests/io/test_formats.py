"""Label maps, NRRD, MetaImage and DICOM: what ITK and nibabel read is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, Volume
from tests.io.files import ROTATION, numbered, oblique, world_by_itk, write_series

# --- label maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "dtype"), [(MMWHS, np.uint16), (HIPPOCAMPUS, np.uint8)])
@pytest.mark.parametrize("suffix", io.IMAGE_SUFFIXES)
def test_label_maps_carry_ids_in_the_smallest_type(tmp_path: Path, scheme: Any, dtype: Any, suffix: str) -> None:
    data = (numbered() % (len(scheme) + 1)).astype(np.uint8)
    labels = LabelMap(data, Grid((5, 6, 7), oblique()), scheme)
    path = tmp_path / f"labels{suffix}"
    io.write_label_map(labels, path)
    ids = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)
    assert ids.dtype == dtype
    assert set(np.unique(ids)) == {0, *scheme.ids}
    np.testing.assert_array_equal(ids, labels.to_ids())
    again = io.read_label_map(path, scheme)
    np.testing.assert_array_equal(again.data, data)
    assert again.grid.same_as(labels.grid)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path: Path) -> None:
    data = (numbered() % 3).astype(np.float32)
    nib.save(nib.Nifti1Image(data, oblique()), tmp_path / "float.nii.gz")
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "float.nii.gz", HIPPOCAMPUS).data, data)


def test_unknown_ids_become_background_only_when_asked(tmp_path: Path) -> None:
    data = (numbered() % 5).astype(np.uint8)
    nib.save(nib.Nifti1Image(data, oblique()), tmp_path / "more.nii.gz")
    with pytest.raises(BadInput, match=r"more\.nii\.gz.*\[3, 4\]"):
        io.read_label_map(tmp_path / "more.nii.gz", HIPPOCAMPUS)
    labels = io.read_label_map(tmp_path / "more.nii.gz", HIPPOCAMPUS, ignore_unknown=True)
    np.testing.assert_array_equal(labels.data, np.where(data > 2, 0, data))


# --- NRRD, MetaImage, DICOM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
@pytest.mark.parametrize("compress", [False, True])
def test_itk_files_are_read_as_itk_places_them(tmp_path: Path, suffix: str, compress: bool) -> None:
    image = sitk.GetImageFromArray(numbered().transpose(2, 1, 0))
    image.SetDirection(ROTATION.ravel().tolist())
    image.SetSpacing((0.7, 1.3, 2.9))
    image.SetOrigin((-31.25, 17.1, 1 / 3))
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compress)
    volume = io.read_volume(path)
    np.testing.assert_array_equal(volume.data, numbered())
    for index in ((0, 0, 0), (4, 0, 0), (1, 5, 2), (3, 2, 6)):
        np.testing.assert_allclose(volume.grid.to_world(index), world_by_itk(image, index), atol=1e-9)
    assert volume.notes == ()
    assert volume.header is None


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_files_round_trip(tmp_path: Path, suffix: str) -> None:
    grid = Grid((5, 6, 7), oblique())
    data = np.random.default_rng(3).normal(size=grid.shape).astype(np.float32)
    io.write_volume(Volume(data, grid), tmp_path / f"image{suffix}")
    volume = io.read_volume(tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.grid.affine, grid.affine, atol=1e-6)
    # The same voxels at the same place, whichever format carried them.
    io.write_volume(volume, tmp_path / "image.nii.gz")
    assert io.read_volume(tmp_path / "image.nii.gz").grid.same_as(grid)


def test_shear_is_read_and_written_to_metaimage_only(tmp_path: Path) -> None:
    affine = oblique()
    affine[:3, 2] += 0.3 * affine[:3, 0]
    volume = Volume(numbered().astype(np.float32), Grid((5, 6, 7), affine))
    io.write_volume(volume, tmp_path / "a.mha")
    assert io.read_volume(tmp_path / "a.mha").grid.same_as(volume.grid)
    with pytest.raises(BadInput, match="shear"):
        io.write_volume(volume, tmp_path / "a.nrrd")
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        "space directions: (1,0,0) (0,1,0) (0.3,0,1)\nspace origin: (0,0,0)\nencoding: raw\n\n"
    )
    (tmp_path / "b.nrrd").write_bytes(header.encode() + bytes(range(8)))
    # The third axis leans to the left.
    np.testing.assert_allclose(io.read_volume(tmp_path / "b.nrrd").grid.to_world((0, 0, 1)), (-0.3, 0, 1))


@pytest.mark.parametrize("tilt", [0.0, 0.4], ids=["straight", "tilted gantry"])
@pytest.mark.parametrize(("tag", "modality"), [("CT", "ct"), ("MR", "mr"), ("PT", "unknown")])
def test_dicom_series_stand_where_their_slices_say(tmp_path: Path, tilt: float, tag: str, modality: str) -> None:
    lps = np.eye(4)
    lps[:3, :3] = ROTATION * (0.8, 0.8, 2.5)
    lps[:3, 2] += tilt * lps[:3, 1]
    lps[:3, 3] = (-20.0, 30.0, 55.0)
    data = numbered((5, 6, 7))
    write_series(tmp_path / "scan", data, lps, "1.2.3.4", tag)
    volume = io.read_volume(tmp_path / "scan")
    grid = Grid(data.shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    # The order of the slices is the reader's own; places and values have to agree.
    voxels = np.argwhere(volume.data >= 0)
    values = volume.data[tuple(voxels.T)].astype(int)
    expected = grid.to_world(np.stack(np.unravel_index(values, data.shape), axis=1).astype(float))
    np.testing.assert_allclose(volume.grid.to_world(voxels.astype(float)), expected, atol=1e-3)
    assert volume.modality == modality
    one_file = next((tmp_path / "scan").iterdir())
    np.testing.assert_array_equal(io.read_volume(one_file).data, volume.data)
