"""Broken and hostile files: each must come out as one line that names the file, never as a traceback or silent data.

The numbers in the test names are those of the list of faults this project holds itself to.
"""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS
from diffatlas.io import nifti, source
from diffatlas.io.stream import Inflated
from tests.faults.refusal import refused

SHAPE = (8, 9, 10)
NOISE = np.random.default_rng(9).bytes(2000)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(200))


def load(path: Path) -> Any:
    """An image of nibabel, whose types say too little of it."""
    return nib.load(path)


def good_header(**fields: Any) -> nib.Nifti1Header:
    """A sound int16 header; ``fields`` replace raw struct fields, unchecked."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([1.0, 1.0, 2.0, 1.0]), code=1)
    header.set_qform(np.diag([1.0, 1.0, 2.0, 1.0]), code=1)
    header["vox_offset"] = 352
    header["scl_slope"] = 1
    for key, value in fields.items():
        if isinstance(value, dict):
            for index, entry in value.items():
                header[key][index] = entry
        else:
            header[key] = value
    return header


def nifti_bytes(data: bytes | None = None, **fields: Any) -> bytes:
    if data is None:
        data = np.arange(np.prod(SHAPE), dtype=np.int16).tobytes()
    return bytes(good_header(**fields).binaryblock) + b"\0\0\0\0" + data


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def test_the_helper_makes_a_good_file(tmp_path: Path) -> None:
    for name in ("good.nii", "good.nii.gz"):
        volume = io.read_volume(put(tmp_path / name, nifti_bytes()))
        np.testing.assert_array_equal(volume.data, load(tmp_path / name).get_fdata())
        assert volume.notes == ()


# --- 1 to 7: the bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.dcm"])
def test_01_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name)


def test_01_empty_inside_gzip(tmp_path: Path) -> None:
    refused(put(tmp_path / "a.nii.gz", b""), "not a NIfTI")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.dcm"])
@pytest.mark.parametrize("content", [b"hello\n" * 200, PNG, b"\0" * 1000, pickle.dumps({"a": 1}) * 20, NOISE])
def test_02_something_else_under_this_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_02_text_inside_gzip(tmp_path: Path) -> None:
    refused(put(tmp_path / "a.nii.gz", b"hello\n" * 500), "not a NIfTI")


def test_02_other_formats_by_name(tmp_path: Path) -> None:
    for name in ("a.png", "a.img", "a.hdr", "a.gz", "a", "a.pkl"):
        (tmp_path / name).write_bytes(PNG)
        refused(tmp_path / name)


@pytest.mark.parametrize("keep", [3, 100, 347, 348, 351, 352, 353, 1000, -1])
def test_03_truncated_nii(tmp_path: Path, keep: int) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes()[:keep]))


@pytest.mark.parametrize("keep", [1, 2, 9, 12, 60, 200, -9, -5, -1])
def test_04_truncated_gzip(tmp_path: Path, keep: int) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes())[:keep])
    refused(tmp_path / "a.nii.gz")


def test_04_whole_gzip_of_a_truncated_file(tmp_path: Path) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes()[:-1]), "cut off")


def test_05_any_flipped_bit_in_gzip(tmp_path: Path) -> None:
    """Every bit of deflate data and trailer that changes what is read is noticed."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-1000, 1000, SHAPE, dtype=np.int16)
    whole = gzip.compress(nifti_bytes(noise.tobytes(order="F")), mtime=0)
    path = tmp_path / "a.nii.gz"
    noticed = 0
    for position in range(10, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            volume = io.read_volume(path)
        except BadInput:
            noticed += 1
        else:  # padding bits of the last block mean nothing
            np.testing.assert_array_equal(volume.data, noise)
    assert noticed >= len(range(10, len(whole), 7)) - 1


def test_06_wrong_crc(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(nifti_bytes()))
    whole[-8] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(whole)
    assert load(tmp_path / "a.nii.gz").get_fdata().shape == SHAPE  # which nibabel does not see
    refused(tmp_path / "a.nii.gz", "damaged")


def test_07_gzip_bomb_behind_a_small_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    original = Inflated.read

    def counted(self: Inflated, size: int, /) -> bytes:
        nonlocal taken
        block = original(self, size)
        taken += len(block)
        return block

    monkeypatch.setattr(Inflated, "read", counted)
    refused(put(tmp_path / "a.nii.gz", nifti_bytes() + bytes(50 << 20)), "goes on")
    assert 0 < taken < 20 << 20  # three reads of a few MiB each, not of 50


def test_07_limits_are_the_callers(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes())
    with pytest.raises(BadInput, match=r"a\.nii\.gz.*limit"):
        io.read_volume(path, limits=io.Limits(max_voxels=700))
    with pytest.raises(BadInput, match=r"a\.nii\.gz.*limit"):
        io.read_volume(path, limits=io.Limits(max_bytes=1400))
    assert io.read_volume(path, limits=io.Limits(max_voxels=720, max_bytes=1440)).grid.shape == SHAPE


# --- 8 to 15: the header --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("size", [32767, 2000])
def test_08_31_huge_header_costs_no_memory(tmp_path: Path, name: str, size: int) -> None:
    tracemalloc.start()
    message = refused(put(tmp_path / name, nifti_bytes(dim=[3, size, size, size, 1, 1, 1, 1])), "limit")
    assert f"{size}x{size}x{size}" in message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_08_size_within_limits_but_not_in_the_file(tmp_path: Path, name: str) -> None:
    refused(put(tmp_path / name, nifti_bytes(dim=[3, 900, 900, 900, 1, 1, 1, 1])), "shorter|cut off|needs")


def test_31_larger_than_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_memory_bytes", lambda: 4000)
    refused(put(tmp_path / "a.nii", nifti_bytes()), "this machine has")


@pytest.mark.parametrize("dim", [[3, -8, 9, 10], [3, 0, 9, 10], [3, 8, 9, 0], [4, 8, 9, 10, 0], [5, 8, 9, 10, 1, -2]])
def test_09_10_negative_and_zero_sizes(tmp_path: Path, dim: list[int]) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(dim=dim + [1] * (8 - len(dim)))), "size of")


