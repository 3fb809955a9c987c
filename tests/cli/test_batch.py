"""``diffatlas batch``: the table, the exit codes, going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffatlas import cohort
from tests.cli.helpers import Cli, files
from tests.fakes import FakeBackend


@pytest.fixture
def folder(image: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.nii.gz").write_bytes(image.read_bytes())
    return folder


def test_a_folder_is_segmented_and_the_second_time_left_alone(
    cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path
) -> None:
    arguments = ("batch", folder, "-o", tmp_path / "out", "--seed", 3, "--workers", 2)
    first = cli(*arguments)
    assert first.code == 0, first.err
    assert "2 of 2 done" in first.out
    assert files(tmp_path / "out") == {"cohort.json", "one.json", "one_labels.nii.gz", "two.json", "two_labels.nii.gz"}
    assert [request.seed for request in backend.requests] == [3, 3]
    again = cli(*arguments)
    assert again.code == 0
    assert again.out.count("was done already") == 2
    assert len(backend.requests) == 2
    assert cli(*arguments, "--redo").code == 0
    assert len(backend.requests) == 4
    assert cli("replay", tmp_path / "out" / "one.json", "-o", tmp_path / "again.nii.gz").code == 0
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "out" / "one_labels.nii.gz").read_bytes()


def test_a_bad_file_gives_2_and_the_others_their_labels(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.nii.gz").write_text("x")
    outcome = cli("batch", folder, "-o", tmp_path / "out", "--json")
    assert outcome.code == 2
    states = {case["name"]: case["state"] for case in json.loads(outcome.out)["cases"]}
    assert states == {"bad": "failed", "one": "done", "two": "done"}
    assert "bad.nii.gz" in outcome.err


def test_a_fault_of_the_program_gives_1(cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path) -> None:
    backend.fail_at = 1
    outcome = cli("batch", folder, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "RuntimeError" in outcome.out


def test_bad_use_gives_2_and_writes_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ("batch", folder, "-o", folder),
        ("batch", tmp_path / "gone", "-o", tmp_path / "out"),
        ("batch", folder, "-o", tmp_path / "out", "--model", "no-such-model"),
        ("batch", folder, "-o", tmp_path / "out", "--workers", 0),
    ):
        assert cli(*arguments).code == 2
    assert not (tmp_path / "out").exists()


def test_ctrl_c_gives_130_and_says_how_to_go_on(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        first = iter((True, False))

        def interrupted(self: cohort.Cohort, *arguments: object) -> object:
            if next(first):
                return one(self, *arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        one = cohort.Cohort._one
        patch.setattr(cohort.Cohort, "_one", interrupted)
        outcome = cli("batch", folder, "-o", tmp_path / "out")
    assert outcome.code == 130
    assert "1 of 2 done, run it again" in outcome.err
    assert cli("batch", folder, "-o", tmp_path / "out").code == 0
