"""What a run tells: a table without a row twice, TensorBoard events, pictures, a terminal; and when it has to stop."""

from __future__ import annotations

import csv
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.train import log as log_module
from diffatlas.train.config import load_config
from diffatlas.train.log import Log, Table, duration
from diffatlas.train.loop import Pace, advance, train
from diffatlas.train.prepared import Prepared, load_or_prepare
from diffatlas.train.state import Run
from diffatlas.train.validate import held_out, picture, validate
from tests.training import balls


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_takes_back_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = Table(path, 0)
    for step in (10, 20, 30):
        table.write({"step": step, "loss": step / 10, "dice": math.nan})
    with path.open("a") as file:
        file.write("40,3.")  # a process was killed here
    again = Table(path, 20)
    assert [row["step"] for row in rows(path)] == ["10", "20"]
    again.write({"step": 30, "loss": 0.5, "dice": 0.25, "new": 1.0})
    assert rows(path)[0] == {"step": "10", "loss": "1", "dice": "", "new": ""}
    assert rows(path)[2] == {"step": "30", "loss": "0.5", "dice": "0.25", "new": "1"}
    again.write({"step": 30, "loss": math.nan, "dice": 0.75})
    assert [row["step"] for row in rows(path)] == ["10", "20", "30"]
    assert rows(path)[2] == {"step": "30", "loss": "0.5", "dice": "0.75", "new": "1"}


def test_events_and_pictures_lie_in_the_run_folder(tmp_path: Path) -> None:
    config = load_config(balls(tmp_path), ["steps=4", "log_every=2", "validate_every=4"])
    train(config)
    assert [row["step"] for row in rows(config.run_folder / "log.csv")] == ["2", "4"]
    assert [p.name for p in (config.run_folder / "pictures").iterdir()] == ["000004.png"]
    events = EventAccumulator(str(config.run_folder / "events")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]
    assert [event.step for event in events.Scalars("validation/dice")] == [4]
    assert events.Tags()["images"] == ["samples"]
    logged = float(rows(config.run_folder / "log.csv")[1]["loss"])
    assert events.Scalars("train/loss")[1].value == pytest.approx(logged, rel=1e-4)


def test_a_terminal_shows_progress_loss_dice_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(log_module, "Console", lambda **_: terminal)
    with Log(tmp_path, "balls", 100, 0) as log:
        log.advance(40, 200.0)
        log.row({"step": 40, "seconds": 1.0, "rate": 1e-3, "loss": 0.25, "dice": 0.8})
    shown = screen.getvalue()
    for part in ("balls", "40/100", "loss 0.2500", "Dice 0.800", "3 min left"):
        assert part in shown


def test_only_one_process_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log(tmp_path, "balls", 100, 0, speaks=False) as log:
        log.say("hello")
        log.advance(1, 1.0)
        log.row({"step": 1, "loss": 0.5})
        log.picture(1, np.zeros((4, 4, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def prepared(config_file: Path) -> tuple[Run, Prepared]:
    run = Run(load_config(config_file, ["data.holdout=2"]))
    return run, load_or_prepare(run.config.data, run.config.space)


def test_validation_scores_the_cases_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = prepared(balls(tmp_path))
    held = held_out(data, run.config)
    assert held.image.shape == (2, 1, 24, 24, 24)
    sdf = data.sdf[4:, :, 2:-2, 2:-2, 2:-2].float()
    assert np.array_equal(held.truth[1], distances_to_labels(sdf[1].numpy()))
    seen: list[Tensor] = []

    def half_right(network: nn.Module, image: Tensor) -> Tensor:
        seen.append(image)
        assert not network.training
        answer = sdf[len(seen) - 1 : len(seen)].clone()
        answer[:, 1] = 1.0  # the second structure is missed
        return answer

    monkeypatch.setattr(run.task, "answer", half_right)
    score = validate(run, held)
    assert score is not None
    assert list(score.structures.values()) == [1.0, 0.0]
    assert score.mean == 0.5
    assert torch.equal(torch.cat(seen), held.image)
    assert validate(run, held, lambda: False) is None


def test_the_picture_has_cases_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = prepared(balls(tmp_path))
    held = held_out(data, run.config)
    both = picture(run, held)
    assert both is not None
    monkeypatch.setattr(run.task, "pairs", lambda *_: None)
    cases = picture(run, held)
    assert cases is not None
    assert cases.shape[1:] == both.shape[1:]
    assert len(cases) < len(both)
    assert picture(run, held_out(data, load_config(tmp_path / "train.yaml", ["data.holdout=0"]))) is None


def test_a_deadline_leaves_time_to_save_and_export() -> None:
    pace = Pace(1.0)
    assert pace.time_for("update", "validation")
    pace.seconds |= {"update": 5.0, "save": 2.0, "validation": 45.0}
    assert pace.time_for("update")
    assert not pace.time_for("update", "validation")  # with 2 s for a checkpoint, 2 s for the model, and a fifth more
    assert Pace(None).time_for("update")


def test_a_run_out_of_time_still_exports_and_goes_on_later(tmp_path: Path) -> None:
    config = load_config(balls(tmp_path), ["steps=100000"])
    folder = train(config, minutes=0.05)
    assert (folder / "card.yaml").is_file()
    again = Run(config)
    assert again.resume()
    assert 1 <= again.step < 100000
    assert rows(config.run_folder / "log.csv")[-1]["step"] == str(again.step)


def test_numbers_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = prepared(balls(tmp_path))
    run.save()
    before = run.file.read_bytes()
    right = run.task.losses

    def broken(*arguments: object) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = right(*arguments)  # type: ignore[arg-type]
        return loss * torch.nan, parts

    monkeypatch.setattr(run.task, "losses", broken)
    advance(run, data)
    with pytest.raises(BadInput, match="not a finite number at update 1"):
        run.save()
    assert run.file.read_bytes() == before
