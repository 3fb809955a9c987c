"""Archives and names that mean harm, and the honest ones between them."""

from __future__ import annotations

import errno
import io as bytes_io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas_app import limits
from diffatlas_app.visitors import uploads
from diffatlas_app.visitors.inbox import Inbox
from diffatlas_app.visitors.sessions import Visitor
from diffatlas_app.visitors.source import Source
from tests.dicom_files import enhanced, save, write_series
from tests.web.conftest import arrived, oblique_scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "visitor"
    made.mkdir()
    return made


@pytest.fixture
def visitor(tmp_path: Path, folder: Path) -> Visitor:
    return Visitor(folder, Inbox(tmp_path / "inbox"))


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in entries.items():
            out.writestr(name, data)
    return path


def dicom_series(folder: Path, count: int = 5) -> Path:
    """A CT of ``count`` slices, 8 x 6 pixels of 1 mm, 2 mm apart."""
    sitk = pytest.importorskip("SimpleITK")
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(count):
        image = sitk.GetImageFromArray(np.full((1, 6, 8), 10 * k - 300, np.int16))
        image.SetSpacing((1.0, 1.0, 2.0))
        for tag, value in {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.4",
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
            "0028|1052": "0",
            "0028|1053": "1",
        }.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice {k}.dcm"))
        writer.Execute(image)
    return folder


def test_a_zipped_series_reads_as_the_folder_does(tmp_path: Path, folder: Path, visitor: Visitor) -> None:
    series = dicom_series(tmp_path / "series")
    entries = {f"study/series/{p.name}": p.read_bytes() for p in series.iterdir()}
    archive = zipped(tmp_path / "chest.zip", {"study/.DS_Store": b"x", "__MACOSX/._a": b"x", **entries})
    source = visitor.take_upload(arrived(visitor.inbox, archive))
    volume, direct = source.read(), io.read_volume(series)
    np.testing.assert_array_equal(volume.data, direct.data)
    np.testing.assert_array_equal(volume.grid.affine, direct.grid.affine)
    assert volume.modality == "ct"
    assert volume.name == "chest"
    assert sorted(p.name for p in (folder / "volume").iterdir()) == [f"a{i:05d}.dcm" for i in range(5)]


@pytest.mark.parametrize("name", ["IMG{:04d}", "IMG{:04d}.dcm", "series/{:d}/slice.ima"])
def test_what_lies_beside_the_slices_in_a_zip_is_left_out(tmp_path: Path, folder: Path, name: str) -> None:
    """As patients get it on a disc: a text, a viewer program, a directory."""
    write_series(tmp_path / "s", np.zeros((4, 5, 6), np.uint16))
    files = {name.format(k): (tmp_path / f"s/{k:03d}.dcm").read_bytes() for k in range(4)}
    others = {"README.TXT": b"hello", "viewer/run1.exe": b"MZ", "report.pdf": b"%PDF", "inner.zip": b"PK", "x/42": b"?"}
    taken = uploads.take(zipped(tmp_path / "disc.zip", others | files), folder, "volume")
    assert io.read_volume(taken).grid.shape == (6, 5, 4)
    # A damaged slice is still told from what lies beside.
    files[name.format(2)] = b"no dicom"
    taken = uploads.take(zipped(tmp_path / "disc.zip", others | files), folder, "volume")
    with pytest.raises(BadInput, match="holds no DICOM"):
        io.read_volume(taken)


def test_a_file_of_many_frames_needs_no_zip(tmp_path: Path, folder: Path) -> None:
    stored = np.zeros((4, 5, 6), np.uint16)
    path = save(enhanced(stored, [(0, 0, 3 * k) for k in range(4)]), tmp_path / "Enhanced.DCM")
    assert io.read_volume(uploads.take(path, folder, "volume")).grid.shape == (6, 5, 4)


