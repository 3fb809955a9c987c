"""What a killed `segment` leaves is gone after the next start, and its report never outlives its labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import Cli, files


def test_the_next_start_sweeps_what_a_killed_one_left(
    cli: Cli, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffatlas.io.atomic.process_runs", lambda pid: pid != 999_999)
    from diffatlas.io import atomic

    (tmp_path / f".diffatlas-{atomic._host()}-999999-0123456789abcdef.nii.gz").write_bytes(b"half")
    folder = tmp_path / f".diffatlas-{atomic._host()}-999999-abcd_efg"
    folder.mkdir()
    (folder / "frame-0000.png").write_bytes(b"")
    assert cli("segment", image, "-o", tmp_path / "l.nii.gz").code == 0
    assert files(tmp_path) == {"heart.nii.gz", "l.nii.gz"}


def test_a_run_killed_while_it_renames_leaves_no_report_of_other_labels(
    cli: Cli, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, report = tmp_path / "l.nii.gz", tmp_path / "r.json"
    assert cli("segment", image, "-o", labels, "--report", report, "--seed", 1).code == 0
    before = labels.read_bytes()
    renamed = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == report:
            raise KeyboardInterrupt
        return renamed(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        assert cli("segment", image, "-o", labels, "--report", report, "--seed", 2).code == 130
    assert labels.read_bytes() != before
    assert not report.exists()
    assert cli("segment", image, "-o", labels, "--report", report, "--seed", 2).code == 0
    assert json.loads(report.read_text())["provenance"]["request"]["seed"] == 2
