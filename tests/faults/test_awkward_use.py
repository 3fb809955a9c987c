"""What people do with files by mistake: outputs over inputs, links in a circle, orientations that disagree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from diffatlas.cli.errors import MAX_LINE
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap
from tests.cli.conftest import backend, cli, image, weights  # noqa: F401
from tests.cli.helpers import Cli
from tests.dicom_files import write_series

STORED = np.random.default_rng(2).integers(0, 2000, (5, 10, 12)).astype(np.uint16)


@pytest.mark.parametrize("format_", ["seg", "rtstruct"])
def test_labels_never_replace_a_slice(cli: Cli, tmp_path: Path, format_: str) -> None:  # noqa: F811
    folder = write_series(tmp_path / "s", STORED)
    before = (folder / "003.dcm").read_bytes()
    for given in (folder, folder / "001.dcm"):
        outcome = cli("segment", given, "-o", folder / "003.dcm", "--format", format_)
        assert outcome.code == 2
        assert "003.dcm: is a DICOM image" in outcome.err
    labels = LabelMap(np.ones((2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)), MMWHS)
    with pytest.raises(BadInput, match="labels do not replace"):
        io.write_label_map(labels, folder / "003.dcm")
    assert (folder / "003.dcm").read_bytes() == before
    # Labels of before are replaced, as everywhere.
    for _ in range(2):
        assert cli("segment", folder, "-o", folder / "labels.dcm", "--format", format_).code == 0


def test_a_circle_of_links_is_one_line(cli: Cli, image: Path, tmp_path: Path) -> None:  # noqa: F811
    one, two = tmp_path / "1.nii.gz", tmp_path / "2.nii.gz"
    one.symlink_to(two)
    two.symlink_to(one)
    assert cli("segment", one, "-o", tmp_path / "out.nii.gz").code == 2
    assert cli("segment", image, "-o", one).code == 2
    assert cli("info", one).code == 2


def test_a_protected_file_is_not_replaced(
    cli: Cli,  # noqa: F811
    image: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "final.nii.gz"
    path.write_text("precious")
    path.chmod(0o444)
    real = os.access

    def access(file: Any, mode: int, **more: Any) -> bool:  # root may write everything
        return real(file, mode, **more) and not (mode == os.W_OK and Path(file) == path)

    monkeypatch.setattr(os, "access", access)
    outcome = cli("segment", image, "-o", path)
    assert outcome.code == 2
    assert "write-protected" in outcome.err
    assert path.read_text() == "precious"


def test_an_error_is_one_line_of_bounded_length(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    outcome = cli("segment", tmp_path / ("x" * 5000), "-o", tmp_path / "out.nii.gz")
    assert outcome.code == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert len(outcome.err) < MAX_LINE + 50


def placed(path: Path, sform: Any, qform: Any, codes: tuple[int, int] = (1, 1)) -> Path:
    image = nib.Nifti1Image(np.arange(1680, dtype=np.int16).reshape(10, 12, 14), sform)  # noqa: F811
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return path


def test_orientations_that_disagree_are_noted(tmp_path: Path) -> None:
    straight = np.diag([2.0, 2.0, 3.0, 1.0])
    moved = straight.copy()
    moved[:3, 3] = (0.0, 7.0, 0.0)
    volume = io.read_volume(placed(tmp_path / "a.nii", straight, moved))
    assert volume.notes == ("qform and sform place the volume up to 7 mm apart: the sform was taken",)
    np.testing.assert_array_equal(volume.grid.affine, straight)
    flipped = np.diag([-2.0, 2.0, 3.0, 1.0])
    assert "40 mm apart" in io.read_volume(placed(tmp_path / "b.nii", straight, flipped)).notes[0]
    # What a quaternion of float32 cannot hold exactly is no disagreement; nor is one that nobody set.
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn @ np.diag([0.9, 1.1, 2.5])
    assert io.read_volume(placed(tmp_path / "c.nii", oblique, oblique)).notes == ()
    assert io.read_volume(placed(tmp_path / "d.nii", straight, moved, (1, 0))).notes == ()


def test_slices_of_one_identifier_are_not_referred_to(tmp_path: Path) -> None:
    volume = io.read_volume(write_series(tmp_path / "s", STORED, SOPInstanceUID="1.2.3"))
    assert volume.series is None


def test_a_private_transfer_syntax_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", STORED)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"))
    with pytest.raises(BadInput, match=r"transfer syntax 1\.2\.840\.99999\.1\.2\.1 is a private one"):
        io.read_volume(folder)


def test_info_of_labels_names_their_structures(tmp_path: Path) -> None:
    labels = LabelMap(np.ones((4, 5, 6), np.uint8), Grid((4, 5, 6), np.eye(4)), MMWHS)
    io.write_label_map(labels, tmp_path / "l.dcm")
    assert io.describe(tmp_path / "l.dcm")["structures"]["500"] == "left ventricle"