@pytest.mark.parametrize("axes", [0, 9, 8, -1, 32767])
def test_10_11_impossible_number_of_axes(tmp_path: Path, axes: int) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(dim=[axes, 8, 9, 10, 1, 1, 1, 1])), "axes")


@pytest.mark.parametrize("dim", [[1, 720], [2, 72, 10]])
def test_11_fewer_than_three_axes(tmp_path: Path, dim: list[int]) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(dim=dim + [1] * (8 - len(dim)))), "three axes")


def test_12_series_asks_which_volume(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes(dim=[4, 8, 9, 2, 5, 1, 1, 1]))
    with pytest.raises(BadInput, match=r"a\.nii\.gz.*5 volumes, 0 to 4"):
        io.read_volume(path)
    with pytest.raises(BadInput, match=r"a\.nii\.gz.*no volume 5"):
        io.read_volume(path, volume_index=5)
    with pytest.raises(BadInput, match="no volume -1"):
        io.read_volume(path, volume_index=-1)
    assert io.read_volume(path, volume_index=4).data[0, 0, 0] == 4 * 8 * 9 * 2
    refused(put(tmp_path / "b.nii.gz", nifti_bytes(dim=[5, 8, 9, 2, 1, 5, 1, 1])), "several values")


@pytest.mark.parametrize(("code", "size"), [(128, 3), (2304, 4)])
def test_13_rgb(tmp_path: Path, code: int, size: int) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(bytes(720 * size), datatype=code, bitpix=8 * size)), "color")


@pytest.mark.parametrize(("code", "size"), [(32, 8), (1792, 16), (2048, 32)])
def test_14_complex(tmp_path: Path, code: int, size: int) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(bytes(720 * size), datatype=code, bitpix=8 * size)))


@pytest.mark.parametrize("code", [0, 1, 3, 255, 1536, 9999, -4])
def test_15_unknown_type(tmp_path: Path, code: int) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(datatype=code)), "data type")


# --- 16 to 18: the values -------------------------------------------------------------------------------------------


def float_file(path: Path, values: np.ndarray[Any, Any], **fields: Any) -> Path:
    return put(path, nifti_bytes(values.astype(np.float32).tobytes(order="F"), datatype=16, bitpix=32, **fields))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_16_nan_and_inf_are_filled_and_reported(tmp_path: Path, bad: float) -> None:
    values = np.random.default_rng(1).uniform(5, 9, SHAPE)
    values[:2] = bad
    volume = io.read_volume(float_file(tmp_path / "a.nii.gz", values))
    assert np.isfinite(volume.data).all()
    assert (volume.data[:2] == np.float32(values[2:].min())).all()
    np.testing.assert_array_equal(volume.data[2:], values[2:].astype(np.float32))
    assert any("25%" in note for note in volume.notes)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_16_mostly_nan_is_refused(tmp_path: Path, bad: float) -> None:
    values = np.ones(SHAPE)
    values[:5] = bad
    with pytest.raises(BadInput, match=r"a\.nii\.gz: 62\.5%"):
        io.read_volume(float_file(tmp_path / "a.nii.gz", values))
    values[:] = bad
    refused(float_file(tmp_path / "b.nii.gz", values))


