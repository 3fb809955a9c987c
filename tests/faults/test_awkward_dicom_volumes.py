"""DICOM as people report it: several volumes in one folder, and what else lies there."""

from __future__ import annotations

import gc
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    generate_uid,
)

from diffatlas.io.dicom import read_dicom
from diffatlas.io.source import Limits
from tests.dicom_files import FLAT, dataset, enhanced, save, write_series
from tests.faults.dicom_reading import ORIENTATIONS, STORED, read, refused, values

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
