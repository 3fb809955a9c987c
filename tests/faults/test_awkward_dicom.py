"""DICOM as people report it: every case has the right values from arithmetic, or is refused in one line."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io.contained import read_contained
from diffatlas.io.dicom import read_dicom
from diffatlas.io.source import Limits, Source
from tests.dicom_files import FLAT, dataset, enhanced, item, save, write_series

SHARED = Path(__file__).resolve().parents[3] / "shared"
STORED: NDArray[np.uint16] = np.random.default_rng(5).integers(0, 2000, (6, 5, 7)).astype(np.uint16)

# OpenJPEG's encoder wants more than its number of resolutions.
LARGE: NDArray[np.uint16] = np.random.default_rng(6).integers(0, 2000, (3, 64, 64)).astype(np.uint16)


def read(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Volume:
    return io.read_volume(path, volume_index=volume_index, limits=limits)


def values(volume: Volume) -> NDArray[np.float32]:
    """As DICOM has them: [slice, row, column]."""
    return volume.data.transpose(2, 1, 0)


def refused(path: Path, match: str, volume_index: int | None = None, limits: Limits | None = None) -> str:
    with pytest.raises(BadInput, match=match) as caught:
        read_dicom(path, volume_index, limits)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 400
    return message


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

ORIENTATIONS = {
    "axial": FLAT,
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (0.8, 0.6, 0.0, -0.48, 0.64, 0.6),
}


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


# --- several volumes ------------------------------------------------------------------------------------------------


def test_two_series_are_listed_and_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    write_series(folder / "a", STORED, SeriesInstanceUID="1.5", SeriesNumber=2, SeriesDescription="venous")
    write_series(folder / "b", STORED[:4] + 7, SeriesInstanceUID="1.6", SeriesNumber=1, SeriesDescription="native")
    message = refused(folder, "2 DICOM series")
    assert "0: 4 slices of 7x5 (native), 1: 6 slices of 7x5 (venous)" in message
    assert "choose one" in message
    np.testing.assert_array_equal(values(read(folder, 1)), STORED - 1024.0)
    np.testing.assert_array_equal(values(read(folder, 0)), STORED[:4] + 7 - 1024.0)
    refused(folder, "no volume 2", volume_index=2)
    # One file of the series gives the series, through the same checks.
    np.testing.assert_array_equal(values(read(folder / "a/002.dcm")), STORED - 1024.0)
    (folder / "a/003.dcm").unlink()
    refused(folder / "a/002.dcm", "not evenly spaced")


@pytest.mark.parametrize("key", ["TemporalPositionIdentifier", "TriggerTime", "EchoTime", "AcquisitionNumber"])
def test_the_phases_of_a_cine_are_chosen(tmp_path: Path, key: str) -> None:
    for phase in range(3):
        write_series(tmp_path / "s", STORED + phase, name=f"{phase}-{{}}.dcm", **dict[str, Any]({key: phase * 10 + 5}))
    assert f"{key} 5" in refused(tmp_path / "s", "3 volumes")
    for phase in range(3):
        np.testing.assert_array_equal(values(read(tmp_path / "s", phase)), STORED + phase - 1024.0)
        # A file of the phase that is meant answers the question.
        np.testing.assert_array_equal(values(read(tmp_path / f"s/{phase}-2.dcm")), STORED + phase - 1024.0)
    assert read_dicom(tmp_path / "s", 1).volumes == 3


def trigger(phase: int, k: int) -> dict[str, Any]:
    return {"TriggerTime": 400 * phase + 3 * k}


def test_phases_whose_times_differ_from_slice_to_slice(tmp_path: Path) -> None:
    for phase in range(2):
        write_series(
            tmp_path / "s",
            STORED + phase,
            name=f"{phase}-{{}}.dcm",
            each=partial(trigger, phase),
        )
    for phase in range(2):
        np.testing.assert_array_equal(values(read(tmp_path / "s", phase)), STORED + phase - 1024.0)


def test_a_localizer_in_the_series_is_a_choice(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STORED)
    sagittal = list(ORIENTATIONS["sagittal"])
    save(dataset(STORED[0], ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=sagittal), tmp_path / "s/scout.dcm")
    refused(tmp_path / "s", "slices differ in size, direction or phase")
    assert max(read(tmp_path / "s", n).grid.shape[2] for n in range(2)) == 6


def test_enhanced_files(tmp_path: Path) -> None:
    row = [(-10.0, -20.0, 3.0 * k) for k in range(6)]
    order = [3, 1, 0, 2, 5, 4]
    save(enhanced(STORED, [row[k] for k in order], rescale=lambda k: (1 + k, -k)), tmp_path / "mixed.dcm")
    expected = np.array([STORED[k] * (1.0 + k) - k for k in range(6)])[np.argsort(order)]
    np.testing.assert_allclose(values(read(tmp_path / "mixed.dcm")), expected)
    save(enhanced(STORED, [row[k + (k > 2)] if k < 5 else (-10, -20, 18.0) for k in range(6)]), tmp_path / "gap.dcm")
    refused(tmp_path / "gap.dcm", "frame 4")
    save(enhanced(STORED, row[:3] * 2, content=lambda k: {"TemporalPositionIndex": 1 + k // 3}), tmp_path / "time.dcm")
    assert "TemporalPositionIndex 1" in refused(tmp_path / "time.dcm", "2 volumes")
    np.testing.assert_array_equal(values(read(tmp_path / "time.dcm", 1)), STORED[3:])
    save(enhanced(STORED, row, content=lambda k: {"StackID": str(1 + k // 3)}), tmp_path / "stacks.dcm")
    assert "stack 2" in refused(tmp_path / "stacks.dcm", "2 volumes")
    np.testing.assert_array_equal(values(read(tmp_path / "stacks.dcm", 0)), STORED[:3])
    turned = ORIENTATIONS["coronal"]
    both = [*row[:3], *((-10.0, 3.0 * k, 0.0) for k in range(3))]
    save(enhanced(STORED, both, orientation=lambda k: turned if k > 2 else FLAT), tmp_path / "planes.dcm")
    refused(tmp_path / "planes.dcm", "2 volumes")
    tilted = [(-10.0, -20.0 + k, 3.0 * k) for k in range(6)]
    save(enhanced(STORED, tilted), tmp_path / "tilted.dcm")
    np.testing.assert_allclose(read(tmp_path / "tilted.dcm").grid.affine[:3, 2], (0, -1, 3), atol=1e-9)


def test_an_enhanced_file_that_counts_wrongly(tmp_path: Path) -> None:
    row = [(-10.0, -20.0, 3.0 * k) for k in range(6)]
    for count in (5, 7, 100_000_000):
        save(enhanced(STORED, row, NumberOfFrames=count), tmp_path / f"{count}.dcm")
        refused(tmp_path / f"{count}.dcm", "frames|fewer pixels")
    save(
        enhanced(STORED, row, PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None),
        tmp_path / "a.dcm",
    )
    refused(tmp_path / "a.dcm", "do not say where they lie")


def test_highdicom_sees_the_same_volume(tmp_path: Path) -> None:
    import highdicom

    row = [(-10.0, -20.0, 3.0 * k) for k in (3, 1, 0, 2, 5, 4)]
    path = save(enhanced(STORED, row, rescale=lambda k: (1 + k, -k)), tmp_path / "mixed.dcm")
    theirs = highdicom.imread(path).get_volume(dtype=np.float64)
    ours = read(path)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    for index in ((0, 0, 0), (5, 4, 6), (2, 3, 1)):
        world = (lps_to_ras @ theirs.affine @ (*index, 1.0))[:3]
        voxel = tuple(np.rint(ours.grid.to_voxel(world)).astype(int))
        np.testing.assert_allclose(ours.grid.to_world(voxel), world, atol=1e-6)
        assert ours.data[voxel] == theirs.array[index]


# --- files ----------------------------------------------------------------------------------------------------------


def test_what_else_lies_in_the_folder(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "disc/DICOM/ST0/SE0", STORED, name="IM{:04d}")
    report = dataset(STORED[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR", SeriesInstanceUID="1.9")
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        del report[keyword]
    save(report, folder.parent / "SR0/report.dcm")
    (tmp_path / "disc/README").write_text("a viewer")
    (tmp_path / "disc/viewer.exe").write_bytes(b"MZ" * 300)
    (tmp_path / "disc/.hidden.dcm").write_bytes(b"")
    np.testing.assert_array_equal(values(read(tmp_path / "disc")), STORED - 1024.0)


@pytest.mark.parametrize("damage", ["empty", "text", "cut header", "cut pixels", "link"])
@pytest.mark.parametrize("which", ["000", "003", "005"])
def test_a_damaged_slice_is_named_wherever_it_lies(tmp_path: Path, damage: str, which: str) -> None:
    folder = write_series(tmp_path / "s", STORED)
    path = folder / f"{which}.dcm"
    whole = path.read_bytes()
    if damage == "link":
        path.unlink()
        path.symlink_to(tmp_path / "gone")
    else:
        cut = {"empty": b"", "text": b"<html>404</html>", "cut header": whole[:600], "cut pixels": whole[:-9]}
        path.write_bytes(cut[damage])
    refused(folder, rf"{which}\.dcm")
    other = folder / ("001.dcm" if which != "001" else "002.dcm")
    refused(other, rf"{which}\.dcm")


def test_a_damaged_slice_without_an_extension(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", STORED, name="IM{:04d}")
    (folder / "IM0005").write_bytes(b"\0" * 400)
    refused(folder, "IM0005")


def test_a_dicomdir_is_read_and_what_it_lists_must_be_there(tmp_path: Path) -> None:
    files = FileSet()
    tags: dict[str, Any] = {
        "PatientID": "1",
        "StudyDate": "20260101",
        "StudyTime": "10",
        "StudyID": "1",
        "AccessionNumber": "",
    }
    write_series(tmp_path / "s", STORED, SeriesNumber=1, StudyInstanceUID=generate_uid(), **tags)
    for path in sorted((tmp_path / "s").iterdir()):
        files.add(path)
    files.write(tmp_path / "disc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves its temporary folder to the collector
        del files
        gc.collect()
    for path in (tmp_path / "disc", tmp_path / "disc/DICOMDIR"):
        np.testing.assert_array_equal(values(read(path)), STORED - 1024.0)
    last = max(
        (p for p in (tmp_path / "disc").rglob("*") if p.is_file() and p.name != "DICOMDIR"),
        key=lambda p: dcmread(p).ImagePositionPatient[2],
    )
    last.unlink()
    refused(tmp_path / "disc", f"{last.name}.*not there")


def test_slices_of_before_the_preamble(tmp_path: Path) -> None:
    for k in range(6):
        out = dataset(STORED[k], ImagePositionPatient=[-10, -20, 3 * k])
        del out.file_meta
        (tmp_path / "s").mkdir(exist_ok=True)
        out.save_as(tmp_path / f"s/{k}.dcm", implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(values(read(tmp_path / "s")), STORED - 1024.0)


def test_slices_without_a_series_are_one(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STORED, SeriesInstanceUID=None)
    volume = read(tmp_path / "s")
    np.testing.assert_array_equal(values(volume), STORED - 1024.0)
    assert any("SeriesInstanceUID" in note for note in volume.notes)
    assert volume.series is None


def test_many_small_files_are_bounded_before_a_pixel_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom.pixels.utils

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("pixels were asked for")

    write_series(tmp_path / "s", STORED)
    monkeypatch.setattr(pydicom.pixels.utils, "iter_pixels", decoded)
    refused(tmp_path / "s", "the limit is", limits=Limits(max_voxels=STORED.size - 1))
    refused(tmp_path / "s", "the limit is", limits=Limits(max_bytes=2 * STORED.size - 1))


def test_a_deflated_bomb(tmp_path: Path) -> None:
    whole = dataset(STORED[0], ImagePositionPatient=[0, 0, 0])
    whole.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(whole, tmp_path / "a.dcm")
    content = path.read_bytes()
    start = 132 + 12 + dcmread(path).file_meta.FileMetaInformationGroupLength
    inflated = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(inflated + bytes(20 << 20)) + deflater.flush()
    path.write_bytes(content[:start] + bomb)
    refused(path, "inflates to more", limits=Limits(max_bytes=1 << 20))


# --- transfer syntaxes, each by a real encoder ----------------------------------------------------------------------


def by_pydicom(uid: str, **options: Any) -> Callable[[Dataset], None]:
    def encode(out: Dataset) -> None:
        out.compress(uid, **options)

    return encode


def rewritten(uid: str, **options: Any) -> Callable[[Dataset], None]:
    def encode(out: Dataset) -> None:
        if uid == ExplicitVRBigEndian:
            out.PixelData = np.frombuffer(out.PixelData, "<u2").astype(">u2").tobytes()
        out.file_meta.TransferSyntaxUID = UID(uid)

    return encode


ENCODED: dict[str, Callable[[Dataset], None]] = {
    "implicit": rewritten(ImplicitVRLittleEndian),
    "big endian": rewritten(ExplicitVRBigEndian),
    "deflated": rewritten(DeflatedExplicitVRLittleEndian),
    "RLE": by_pydicom(RLELossless),
    "JPEG-LS": by_pydicom(JPEGLSLossless),
    "JPEG 2000": by_pydicom(JPEG2000Lossless),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ENCODED)
def test_a_lossless_transfer_syntax(tmp_path: Path, name: str, signed: bool) -> None:
    stored = LARGE.astype(np.int16) - 900 if signed else LARGE
    for k in range(3):
        out = dataset(stored[k], ImagePositionPatient=[-10, -20, 3 * k], PixelRepresentation=int(signed))
        ENCODED[name](out)
        save(out, tmp_path / f"s/{k}.dcm")
    np.testing.assert_array_equal(values(read(tmp_path / "s")), stored - 1024.0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"])
def test_a_lossless_transfer_syntax_as_gdcm_writes_it(tmp_path: Path, syntax: str, signed: bool) -> None:
    import gdcm

    stored = LARGE.astype(np.int16) - 900 if signed else LARGE
    write_series(tmp_path / "plain", stored, PixelRepresentation=int(signed))
    (tmp_path / "s").mkdir()
    for path in (tmp_path / "plain").iterdir():
        gdcm_encode(path, tmp_path / "s" / path.name, getattr(gdcm.TransferSyntax, syntax))
    np.testing.assert_array_equal(values(read(tmp_path / "s")), stored - 1024.0)


def test_jpeg_baseline_within_its_loss(tmp_path: Path) -> None:
    import gdcm

    ramp = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    bits: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    write_series(tmp_path / "plain", np.stack([ramp, ramp]), RescaleIntercept=0, **bits)
    (tmp_path / "s").mkdir()
    for path in (tmp_path / "plain").iterdir():
        gdcm_encode(path, tmp_path / "s" / path.name, gdcm.TransferSyntax.JPEGBaselineProcess1, lossy=True)
    volume = read(tmp_path / "s")
    assert np.abs(values(volume) - ramp).max() <= 3
    assert any("lossy" in note for note in volume.notes)


def gdcm_encode(source: Path, target: Path, syntax: int, *, lossy: bool = False) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    if lossy:
        codec = gdcm.JPEGCodec()
        codec.SetQuality(95)
        codec.SetLossless(False)
        change.SetUserCodec(codec)
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert dcmread(target).file_meta.TransferSyntaxUID.is_compressed


def test_a_damaged_compressed_slice_is_named(tmp_path: Path) -> None:
    for k in range(3):
        out = dataset(LARGE[k], ImagePositionPatient=[-10, -20, 3 * k])
        out.compress(JPEG2000Lossless)
        save(out, tmp_path / f"s/{k}.dcm")
    path = tmp_path / "s/2.dcm"
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    refused(tmp_path / "s", r"2\.dcm")


def test_compressed_pixels_are_decoded_in_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash inside a codec is the file's fault; plain pixels need no process."""
    plain = write_series(tmp_path / "plain", LARGE[:3])
    for k in range(3):
        out = dataset(LARGE[k], ImagePositionPatient=[-10, -20, 3 * k])
        out.compress(JPEG2000Lossless)
        save(out, tmp_path / f"s/{k}.dcm")
    asked: list[Path] = []

    def contained(path: Path, *arguments: Any, **options: Any) -> Source:
        asked.append(path)
        return read_contained(path, *arguments, **options)

    monkeypatch.setattr("diffatlas.io.contained.read_contained", contained)
    monkeypatch.setattr("diffatlas.io.dicom.read.decoded", lambda *_: pytest.fail("decoded here"))
    np.testing.assert_array_equal(values(read(tmp_path / "s")), LARGE[:3] - 1024.0)
    assert asked == [tmp_path / "s"]
    monkeypatch.undo()
    monkeypatch.setattr("diffatlas.io.contained.read_contained", contained)
    read(plain)
    assert len(asked) == 1


def test_the_reader_of_strangers_gives_the_same(tmp_path: Path) -> None:
    write_series(tmp_path / "s", STORED, each=lambda k: {"RescaleIntercept": -k})
    contained: Source = read_contained(tmp_path / "s", None, Limits(contained=True))
    here = read_dicom(tmp_path / "s")
    np.testing.assert_array_equal(contained.data, here.data)
    assert contained.series == here.series
    assert here.series is not None
    assert [uid for uid, _ in here.series.slices] == [
        dcmread(tmp_path / f"s/{k:03d}.dcm").SOPInstanceUID for k in range(6)
    ]
    assert "Doe" not in repr(here.series)
