"""Tables: every number in them can be found by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffatlas.evaluate import tables
from diffatlas.evaluate.protocol import Protocol
from diffatlas.evaluate.runs import Finished, Score, Training
from diffatlas.evaluate.tables import calibration_error, rows_of, to_csv, to_json, to_markdown, write
from diffatlas.metrics import interval


def score(method: str, case: str, head: float | None, tail: float | None, **more: object) -> Score:
    fields = {"setting": "4 cases", "run": "fast", "seed": 0, "seconds": 1.5} | more
    structures = {
        name: {"dice": v, "surface_dice": v, "hd95_mm": None if v is None else 2.0}
        for name, v in (("head", head), ("tail", tail))
    }
    return Score(method=method, case=case, structures=structures, **fields)  # type: ignore[arg-type]


def protocol(**more: object) -> Protocol:
    value = {
        "name": "p",
        "title": "A protocol",
        "train": "train.yaml",
        "compare_to": "atlas",
        "output": "out",
        "methods": [{"name": "atlas"}, {"name": "unet", "task": "unet"}],
        "settings": [{"name": "4 cases", "kind": "few-shot", "shots": 4}],
    }
    return Protocol.model_validate(value | more)


def finished(scores: list[Score], **more: object) -> Finished:
    training = Training("4 cases", "atlas", 0, 1_500_000, 300, 20.0, 90.0, 4)
    return Finished(protocol(**more), scores, [training], ["4 cases / unet / seed 0: not trained to the end"])


SCORES = [
    score("atlas", "a", 0.8, 0.6),
    score("atlas", "b", 0.9, 0.7),
    score("unet", "a", 0.5, 0.5),
    score("unet", "b", 0.9, None),
]


def test_means_are_over_cases_of_means_over_structures() -> None:
    atlas, unet = rows_of(finished(SCORES))
    assert atlas.measures["mean"]["dice"].mean == pytest.approx((0.7 + 0.8) / 2)
    assert atlas.measures["head"]["dice"].mean == pytest.approx(0.85)
    assert atlas.measures["mean"]["hd95_mm"].mean == 2
    # A structure without a value is left out of its case, and is not a zero.
    assert unet.measures["mean"]["dice"].mean == pytest.approx((0.5 + 0.9) / 2)
    assert unet.measures["tail"]["dice"].n == 1


def test_differences_are_paired_by_case() -> None:
    atlas, unet = rows_of(finished([*SCORES, score("unet", "c", 0.1, 0.1)]))
    assert atlas.difference is None
    assert unet.difference is not None
    assert unet.difference.n == 2  # case c has no partner
    assert unet.difference.mean == pytest.approx(((0.5 - 0.7) + (0.9 - 0.8)) / 2)


def test_training_seeds_are_averaged_before_cases_are_counted() -> None:
    twice = [score("atlas", c, v, v, seed=s) for c, s, v in (("a", 0, 0.4), ("a", 1, 0.6), ("b", 0, 0.7))]
    (row,) = rows_of(finished(twice, seeds=[0, 1]))
    assert row.measures["mean"]["dice"].n == 2
    assert row.measures["mean"]["dice"].mean == pytest.approx((0.5 + 0.7) / 2)


def test_what_the_seeds_differ_by_is_said_where_there_are_several() -> None:
    done = finished([score("atlas", c, v, v, seed=s) for c, s, v in (("a", 0, 0.4), ("a", 3, 0.6))], seeds=[0, 3])
    rows = rows_of(done)
    assert rows[0].by_seed == pytest.approx({0: 0.4, 3: 0.6})
    text = to_markdown(done, rows)
    assert "| seeds |" in text
    assert "| 2: 0.400 to 0.600 |" in text
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [r["mean"] for r in table if r["measure"] in ("dice of seed 0", "dice of seed 3")] == ["0.4", "0.6"]
    one = finished(SCORES)
    assert "seeds" not in to_markdown(one, rows_of(one))
    assert "of seed" not in to_csv(rows_of(one))


def test_interval_of_equal_values_is_a_point_and_of_none_is_nothing() -> None:
    same = interval([0.5, 0.5, 0.5])
    assert (same.low, same.mean, same.high, same.n) == (0.5, 0.5, 0.5, 3)
    wide = interval([0.0, 1.0] * 50)
    assert 0.35 < wide.low < 0.45 < wide.mean < 0.55 < wide.high < 0.65  # 0.5 +- 1.96 * 0.05
    assert math.isnan(interval([math.nan]).mean)
    assert interval([]).n == 0


def test_the_interval_is_one_of_95_percent() -> None:
    """By the central limit theorem: mean ± 1.96 standard errors, where that of 90 % has 1.64."""
    figure = interval([0.0, 1.0] * 200)  # standard error 0.5 / sqrt(400)
    assert (figure.high - figure.mean, figure.mean - figure.low) == pytest.approx((1.96 * 0.025,) * 2, rel=0.08)


def test_calibration_error_by_hand() -> None:
    empty = [[0, 0]] * 8
    # 10 voxels at 0.85, all right: off by 0.15. 30 at 0.95, 27 right: off by 0.05.
    given = score("atlas", "a", 1.0, 1.0, calibration=[*empty, [10, 10], [30, 27]])
    assert calibration_error([given]) == pytest.approx((10 * 0.15 + 30 * 0.05) / 40)
    assert calibration_error(SCORES) is None


def test_markdown_says_what_is_lacking_and_csv_holds_every_number() -> None:
    done = finished(SCORES)
    rows = rows_of(done)
    text = to_markdown(done, rows)
    assert "| atlas | fast | 2 | 0.750 (0.700 to 0.800) | 0.750 | 2.00 |  | 0.850 | 0.650 | 1.50 |" in text
    assert "- 4 cases / unet / seed 0: not trained to the end" in text
    assert "| 4 cases | atlas | 0 | 1.50 M | 300 | 20 | 1.5 |" in text
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    (mean,) = [r for r in table if (r["method"], r["structure"], r["measure"]) == ("atlas", "mean", "dice")]
    assert (float(mean["mean"]), mean["n"], mean["shots"]) == (0.75, "2", "4")


def test_json_holds_no_nan() -> None:
    done = finished([score("atlas", "a", None, None)])
    text = json.dumps(to_json(done, rows_of(done)), allow_nan=False)
    assert json.loads(text)["rows"][0]["measures"]["mean"]["dice"] == {"mean": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"settings": [{"name": "4 cases", "kind": "few-shot"}]},
        {"methods": [{"name": "atlas", "runs": [{"name": "fast", "x": 0.5}]}, {"name": "unet"}]},
        {"settings": [{"name": "4 cases", "kind": "few-shot", "shots": 16}]},  # as many as the other: another test set
        {"settings": [{"name": "4 cases", "kind": "few-shot", "budget_tflop": 5}]},
    ],
    ids=["shots", "dots", "sweep", "two test sets", "arithmetic"],
)
def test_figure_and_tables_are_written(tmp_path: Path, more: dict[str, object]) -> None:
    scores = [*SCORES, *(score(s.method, s.case, 0.9, 0.9, setting="16 cases") for s in SCORES)]
    settings = more.get("settings", [{"name": "4 cases", "kind": "few-shot", "shots": 4}])
    assert isinstance(settings, list)
    sixteen = settings[0] | {"name": "16 cases"} | ({"shots": 16} if "shots" in settings[0] else {})
    sixteen |= {"budget_tflop": 20} if "budget_tflop" in settings[0] else {}
    written = write(finished(scores, **(more | {"settings": [*settings, sixteen]})), tmp_path)
    assert [p.name for p in written] == ["results.json", "results.csv", "results.md", "figure.png"]
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_settings_that_differ_in_arithmetic_alone_are_a_curve_over_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[str, list[float]]] = []
    curve = tables._curve

    def noted(axes: Any, points: list[tuple[float, tables.Row]], label: str) -> None:
        drawn.append((label, [x for x, _ in points]))
        curve(axes, points, label)

    monkeypatch.setattr(tables, "_curve", noted)
    settings = [{"name": f"{n} TFLOP", "kind": "few-shot", "budget_tflop": n} for n in (5, 20)]
    scores = [score(s.method, s.case, 0.9, 0.9, setting=f"{n} TFLOP") for s in SCORES for n in (5, 20)]
    done = finished(scores, settings=settings)
    assert tables.draw(done, rows_of(done), tmp_path / "figure.png")
    assert drawn == [("atlas", [5, 20]), ("unet", [5, 20])]


def test_a_setting_with_but_a_finished_model_s_row_is_drawn(tmp_path: Path) -> None:
    """Its trainings are not done yet, and what was not trained took no arithmetic."""
    settings = [{"name": f"{n} TFLOP", "kind": "few-shot", "budget_tflop": n} for n in (5, 20, 80)]
    methods = [{"name": "atlas", "model": "heart"}, {"name": "unet", "task": "unet"}]
    scores = [score("atlas", "a", 0.9, 0.9, setting=f"{n} TFLOP") for n in (5, 20, 80)]
    scores += [score("unet", "a", 0.8, 0.8, setting=f"{n} TFLOP") for n in (5, 20)]
    done = finished(scores, settings=settings, methods=methods)
    assert tables.draw(done, rows_of(done), tmp_path / "figure.png")


def test_nothing_done_is_a_table_of_what_is_lacking(tmp_path: Path) -> None:
    written = write(finished([]), tmp_path)
    assert [p.name for p in written] == ["results.json", "results.csv", "results.md"]
    assert "not trained to the end" in (tmp_path / "results.md").read_text()