@pytest.mark.parametrize("name", ["../out.dcm", "/etc/out.dcm", "a/../../out.dcm", "..\\out.dcm", "C:\\out.dcm"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(tmp_path: Path, folder: Path, name: str) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("good.dcm", b"x")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        out.writestr(info, b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="leads out of the archive") as caught:
        uploads.take(archive, folder, "volume")
    assert str(caught.value).startswith("bad.zip: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, folder: Path, mode: int) -> None:
    archive = tmp_path / "link.zip"
    info = zipfile.ZipInfo("a.dcm")
    info.create_system = uploads.UNIX
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(info, "/etc/passwd")
    with pytest.raises(BadInput, match="a link or a device"):
        uploads.take(archive, folder, "volume")
    assert list(folder.iterdir()) == []


def test_ten_thousand_entries_are_refused_by_count(tmp_path: Path, folder: Path) -> None:
    archive = zipped(tmp_path / "many.zip", {f"{i}.dcm": b"" for i in range(10_000)})
    with pytest.raises(BadInput, match=r"many.zip: holds 10000 entries, the limit is 4000"):
        uploads.take(archive, folder, "volume")
    assert list(folder.iterdir()) == []


def test_a_bomb_that_declares_its_size_is_refused_before_it_is_opened(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 1024**2)
    archive = zipped(tmp_path / "bomb.zip", {"a.dcm": b"\0" * 3 * 1024**2})
    assert archive.stat().st_size < 10_000
    with pytest.raises(BadInput, match=r"unpacks to 3 MB; the limit is 1 MB unpacked"):
        uploads.take(archive, folder, "volume")


def test_a_bomb_that_lies_about_its_size_is_cut_off(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 1024**2)
    archive = zipped(tmp_path / "bomb.zip", {"a.dcm": b"\0" * 8 * 1024**2})
    data = archive.read_bytes()
    size = (8 * 1024**2).to_bytes(4, "little")
    assert data.count(size) == 2  # in the entry's own header and in the directory
    archive.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(BadInput, match=r"bomb.zip: (unpacks to more|a damaged or unusual zip file)"):
        uploads.take(archive, folder, "volume")
    assert list(folder.iterdir()) == []


def test_a_nested_bomb_stays_closed(tmp_path: Path, folder: Path, visitor: Visitor) -> None:
    inner = bytes_io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("zeros", b"\0" * 50 * 1024**2)
    archive = zipped(tmp_path / "nested.zip", {"inner.zip": inner.getvalue()})
    source = visitor.take_upload(arrived(visitor.inbox, archive))
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) == len(inner.getvalue())
    with pytest.raises(BadInput, match=r"nested\.zip"):
        source.read()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a zip at all"])
def test_a_damaged_zip_is_one_line(tmp_path: Path, folder: Path, content: bytes) -> None:
    archive = tmp_path / "broken.zip"
    archive.write_bytes(content)
    with pytest.raises(BadInput, match=r"broken\.zip: a damaged or unusual zip file"):
        uploads.take(archive, folder, "volume")


def test_an_empty_and_an_encrypted_zip(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadInput, match="is empty"):
        uploads.take(zipped(tmp_path / "empty.zip", {}), folder, "volume")
    archive = zipped(tmp_path / "secret.zip", {"a.dcm": b"x"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(BadInput, match="is encrypted"):
        uploads.take(archive, folder, "volume")


def test_a_link_in_place_of_an_upload_is_refused(tmp_path: Path, folder: Path) -> None:
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes(b"secret")
    link = tmp_path / "link.nii.gz"
    link.symlink_to(secret)
    with pytest.raises(BadInput, match="not a file"):
        uploads.take(link, folder, "volume")
    assert secret.exists()


def test_an_upload_beyond_the_limit_names_both_sizes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_UPLOAD_MB", 1)
    path = tmp_path / "large.nii"
    path.write_bytes(b"\0" * 3 * 1024**2)
    with pytest.raises(BadInput, match=r"large.nii: 3 MB; the limit is 1 MB"):
        uploads.take(path, folder, "volume")
    assert not list(folder.iterdir())


def test_voxels_and_bytes_beyond_the_limit_name_the_limit(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    for limit, value, words in (
        ("MAX_VOXELS", 7999, "the limit is 8e+03"),
        ("MAX_BYTES", 31_999, "the limit is 3.2e+04"),
    ):
        path = tmp_path / "mine.nii.gz"
        io.write_volume(Volume(np.zeros(grid.shape, np.float32), grid), path)
        with monkeypatch.context() as patch:
            patch.setattr(limits, limit, value)
            source = Source("mine.nii.gz", path=uploads.take(path, folder, "volume"))
            with pytest.raises(BadInput, match=r"mine\.nii\.gz") as caught:
                source.read()
        assert words in str(caught.value)
        assert str(folder) not in str(caught.value)


def test_uploads_replace_each_other(tmp_path: Path, folder: Path, visitor: Visitor) -> None:
    for name in ("one.nii.gz", "two.NRRD", "three.zip", "four.nii"):
        upload = tmp_path / name
        if name.endswith("zip"):
            zipped(upload, {"a": b"x"})
        else:
            upload.write_bytes(b"x")
        assert visitor.take_upload(arrived(visitor.inbox, upload)).name == name
    assert [p.name for p in folder.iterdir()] == ["volume.nii"]


def test_a_refused_upload_leaves_the_one_before(tmp_path: Path, folder: Path, visitor: Visitor) -> None:
    good, bad = tmp_path / "good.nii", tmp_path / "bad.zip"
    good.write_bytes(b"x")
    bad.write_bytes(b"x")
    visitor.take_upload(arrived(visitor.inbox, good))
    with pytest.raises(BadInput):
        visitor.take_upload(arrived(visitor.inbox, bad))
    assert [p.name for p in folder.iterdir()] == ["volume.nii"]
    assert visitor.source is not None
    assert visitor.source.name == "good.nii"


@pytest.mark.parametrize("take", ["volume", "labels"])
def test_nothing_but_a_file_of_the_inbox_is_ever_taken(
    tmp_path: Path, folder: Path, visitor: Visitor, take: str
) -> None:
    """Whatever path reaches the handlers, and though gradio would let it through."""
    real = arrived(visitor.inbox, oblique_scan(tmp_path / "scan.nii.gz", (6, 6, 6)))
    outside = tmp_path / "program.nii.gz"
    outside.write_bytes(b"a file of the program")
    link = visitor.inbox.folder / real.parent.name / "link.nii.gz"
    link.symlink_to(outside)
    folder_link = visitor.inbox.folder / ("0" * 32)
    folder_link.symlink_to(tmp_path)
    stray = visitor.inbox.folder / "stray.nii.gz"
    stray.write_bytes(b"x")
    climbing = real.parent / ".." / ".." / "program.nii.gz"
    for path in (outside, link, folder_link / "program.nii.gz", stray, climbing, Path("/etc/passwd"), tmp_path):
        with pytest.raises(BadInput, match="no file that was sent to this page") as caught:
            visitor.take_upload(path) if take == "volume" else visitor.take_labels(path, "mask")
        assert str(tmp_path) not in str(caught.value)
    assert outside.read_bytes() == b"a file of the program"
    assert not list(folder.iterdir())
    assert visitor.take_upload(real).read().grid.shape == (6, 6, 6)


def test_one_upload_serves_many(tmp_path: Path, visitor: Visitor) -> None:
    path = arrived(visitor.inbox, oblique_scan(tmp_path / "scan.nii.gz", (6, 6, 6)))
    folders = [tmp_path / f"visitor-{i}" for i in range(20)]
    for made in folders:
        made.mkdir()
        assert Visitor(made, visitor.inbox).take_upload(path).read().grid.shape == (6, 6, 6)
    visitor.inbox.discard(path.parent.name)
    assert all((made / "volume.nii.gz").is_file() for made in folders)


def test_a_full_disk_while_a_file_is_taken_is_one_line(
    tmp_path: Path, folder: Path, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = arrived(visitor.inbox, oblique_scan(tmp_path / "scan.nii.gz", (6, 6, 6)))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(BadInput, match=r"scan\.nii\.gz: the disk of this machine is full"):
        visitor.take_upload(path)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("brain.nii.gz", "brain.nii.gz"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\knee.mha", "knee.mha"),
        ("Herz größe.nii", "Herz größe.nii"),
        ("${a}<b>.nii", "__a__b_.nii"),
        ("...", "volume"),
    ],
)
def test_display_names_carry_no_folder_and_no_markup(given: str, shown: str) -> None:
    assert uploads.display_name(given) == shown


def test_long_display_names_keep_their_suffix() -> None:
    shown = uploads.display_name("x" * 300 + ".nii.gz")
    assert len(shown) == 60
    assert shown.endswith("….nii.gz")
