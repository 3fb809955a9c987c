"""One global batch, however many processes share it and in however many parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffatlas.errors import BadInput
from diffatlas.train.config import load_config
from diffatlas.train.devices import launched, share, start
from diffatlas.train.loop import train
from diffatlas.train.state import LAST
from tests.training import balls

# Five samples do not divide by two: uneven shares still make the mean of five.
SETTINGS = ["batch=5", "threads=1", "steps=5"]


def one_process(config: Path, run: str, *more: str) -> dict[str, torch.Tensor]:
    train(load_config(config, [*SETTINGS, f"run_folder={run}", f"export={run}-model", *more]))
    return load_file(config.parent / run / LAST)


def assert_same_run(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for key in expected:
        assert (got[key].double() - expected[key].double()).abs().max() < 1e-4, key


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 3), (3, 2), (4, 2)])
def test_shares_are_a_partition_and_even(world: int, parts: int) -> None:
    shares = [share(11, rank, world, part, parts) for rank in range(world) for part in range(parts)]
    assert sorted(i for s in shares for i in s) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    config = balls(tmp_path)
    assert_same_run(one_process(config, "parts", "accumulate=2"), one_process(config, "whole"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    config = balls(tmp_path)
    expected = one_process(config, "one")
    options = [part for s in [*SETTINGS, "run_folder=two", "export=two-model"] for part in ("--set", s)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "diffatlas", "train", str(config), *options],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1  # one process speaks for both
    assert_same_run(load_file(tmp_path / "two" / LAST), expected)
    one, two = (load_file(tmp_path / f"{name}-model" / "model.safetensors") for name in ("one", "two"))
    assert_same_run(two, one)


def test_a_batch_too_small_to_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="2 samples cannot be shared by 1 processes in 3 parts"):
        start(load_config(balls(tmp_path), ["batch=2", "accumulate=3"]))


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BadInput, match="no CUDA device here"):
        start(load_config(balls(tmp_path), ["accelerator=cuda"]))


def test_the_launcher_says_how_many() -> None:
    assert launched({}) is None
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    assert launched(torchrun) == (4, 2)
    step = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NAME": "atlas"}
    assert launched(step) == (4, 2)
    assert launched({**step, "SLURM_JOB_NAME": "interactive"}) is None
    assert launched({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "atlas"}) is None  # the batch script, before srun
