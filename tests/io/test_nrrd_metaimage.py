"""NRRD and MetaImage, read and written without ITK: held to ITK on sound files, to answers by hand elsewhere."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4, order="F")
RAW = VOXELS.tobytes(order="F")
LPS = {"space": "left-posterior-superior", "space directions": "(2,0,0) (0,3,0) (0,0,4)", "space origin": "(5,6,7)"}


def nrrd(data: bytes = RAW, /, **fields: str) -> bytes:
    base = {"type": "short", "dimension": "3", "sizes": "2 3 4", "endian": "little", "encoding": "raw"}
    lines = [f"{k.replace('_', ' ')}: {v}" for k, v in (base | fields).items()]
    return ("NRRD0005\n" + "\n".join(lines) + "\n\n").encode() + data


def meta(data: bytes = RAW, /, **fields: str) -> bytes:
    base = {"NDims": "3", "DimSize": "2 3 4", "ElementType": "MET_SHORT", "ElementSpacing": "2 3 4", "Offset": "5 6 7"}
    base |= {"TransformMatrix": "1 0 0 0 1 0 0 0 1"} | fields
    lines = [f"{k} = {v}" for k, v in base.items()]
    return ("ObjectType = Image\n" + "\n".join(lines) + "\nElementDataFile = LOCAL\n").encode() + data


def read(path: Path, content: bytes, **arguments: Any) -> Any:
    path.write_bytes(content)
    return io.read_volume(path, **arguments)


def placed(**fields: str) -> bytes:
    return nrrd(**{k.replace(" ", "_"): v for k, v in LPS.items()} | fields)


# --- values ---------------------------------------------------------------------------------------------------------

TYPES = [
    sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkUInt64,
    sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64,
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("compress", [False, True])
def test_every_type_is_read_as_itk_reads_it(tmp_path: Path, suffix: str, kind: int, compress: bool) -> None:
    image = sitk.Cast(sitk.GetImageFromArray(VOXELS.transpose(2, 1, 0).astype(np.int16)), kind)
    image.SetSpacing((1.5, 0.1, 1 / 3))
    image.SetOrigin((-1e-7, 1e5 / 3, 0.0))
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compress)
    np.testing.assert_array_equal(io.read_volume(path).data, VOXELS)
    np.testing.assert_array_equal(io.read_label_ids(path)[0], VOXELS)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_itk_reads_what_is_written(tmp_path: Path, suffix: str, dtype: str) -> None:
    affine = np.array([[0, -1.5, 0, 1 / 3], [-0.1, 0, 0, -7e-9], [0, 0, 2.25, 1e5 / 3], [0, 0, 0, 1]])
    path = tmp_path / f"a{suffix}"
    io.write_array(VOXELS.astype(dtype), Grid((2, 3, 4), affine), path)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), VOXELS)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    for index in ((0, 0, 0), (1, 2, 3)):
        world = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(world, affine[:3, :3] @ index + affine[:3, 3], rtol=1e-15, atol=1e-12)
    first = path.read_bytes()
    io.write_array(VOXELS.astype(dtype), Grid((2, 3, 4), affine), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("raw", RAW),
        ("gzip", gzip.compress(RAW, mtime=0)),
        ("gz", gzip.compress(RAW[:11], mtime=0) + gzip.compress(RAW[11:], mtime=0)),  # members one after another
        ("bzip2", bz2.compress(RAW)),
        ("bz2", bz2.compress(RAW[:11]) + bz2.compress(RAW[11:])),
        ("hex", RAW.hex().encode()),
        ("hex", b"\n".join(RAW.hex()[k : k + 7].encode() for k in range(0, 96, 7)) + b"\n"),
        ("ascii", " ".join(map(str, VOXELS.ravel(order="F"))).encode()),
        ("text", "\n".join(map(str, VOXELS.ravel(order="F"))).encode() + b"\n"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, data: bytes) -> None:
    volume = read(tmp_path / "a.nrrd", nrrd(data, encoding=encoding))
    np.testing.assert_array_equal(volume.data, VOXELS)
    series = " ".join(map(str, range(48))).encode() if encoding in ("ascii", "text") else None
    if series is not None:
        second = read(
            tmp_path / "s.nrrd", nrrd(series, encoding=encoding, dimension="4", sizes="2 3 4 2"), volume_index=1
        )
        np.testing.assert_array_equal(second.data, VOXELS + 24)


def test_byte_order(tmp_path: Path) -> None:
    big = VOXELS.astype(">i2").tobytes(order="F")
    np.testing.assert_array_equal(read(tmp_path / "a.nrrd", nrrd(big, endian="big")).data, VOXELS)
    np.testing.assert_array_equal(read(tmp_path / "a.mha", meta(big, BinaryDataByteOrderMSB="True")).data, VOXELS)
    np.testing.assert_array_equal(read(tmp_path / "b.mha", meta(big, ElementByteOrderMSB="True")).data, VOXELS)


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"abcd" + RAW, {"byte_skip": "4"}),
        (b"abcd" + RAW, {"byteskip": "-1"}),
        (b"one\ntwo\n" + RAW, {"line_skip": "2"}),
        (b"one\nabc" + RAW, {"lineskip": "1", "byte_skip": "3"}),
        (b"one\n" + gzip.compress(b"abc" + RAW, mtime=0), {"encoding": "gzip", "line_skip": "1", "byte_skip": "3"}),
    ],
)
def test_what_lies_before_the_voxels_is_skipped(tmp_path: Path, data: bytes, fields: dict[str, str]) -> None:
    np.testing.assert_array_equal(read(tmp_path / "a.nrrd", nrrd(data, **fields)).data, VOXELS)


@pytest.mark.parametrize(("size", "lead"), [("4", 4), ("-1", 9)])
def test_header_size_of_metaimage(tmp_path: Path, size: str, lead: int) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(lead) + RAW)
    head = meta(b"", HeaderSize=size).replace(b"LOCAL", b"a.raw")
    np.testing.assert_array_equal(read(tmp_path / "a.mhd", head).data, VOXELS)


def test_bytes_behind_the_voxels_are_noted(tmp_path: Path) -> None:
    for name, content in {
        "a.nrrd": nrrd(RAW + b"xyz"),
        "b.nrrd": nrrd(gzip.compress(RAW + b"xyz"), encoding="gzip"),
        "c.mha": meta(RAW + b"xyz"),
        "d.mha": meta(zlib.compress(RAW + b"xyz"), CompressedData="True"),
    }.items():
        volume = read(tmp_path / name, content)
        np.testing.assert_array_equal(volume.data, VOXELS)
        assert any("3 bytes follow" in note for note in volume.notes)
    # More than one answer of the inflater.
    long = read(tmp_path / "g.mha", meta(zlib.compress(RAW + bytes(900_000)), CompressedData="True"))
    np.testing.assert_array_equal(long.data, VOXELS)
    for name, content in {
        "e.nrrd": nrrd(gzip.compress(RAW) + b"\n", encoding="gzip"),
        "f.mha": meta(zlib.compress(RAW) + b"\n", CompressedData="True"),
    }.items():
        volume = read(tmp_path / name, content)
        np.testing.assert_array_equal(volume.data, VOXELS)
        assert any("follows the compressed data" in note for note in volume.notes)


@pytest.mark.parametrize("size", [None, "0", "1", "20", "1000000", "-5", "x"])
def test_a_wrong_size_of_the_compressed_data_gives_no_memory_of_others(tmp_path: Path, size: str | None) -> None:
    """ITK stops at the size and returns what lay in memory."""
    packed = zlib.compress(RAW)
    fields = {"CompressedData": "True"} | ({} if size is None else {"CompressedDataSize": size})
    np.testing.assert_array_equal(read(tmp_path / "a.mha", meta(packed, **fields)).data, VOXELS)
    for cut in (1, 5, len(packed) - 3):
        with pytest.raises(BadInput, match=r"b\.mha"):
            read(tmp_path / "b.mha", meta(packed[:-cut], **fields))


def test_metaimage_as_text(tmp_path: Path) -> None:
    text = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
    np.testing.assert_array_equal(read(tmp_path / "a.mha", meta(text, BinaryData="False")).data, VOXELS)
    floats = read(tmp_path / "b.mha", meta(b"1.5 " * 24, BinaryData="False", ElementType="MET_FLOAT"))
    assert set(floats.data.ravel()) == {1.5}


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1)), ("LPS", (-1, -1)), ("right-anterior-superior", (1, 1)), ("RAS", (1, 1)),
        ("left-anterior-superior", (-1, 1)), ("LAS", (-1, 1)),
    ],
)  # fmt: skip
def test_spaces(tmp_path: Path, space: str, signs: tuple[int, int]) -> None:
    volume = read(tmp_path / "a.nrrd", placed(space=space))
    expected = np.diag([2.0 * signs[0], 3 * signs[1], 4, 1])
    expected[:3, 3] = 5 * signs[0], 6 * signs[1], 7
    np.testing.assert_array_equal(volume.grid.affine, expected)
    assert volume.notes == ()
    itk = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    world = np.array(itk.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)
    np.testing.assert_allclose(volume.grid.to_world((1, 2, 3)), world)


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed"])
def test_spaces_without_a_side_are_noted(tmp_path: Path, space: str) -> None:
    volume = read(tmp_path / "a.nrrd", placed(space=space))
    np.testing.assert_array_equal(np.diag(volume.grid.affine), (-2, -3, 4, 1))
    assert any("no side of the patient" in note for note in volume.notes)


def test_a_space_with_time(tmp_path: Path) -> None:
    content = nrrd(
        RAW * 2,
        dimension="4",
        sizes="2 3 4 2",
        space="right-anterior-superior-time",
        space_directions="(2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,9)",
        space_origin="(5,6,7,0)",
    )
    with pytest.raises(BadInput, match="2 volumes"):
        read(tmp_path / "a.nrrd", content)
    volume = io.read_volume(tmp_path / "a.nrrd", volume_index=1)
    np.testing.assert_array_equal(volume.grid.affine[:, :], [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1e-3), ("µm", 1e-3), ("microns", 1e-3), ("cm", 10), ("m", 1e3), ("mm", 1)]
)
def test_units_of_nrrd(tmp_path: Path, unit: str, factor: float) -> None:
    size = 0.5 / factor
    fields = {
        "space_directions": f"({size},0,0) (0,{size},0) (0,0,{size})",
        "space_origin": f"({size},0,0)",
        "space_units": f'"{unit}" "{unit}" "{unit}"',
    }
    volume = read(tmp_path / "a.nrrd", placed(**fields))
    np.testing.assert_allclose(volume.grid.spacing_mm, (0.5,) * 3)
    assert volume.grid.affine[0, 3] == pytest.approx(-0.5)
    assert any("not in mm" in note for note in volume.notes) == (factor != 1)
    spaced = read(tmp_path / "b.nrrd", nrrd(spacings=f"{size} {size} 2", units=f'"{unit}" {unit} "mm"'))
    np.testing.assert_allclose(spaced.grid.spacing_mm, (0.5, 0.5, 2))


def test_an_unknown_unit_is_noted(tmp_path: Path) -> None:
    volume = read(tmp_path / "a.nrrd", placed(space_units='"furlong" "mm" "mm"'))
    assert volume.grid.spacing_mm == (2, 3, 4)
    assert any("furlong" in note for note in volume.notes)


def test_what_a_file_does_not_say_is_noted(tmp_path: Path) -> None:
    bare = read(tmp_path / "a.nrrd", nrrd())
    np.testing.assert_array_equal(np.diag(bare.grid.affine), (-1, -1, 1, 1))
    assert sum("no orientation" in n or "no spacing" in n for n in bare.notes) == 2
    spaced = read(tmp_path / "b.nrrd", nrrd(spacings="2 3 4"))
    assert spaced.grid.spacing_mm == (2, 3, 4)
    assert [("no spacing" in n, "no orientation" in n) for n in spaced.notes] == [(False, True)]
    nowhere = read(tmp_path / "c.nrrd", placed().replace(b"space origin: (5,6,7)\n", b""))
    assert any("no position" in note for note in nowhere.notes)
    for field, note in {
        "ElementSpacing": "no spacing",
        "TransformMatrix": "no orientation",
        "Offset": "no position",
    }.items():
        lines = [line for line in meta().split(b"\n") if not line.startswith(field.encode())]
        volume = read(tmp_path / "d.mha", b"\n".join(lines))
        assert [note in n for n in volume.notes] == [True], field


def test_spacing_from_the_ends_of_the_axes(tmp_path: Path) -> None:
    ends = {"axis_mins": "0 0 0", "axis_maxs": "2 6 12"}
    cells = read(tmp_path / "a.nrrd", nrrd(**ends))
    np.testing.assert_allclose(cells.grid.spacing_mm, (1, 2, 3))
    np.testing.assert_allclose(cells.grid.to_world((0, 0, 0)), (-0.5, -1, 1.5))
    nodes = read(tmp_path / "b.nrrd", nrrd(centerings="node node node", **ends))
    np.testing.assert_allclose(nodes.grid.spacing_mm, (2, 3, 4))
    np.testing.assert_allclose(nodes.grid.to_world((0, 0, 0)), (0, 0, 0))


def test_remarks_are_no_fields(tmp_path: Path) -> None:
    remarks = (
        "sizes:=1 1 1\nspace:=RAS\nspace directions:=(9,0,0) (0,9,0) (0,0,9)\nmy:key:=data file: x\ndata file:=x\n"
    )
    volume = read(tmp_path / "a.nrrd", placed().replace(b"\n\n", f"\n{remarks}# sizes: 1\n\n".encode(), 1))
    np.testing.assert_array_equal(volume.data, VOXELS)
    assert volume.grid.spacing_mm == (2, 3, 4)
    assert volume.grid.axis_codes == "LPS"


@pytest.mark.parametrize(
    ("sizes", "kinds", "directions"),
    [
        ("1 2 3 4", "list domain domain domain", "none (2,0,0) (0,3,0) (0,0,4)"),
        ("2 3 4 1", "domain domain domain list", "(2,0,0) (0,3,0) (0,0,4) none"),
        ("1 2 3 4 1", "vector space space space time", "none (2,0,0) (0,3,0) (0,0,4) none"),
        ("2 1 3 4", "domain list domain domain", "(2,0,0) none (0,3,0) (0,0,4)"),
        ("2 1 3 4", "domain list domain domain", "(2,0,0) (none,none,none) (0,3,0) (0,0,4)"),
        ("2 1 3 4", "domain list domain domain", "(2,0,0) (nan,nan,nan) (0,3,0) (0,0,4)"),
    ],
)
def test_axes_of_one(tmp_path: Path, sizes: str, kinds: str, directions: str) -> None:
    dimension = str(len(sizes.split()))
    content = placed(sizes=sizes, kinds=kinds, dimension=dimension, space_directions=directions)
    volume = read(tmp_path / "a.nrrd", content)
    np.testing.assert_array_equal(volume.data, VOXELS)
    assert volume.grid.spacing_mm == (2, 3, 4)


def test_a_list_that_runs_fastest(tmp_path: Path) -> None:
    both = np.stack([VOXELS, VOXELS + 100])  # [2, X, Y, Z]
    content = placed(
        sizes="2 2 3 4",
        kinds="list domain domain domain",
        dimension="4",
        space_directions="none (2,0,0) (0,3,0) (0,0,4)",
    )[: -len(RAW)] + both.tobytes(order="F")
    with pytest.raises(BadInput, match="2 volumes"):
        read(tmp_path / "a.nrrd", content)
    np.testing.assert_array_equal(io.read_volume(tmp_path / "a.nrrd", volume_index=1).data, VOXELS + 100)


def test_units_and_modality_of_metaimage(tmp_path: Path) -> None:
    volume = read(tmp_path / "a.mha", meta(DistanceUnits="cm", Modality="MET_MOD_CT", ElementSpacing="0.2 0.3 0.4"))
    np.testing.assert_allclose(volume.grid.spacing_mm, (2, 3, 4))
    np.testing.assert_allclose(volume.grid.to_world((0, 0, 0)), (-50, -60, 70))
    assert volume.modality == "ct"


@pytest.mark.parametrize(
    "fields",
    [
        {"TransformMatrix": "1e308 0 0 0 1e308 0 0 0 1e308"},
        {"TransformMatrix": "1 0 0 0 1 0 0 0"},
        {"TransformMatrix": "nan 0 0 0 1 0 0 0 1"},
        {"ElementSpacing": "1e308 1 1"},
        {"ElementSpacing": "-2 3 4"},
        {"ElementSpacing": "1,5 3 4"},
        {"DimSize": "2 3 99999999999999999999"},
        {"NDims": "4"},
        {"ElementType": "MET_STRING"},
        {"ElementNumberOfChannels": "3"},
        {"BinaryData": "perhaps"},
        {"DimSize": "9" * 100_000},
    ],
)
def test_broken_headers_of_metaimage(tmp_path: Path, fields: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=r"^a\.mha: .{0,300}$"):
        read(tmp_path / "a.mha", meta(**fields))


@pytest.mark.parametrize("name", ["my scan.raw", "100%d.raw", "ä ö.raw", "scan.v2.raw", "list.raw"])
@pytest.mark.parametrize("lead", ["", "./"])
def test_voxels_in_a_file_beside(tmp_path: Path, name: str, lead: str) -> None:
    (tmp_path / name).write_bytes(RAW)
    header = placed(data_file=lead + name)[: -len(RAW)]
    np.testing.assert_array_equal(read(tmp_path / "a.nhdr", header).data, VOXELS)
    header = meta(b"").replace(b"LOCAL", (lead + name).encode())
    np.testing.assert_array_equal(read(tmp_path / "a.mhd", header).data, VOXELS)


# --- locale ---------------------------------------------------------------------------------------------------------

UNDER_A_COMMA = """
import ctypes, locale, sys
import numpy as np
from pathlib import Path

