"""DICOM as people report it, intensities and places: the right values from arithmetic, or a refusal in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas.io.dicom import read_dicom
from tests.dicom_files import dataset, item, save, write_series
from tests.faults.dicom_reading import ORIENTATIONS, STORED, read, refused, values

SHARED = Path(__file__).resolve().parents[3] / "shared"

# --- the cases that are handed over ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tool = SHARED / "tools/awkward_inputs.py"
    if not tool.is_file():
        pytest.skip("the shared tool that makes these inputs is not beside this checkout")
    folder = tmp_path_factory.mktemp("awkward")
    subprocess.run([sys.executable, str(tool), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "series_clean",
        "series_first_intercept_differs",
        "series_slopes_differ",
        "series_monochrome1",
        "series_without_pixel_spacing",
        "multiframe_clean.dcm",
        "multiframe_frame_missing.dcm",
        "multiframe_out_of_order.dcm",
        "multiframe_slope_each.dcm",
    ],
)
def test_awkward_input(awkward: Path, name: str) -> None:
    truth = json.loads((awkward / "truth.json").read_text())[name]
    if truth is None:
        refused(awkward / name, ".")
        return
    volume = read(awkward / name)
    data = volume.data
    found = {
        "min": data.min(),
        "max": data.max(),
        "mean": data.mean(dtype=np.float64),
        "first_slice_max": data[:, :, 0].max(),
        "spacing_mm": volume.grid.spacing_mm,
    }
    for key, value in truth.items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


# --- intensities ----------------------------------------------------------------------------------------------------


def test_every_slice_is_rescaled_by_its_own_numbers(tmp_path: Path) -> None:
    scale = {k: (1 + k / 4, -1000.0 + k) for k in range(6)}
    write_series(tmp_path / "s", STORED, each=lambda k: {"RescaleSlope": scale[k][0], "RescaleIntercept": scale[k][1]})
    volume = read(tmp_path / "s")
    for k, (slope, intercept) in scale.items():
        np.testing.assert_allclose(values(volume)[k], STORED[k] * slope + intercept, rtol=1e-6)
    assert any("each slice was rescaled by its own" in note for note in volume.notes)


def test_a_slice_without_the_rescale_of_the_others_is_named(tmp_path: Path) -> None:
    write_series(
        tmp_path / "s", STORED, each=lambda k: {"RescaleSlope": None, "RescaleIntercept": None} if k == 3 else {}
    )
    refused(tmp_path / "s", r"003\.dcm has no rescale")


@pytest.mark.parametrize("slope", [0, "nan", "1e400"])
def test_a_slope_that_cannot_be_right(tmp_path: Path, slope: Any) -> None:
    write_series(tmp_path / "s", STORED)
    path = tmp_path / "s/002.dcm"
    if slope == 0:
        save(dataset(STORED[2], ImagePositionPatient=[-10, -20, 11], RescaleSlope=0), path)
    else:
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x001.0 ", b"DS\x06\x00" + slope.ljust(6).encode(), 1))
    refused(tmp_path / "s", r"002\.dcm")


def test_signed_twelve_bits_in_sixteen_whether_or_not_the_sign_was_extended(tmp_path: Path) -> None:
    signed = (STORED.astype(np.int16) - 1000).astype(np.int16)
    tags: dict[str, Any] = {"PixelRepresentation": 1, "RescaleIntercept": 0}
    write_series(tmp_path / "extended", signed, **tags)
    write_series(tmp_path / "cut", signed & 0x0FFF, **tags)
    for name in ("extended", "cut"):
        np.testing.assert_array_equal(values(read(tmp_path / name)), signed)


def test_an_overlay_in_the_unused_bits_is_no_intensity(tmp_path: Path) -> None:
    overlay = np.random.default_rng(1).integers(0, 16, STORED.shape).astype(np.uint16) << 12
    write_series(tmp_path / "high", STORED | overlay)
    np.testing.assert_array_equal(values(read(tmp_path / "high")), STORED - 1024.0)
    # The same twelve bits at the upper end, an overlay in the lower four.
    write_series(tmp_path / "low", (STORED << 4) | (overlay >> 12), HighBit=15)
    np.testing.assert_array_equal(values(read(tmp_path / "low")), STORED - 1024.0)


@pytest.mark.parametrize(("allocated", "dtype"), [(8, "u1"), (32, "u4"), (32, "i4")])
def test_other_sizes_of_pixels(tmp_path: Path, allocated: int, dtype: str) -> None:
    stored = (STORED % 200).astype(dtype)
    bits: dict[str, Any] = {"BitsAllocated": allocated, "BitsStored": allocated, "HighBit": allocated - 1}
    write_series(tmp_path / "s", stored, PixelRepresentation=int(dtype[0] == "i"), **bits)
    np.testing.assert_array_equal(values(read(tmp_path / "s")), stored - 1024.0)


def test_bits_that_make_no_sense(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {"a": {"BitsStored": 17}, "b": {"HighBit": 3}, "c": {"BitsAllocated": 12}}
    for name, bits in wrong.items():
        write_series(tmp_path / name, STORED, **bits)
        refused(tmp_path / name, "bits")


def test_padding_is_told_apart_from_intensities(tmp_path: Path) -> None:
    stored = STORED.astype(np.int16)
    stored[:, :2] = -2000
    tags: dict[str, Any] = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    write_series(tmp_path / "s", stored, PixelPaddingValue=-2000, **tags)
    assert read_dicom(tmp_path / "s").padding == -2000
    stored[:, 0] = -1990
    write_series(tmp_path / "r", stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990, **tags)
    source = read_dicom(tmp_path / "r")
    assert source.padding == -2000
    assert (source.data.transpose(2, 1, 0)[:, :2] == -2000).all()


def test_a_modality_table_is_refused(tmp_path: Path) -> None:
    table = item(LUTDescriptor=[4, 0, 16], ModalityLUTType="HU", LUTData=[0, 1, 2, 3])
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    save(dataset(STORED[0], ModalityLUTSequence=[table]), tmp_path / "a.dcm")
    refused(tmp_path / "a.dcm", "Modality LUT")


@pytest.mark.parametrize("kind", ["RGB", "PALETTE COLOR", "YBR_FULL"])
def test_color_is_refused(tmp_path: Path, kind: str) -> None:
    samples = 1 if kind == "PALETTE COLOR" else 3
    pixels = np.zeros((5, 7 * samples), np.uint8)
    bits: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Columns": 7, "PlanarConfiguration": 0}
    out = dataset(pixels, SamplesPerPixel=samples, PhotometricInterpretation=kind, **bits)
    save(out, tmp_path / "s/a.dcm")
    refused(tmp_path / "s", "one intensity per voxel")


# --- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", [0.0, 0.7], ids=["straight", "tilted"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("plane", ORIENTATIONS)
def test_every_voxel_lies_where_its_slice_says(tmp_path: Path, plane: str, backwards: bool, tilt: float) -> None:
    direction = np.array(ORIENTATIONS[plane])
    row, column = direction[:3], direction[3:]
    step = np.cross(row, column) * (-2.5 if backwards else 2.5) + tilt * column
    write_series(tmp_path / "s", STORED, step=step.tolist(), ImageOrientationPatient=direction.tolist())
    volume = read(tmp_path / "s")
    z, y, x = np.indices(STORED.shape).reshape(3, -1)
    lps = np.array([-10.0, -20.0, 5.0]) + np.outer(x, row * 1.25) + np.outer(y, column * 1.5) + np.outer(z, step)
    index = np.rint(volume.grid.to_voxel(lps * (-1, -1, 1))).astype(int)
    np.testing.assert_allclose(volume.grid.to_world(index.astype(float)), lps * (-1, -1, 1), atol=1e-6)
    np.testing.assert_array_equal(volume.data[tuple(index.T)], STORED[z, y, x] - 1024.0)


def test_positions_decide_and_not_names_or_numbers(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STORED[::-1], step=(0, 0, -3), each=lambda k: {"InstanceNumber": (k * 5) % 6 + 1})
    write_series(tmp_path / "t", STORED, origin=(-10, -20, -10))
    np.testing.assert_array_equal(read(tmp_path / "s").data, read(tmp_path / "t").data)
    np.testing.assert_allclose(read(tmp_path / "s").grid.affine, read(tmp_path / "t").grid.affine)


def test_a_slice_that_lacks_or_moved_or_comes_twice(tmp_path: Path) -> None:
    write_series(tmp_path / "gap", STORED)
    (tmp_path / "gap/003.dcm").unlink()
    refused(tmp_path / "gap", r"not evenly spaced.*004\.dcm")
    write_series(
        tmp_path / "moved", STORED, each=lambda k: {"ImagePositionPatient": [-9.0, -20, 5 + 3 * k]} if k == 2 else {}
    )
    refused(tmp_path / "moved", "not evenly spaced")
    write_series(tmp_path / "copy", STORED)
    shutil.copy(tmp_path / "copy/001.dcm", tmp_path / "copy/extra.dcm")
    refused(tmp_path / "copy", r"001\.dcm.*extra\.dcm.*same slice")
    write_series(tmp_path / "twice", STORED)
    save(dataset(STORED[4], ImagePositionPatient=[-10, -20, 8]), tmp_path / "twice/x.dcm")
    refused(tmp_path / "twice", r"001\.dcm and x\.dcm lie at the same place")


@pytest.mark.parametrize("other", ["ImagerPixelSpacing", "NominalScannedPixelSpacing"])
def test_another_spacing_is_named(tmp_path: Path, other: str) -> None:
    write_series(tmp_path / "s", STORED, PixelSpacing=None, **dict[str, Any]({other: [0.5, 0.25]}))
    volume = read(tmp_path / "s")
    assert volume.grid.spacing_mm == pytest.approx((0.25, 0.5, 3.0))
    assert any(other in note for note in volume.notes)


@pytest.mark.parametrize("lacking", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_a_slice_that_does_not_say_where_it_lies(tmp_path: Path, lacking: str) -> None:
    write_series(tmp_path / "s", STORED, **dict[str, Any]({lacking: None}), each=lambda _: {lacking: None})
    refused(tmp_path / "s", lacking)


def test_one_slice_takes_its_thickness_and_says_so(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STORED[:1])
    volume = read(tmp_path / "s")
    assert volume.grid.spacing_mm[2] == 3
    assert any("SliceThickness" in note for note in volume.notes)
    write_series(tmp_path / "t", STORED[:1], SliceThickness=None)
    refused(tmp_path / "t", "SliceThickness")


@pytest.mark.parametrize(
    "direction", [(1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 0), (1, 0, 0, 0.5, 0.9, 0)]
)
def test_directions_that_are_none(tmp_path: Path, direction: tuple[float, ...]) -> None:
    write_series(tmp_path / "s", STORED, ImageOrientationPatient=list(direction))
    refused(tmp_path / "s", "direction")
