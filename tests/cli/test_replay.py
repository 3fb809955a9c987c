"""``diffatlas replay``: the same run again, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas.geometry.volume import MMWHS
from tests.cli.helpers import Cli, card, save_card
from tests.fakes import FakeBackend


def test_replay_gives_the_same_bytes(cli: Cli, backend: FakeBackend, report: Path, tmp_path: Path) -> None:
    outcome = cli("replay", report, "-o", tmp_path / "again.nii.gz")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "first.nii.gz").read_bytes()
    first, again = (request.to_json() for request in backend.requests)
    # "auto" chose a model when the report was written; the replay names it.
    assert (first.pop("model"), again.pop("model")) == ("auto", "heart")
    assert first == again


def test_replay_refuses_another_image_unless_forced(cli: Cli, report: Path, image: Path, tmp_path: Path) -> None:
    volume = nib.Nifti1Image.from_filename(image)
    other = np.asarray(volume.dataobj).copy()
    other[3, 3, 3] += 1
    nib.save(nib.Nifti1Image(other, volume.affine), tmp_path / "other.nii.gz")
    arguments = ("replay", report, "-o", tmp_path / "again.nii.gz", "--input", tmp_path / "other.nii.gz")
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "other.nii.gz" in outcome.err
    assert cli(*arguments, "--force").code == 0


def test_replay_refuses_other_weights_unless_forced(cli: Cli, report: Path, weights: Path, tmp_path: Path) -> None:
    save_card(weights, card("heart", MMWHS, sha256="1" * 64))
    arguments = ("replay", report, "-o", tmp_path / "again.nii.gz")
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "weights" in outcome.err
    assert cli(*arguments, "--force").code == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"provenance": 3}', '{"provenance": {"request": {}, "model": {}}}', "\0"]
)
def test_replay_refuses_what_is_no_report(cli: Cli, tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    outcome = cli("replay", path, "-o", tmp_path / "l.nii.gz")
    assert outcome.code == 2
    assert "r.json" in outcome.err


def test_replay_says_when_the_image_is_gone(cli: Cli, report: Path, image: Path, tmp_path: Path) -> None:
    image.rename(tmp_path / "moved.nii.gz")
    outcome = cli("replay", report, "-o", tmp_path / "l.nii.gz")
    assert outcome.code == 2
    assert "--input" in outcome.err
    assert cli("replay", report, "-o", tmp_path / "l.nii.gz", "--input", tmp_path / "moved.nii.gz").code == 0


def test_replay_works_from_another_folder(
    cli: Cli, image: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model given by a relative folder, and an image given by a relative path."""
    (weights / "heart").rename(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    arguments = ("segment", image.name, "-o", "first.nii.gz", "--report", "r.json", "--model", "my-model")
    assert cli(*arguments).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = cli("replay", "../r.json", "-o", "again.nii.gz")
    assert outcome.code == 0, outcome.err
    assert Path("again.nii.gz").read_bytes() == (tmp_path / "first.nii.gz").read_bytes()
    (tmp_path / "my-model").rename(tmp_path / "moved-model")
    assert cli("replay", "../r.json", "-o", "again.nii.gz").code == 2
    assert cli("replay", "../r.json", "-o", "again.nii.gz", "--model", "../moved-model").code == 0


def test_report_and_image_that_moved_together_are_replayed(cli: Cli, report: Path, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    for path in (report, image):
        path.rename(folder / path.name)
    outcome = cli("replay", folder / report.name, "-o", tmp_path / "again.nii.gz")
    assert outcome.code == 0, outcome.err
