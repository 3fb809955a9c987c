"""The training loop: any number of devices, resumable to the bit, time-boxed.

An update is a function of its number: the cases, their augmentation and their noise are drawn for the whole global
batch, and each process takes its share of it, in as many parts as it is told. The loss is the mean over the global
batch however it is shared.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from diffatlas.errors import BadInput
from diffatlas.train.augment import appearance, geometry
from diffatlas.train.config import TrainConfig
from diffatlas.train.devices import share, start, summed
from diffatlas.train.draws import Draws, torch_generator
from diffatlas.train.prepared import REACH, Prepared, load_or_prepare
from diffatlas.train.state import Run


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and did so between two updates; the text says how it goes on."""


def rate(step: int, config: TrainConfig) -> float:
    """Learning rate at ``step``: linear warm-up, plateau, then to zero over the last ``decay`` of the steps."""
    decay_from = config.steps * (1 - config.decay)
    left = 1.0 if step < decay_from else max(config.steps - step, 0) / max(config.steps - decay_from, 1)
    tail = left if config.decay_shape == "linear" else (1 - math.cos(math.pi * left)) / 2
    return config.learning_rate * min(1.0, (step + 1) / max(config.warmup, 1)) * tail


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, cases: int) -> tuple[int, ...]:
    return tuple(torch.randperm(cases, generator=torch_generator(seed, "order", epoch)).tolist())


def cases_of(draws: Draws, cases: int) -> list[int]:
    """Which case each sample shows: all of them in random order, then again in another one."""
    places = [draws.update * draws.size + i for i in draws.indices]
    return [_order(draws.seed, place // cases, cases)[place % cases] for place in places]


def batch_of(data: Prepared, config: TrainConfig, draws: Draws) -> Tensor:
    """Random augmented pairs x0 [B, 1 + K, X, Y, Z] for ``draws``, on their device."""
    picks = cases_of(draws, len(data))
    shares = torch.tensor(config.data.shares or (1.0,) * data.image.shape[1], dtype=torch.float64)
    if len(shares) != data.image.shape[1]:
        raise BadInput(f"data.shares: {len(shares)} numbers for {data.image.shape[1]} appearances of each case")
    edges = torch.cumsum(shares / shares.sum(), 0)
    looks = torch.searchsorted(edges, draws.uniform("look").cpu().double(), right=True).clamp(max=len(shares) - 1)
    image = data.image[picks, looks][:, None].to(draws.device).float() / 127.5 - 1
    sdf = data.sdf[picks].to(draws.device).float() * (REACH / 127)
    space = config.space
    image, sdf = geometry(image, sdf, space.shape, space.spacing_mm, config.augment, draws, space.fill)
    return torch.cat([appearance(image, config.augment, draws), sdf.clamp(-1, 1)], dim=1)


def advance(run: Run, data: Prepared) -> None:
    """One update over a global batch; what it lost goes into ``run.meter``."""
    config, fabric = run.config, run.fabric
    begin = time.monotonic()
    for group in run.optimizer.param_groups:
        group["lr"] = rate(run.step, config)
    run.network.train()
    for part in range(config.accumulate):
        indices = share(config.batch, fabric.global_rank, fabric.world_size, part, config.accumulate)
        draws = Draws(config.seed, run.step, config.batch, indices, fabric.device)
        # For dropout alone; all else is drawn from ``draws``.
        torch.manual_seed(hash((config.seed, run.step, indices)) & 0xFFFFFFFF)
        x0 = batch_of(data, config, draws)
        with fabric.no_backward_sync(run.forward, enabled=part < config.accumulate - 1):
            loss, parts = run.task.losses(run.forward, x0, draws)
            # Processes are averaged, so each brings its sum times their number: together, the mean over the batch.
            fabric.backward(loss.sum() * (fabric.world_size / config.batch))
        run.meter.add({"loss": _told(loss), **parts, "norm": torch.full_like(loss.detach(), torch.nan)})
    norm = fabric.clip_gradients(
        run.forward, run.stepper, max_norm=config.clip_norm or math.inf, error_if_nonfinite=False
    )
    assert norm is not None
    run.meter.add({name: _told(norm[None]) * (1 if name == "norm" else torch.nan) for name in run.meter.names})
    run.stepper.step()
    run.stepper.zero_grad(set_to_none=True)
    run.step += 1
    run.average()
    run.seconds += time.monotonic() - begin


def _told(values: Tensor) -> Tensor:
    """Detached, with NaN as infinity: to the meter NaN means that there is none."""
    return values.detach().nan_to_num(nan=torch.inf, posinf=torch.inf)


def train(config: TrainConfig, minutes: float | None = None) -> Path:
    """Run (or resume) a training and export the weights folder; returns it.

    ``minutes``: stop in time for everything to be written after this long (preparing the cases not counted). A first
    SIGINT or SIGTERM ends the run after the update, with a checkpoint, as `Interrupted`.
    """
    from diffatlas.train.export import export

    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = start(config)
    with fabric.rank_zero_first():
        data = load_or_prepare(config.data, config.space.build())
    kept = len(data) - config.data.holdout
    if kept < 1:
        raise BadInput(f"data.holdout: keeps {config.data.holdout} of {len(data)} cases from training; none is left")
    run = Run(config, fabric)
    resumed = run.resume()
    if fabric.is_global_zero:
        run.open_folder()
    _say(run, f"{config.name}: {kept} cases, {config.steps} updates{f', resumed at {run.step}' if resumed else ''}")
    with _signals() as asked:
        _walk(run, data.subset(list(range(kept))), minutes, asked)
    run.save()
    if run.fabric.is_global_zero:
        export(run)
        print(f"model: {config.export}", flush=True)
    fabric.barrier()
    return config.export


def _walk(run: Run, data: Prepared, minutes: float | None, asked: threading.Event) -> None:
    config = run.config
    deadline = None if minutes is None else time.monotonic() + minutes * 60
    while run.step < config.steps:
        stop = _agree(run, asked.is_set(), deadline is not None and time.monotonic() > deadline)
        if stop == "asked":
            run.save()
            raise Interrupted(f"stopped at update {run.step} of {config.steps}; the same command goes on from there")
        if stop == "late":
            break
        advance(run, data)
        if run.step % config.log_every == 0:
            run.meter.gather()
            _say(run, f"{run.step} " + " ".join(f"{k} {v:.4f}" for k, v in run.meter.means().items()))
            run.meter.reset()
        if run.step % config.save_every == 0:
            run.save()


def _agree(run: Run, asked: bool, late: bool) -> str:
    """Why all processes stop here, "" if none has a reason to: they must not part."""
    if run.fabric.world_size > 1:
        flags = torch.tensor([float(asked), float(late)], device=run.fabric.device)
        asked, late = (summed(run.fabric, flags) > 0).tolist()
    return "asked" if asked else "late" if late else ""


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set while SIGINT or SIGTERM ask for an end; a second one ends at once, as it would have without this."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(run: Run, text: str) -> None:
    if run.fabric.is_global_zero:
        print(text, flush=True)
