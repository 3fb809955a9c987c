"""Reading and writing: nibabel and SimpleITK are the oracles; what is written for a source sits where it sits."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import nibabel.orientations as nio
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, Volume

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")

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


# --- NIfTI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orientation", list(itertools.product(itertools.permutations(range(3)), (1, -1), (1, -1), (1, -1)))
)
def test_48_orientations_put_every_voxel_at_the_same_place(tmp_path: Path, orientation: tuple[Any, ...]) -> None:
    axes, *flips = orientation
    ornt = np.array(list(zip(axes, flips, strict=True)), dtype=float)
    original = nib.Nifti1Image(numbered(), oblique())
    turned = original.as_reoriented(ornt)
    nib.save(turned, tmp_path / "turned.nii.gz")
    volume = io.read_volume(tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(volume.data, np.asarray(turned.dataobj))
    # The law: whatever the storage, value v sits at the world position of voxel v of the original array.
    voxels = np.argwhere(volume.data >= 0)
    values = volume.data[tuple(voxels.T)].astype(int)
    expected = Grid((5, 6, 7), oblique()).to_world(np.stack(np.unravel_index(values, (5, 6, 7)), axis=1).astype(float))
    np.testing.assert_allclose(volume.grid.to_world(voxels.astype(float)), expected, atol=1e-4)
    assert volume.grid.axis_codes == "".join(nio.aff2axcodes(turned.affine))

    labels = labels_on(volume)
    io.write_label_map(labels, tmp_path / "labels.nii.gz", volume.header)
    assert codes(tmp_path / "labels.nii.gz") == codes(tmp_path / "turned.nii.gz")
    again = io.read_label_map(tmp_path / "labels.nii.gz", MMWHS)
    np.testing.assert_array_equal(again.data, labels.data)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_stored_type_is_read_as_nibabel_reads_it(tmp_path: Path, dtype: str, suffix: str) -> None:
    data = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    path = tmp_path / f"image{suffix}"
    nib.save(nib.Nifti1Image(data, oblique(), header), path)
    volume = io.read_volume(path)
    np.testing.assert_array_equal(volume.data, load(path).get_fdata().astype(np.float32))
    np.testing.assert_array_equal(volume.grid.affine, load(path).affine)
    assert volume.data.dtype == np.float32
    assert volume.name == "image"


def test_the_intensity_scale_is_applied_in_float64(tmp_path: Path) -> None:
    path = tmp_path / "scaled.nii"
    image = nib.Nifti1Image(numbered(), oblique())
    image.header.set_slope_inter(0.1, -1024)
    nib.save(image, path)
    volume = io.read_volume(path)
    np.testing.assert_array_equal(volume.data, load(path).get_fdata().astype(np.float32))
    assert volume.data.min() < -1000


@pytest.mark.parametrize("slices", [32, 33, 70])
@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (0.25, -7.0)])
def test_every_slice_of_a_long_volume_is_converted(tmp_path: Path, slices: int, slope: float, inter: float) -> None:
    """Slices are converted a few at a time, by two threads."""
    stored = numbered((3, 4, slices))
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "long.nii.gz")
    np.testing.assert_array_equal(io.read_volume(tmp_path / "long.nii.gz").data, stored * np.float32(slope) + inter)


def test_nifti_2_keeps_its_float64_affine(tmp_path: Path) -> None:
    affine = oblique()
    affine[0, 3] = 1 / 3
    nib.save(nib.Nifti2Image(numbered(), affine), tmp_path / "two.nii.gz")
    volume = io.read_volume(tmp_path / "two.nii.gz")
    assert volume.grid.affine[0, 3] == 1 / 3
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert isinstance(load(tmp_path / "labels.nii.gz"), nib.Nifti2Image)
    assert codes(tmp_path / "labels.nii.gz") == codes(tmp_path / "two.nii.gz")


@pytest.mark.parametrize(("qform", "sform"), [(0, 1), (1, 0), (1, 1), (2, 4), (5, 3), (0, 2), (3, 0), (0, 0)])
def test_orientation_codes_come_back_exactly(tmp_path: Path, qform: int, sform: int) -> None:
    image = nib.Nifti1Image(numbered(), None)
    image.header.set_sform(oblique(), code=sform)
    image.header.set_qform(oblique(), code=qform)
    nib.save(image, tmp_path / "source.nii.gz")
    volume = io.read_volume(tmp_path / "source.nii.gz")
    np.testing.assert_array_equal(volume.grid.affine, load(tmp_path / "source.nii.gz").affine)
    assert (volume.header.qform_code, volume.header.sform_code) == (qform, sform)  # type: ignore[union-attr]
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    io.write_volume(volume, tmp_path / "volume.nii")
    assert codes(tmp_path / "labels.nii.gz") == codes(tmp_path / "source.nii.gz")
    assert codes(tmp_path / "volume.nii") == codes(tmp_path / "source.nii.gz")
    assert load(tmp_path / "labels.nii.gz").header.get_xyzt_units()[0] == "mm"


def test_differing_qform_and_sform_are_both_kept_and_the_sform_is_used(tmp_path: Path) -> None:
    other = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(numbered(), None)
    image.header.set_sform(oblique(), code=2)
    image.header.set_qform(other, code=1)
    nib.save(image, tmp_path / "source.nii.gz")
    volume = io.read_volume(tmp_path / "source.nii.gz")
    np.testing.assert_array_equal(volume.grid.affine, oblique())
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert codes(tmp_path / "labels.nii.gz") == codes(tmp_path / "source.nii.gz")


def test_sheared_sform_survives_and_is_not_repeated_in_a_qform(tmp_path: Path) -> None:
    affine = oblique()
    affine[:3, 2] += 0.3 * affine[:3, 0]
    grid = Grid((5, 6, 7), affine)
    io.write_array(numbered(), grid, tmp_path / "sheared.nii.gz")
    written = load(tmp_path / "sheared.nii.gz")
    np.testing.assert_array_equal(written.affine, affine.astype(np.float32))
    assert int(written.header["qform_code"]) == 0
    assert io.read_volume(tmp_path / "sheared.nii.gz").grid.same_as(grid)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3)])
def test_other_length_units_become_mm_and_stay_in_the_file(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(numbered(), np.diag([0.5 / factor, 0.5 / factor, 0.5 / factor, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "source.nii.gz")
    volume = io.read_volume(tmp_path / "source.nii.gz")
    assert volume.grid.spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    assert any("mm" in note for note in volume.notes)
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert codes(tmp_path / "labels.nii.gz") == codes(tmp_path / "source.nii.gz")
    assert load(tmp_path / "labels.nii.gz").header.get_xyzt_units()[0] == unit


def test_a_trailing_axis_of_one_is_read_and_written_back(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(numbered()[..., None], oblique()), tmp_path / "source.nii.gz")
    volume = io.read_volume(tmp_path / "source.nii.gz")
    assert volume.grid.shape == (5, 6, 7)
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert load(tmp_path / "labels.nii.gz").shape == (5, 6, 7, 1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_of_a_series(tmp_path: Path, suffix: str) -> None:
    series = np.random.default_rng(2).normal(size=(4, 5, 6, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(series, oblique()), tmp_path / f"series{suffix}")
    for index in range(3):
        volume = io.read_volume(tmp_path / f"series{suffix}", volume_index=index)
        np.testing.assert_array_equal(volume.data, series[..., index])
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert load(tmp_path / "labels.nii.gz").shape == (4, 5, 6)


def test_header_extensions_are_stepped_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbered(), oblique())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"hello " * 20))
    nib.save(image, tmp_path / "extended.nii.gz")
    np.testing.assert_array_equal(io.read_volume(tmp_path / "extended.nii.gz").data, numbered())


def test_a_header_of_another_grid_is_our_mistake(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(numbered(), oblique()), tmp_path / "source.nii.gz")
    header = io.read_volume(tmp_path / "source.nii.gz").header
    with pytest.raises(ValueError, match="another grid"):
        io.write_array(numbered(), Grid((5, 6, 7), np.eye(4)), tmp_path / "out.nii.gz", header)
    assert [p.name for p in tmp_path.iterdir()] == ["source.nii.gz"]


def test_written_bytes_depend_on_the_arguments_only(tmp_path: Path) -> None:
    grid = Grid((5, 6, 7), oblique())
    io.write_array(numbered(), grid, tmp_path / "a.nii.gz")
    io.write_array(np.asfortranarray(numbered()), grid, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    # RFC 1952: flags (no name) and modification time (none) of the gzip header.
    assert (tmp_path / "a.nii.gz").read_bytes()[3:8] == bytes(5)


@pytest.mark.parametrize(("dtype", "stored"), [("?", "u1"), ("f2", "f4"), (">i4", "i4"), ("f8", "f8"), ("i8", "i8")])
def test_arrays_of_any_real_type_are_written(tmp_path: Path, dtype: str, stored: str) -> None:
    data = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    io.write_array(data, Grid((2, 3, 4), np.eye(4)), tmp_path / "a.nii.gz")
    written = load(tmp_path / "a.nii.gz")
    assert written.get_data_dtype() == np.dtype(stored)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


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


def world_by_itk(image: Any, index: tuple[int, int, int]) -> NDArray[np.float64]:
    return np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)


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


# --- writing whole or not at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("suffix", io.IMAGE_SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, suffix: str
) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(b"the old file")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BadInput, match=f"labels{suffix}.*no space left"):
        io.write_array(numbered(), Grid((5, 6, 7), oblique()), path)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def stopped_half_way() -> None:
        with io.atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == ".json"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_atomic_bytes_replace_the_file_behind_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    io.atomic_write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    io.atomic_write_bytes(tmp_path / "a.json", b"{}")
    (tmp_path / "b.json").write_bytes(b"{}")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


# --- modality, describe, real files --------------------------------------------------------------------------------


def test_modality_is_guessed_from_the_intensities() -> None:
    rng = np.random.default_rng(4)
    body = rng.normal(40, 20, (20, 20, 20)).astype(np.float32)
    body[:5] = -1000
    assert io.guess_modality(body) == "ct"
    assert io.guess_modality(np.abs(body)) == "mr"
    assert io.guess_modality(body / np.float32(10)) == "unknown"
    padded = rng.normal(40, 20, (20, 20, 20)).astype(np.float32)
    # One voxel decides nothing, nor do many of padding.
    before = io.guess_modality(padded)
    for value in (-32768, -2000, -1024):
        padded[0, 0, 0] = value
        assert io.guess_modality(padded) == before == "mr"
    for value in (-32768, -3024, -2000, -1024):
        body[5:15, :10] = value
        assert io.guess_modality(body) == "ct"


@pytest.mark.parametrize("padding", [-32768, -3024, -2000])
def test_padding_is_no_measurement(tmp_path: Path, padding: int) -> None:
    """A scanner that saw a circle fills the rest of its square."""
    seen = np.random.default_rng(1).normal(60, 300, (40, 40, 30)).clip(-1000, 1500).astype(np.int16)
    outside = np.add(*[(n - 19.5) ** 2 for n in np.indices((40, 40))]) > 19.5**2
    padded = seen.copy()
    padded[outside] = padding
    nib.save(nib.Nifti1Image(padded, np.diag([4.0, 4, 4, 1])), tmp_path / "a.nii.gz")
    volume = io.read_volume(tmp_path / "a.nii.gz")
    assert volume.modality == "ct"
    assert volume.unknown is not None
    np.testing.assert_array_equal(volume.unknown, np.broadcast_to(outside[..., None], padded.shape))
    np.testing.assert_array_equal(volume.data[~outside], seen[~outside])
    assert set(volume.data[outside].ravel()) == {-1000}
    assert any(f"padding ({padding})" in note for note in volume.notes)
    both = padded.copy()
    both[:, :, 0] = -31000
    nib.save(nib.Nifti1Image(both, np.eye(4)), tmp_path / "b.nii.gz")
    assert io.read_volume(tmp_path / "b.nii.gz").modality == "ct"


def test_a_tail_of_negative_values_is_no_padding(tmp_path: Path) -> None:
    phase = np.random.default_rng(2).integers(-4096, 4096, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(phase, np.eye(4)), tmp_path / "a.nii.gz")
    volume = io.read_volume(tmp_path / "a.nii.gz")
    assert volume.unknown is None
    assert volume.modality == "unknown"
    np.testing.assert_array_equal(volume.data, phase)


def test_nan_is_unknown_too(tmp_path: Path) -> None:
    data = np.ones((4, 5, 6), np.float32)
    data[0, 1, 2], data[3, 3, 3] = np.nan, 5
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    unknown = io.read_volume(tmp_path / "a.nii.gz").unknown
    assert unknown is not None
    assert np.argwhere(unknown).tolist() == [[0, 1, 2]]


def test_labels_that_were_stored_with_a_scale(tmp_path: Path) -> None:
    ids = np.zeros((4, 5, 6))
    ids[1], ids[2] = 1, 2
    image = nib.Nifti1Image(ids, np.eye(4))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    assert (load(tmp_path / "a.nii.gz").get_fdata() != ids).any()  # nibabel's own rounding
    labels = io.read_label_map(tmp_path / "a.nii.gz", HIPPOCAMPUS)
    np.testing.assert_array_equal(labels.data, ids)
    assert any("rounded" in note for note in labels.notes)
    nib.save(nib.Nifti1Image((ids + 0.3 * (ids == 2)).astype(np.float32), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(BadInput, match="fractions"):
        io.read_label_map(tmp_path / "b.nii.gz", HIPPOCAMPUS)


@pytest.mark.parametrize("stray", [b"\n", b"\0" * 512, b"garbage"])
def test_a_stray_byte_behind_compressed_data(tmp_path: Path, stray: bytes) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(numbered(), np.eye(4)), path)
    path.write_bytes(path.read_bytes() + stray)
    volume = io.read_volume(path)
    np.testing.assert_array_equal(volume.data, numbered())
    assert any("follows the compressed data" in note for note in volume.notes)


def test_describe_is_plain_data(tmp_path: Path) -> None:
    data = (numbered() % 3).astype(np.uint8)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "labels.nii.gz")
    facts = json.loads(json.dumps(io.describe(tmp_path / "labels.nii.gz"), allow_nan=False))
    assert facts["shape"] == [5, 6, 7]
    assert facts["spacing_mm"] == [1.0, 2.0, 3.0]
    assert facts["axis_codes"] == "RAS"
    assert facts["values"] == [0, 1, 2]
    assert facts["intensity"]["max"] == 2
    assert (facts["qform_code"], facts["sform_code"]) == (0, 2)
    nib.save(nib.Nifti1Image(np.stack([data] * 4, axis=-1), np.eye(4)), tmp_path / "series.nii.gz")
    assert io.describe(tmp_path / "series.nii.gz")["volumes"] == 4


@needs_shared
@pytest.mark.parametrize(
    ("name", "axes", "modality"),
    [("example_ct_sm", "RAS", "ct"), ("example_mr_sm", "LPS", "mr"), ("heart_ct", "LPS", "ct")],
)
def test_real_files_are_read_as_nibabel_reads_them(tmp_path: Path, name: str, axes: str, modality: str) -> None:
    path = SHARED / "ct_mr" / f"{name}.nii.gz"
    volume, image = io.read_volume(path), load(path)
    np.testing.assert_array_equal(volume.data, image.get_fdata().astype(np.float32))
    np.testing.assert_array_equal(volume.grid.affine, image.affine)
    assert (volume.grid.axis_codes, volume.modality, volume.name, volume.notes) == (axes, modality, name, ())
    io.write_label_map(labels_on(volume), tmp_path / "labels.nii.gz", volume.header)
    assert codes(tmp_path / "labels.nii.gz") == codes(path)


@needs_shared
def test_the_real_dicom_series_is_read_as_itk_reads_it() -> None:
    folder = SHARED / "ct_mr/dicom_series"
    volume = io.read_volume(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    for index in ((0, 0, 0), (511, 0, 0), (7, 400, 19)):
        np.testing.assert_allclose(volume.grid.to_world(index), world_by_itk(image, index), atol=1e-6)
    assert volume.modality == "ct"
    assert volume.grid.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2.0))


@needs_shared
def test_real_label_maps_of_the_hippocampus() -> None:
    path = min((SHARED / "hippocampus/labels").glob("*.nii.gz"))
    labels = io.read_label_map(path, HIPPOCAMPUS)
    np.testing.assert_array_equal(labels.data, np.asarray(load(path).dataobj))
    assert 0.5 < sum(labels.volumes_ml().values()) < 6
