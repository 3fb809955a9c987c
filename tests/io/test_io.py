"""NIfTI: nibabel is the oracle; what is written for a source sits where it sits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import nibabel.orientations as nio
import numpy as np
import pytest

from diffatlas import io
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap
from diffatlas.io.intensity import intensities
from diffatlas.io.source import Source
from tests.io.files import codes, labels_on, load, numbered, oblique

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


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("filled", ["nowhere", "in a corner", "everywhere"])
def test_ids_are_written_as_they_are_looked_up(suffix: str, filled: str, tmp_path: Path) -> None:
    """Blocks without a label, with some, and of labels alone; shapes that blocks do not divide."""
    data = np.zeros((37, 21, 70), np.uint8)
    if filled == "in a corner":
        data[20:, 3:9, 66:] = 5
    elif filled == "everywhere":
        data[:] = np.random.default_rng(0).integers(1, 6, data.shape)
    labels = LabelMap(data, Grid((37, 21, 70), np.eye(4)), MMWHS)
    path = tmp_path / f"labels{suffix}"
    io.write_label_map(labels, path)
    ids, _ = io.read_label_ids(path)
    assert np.array_equal(ids, labels.to_ids())
    assert ids.dtype == np.uint16
    counts = {n: float((ids == i).sum()) / 1000 for n, i in zip(MMWHS.names, MMWHS.ids, strict=True)}
    assert labels.volumes_ml() == pytest.approx(counts)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("odd", [None, np.nan, np.inf])
def test_blocks_make_the_whole(order: Literal["C", "F"], odd: float | None) -> None:
    """Shapes that blocks do not divide; the one odd voxel lies in the last block."""
    stored = np.asarray(np.random.default_rng(0).normal(size=(5, 35, 18)), dtype=np.float32, order=order)
    if odd is not None:
        stored[-1, -1, -1] = odd
    data, unknown, notes = intensities(Source(stored, Grid((5, 35, 18), np.eye(4)), "test", (2.0, 1.0)), "test")
    expected = (stored.astype(np.float64) * 2 + 1).astype(np.float32)
    if odd is None:
        assert np.array_equal(data, expected)
        assert unknown is None
        assert notes == ()
    else:
        assert data[-1, -1, -1] == expected[np.isfinite(expected)].min()
        assert unknown is not None
        assert np.argwhere(unknown).tolist() == [[4, 34, 17]]
