"""A run that is killed, at whatever moment, ends with the weights of one that was left alone."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffatlas.train import loop
from diffatlas.train import run as train_run
from diffatlas.train.config import load_config
from diffatlas.train.prepared import Prepared
from diffatlas.train.state import LAST, Run
from tests.training import balls

UPDATES = 24
SETTINGS = [f"steps={UPDATES}", "save_every=1", "log_every=1", "validate_every=10", "pictures=false", "threads=1"]


@pytest.fixture(scope="module")
def forkserver() -> ForkServerContext:
    """Processes that begin with everything imported, and with nothing of this one's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffatlas.train.loop", "diffatlas.train.tasks", "diffatlas.train.export"])
    return context


def saved(run: Path) -> int:
    """The updates that the checkpoint of a run holds; 0 where there is none."""
    if not (run / LAST).is_file():
        return 0
    with safe_open(run / LAST, "pt") as file:
        return int(file.metadata()["step"])


def logged(run: Path) -> list[dict[str, str]]:
    """The rows of a run's table, without the time they took."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def wait_for(run: Path, step: int, alive: Callable[[], bool]) -> None:
    while saved(run) < step:
        assert alive(), "ended early"
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path: Path, forkserver: ForkServerContext) -> None:
    config = balls(tmp_path)

    def started(run: str) -> ForkServerProcess:
        settings = [*SETTINGS, f"run_folder={run}", f"export={run}-model"]
        process = forkserver.Process(target=train_run, args=(config, settings))
        process.start()
        return process

    undisturbed = started("left-alone")
    undisturbed.join(200)
    assert undisturbed.exitcode == 0
    # An update and its checkpoint take a few hundredths of a second: the delays fall into all parts of both.
    for step, delay_s in ((1, 0.0), (4, 0.013), (8, 0.031), (12, 0.007), (16, 0.022)):
        process = started("killed")
        wait_for(tmp_path / "killed", step, process.is_alive)
        time.sleep(delay_s)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert step <= saved(tmp_path / "killed") < UPDATES
    last = started("killed")
    last.join(200)
    assert last.exitcode == 0
    expected, got = load_file(tmp_path / "left-alone" / LAST), load_file(tmp_path / "killed" / LAST)
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    models = [tmp_path / f"{run}-model" / "model.safetensors" for run in ("left-alone", "killed")]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert list((tmp_path / "killed").glob(".diffatlas-*")) == []
    rows = logged(tmp_path / "killed")
    assert [row["step"] for row in rows] == [str(step + 1) for step in range(UPDATES)]
    assert rows == logged(tmp_path / "left-alone")


def test_sigterm_ends_a_run_with_a_checkpoint_and_a_line(tmp_path: Path) -> None:
    options = [part for s in [*SETTINGS, "run_folder=run", "export=model"] for part in ("--set", s)]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffatlas", "train", str(balls(tmp_path)), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(tmp_path / "run", 2, lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    step = saved(tmp_path / "run")
    assert 2 <= step < UPDATES
    assert f"stopped at update {step} of {UPDATES}" in err
    assert "Traceback" not in err
    assert not (tmp_path / "model").exists()


def test_ctrl_c_lets_the_update_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(balls(tmp_path), ["steps=20", "save_every=100"])
    update = loop.advance

    def interrupted(run: Run, data: Prepared) -> None:
        if run.step == 2:
            signal.raise_signal(signal.SIGINT)
        update(run, data)

    monkeypatch.setattr(loop, "advance", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped at update 3 of 20"):
        loop.train(config)
    assert saved(config.run_folder) == 3
    assert signal.getsignal(signal.SIGINT) is handler
