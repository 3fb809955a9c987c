"""One table of a cohort: volumes, failures, outliers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from diffatlas.cohort.attempts import FOLDER, Attempts
from diffatlas.cohort.collect import collect, robust_z, table_of, write_table
from diffatlas.engine.run_record import to_json
from diffatlas.errors import BadInput


def report(folder: Path, case: str, volume_ml: float, **more: object) -> None:
    record = {
        "provenance": {
            "request": {"seed": 3},
            "model": {"name": "heart-phantom", "sha256": "0"},
            "source": {"path": f"/scans/{case}.nii.gz"},
            "seconds": 1.5,
        },
        "volumes_ml": {"left ventricle": volume_ml, "aorta": 30.0},
        "frames": [{}, {}],
        "cohort": {},
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.json").write_text(to_json(record))


def test_robust_z_by_hand() -> None:
    """Median 5, absolute deviations 4 3 2 1 0 1 2 3 4 with median 2: z of 9 is 0.6745 * 4 / 2."""
    z = robust_z([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert z[8] == pytest.approx(0.6745 * 2)
    assert z[4] == 0
    assert np.isnan(robust_z([1, 2, 3])).all()  # too few to have a spread
    # More than half the same: the mean absolute deviation, 10 / 10, in units of a normal distribution.
    assert robust_z([5] * 9 + [15])[9] == pytest.approx(10 / 1.2533)
    assert (robust_z([5] * 10) == 0).all()
    with_gap = robust_z([1, 2, 3, 4, 5, math.nan, 6, 7, 8, 9])
    assert math.isnan(with_gap[5])
    assert with_gap[9] == pytest.approx(0.6745 * 2)


def test_a_table_of_what_a_cohort_left(tmp_path: Path) -> None:
    for index in range(11):
        report(tmp_path, f"case{index:02d}", 100 + index % 5)
    more = {"volumes_interval_ml": {"left ventricle": [390, 410]}, "cut_off": {"left ventricle": 0.3}}
    report(tmp_path / "sub" / "anat", "far", 400, doubt=0.25, **more)
    (tmp_path / "notes.json").write_text("{}")
    with Attempts(tmp_path / FOLDER) as attempts:
        for state in ("failed", "failed"):
            attempt = attempts.take("bad")
            assert attempt is not None
            attempts.end(attempt, {"name": "bad", "state": state, "reason": "empty file"})
        attempt = attempts.take("case01")  # failed once, done since
        assert attempt is not None
        attempts.end(attempt, {"name": "case01", "state": "failed", "reason": "no memory"})
    rows = collect(tmp_path)
    assert [row.case for row in rows] == ["bad", *(f"case{index:02d}" for index in range(11)), "far"]
    write_table(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        table = {line["case"]: line for line in csv.DictReader(file)}
    assert (table["bad"]["state"], table["bad"]["reason"]) == ("failed", "empty file")
    assert [case for case, line in table.items() if line["outliers"]] == ["far"]
    assert table["far"]["outliers"] == "left ventricle"
    assert float(table["far"]["left ventricle ml"]) == 400
    assert (table["far"]["doubt"], table["far"]["left ventricle ml low"]) == ("0.25", "390")
    assert table["far"]["left ventricle cut_off"] == "0.3"
    assert table["case00"]["image"] == "/scans/case00.nii.gz"
    assert table["case00"]["labels"] == "case00_labels.nii.gz"
    assert (table["case00"]["seconds"], table["case00"]["steps"], table["case00"]["seed"]) == ("1.50", "2", "3")
    columns, lines = table_of(rows)
    assert all(len(line) == len(columns) for line in lines)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no report"):
        collect(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        collect(tmp_path / "gone")
