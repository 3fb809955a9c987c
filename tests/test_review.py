"""Verdicts on a cohort: kept line by line, read back whatever a crash left, one table of it all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from diffatlas import review
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap

GRID = Grid((10, 10, 10), np.eye(4))


def labels(width: int) -> LabelMap:
    """A block of ``width`` x 5 x 8 voxels of 1 ul: the anterior hippocampus; none of the posterior."""
    data = np.zeros(GRID.shape, np.uint8)
    data[:width, :5, :8] = 1
    return LabelMap(data, GRID, HIPPOCAMPUS)


REPORT = {
    "provenance": {"model": {"name": "hippocampus-mri", "sha256": "ab"}},
    "volumes_ml": {"anterior hippocampus": 0.2, "posterior hippocampus": 0.0},
    "frames": [{"guidance_residual": 0.5}, {"guidance_residual": 0.125}],
    "notes": ["the search: not found with any certainty"],
}


def test_the_last_verdict_counts_and_a_line_cut_short_costs_nothing(tmp_path: Path) -> None:
    assert review.read(tmp_path) == {}
    review.add(tmp_path, review.Verdict("a", "accepted"))
    review.add(tmp_path, review.Verdict("a", "rejected", "moved"))
    with (tmp_path / review.FILE).open("ab") as file:
        file.write(b'{"case": "b", "state": "acc')  # the power went
    assert review.read(tmp_path) == {"a": review.Verdict("a", "rejected", "moved")}
    review.add(tmp_path, review.Verdict("c", "accepted"))
    assert set(review.read(tmp_path)) == {"a", "c"}


def test_a_verdict_says_what_was_changed_by_hand() -> None:
    said = review.verdict("a", "corrected", labels(6), labels(5), REPORT)
    assert said.volumes_ml == pytest.approx({"anterior hippocampus": 0.24, "posterior hippocampus": 0.0})
    # 240 and 200 voxels, 200 of them shared: 400 / 440.
    assert said.changed_dice == pytest.approx({"anterior hippocampus": 10 / 11, "posterior hippocampus": 1.0})
    assert said.run == {"model": "hippocampus-mri", "sha256": "ab", "report": "a.json"}
    assert said.labels == "reviewed/a_labels.nii.gz"
    assert said.who
    assert said.when.endswith("+00:00")


def test_doubt_adds_the_residual_what_is_missing_and_what_was_not_found() -> None:
    assert review.doubt_of(REPORT) == pytest.approx(0.125 + 1 + 1)
    assert review.doubt_of({}) == 0
    assert review.doubt_of({"frames": [{"guidance_residual": None}]}) == 0


def test_the_table_has_a_row_a_case(tmp_path: Path) -> None:
    review.add(tmp_path, review.verdict("a", "corrected", labels(6), labels(5), REPORT))
    path = review.write_table(tmp_path, ["a", "b"], {"a": REPORT, "b": REPORT})
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["case"], row["status"], row["doubt"]) for row in rows] == [
        ("a", "corrected", "2.125"),
        ("b", "to do", "2.125"),
    ]
    assert [row["anterior hippocampus, ml"] for row in rows] == ["0.2400", "0.2000"]
    assert [row["anterior hippocampus, Dice with the run"] for row in rows] == ["0.9091", ""]
