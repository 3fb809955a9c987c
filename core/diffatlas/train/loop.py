"""The training loop, on any number of devices, with a time limit; a resumed run gives the same bits.

Cases, augmentation and noise of an update depend only on its number. They are drawn for the global batch, and each
process takes its share, in ``accumulate`` parts. The loss is the mean over the global batch.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor

from diffatlas.errors import BadInput
from diffatlas.train.augment import appearance, geometry
from diffatlas.train.config import TrainConfig, told_evidence
from diffatlas.train.devices import share, start, summed
from diffatlas.train.draws import Draws, torch_generator
from diffatlas.train.log import Log
from diffatlas.train.prepared import REACH, Prepared, load_or_prepare
from diffatlas.train.renewal import Renewal
from diffatlas.train.state import Run
from diffatlas.train.validate import Held, held_out, picture, validate

T = TypeVar("T")


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
    return tuple(torch.randperm(cases, generator=torch_generator(seed, "order", epoch), device="cpu").tolist())


def cases_of(draws: Draws, cases: int) -> list[int]:
    """Which case each sample shows: all of them in random order, then again in another one."""
    places = [draws.update * draws.size + i for i in draws.indices]
    return [_order(draws.seed, place // cases, cases)[place % cases] for place in places]


def batch_of(data: Prepared, config: TrainConfig, draws: Draws) -> Tensor:
    """Random augmented pairs x0 [B, 1 + K, X, Y, Z] for ``draws``, on their device; one more channel with evidence."""
    picks = cases_of(draws, len(data))
    shares = torch.tensor(config.data.shares or (1.0,) * data.image.shape[1], dtype=torch.float64, device="cpu")
    if len(shares) != data.image.shape[1]:
        raise BadInput(f"data.shares: {len(shares)} numbers for {data.image.shape[1]} appearances of each case")
    edges = torch.cumsum(shares / shares.sum(), 0)
    looks = torch.searchsorted(edges, draws.at_hand.uniform("look").double(), right=True).clamp(max=len(shares) - 1)
    cases, looks = torch.tensor(picks, device=data.image.device), looks.to(data.image.device)
    image = data.image[cases, looks][:, None].to(draws.device).float() / 127.5 - 1
    sdf = data.sdf[cases].to(draws.device).float() * (REACH / 127)
    space = config.space
    known = None
    if told_evidence(config):
        known = torch.ones_like(image) if data.known is None else data.known[cases, looks][:, None].to(image)
    image, sdf, known = geometry(image, sdf, space.shape, space.spacing_mm, config.augment, draws, space.fill, known)
    channels = [appearance(image, config.augment, draws), sdf.clamp(-1, 1)]
    return torch.cat(channels if known is None else [*channels, known.to(image.dtype)], dim=1)


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
    """Detached, with NaN replaced by infinity, because `Meter` uses NaN for "no value"."""
    return values.detach().nan_to_num(nan=torch.inf, posinf=torch.inf)


def train(config: TrainConfig, minutes: float | None = None) -> Path:
    """Run (or resume) a training and export the weights folder; returns it.

    ``minutes``: the latest time at which all is done and written, from now on (preparing the cases not counted). A
    first SIGINT or SIGTERM ends the run after the update, with a checkpoint, as `Interrupted`.
    """
    from diffatlas.train.export import export

    if config.threads:
        torch.set_num_threads(config.threads)
    pace = Pace(minutes)
    fabric = start(config)
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda"  # shapes hardly change from update to update
    begin = time.monotonic()
    prepared = config.data.cache.is_file()
    with fabric.rank_zero_first():
        data = load_or_prepare(config.data, config.space)
    if not prepared:
        pace.deadline += time.monotonic() - begin
    kept = len(data) - config.data.holdout
    if kept < 1:
        raise BadInput(f"data.holdout: keeps {config.data.holdout} of {len(data)} cases from training; none is left")
    if data.sdf.shape[1] != len(config.scheme):
        raise BadInput(
            f"{config.data.cache}: holds {data.sdf.shape[1]} structures, the configuration names {len(config.scheme)}"
        )
    run = Run(config, fabric)
    resumed = run.resume()
    run.cases = (kept, config.data.holdout)
    if fabric.is_global_zero:
        run.open_folder()
    if not resumed:  # what cannot be written shows now, and the reserve for saving is known
        pace.measure("save", run.save)
    with Log(config.run_folder, config.name, config.steps, run.step, fabric.is_global_zero) as log, _signals() as asked:
        where = f"{fabric.world_size} x {fabric.device.type}" if fabric.world_size > 1 else str(fabric.device)
        log.say(
            f"{config.name}: {kept} cases, {config.data.holdout} held out, {config.steps} updates of {config.batch} on "
            f"{where}" + (f", resumed at {run.step}" if resumed else "")
        )
        cases = data.subset(list(range(kept))).near(fabric.device)
        with _renewal(run, cases) as renew:
            _walk(run, cases, renew, held_out(data, config), log, pace, asked)
        run.save()
        if fabric.is_global_zero:
            in_time = not config.data.holdout or pace.time_for("validation")
            export(run, held=held_out(data, config) if in_time else None)
            log.say(f"model: {config.export}")
    fabric.barrier()
    return config.export


class Pace:
    """How long things take, and whether there is time for them before the deadline."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = math.inf if minutes is None else time.monotonic() + minutes * 60
        self.seconds = {"update": 0.0, "save": 0.0, "validation": 0.0, "picture": 0.0}

    def measure(self, what: str, do: Callable[[], T]) -> T:
        """Do it, and remember how long it took: the recent worst."""
        begin = time.monotonic()
        result = do()
        self.seconds[what] = max(time.monotonic() - begin, 0.95 * self.seconds[what])
        return result

    def time_for(self, *what: str) -> bool:
        """Whether all of ``what`` fit in before the last checkpoint and the export."""
        needed = sum(self.seconds[w] for w in what) + 2 * self.seconds["save"] + 1
        return time.monotonic() + 1.2 * needed < self.deadline

    def left_s(self, run: Run) -> float:
        """Seconds to the end of the run, or to the deadline."""
        config = run.config
        every = config.validate_every or math.inf
        each = self.seconds["update"] + (self.seconds["validation"] + self.seconds["picture"]) / every
        return min((config.steps - run.step) * each, max(self.deadline - time.monotonic(), 0.0))


