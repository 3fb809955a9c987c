"""One global batch, however many processes share it and in however many parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffatlas.diffusion.schedule import published_alphas_cumprod
from diffatlas.errors import BadInput
from diffatlas.train import objective
from diffatlas.train.config import load_config
from diffatlas.train.devices import launched, share, start
from diffatlas.train.draws import SHARED, Draws
from diffatlas.train.loop import batch_of, cases_of, train
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.state import LAST
from diffatlas.train.task import task_of
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


def test_what_is_drawn_belongs_to_the_sample() -> None:
    whole = Draws(7, 3, 6, (0, 1, 2, 3, 4, 5))
    some = Draws(7, 3, 6, (4, 1))
    shape = (SHARED // 2,)  # two of them are drawn by two threads
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_by_one = whole.normal("noise", shape)
        torch.set_num_threads(2)
        assert torch.equal(whole.normal("noise", shape), one_by_one)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(some.normal("noise", shape), one_by_one[[4, 1]])
    assert torch.equal(some.select(torch.tensor([1])).uniform("a"), whole.uniform("a")[1:2])
    assert torch.equal(some.rows(torch.arange(6)), torch.tensor([4, 1]))
    different = [whole.uniform("a"), whole.uniform("b"), Draws(7, 4, 6, whole.indices).uniform("a")]
    assert len({float(u) for draw in different for u in draw}) == 18
    assert abs(float(one_by_one.mean())) < 0.01
    assert float(one_by_one.std()) == pytest.approx(1, abs=0.01)


def test_an_epoch_shows_every_case_once() -> None:
    shown = [case for update in range(5) for case in cases_of(Draws(0, update, 4, (0, 1, 2, 3)), 10)]
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:]


def test_every_tensor_is_made_on_the_device_it_is_used_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another default device, a tensor that is made without naming its own meets one that is elsewhere."""
    config = load_config(balls(tmp_path), ["data.shares=[1]", "augment.flip=true", "augment.blur=0.5"])
    data = load_or_prepare(config.data, config.space)
    task = task_of(config)
    network = task.build(config)
    levels = objective.draw_levels

    def on_cpu(*arguments: Any) -> objective.Levels:
        with torch.device("cpu"):  # drawn there on purpose, then moved
            return levels(*arguments)

    monkeypatch.setattr(objective, "draw_levels", on_cpu)
    with torch.device("meta"):
        x0 = batch_of(data, config, Draws(0, 0, 8, tuple(range(8)), torch.device("cpu")))
        assert x0.device.type == "cpu"
        loss, _ = task.losses(network, x0, Draws(0, 0, 8, tuple(range(8)), torch.device("cpu")))
        loss.sum().backward()
        for more in ([], ["network={kind: published-unet, dim: 8, multipliers: [1]}"]):
            other = load_config(tmp_path / "train.yaml", ["task=published", *more])
            published = task_of(other)
            with torch.device("cpu"):
                network = published.build(other)
                published_alphas_cumprod(300)  # kept on the CPU, and moved each time
            loss, _ = published.losses(network, x0, Draws(0, 0, 8, tuple(range(8)), torch.device("cpu")))
            loss.sum().backward()


def test_the_options_reach_fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot run here, a node of four GPUs, as far as it goes without them."""
    asked: dict[str, Any] = {}

    class Fabric:
        world_size = 8
        is_global_zero = False
        device = torch.device("cpu")

        def __init__(self, **options: object) -> None:
            asked.update(options)

        def launch(self) -> None:
            asked["launched"] = True

        def broadcast(self, mine: bool) -> bool:
            assert not mine  # the first process alone is timed
            return True

    monkeypatch.setattr("lightning_fabric.Fabric", Fabric)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr("diffatlas.train.devices._update_is_faster", lambda *_: pytest.fail("asked"))
    file = balls(tmp_path)
    start(load_config(file, ["devices=4", "nodes=2", "batch=16", "precision=auto"]))
    assert asked["accelerator"] == "cuda"
    assert (asked["devices"], asked["num_nodes"], asked["precision"]) == (4, 2, None)
    assert [type(plugin).__name__ for plugin in asked["plugins"]] == ["LightningEnvironment", "AgreedPrecision"]
    assert asked["plugins"][1].bf16
    assert type(asked["strategy"]).__name__ == "DDPStrategy"
    assert asked["launched"]
    start(load_config(file, ["accelerator=cpu", "precision=fp32", "batch=8"]))
    assert (asked["accelerator"], asked["devices"], asked["strategy"]) == ("cpu", 1, "auto")
    assert asked["precision"] == "32-true"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "8")
    start(load_config(file, ["batch=8", "precision=bf16"]))
    assert (asked["devices"], asked["num_nodes"], asked["plugins"]) == (4, 2, None)
    assert asked["precision"] == "bf16-mixed"


AGREE = """
import os, sys, torch
from diffatlas.train import devices
from diffatlas.train.config import load_config
rank, config = int(os.environ["RANK"]), load_config(sys.argv[1], ["batch=5", "accelerator=cpu", "precision=auto"])
devices.has_bf16 = lambda device: True
for first in (True, False):  # what rank 0 finds; the other one would find the opposite
    devices._update_is_faster = lambda config, device, world: first == (rank == 0)
    fabric = devices.start(config)
    network = fabric.setup_module(torch.nn.Linear(2, 2))
    with fabric.autocast():
        inside = torch.is_autocast_enabled("cpu")
    found = f"{first} {inside} {network(torch.ones(1, 2)).dtype}"
    print(f"rank {rank} of {fabric.world_size}: {found}\\n", end="", flush=True)
"""


@pytest.mark.slow
def test_processes_agree_on_the_precision_that_the_first_one_finds(tmp_path: Path) -> None:
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(balls(tmp_path))],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [f"rank {r} of 2: {first} {first} torch.float32" for first in (False, True) for r in (0, 1)]
    assert sorted(done.stdout.splitlines()) == sorted(expected)


def test_bf16_trains(tmp_path: Path) -> None:
    weights = one_process(balls(tmp_path), "half", "precision=bf16", "steps=2")
    assert all(tensor.dtype == torch.float32 for key, tensor in weights.items() if key.startswith("network."))
    assert all(tensor.isfinite().all() for tensor in weights.values())
