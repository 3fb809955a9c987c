"""Modality, padding, what `describe` says, and real files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import HIPPOCAMPUS
from tests.io.files import codes, labels_on, load, numbered, world_by_itk

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")

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