for name in ("de_DE.UTF-8", "de_DE.utf8", "de_DE", "German_Germany.1252"):
    try:
        locale.setlocale(locale.LC_ALL, name)
        break
    except locale.Error:
        continue
if locale.localeconv()["decimal_point"] != ",":
    sys.exit(77)

from diffatlas import io
from diffatlas.geometry.grid import Grid

folder = Path(sys.argv[1])
for suffix in (".nrrd", ".mha", ".nii.gz"):
    volume = io.read_volume(folder / f"in{suffix}")
    assert volume.grid.spacing_mm == (1.5, 2.25, 0.5), (suffix, volume.grid.spacing_mm)
    assert volume.data[1, 2, 3] == 23
    io.write_volume(volume, folder / f"out{suffix}")
"""


def test_a_decimal_comma_changes_nothing(tmp_path: Path) -> None:
    """Qt sets the process's locale, and ITK parses and prints numbers in it: 1.5 mm became 1."""
    environment = dict(os.environ)
    if localedef := shutil.which("localedef"):
        target = tmp_path / "locales" / "de_DE.UTF-8"
        target.parent.mkdir()
        made = subprocess.run([localedef, "-i", "de_DE", "-f", "UTF-8", str(target)], capture_output=True, check=False)
        if made.returncode in (0, 1):  # 1: with warnings
            environment["LOCPATH"] = str(target.parent)
    grid = Grid((2, 3, 4), np.diag([1.5, 2.25, 0.5, 1.0]))
    for suffix in (".nrrd", ".mha", ".nii.gz"):
        io.write_array(VOXELS, grid, tmp_path / f"in{suffix}")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_COMMA, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no locale with a decimal comma here: install the package locales (tools/system-packages)")
    assert done.returncode == 0, done.stderr
    for suffix in (".nrrd", ".mha"):
        itk = sitk.ReadImage(str(tmp_path / f"out{suffix}"))
        assert itk.GetSpacing() == (1.5, 2.25, 0.5)
    assert io.read_volume(tmp_path / "out.nii.gz").grid.same_as(grid)