@contextmanager
def _renewal(run: Run, data: Prepared) -> Iterator[Callable[[int], None]]:
    """What brings ``data`` to what an update sees."""
    config = run.config
    if not config.data.renew:
        yield lambda update: None
        return
    with Renewal(config.data, config.space, data, config.seed) as renewal:
        yield renewal.to


def _walk(
    run: Run,
    data: Prepared,
    renew: Callable[[int], None],
    held: Held,
    log: Log,
    pace: Pace,
    asked: threading.Event,
) -> None:
    config = run.config
    validated = run.step if run.step else -1
    while run.step < config.steps:
        # The first one is made in any case.
        stop = _agree(run, asked.is_set(), run.step > 0 and not pace.time_for("update", "validation"))
        if stop == "asked":
            run.save()
            raise Interrupted(f"stopped at update {run.step} of {config.steps}; the same command goes on from there")
        if stop == "late":
            break
        renew(run.step)
        pace.measure("update", lambda: advance(run, data))
        due = run.step == config.steps or run.step % max(config.validate_every, 1) == 0
        validate_now = config.validate_every > 0 and due
        if validate_now or run.step % config.log_every == 0:
            _report(run, held, log, pace, validate_now)
            validated = run.step if validate_now else validated
        log.advance(run.step, pace.left_s(run))
        if run.step % config.save_every == 0:
            pace.measure("save", run.save)
    if config.validate_every > 0 and validated != run.step:
        _report(run, held, log, pace, True)


def _report(run: Run, held: Held, log: Log, pace: Pace, validating: bool) -> None:
    """A row of the log, with a validation (and its picture) where one is due and there is time for it."""
    config = run.config
    score = None
    if validating and len(held):
        score = pace.measure("validation", lambda: validate(run, held, pace.time_for))
    run.meter.gather()
    names = config.scheme.names
    by_structure = score.structures if score else dict.fromkeys(names, math.nan)
    log.row(
        {"step": run.step, "seconds": round(run.seconds, 1), "rate": rate(run.step - 1, config)}
        | run.meter.means()
        | {"dice": score.mean if score else math.nan}
        | {f"dice {name}": by_structure[name] for name in names}
    )
    run.meter.reset()
    if score and config.pictures and run.fabric.is_global_zero and pace.time_for("picture"):
        drawn = pace.measure("picture", lambda: picture(run, held))
        if drawn is not None:
            log.picture(run.step, drawn)


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
