"""Verdicts on a cohort: kept line by line, read back whatever a crash left, one table of it all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from diffatlas import review
from diffatlas import train as training
from diffatlas.cli import app
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap, Volume
from diffatlas.io import write_label_map, write_volume
from diffatlas.models.store import read_card
from diffatlas.train.config import load_config

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


def test_an_interval_stands_beside_a_volume_that_nobody_changed(tmp_path: Path) -> None:
    calibrated = REPORT | {"volumes_interval_ml": {"anterior hippocampus": [0.15, 0.3]}, "doubt": 0.07}
    review.add(tmp_path, review.verdict("a", "corrected", labels(6), labels(5), calibrated))
    path = review.write_table(tmp_path, ["a", "b"], {"a": calibrated, "b": calibrated})
    a, b = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    assert (a["anterior hippocampus, low, ml"], a["anterior hippocampus, high, ml"]) == ("", "")
    assert (b["anterior hippocampus, low, ml"], b["anterior hippocampus, high, ml"]) == ("0.1500", "0.3000")
    assert "posterior hippocampus, low, ml" not in b
    assert review.doubt_of(calibrated) == pytest.approx(
        0.07 + 1 + 1
    )  # the model's own doubt takes the residual's place


@pytest.fixture
def reviewed(tmp_path: Path, tiny_model: Path) -> Path:
    """Results of four cases, reviewed: two accepted, one corrected, one rejected."""
    results = tmp_path / "results"
    (results / "reviewed").mkdir(parents=True)
    grid = Grid((24, 24, 24), np.diag([1.5, 1.5, 1.5, 1.0]))
    for index, state in enumerate(("accepted", "corrected", "accepted", "rejected")):
        case = f"p{index}"
        data = np.random.default_rng(index).normal(100, 30, grid.shape).astype(np.float32)
        write_volume(Volume(data, grid, "mr"), tmp_path / f"{case}.nii.gz")
        drawn = np.zeros(grid.shape, np.uint8)
        drawn[6:12, 6:18, 6:18], drawn[12:18, 6:18, 6:18] = 1, 2
        made = LabelMap(drawn, grid, HIPPOCAMPUS)
        write_label_map(made, results / f"{case}_labels.nii.gz")
        source = {"path": str(tmp_path / f"{case}.nii.gz"), "modality": "mr"}
        provenance = {"model": {"name": str(tiny_model), "sha256": "ab"}, "source": source, "request": {}}
        (results / f"{case}.json").write_text(json.dumps(REPORT | {"provenance": provenance}), encoding="utf-8")
        kept = made if state != "rejected" else None
        said = review.verdict(case, state, kept, made, {"provenance": provenance})  # type: ignore[arg-type]
        if kept is not None:
            write_label_map(kept, results / said.labels)
        review.add(results, said)
    return results


def test_what_was_accepted_trains_the_model_that_drew_it(reviewed: Path, tmp_path: Path) -> None:
    config_path = review.write_training(reviewed, tmp_path / "training")
    config = load_config(config_path, ["steps=2", "batch=2", "warmup=1", "validate_every=0", "pictures=false"])
    assert [s.name for s in config.data.structures or ()] == list(HIPPOCAMPUS.names)
    listed = list(csv.DictReader((tmp_path / "training" / "cases.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["id"], row["modality"]) for row in listed] == [("p0", "mr"), ("p1", "mr"), ("p2", "mr")]
    assert "1 corrected by hand, 2 accepted" in config.data_note
    training.run(config_path, ["steps=2", "batch=2", "warmup=1", "validate_every=0", "pictures=false"])
    card = read_card(tmp_path / "training" / "model")
    assert card.name == "tiny-reviewed"
    assert card.scheme.names == HIPPOCAMPUS.names


def test_there_is_something_to_train_on_or_a_line_says_why_not(reviewed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no case is accepted"):
        review.write_training(tmp_path / "nothing", tmp_path / "training")
    (tmp_path / "p1.nii.gz").unlink()
    with pytest.raises(BadInput, match="p1: its image is gone"):
        review.write_training(reviewed, tmp_path / "training")
    for case in ("p0", "p1"):
        review.add(reviewed, review.Verdict(case, "to do"))
    with pytest.raises(BadInput, match="one case is accepted"):
        review.write_training(reviewed, tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_the_command_shows_a_review(reviewed: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["review", str(reviewed), "--table", "--training", str(tmp_path / "training")])
    assert done.exit_code == 0, done.output
    lines = {words[0]: words for words in (line.split() for line in done.stdout.splitlines()) if words}
    assert lines["p1"][1:3] == ["corrected", "1.000"]
    assert lines["p3"][1] == "rejected"
    assert "2 accepted, 1 corrected, 1 rejected, 0 to do" in done.stdout
    assert (reviewed / review.TABLE).is_file()
    assert (tmp_path / "training" / "train.yaml").is_file()
    told = json.loads(CliRunner().invoke(app, ["review", str(reviewed), "--json"]).stdout)
    assert {case["case"]: case["state"] for case in told["cases"]}["p3"] == "rejected"
    assert CliRunner().invoke(app, ["review", str(tmp_path / "no")]).exit_code == 2