def test_17_constant_image_is_noted(tmp_path: Path) -> None:
    volume = io.read_volume(put(tmp_path / "a.nii", nifti_bytes(bytes(1440))))
    assert any("same value" in note for note in volume.notes)
    assert io.describe(tmp_path / "a.nii")["intensity"]["max"] == 0


def test_18_slope_zero_means_no_scale(tmp_path: Path) -> None:
    volume = io.read_volume(put(tmp_path / "a.nii", nifti_bytes(scl_slope=0, scl_inter=7)))
    assert (volume.data.min(), volume.data.max(), volume.notes) == (0, 719, ())


def test_18_slope_nan_means_no_scale_and_is_noted(tmp_path: Path) -> None:
    volume = io.read_volume(put(tmp_path / "a.nii", nifti_bytes(scl_slope=np.nan)))
    assert volume.data.max() == 719
    assert len(volume.notes) == 1


@pytest.mark.parametrize(
    ("slope", "inter"), [(np.inf, 0), (-np.inf, 0), (1, np.nan), (1, np.inf), (1e38, 0), (1e30, 0), (1, -1e38)]
)
def test_18_absurd_scale(tmp_path: Path, slope: float, inter: float) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(scl_slope=slope, scl_inter=inter)), "scale")


# --- 19 to 24: the place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4},
        {"srow_z": [0, 0, 0, 5]},
        {"srow_z": [1, 1e-4, 0, 0], "srow_x": [1, 0, 0, 0], "srow_y": [0, 1e-4, 0, 0]},
        {"srow_x": [1e-9, 0, 0, 0], "srow_y": [0, 1e-9, 0, 0], "srow_z": [0, 0, 1e-9, 0]},
        {"srow_x": [1e30, 0, 0, 0]},
    ],
)
def test_19_sform_that_places_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(**fields)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_20_nan_affine(tmp_path: Path, bad: float) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(srow_x=[bad, 0, 0, 0])), "NaN or infinite")
    refused(put(tmp_path / "b.nii.gz", nifti_bytes(srow_y=[0, 1, 0, bad])), "NaN or infinite")
    refused(put(tmp_path / "c.nii.gz", nifti_bytes(sform_code=0, qoffset_x=bad)), "NaN or infinite")


@pytest.mark.parametrize("quaternion", [(1, 1, 1), (np.nan, 0, 0), (np.inf, 0, 0), (1e30, 0, 0)])
def test_21_bad_quaternion(tmp_path: Path, quaternion: tuple[float, ...]) -> None:
    b, c, d = quaternion
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(sform_code=0, quatern_b=b, quatern_c=c, quatern_d=d)), "orientation")
    # Where the sform places the voxels, an unused broken qform does no harm.
    volume = io.read_volume(put(tmp_path / "b.nii.gz", nifti_bytes(quatern_b=b, quatern_c=c, quatern_d=d)))
    assert volume.grid.spacing_mm == (1, 1, 2)


@pytest.mark.parametrize("size", [0, -1, np.nan, np.inf])
@pytest.mark.parametrize("qform", [0, 1])
def test_21_bad_voxel_size_where_it_counts(tmp_path: Path, size: float, qform: int) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes(sform_code=0, qform_code=qform, pixdim={2: size}))
    refused(path, "voxel sizes")


def test_22_no_orientation_is_noted_and_placed_as_nibabel_does(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", nifti_bytes(sform_code=0, qform_code=0))
    volume = io.read_volume(path)
    assert any("no orientation" in note for note in volume.notes)
    np.testing.assert_array_equal(volume.grid.affine, load(path).affine)


@pytest.mark.parametrize("offset", [0, 100, 351, -352, np.nan, np.inf, 352.5, 1e9, 1e30, 4000])
def test_24_bad_vox_offset(tmp_path: Path, offset: float) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(vox_offset=offset)))
    refused(put(tmp_path / "a.nii.gz", nifti_bytes(vox_offset=offset)))


@pytest.mark.parametrize("size", [0, -16, 8, 1 << 30, 48])
def test_24_bad_extension(tmp_path: Path, size: int) -> None:
    extension = struct.pack("<ii", size, 6) + b"text" * 2
    data = bytes(good_header(vox_offset=384).binaryblock) + b"\1\0\0\0" + extension + bytes(16) + bytes(1440)
    refused(put(tmp_path / "a.nii.gz", data), "extension")


