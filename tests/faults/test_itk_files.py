"""Broken and hostile NRRD, MetaImage and DICOM files: each comes out as one line that names the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas import io
from diffatlas.errors import BadInput
from tests.faults.refusal import refused

# --- the same, for ITK's formats ------------------------------------------------------------------------------------


def itk_bytes(path: Path, *, compress: bool) -> bytes:
    data = np.random.default_rng(2).integers(-1000, 1000, (10, 9, 8)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(data), str(path), useCompression=compress)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("drop", [1, 300, 1300])
def test_itk_truncated(
    tmp_path: Path, suffix: str, compress: bool, drop: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(itk_bytes(path, compress=compress)[:-drop])
    capfd.readouterr()
    refused(path)
    assert capfd.readouterr() == ("", "")  # ITK writes to the terminal past Python


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("back", [2, 40, 500])
def test_itk_flipped_bit_in_compressed_data(tmp_path: Path, suffix: str, back: int) -> None:
    path = tmp_path / f"a{suffix}"
    whole = bytearray(itk_bytes(path, compress=True))
    # zlib ends with its checksum, gzip with a checksum and four bytes of length.
    whole[-back - (4 if suffix == ".nrrd" else 0)] ^= 0x10
    path.write_bytes(whole)
    refused(path, "damaged")


def nrrd(sizes: str, data: bytes = b"", **fields: str) -> bytes:
    base = {
        "type": "short",
        "dimension": str(len(sizes.split())),
        "sizes": sizes,
        "endian": "little",
        "encoding": "raw",
    }
    lines = [f"{k.replace('_', ' ')}: {v}" for k, v in (base | fields).items()]
    return ("NRRD0004\n" + "\n".join(lines) + "\n\n").encode() + data


def test_itk_headers(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "huge": (nrrd("32767 32767 32767", b"xx"), "limit"),
        "zero": (nrrd("8 0 9"), "."),
        "flat": (nrrd("8 9", bytes(144)), "three axes"),
        "block": (nrrd("2 2 2", bytes(64), type="block", block_size="8"), "."),
        "vector": (nrrd("3 2 2 2", bytes(48), kinds="vector domain domain domain"), "3 values per voxel"),
        "ascii": (nrrd("2 2 2", b"1 2 3 4 5 6 7", encoding="ascii"), "7 numbers, its header says 8"),
        "words": (nrrd("2 2 2", b"1 2 3 4 5 6 7 x", encoding="ascii"), "no numbers"),
        "large": (nrrd("2 2 2", b"1 2 3 4 5 6 7 70000", encoding="ascii"), "its type does not"),
        "hex": (nrrd("2 2 2", b"0x" * 16, encoding="hex"), "hexadecimal"),
        "zrl": (nrrd("2 2 2", bytes(16), encoding="zrl"), "encoding 'zrl'"),
        "skip": (nrrd("2 2 2", bytes(16), byte_skip="4"), "ends early"),
        "line": (nrrd("2 2 2", bytes(16), line_skip="1"), "fewer lines"),
        "before": (nrrd("2 2 2", bytes(16), byte_skip="-2"), "where none can be"),
        "order": (nrrd("2 2 2", bytes(16), endian="?"), "byte order"),
        "long": (nrrd("2 2 2", bytes(16), content="x" * (2 << 20)), "header is longer"),
        "infinite": (
            nrrd("2 2 2", bytes(16), space="LPS", space_directions="(1e308,0,0) (0,1e308,0) (0,0,1e308)"),
            "cannot be right",
        ),
        "units": (
            nrrd(
                "2 2 2",
                bytes(16),
                space="LPS",
                space_units='"m" "m" "m"',
                space_directions="(1e308,0,0) (0,1,0) (0,0,1)",
            ),
            "infinite",
        ),
        "vectors": (nrrd("2 2 2", bytes(16), space="LPS", space_directions="(1,0) (0,1) (0,0)"), "."),
        "words2": (nrrd("2 2 2", bytes(16), space="LPS", space_directions="(1_0,0,0) (0,1,0) (0,0,1)"), "broken"),
        "space": (nrrd("2 2 2", bytes(16), space="moon"), "space 'moon'"),
        "twice": (nrrd("2 2 2", bytes(16)).replace(b"sizes", b"sizes: 2 2 3\nsizes", 1), "twice"),
        "nan": (nrrd("2 2 2", bytes(16), space="LPS", space_directions="(nan,0,0) (0,1,0) (0,0,1)"), "."),
        "zeroaxis": (nrrd("2 2 2", bytes(16), space="LPS", space_directions="(0,0,0) (0,1,0) (0,0,1)"), "."),
    }
    for name, (content, match) in cases.items():
        (tmp_path / f"{name}.nrrd").write_bytes(content)
        refused(tmp_path / f"{name}.nrrd", match)


def test_itk_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd("2 2 2", gzip.compress(bytes(30 << 20)), encoding="gzip"))
    refused(tmp_path / "a.nrrd", "goes on")
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nDimSize = 2 2 2\n"
    header += "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + zlib.compress(bytes(30 << 20)))
    refused(tmp_path / "a.mha", "goes on")


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../secret.raw",
        "sub/x.raw",
        "./../secret.raw",
        "..\\secret.raw",
        "LIST",
        "s%02d.raw 1 2 1",
        "a.raw b.raw",
        "a" * 300,
    ],
)
def test_itk_headers_cannot_read_other_files(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(16))
    folder = tmp_path / "in"
    folder.mkdir()
    meta = f"NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = {target}\n"
    (folder / "a.mhd").write_text("ObjectType = Image\n" + meta)
    refused(folder / "a.mhd", "elsewhere")
    (folder / "a.nhdr").write_bytes(nrrd("2 2 2", data_file=target))
    refused(folder / "a.nhdr", "elsewhere")
    # The magic decides the parser, so a NIfTI name cannot smuggle a MetaImage in.
    (folder / "a.nii").write_text("ObjectType = Image\n" + meta)
    refused(folder / "a.nii", "not a NIfTI")


@pytest.mark.parametrize(
    "lines",
    [
        "ElementDataFile : /etc/passwd",
        "elementdatafile = LOCAL\nElementDataFile = /etc/passwd",
        "elementdatafile = LOCAL\nElementDataFile: /etc/passwd",
    ],
)
def test_itk_headers_cannot_hide_where_the_data_are(tmp_path: Path, lines: str) -> None:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
    (tmp_path / "a.mha").write_bytes((head + lines + "\n").encode() + bytes(100))
    refused(tmp_path / "a.mha", "elsewhere|twice")
    twice = nrrd("2 2 2", type="uchar", data_file="a.mha").replace(b"\n\n", b"\ndatafile: /etc/passwd\n\n")
    (tmp_path / "a.nhdr").write_bytes(twice)
    refused(tmp_path / "a.nhdr")


def test_itk_data_file_missing_or_beside(tmp_path: Path) -> None:
    (tmp_path / "a.nhdr").write_bytes(nrrd("2 2 2", data_file="a.raw"))
    refused(tmp_path / "a.nhdr", r"a\.raw.*missing")
    (tmp_path / "a.raw").write_bytes(np.arange(8, dtype="<i2").tobytes())
    volume = io.read_volume(tmp_path / "a.nhdr")
    np.testing.assert_array_equal(volume.data.ravel(order="F"), np.arange(8))
    assert any("no orientation" in note for note in volume.notes)


def test_itk_series(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    series = np.arange(2 * 3 * 4 * 5, dtype="<i2")
    path.write_bytes(nrrd("2 3 4 5", series.tobytes(), kinds="domain domain domain time"))
    with pytest.raises(BadInput, match=r"a\.nrrd.*5 volumes"):
        io.read_volume(path)
    np.testing.assert_array_equal(
        io.read_volume(path, volume_index=3).data, series.reshape((2, 3, 4, 5), order="F")[..., 3]
    )


# --- DICOM ----------------------------------------------------------------------------------------------------------


def write_slice(path: Path, z_mm: float, uid: str = "1.2.3.4", size: int = 4, pixel: int = sitk.sitkInt16) -> None:
    image = (
        sitk.Image([size, size, 1], pixel, 3) if pixel == sitk.sitkVectorUInt8 else sitk.Image([size, size, 1], pixel)
    )
    image.SetOrigin((0.0, 0.0, z_mm))
    for key, value in {
        "0008|0060": "CT",
        "0020|000e": uid,
        "0020|000d": "1.2",
        "0008|0018": f"{uid}.{path.stem}",
    }.items():
        image.SetMetaData(key, value)
    image.SetMetaData("0020|0032", f"0\\0\\{z_mm}")
    image.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


def make_folder(tmp_path: Path, slices: Callable[[Path], None]) -> Path:
    folder = tmp_path / "scan"
    folder.mkdir()
    slices(folder)
    return folder


def test_dicom_folder_without_dicom(tmp_path: Path) -> None:
    def notes(folder: Path) -> None:
        (folder / "readme.txt").write_text("nothing here")

    refused(make_folder(tmp_path, notes), "no DICOM series")


def test_dicom_missing_slice(tmp_path: Path) -> None:
    def gap(folder: Path) -> None:
        for k in (0, 1, 2, 4, 5):
            write_slice(folder / f"{k}.dcm", 2.0 * k)

    refused(make_folder(tmp_path, gap), "evenly spaced")


def test_dicom_two_series(tmp_path: Path) -> None:
    def both(folder: Path) -> None:
        for k in range(3):
            write_slice(folder / f"a{k}.dcm", 2.0 * k, "1.2.3.4")
            write_slice(folder / f"b{k}.dcm", 3.0 * k, "1.2.3.5")

    folder = make_folder(tmp_path, both)
    refused(folder, "2 DICOM series")
    assert io.read_volume(folder / "b0.dcm").grid.spacing_mm[2] == pytest.approx(3.0)
    assert io.read_volume(folder / "a2.dcm").grid.shape == (4, 4, 3)


def test_dicom_slices_of_two_sizes(tmp_path: Path) -> None:
    def sizes(folder: Path) -> None:
        for k in range(3):
            write_slice(folder / f"{k}.dcm", 2.0 * k, size=4 + (k == 1))

    refused(make_folder(tmp_path, sizes), "differ")


def test_dicom_color(tmp_path: Path) -> None:
    def color(folder: Path) -> None:
        write_slice(folder / "0.dcm", 0.0, pixel=sitk.sitkVectorUInt8)

    refused(make_folder(tmp_path, color), "3 values per voxel")


@pytest.mark.parametrize("keep", [200, 600, -10])
def test_dicom_truncated(tmp_path: Path, keep: int, capfd: pytest.CaptureFixture[str]) -> None:
    write_slice(tmp_path / "a.dcm", 0.0, size=64)
    (tmp_path / "a.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:keep])
    capfd.readouterr()
    refused(tmp_path / "a.dcm")
    assert capfd.readouterr() == ("", "")
