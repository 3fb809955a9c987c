"""DICOM as people report it: transfer syntaxes, each by a real encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from diffatlas.io.contained import read_contained
from diffatlas.io.dicom import read_dicom
from diffatlas.io.source import Limits, Source
from tests.dicom_files import dataset, save, write_series
from tests.faults.dicom_reading import LARGE, STORED, read, refused, values

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