def test_24_pair_and_wrong_magic(tmp_path: Path) -> None:
    refused(put(tmp_path / "a.nii", nifti_bytes(magic=b"ni1")), "pair")
    refused(put(tmp_path / "b.nii", nifti_bytes(magic=b"abc")), "magic")


# --- 25, 31, 32 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Herz größe 心臓.nii.gz", "x" * 240 + ".nii.gz", "a b;c&d'.nii.gz", "..nii.gz"])
def test_25_odd_names_work(tmp_path: Path, name: str) -> None:
    volume = io.read_volume(put(tmp_path / name, nifti_bytes()))
    io.write_volume(volume, tmp_path / f"{name[:-7]}2.nii.gz")
    assert (tmp_path / f"{name[:-7]}2.nii.gz").is_file()


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "a\0b.nii.gz", "no/such/file.nii.gz", "../nothing.nii.gz"])
def test_25_impossible_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        io.read_volume(tmp_path / name)
    with pytest.raises(BadInput):
        io.check_output(tmp_path / "missing" / name)
    if "x" * 300 in name or "\0" in name:
        with pytest.raises(BadInput):
            io.check_output(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="not possible there")
def test_25_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = put(tmp_path / "a\x1b[31m\nb.nii.gz", b"no")
    with pytest.raises(BadInput) as caught:
        io.read_volume(path)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="not possible there")
def test_25_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(BadInput, match="neither a file nor a folder"):
        io.read_volume(tmp_path / "a.nii")


def test_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("out.png", "out", "out.nii.bz2", "missing/out.nii.gz", "out.mhd"):
        with pytest.raises(BadInput):
            io.check_output(tmp_path / name)
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(BadInput, match="folder"):
        io.check_output(tmp_path / "folder.nii.gz")
    assert io.check_output(tmp_path / "OUT.NII.GZ") == tmp_path / "OUT.NII.GZ"
    assert io.check_output(tmp_path / "report.json", (".json",)).name == "report.json"


@pytest.mark.parametrize(("shape", "spacing"), [((1, 1, 1), (1, 1, 1)), ((64, 64, 3), (0.5, 0.5, 10.0))])
def test_31_one_voxel_and_anisotropy(tmp_path: Path, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> None:
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.diag([*spacing, 1.0])), tmp_path / "a.nii.gz")
    volume = io.read_volume(tmp_path / "a.nii.gz")
    assert (volume.grid.shape, volume.grid.spacing_mm) == (shape, spacing)


@pytest.mark.parametrize(
    ("values", "match"),
    [([0, 1, 7], r"\[7\]"), ([0, 1, 1.5], "fractions"), ([0, -1, 1], "negative"), ([0, 1, np.nan], "NaN")],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_32_label_maps(tmp_path: Path, values: list[float], match: str, suffix: str) -> None:
    data = np.resize(np.array(values, np.float32), SHAPE)
    path = tmp_path / f"labels{suffix}"
    io.write_array(data, Grid(SHAPE, np.eye(4)), path)
    with pytest.raises(BadInput, match=rf"labels{suffix}.*{match}"):
        io.read_label_map(path, HIPPOCAMPUS)


def test_32_scaled_and_huge_labels(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii", nifti_bytes(scl_slope=0.5))
    with pytest.raises(BadInput, match=r"a\.nii.*fractions"):
        io.read_label_map(path, HIPPOCAMPUS)
    huge = np.full(SHAPE, 2**63 + 5, dtype=np.uint64)
    io.write_array(huge, Grid(SHAPE, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(BadInput, match=str(2**63 + 5)):
        io.read_label_map(tmp_path / "b.nii", HIPPOCAMPUS)


# --- nothing else gets out ------------------------------------------------------------------------------------------


def test_random_headers_give_a_volume_or_bad_input(tmp_path: Path) -> None:
    """Fuzz: 1500 headers with random bytes in random places."""
    rng = np.random.default_rng(3)
    path = tmp_path / "a.nii"
    whole = nifti_bytes()
    read = 0
    for _ in range(1500):
        broken = bytearray(whole)
        for position in rng.integers(0, 352, rng.integers(1, 5)):
            broken[position] = rng.integers(256)
        path.write_bytes(broken)
        try:
            volume = io.read_volume(path)
        except BadInput:
            continue
        else:
            read += 1
            assert np.isfinite(volume.data).all()
            assert np.isfinite(volume.grid.affine).all()
    assert read > 100


def test_disk_errors_are_the_users_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.nii", nifti_bytes())

    def broken(*_: object) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(nifti, "_read_struct", broken)
    refused(path, "Input/output error")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii", nifti_bytes())
    path.chmod(0)
    refused(path, "ermission")
