"""Trains and scores the methods of a protocol. Finished parts are kept and not repeated.

One training is one folder: ``run/`` (its checkpoint: a training that was stopped goes on) and ``model/`` (an atlas's
weights). Each way of asking, in each setting, has a file of scores, one line a case. A file of scores belongs to the
weights and the request that are named in its first line; where those change it is made again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from diffatlas.engine.device import pick_device
from diffatlas.errors import BadInput
from diffatlas.evaluate.answers import answer, box_of, calibration, onto, teach
from diffatlas.evaluate.baselines import forward_and_backward_flop
from diffatlas.evaluate.cases import Subject, slab, subjects
from diffatlas.evaluate.protocol import MethodConfig, Protocol, RunConfig, SettingConfig, slug
from diffatlas.geometry.space import Ranges
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.io import atomic_path
from diffatlas.metrics import compare
from diffatlas.models.store import load_model
from diffatlas.session import segment
from diffatlas.train.config import TrainConfig
from diffatlas.train.export import export
from diffatlas.train.loop import train
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.state import Run
from diffatlas.train.task import Task, task_of

Say = Callable[[str], None]
# From a volume, a region of it and what is crossed out (bool, its shape) to labels and, where several samples were
# drawn, how many agree (float32, 0 to 1).
Asked = Callable[[Volume, Ranges | None, NDArray[np.bool_] | None], tuple[LabelMap, NDArray[np.float32] | None]]


@dataclass(frozen=True)
class Score:
    """One case: ``structures`` maps a name to {"dice", "surface_dice", "hd95_mm"} (None where undefined), ``seconds``
    the time of the answer. ``calibration``: for each of ten ranges of confidence, how many voxels it was given to and
    how many of those were right, among voxels that prediction, reference or a single sample took for a structure; None
    with one sample."""

    setting: str
    method: str
    run: str
    seed: int
    case: str
    structures: dict[str, dict[str, float | None]]
    seconds: float
    calibration: list[list[int]] | None = None


@dataclass(frozen=True)
class Training:
    """What one training took: updates, arithmetic (TFLOP), seconds, parameters, cases; of a finished model only the
    parameters are known."""

    setting: str
    method: str
    seed: int
    parameters: int
    updates: int | None = None
    tflop: float | None = None
    seconds: float | None = None
    cases: int | None = None


@dataclass(frozen=True, eq=False)
class Finished:
    """Everything a protocol has so far, and what it still lacks (one line each)."""

    protocol: Protocol
    scores: list[Score]
    trainings: list[Training]
    lacking: list[str]


def carry_out(
    protocol: Protocol,
    minutes: float | None = None,
    say: Say = print,
    only_read: bool = False,
    methods: Sequence[str] = (),
    workers: int = 1,
) -> Finished:
    """Do what is not yet done, up to ``minutes`` (None: all of it), and return everything there is.

    ``only_read``: do nothing. ``methods``: do only these of the protocol's. ``workers``: how many processes do it side
    by side, a training each. Time is looked at before every training and every case; a training is told what is left
    and stops in time.
    """
    if unknown := [name for name in methods if name not in {m.name for m in protocol.methods}]:
        raise BadInput(
            f"the protocol has no method '{unknown[0]}'; it has: {', '.join(m.name for m in protocol.methods)}"
        )
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    units = [
        _Unit(setting.name, method.name, seed)
        for setting in protocol.settings
        for method in protocol.methods_of(setting)
        for seed in protocol.seeds_of(setting, method)
    ]
    todo = [] if only_read else [unit for unit in units if not methods or unit.method in methods]
    if workers > 1 and todo:
        _side_by_side(protocol, todo, end, workers)
    scores: list[Score] = []
    trainings: list[Training] = []
    lacking: list[str] = []
    for unit in units:
        done = unit.carry_out(protocol, end, say, only_read=workers > 1 or unit not in todo)
        scores += done[0]
        trainings += done[1]
        lacking += done[2]
    return Finished(protocol, scores, trainings, lacking)


@dataclass(frozen=True)
class _Unit:
    """One method in one setting from one seed, by name."""

    setting: str
    method: str
    seed: int

    def carry_out(
        self, protocol: Protocol, end: float, say: Say, only_read: bool
    ) -> tuple[list[Score], list[Training], list[str]]:
        """What there is in the end: scores, the training, and a line for each thing that is lacking."""
        what = f"{self.setting} / {self.method} / seed {self.seed}"
        one = self.one(protocol)
        cases = subjects(protocol.testing(one.setting))  # what is wrong with them shows before anything is trained
        if not only_read and not one.trained and time.monotonic() < end:
            one.train(end, partial(_prefixed, say, what))
        if not one.trained:
            return [], [], [f"{what}: not trained to the end"]
        scores: list[Score] = []
        lacking: list[str] = []
        for run in one.method.runs:
            wanted = cases[: run.cases]
            found = one.scores(run)
            todo = [c for c in wanted if c.name not in found]
            if todo and not only_read and time.monotonic() < end:
                for score in one.score(run, todo, end):
                    found[score.case] = score
                    say(f"{what} / {run.name} / {score.case}: Dice {_mean(score):.3f}, {score.seconds:.1f} s")
            scores += [found[c.name] for c in wanted if c.name in found]
            if missing := sum(c.name not in found for c in wanted):
                lacking.append(f"{what} / {run.name}: {missing} of {len(wanted)} cases not scored")
        return scores, [one.training()], lacking

    def one(self, protocol: Protocol) -> _One:
        """The same with everything that the protocol says of it."""
        setting = next(s for s in protocol.settings if s.name == self.setting)
        return _One(protocol, setting, next(m for m in protocol.methods if m.name == self.method), self.seed)


def _side_by_side(protocol: Protocol, units: Sequence[_Unit], end: float, workers: int) -> None:
    """Do ``units`` in ``workers`` processes. Those that share a training, or learn from one, stay together."""
    groups: dict[Path, list[_Unit]] = {}
    for unit in units:
        first = unit.one(protocol)
        while (teacher := protocol.teacher_of(first.method)) is not None:
            first = _One(protocol, first.setting, teacher, unit.seed)
        groups.setdefault(first.folder, []).append(unit)
    for cache in {unit.one(protocol).config.data.cache: unit for unit in units}.values():
        one = cache.one(protocol)
        if one.method.model is None:  # prepared once, not by each
            load_or_prepare(one.config.data.model_copy(update={"only": None}), one.config.space)
    # A process that holds a GPU must not be forked.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = [pool.submit(_group, protocol, group, end) for group in groups.values()]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _group(protocol: Protocol, units: Sequence[_Unit], end: float) -> None:
    for unit in units:
        unit.carry_out(protocol, end, partial(print, flush=True), only_read=False)


def _prefixed(say: Say, what: str, text: str) -> None:
    say(f"{what}: {text}")


class _One:
    """One method trained in one setting from one seed."""

    def __init__(self, protocol: Protocol, setting: SettingConfig, method: MethodConfig, seed: int) -> None:
        self.protocol, self.setting, self.method, self.seed = protocol, setting, method, seed
        self.config = protocol.training(setting, method, seed)
        self.folder = self.config.run_folder.parent
        self.task: Task = task_of(self.config)

    @property
    def _record(self) -> Path:
        return self.folder / "training.json"

    @property
    def trained(self) -> bool:
        return self.method.model is not None or self._record.is_file()

    def train(self, end: float, say: Say) -> None:
        """Train to the end, or until ``end`` (time.monotonic) comes; then it goes on from there the next time."""
        per_update = forward_and_backward_flop(self.config)
        budget = self.protocol.budget_of(self.setting)
        steps = self.config.steps if budget is None else max(1, round(budget * 1e12 / per_update))
        config = self.config.model_copy(update={"steps": steps})
        if (teacher := self.protocol.teacher_of(self.method)) is not None:
            config = self._taught(config, _One(self.protocol, self.setting, teacher, self.seed))
        say(f"training, {steps} updates of {per_update / 1e12:.3f} TFLOP")
        minutes = None if end == math.inf else max((end - time.monotonic()) / 60, 0.0)
        train(config, minutes=minutes)
        run = _resumed(config)
        if run.step < steps:
            say(f"stopped after {run.step} of {steps} updates")
            return
        save_weights(run.averaged, self.folder / "ema.safetensors", config.scheme)
        save_weights(run.network, self.folder / "raw.safetensors", config.scheme)
        if self._is_atlas:
            export(run, self.folder / "model-raw", weights="raw")
        _write(
            self._record,
            {
                "updates": steps,
                "tflop": round(steps * per_update / 1e12, 2),
                "seconds": round(run.seconds, 1),
                "parameters": sum(p.numel() for p in run.network.parameters()),
                "cases": None if config.data.only is None else len(config.data.only),
            },
        )

    def _taught(self, config: TrainConfig, teacher: _One) -> TrainConfig:
        """``config`` on a prepared file in which the teacher's answers stand for the labels of the unlabelled cases.

        Cases with labels are shown as often as those without.
        """
        if not teacher.trained:
            raise BadInput(f"{self.method.name}: '{teacher.method.name}', which teaches it, is not trained yet")
        labelled, unlabelled = list(config.data.only or ()), list(self.setting.unlabelled)
        path = self.folder / "taught.safetensors"
        if not path.is_file():
            network = teacher.network("ema")
            device = next(network.parameters()).device
            teach(config, lambda image: teacher.task.answer(network, image.to(device)).cpu(), unlabelled, path)
        shown = (*labelled * max(1, round(len(unlabelled) / len(labelled))), *unlabelled)
        data = config.data.model_copy(update={"cache": path, "only": shown})
        return config.model_copy(update={"data": data})

    def network(self, weights: str) -> nn.Module:
        """The trained network, in evaluation mode."""
        network = self.task.build(self.config)
        load_weights(network, self.folder / f"{weights}.safetensors")
        return network.to(pick_device(self.config.accelerator)).eval()

    def training(self) -> Training:
        if self.method.model is not None:
            network = load_model(self.method.model).network
            return Training(
                self.setting.name, self.method.name, self.seed, sum(p.numel() for p in network.parameters())
            )
        record = _json_of(self._record)
        assert record is not None
        return Training(self.setting.name, self.method.name, self.seed, **record)

    @property
    def _is_atlas(self) -> bool:
        return self.task.card(self.config) is not None

    # -- scores ----------------------------------------------------------------------------------------------------

    def _scores_file(self, run: RunConfig) -> Path:
        name = f"{slug(self.method.name)}-seed-{self.seed}-{slug(run.name)}.jsonl"
        return self.protocol.output / "scores" / slug(self.setting.name) / name

    def _heading(self, run: RunConfig) -> dict[str, Any]:
        """The weights (None where they were deleted), request and way of scoring that scores of a run belong to."""
        file = self.folder / f"{run.weights}.safetensors"
        weights: str | None
        if self.method.model is not None:
            weights = load_model(self.method.model).card.sha256
        else:
            weights = _sha256(file) if file.is_file() else None
        testing = self.protocol.testing(self.setting)
        return {
            "weights": weights,
            "request": run.request,
            "tolerance_mm": self.protocol.tolerance_mm,
            "missing": run.missing,
            "structures": list(testing.scheme.names),
            "centre": testing.data.centre,
            "labelled_slices": self.setting.labelled_slices,
        }

    def scores(self, run: RunConfig) -> dict[str, Score]:
        """What is kept of a run, by case; nothing where it was made with other weights or another request."""
        path = self._scores_file(run)
        if not path.is_file():
            return {}
        lines = path.read_text(encoding="utf-8").splitlines()
        values = []
        for line in lines:
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError:
                break  # cut short in the middle of a line: what follows was not written
        heading = self._heading(run)
        if heading["weights"] is None and values:  # scores outlive the weights, which take the room of a model each
            heading["weights"] = values[0].get("weights")
        if not values or values[0] != heading:
            return {}
        return {
            value["case"]: Score(self.setting.name, self.method.name, run.name, self.seed, **value)
            for value in values[1:]
        }

    def score(self, run: RunConfig, cases: list[Subject], end: float) -> Iterator[Score]:
        """Score ``cases`` and keep each as soon as it is known."""
        if self._heading(run)["weights"] is None:
            raise BadInput(
                f"{self.folder}: its weights were deleted before all cases were scored; delete it to train again"
            )
        kept = list(self.scores(run).values())
        path = self._scores_file(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:  # drops a torn last line, and scores of other weights
            lines = [self._heading(run), *(_line(score) for score in kept)]
            part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        ask = self._asked(run)
        centred = self.protocol.testing(self.setting).data.centre == "labels"
        for case in cases:
            if time.monotonic() >= end:
                return
            volume, truth = case.read()
            begin = time.perf_counter()
            ignore = slab(truth.data, truth.grid, run.missing)
            labels, confidence = ask(volume, box_of(truth.data) if centred else None, ignore)
            seconds = time.perf_counter() - begin
            labels = onto(labels, truth.scheme)
            if self.setting.labelled_slices:
                known = truth.data.any(axis=(0, 1))
                labels, truth = (LabelMap(m.data * known, m.grid, m.scheme) for m in (labels, truth))
            rows = compare(labels, truth, self.protocol.tolerance_mm).to_json()["structures"]
            structures = {r["name"]: {k: r[k] for k in ("dice", "surface_dice", "hd95_mm")} for r in rows}
            score = Score(
                self.setting.name,
                self.method.name,
                run.name,
                self.seed,
                case.name,
                structures,
                round(seconds, 3),
                None if confidence is None else calibration(labels.data, truth.data, confidence),
            )
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_line(score)) + "\n")
            yield score

    def _asked(self, run: RunConfig) -> Asked:
        if self.method.model is not None or self._is_atlas:
            folder = self.method.model or str(self.folder / ("model" if run.weights == "ema" else "model-raw"))
            request = run.build(folder)

            def through_the_engine(
                volume: Volume, roi: Ranges | None, ignore: NDArray[np.bool_] | None
            ) -> tuple[LabelMap, NDArray[np.float32] | None]:
                result = segment(volume, replace(request, roi=roi, ignore=ignore))
                return result.labels, result.confidence

            return through_the_engine
        if run.request:
            raise BadInput(f"method {self.method.name}: '{self.method.task}' is no atlas and takes no request")
        network, config, task = self.network(run.weights), self.config, self.task

        def in_one_pass(
            volume: Volume, roi: Ranges | None, ignore: NDArray[np.bool_] | None
        ) -> tuple[LabelMap, NDArray[np.float32] | None]:
            return answer(task, network, volume, config, roi, ignore), None

        return in_one_pass


def _resumed(config: TrainConfig) -> Run:
    run = Run(config)
    run.resume()
    return run


def save_weights(network: nn.Module, path: Path, scheme: LabelScheme) -> None:
    """The weights of a network, float32, in the place of what was there; a training can begin with them."""
    with atomic_path(path) as part:
        told = {"structures": json.dumps(scheme.names)}
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, part, told)
        part.chmod(0o644)


def load_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path))


def _mean(score: Score) -> float:
    values = [row["dice"] for row in score.structures.values() if row["dice"] is not None]
    return float(np.mean(values)) if values else math.nan


def _line(score: Score) -> dict[str, Any]:
    return {
        "case": score.case,
        "structures": score.structures,
        "seconds": score.seconds,
        "calibration": score.calibration,
    }


def _sha256(path: Path) -> str:
    from diffatlas.models.store import file_sha256

    return file_sha256(path)


def _json_of(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable ({error}); delete it to do its part again") from error


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
