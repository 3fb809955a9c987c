"""The configuration of an experiment: a validated YAML file.

A protocol has *settings* (which cases are trained on, which are tested), *methods* (what is trained on them) and, for
each method, *runs* (how it is asked). Every method of a setting sees the same cases, augmentation and amount of
arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.evaluate import baselines as _baselines  # noqa: F401  (registers their tasks)
from diffatlas.models.store import file_sha256, find_model, read_card
from diffatlas.train.config import TrainConfig, load_config, read_mapping
from diffatlas.train.task import task_of
from diffatlas.values import load

Kind = Literal["same-domain", "cross-modality", "varying-domain", "zero-shot", "few-shot"]
# Settings of a training that do not change its weights.
NOT_LEARNT = {
    "threads",
    "save_every",
    "log_every",
    "validate_every",
    "accelerator",
    "devices",
    "nodes",
    "accumulate",
    "title",
}
NOT_LEARNT |= {"summary", "licence", "intended_use", "data_note", "datasets", "limits"}
Name = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ,.+()=_-]*$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(_Strict):
    """One way of asking a trained method. ``request``: fields of `diffatlas.engine.request.Request` (atlases
    only); ``x``: the value it has on the axis of a figure, where the runs of a method are a sweep; ``cases``: only
    the first so many test cases, for slow ones; ``weights``: the moving average, or the network as the last update
    left it; ``missing``: the share of the reference's length along the body that is crossed out of the image."""

    name: str = Name
    request: dict[str, Any] = {}
    x: float | None = None
    cases: int | None = Field(default=None, ge=1)
    weights: Literal["ema", "raw"] = "ema"
    missing: float = Field(default=0, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_a_request(self) -> Self:
        if clash := {"task", "model", "roi", "edit", "ignore"} & set(self.request):
            raise ValueError(f"request: {', '.join(sorted(clash))} is set by the protocol")
        self.build("auto")
        return self

    def build(self, model: str) -> Request:
        """The request for the model in folder ``model``."""
        try:
            return Request.from_json({"force": True, **self.request, "model": model})
        except BadInput as error:
            raise ValueError(str(error)) from error


class MethodConfig(_Strict):
    """``task``: what is trained ("atlas", "published", "segmenter", "unet"). ``set``: training settings of this method,
    ``key.sub: value``. ``model``: a finished model to be scored as it is instead of training one. ``taught_by``: a
    method before this one, whose answers stand for the labels of the setting's ``unlabelled`` cases."""

    name: str = Name
    task: str = "atlas"
    set: dict[str, Any] = {}
    model: str | None = None
    taught_by: str | None = None
    runs: tuple[RunConfig, ...] = (RunConfig(name="fast"),)

    @model_validator(mode="after")
    def _runs_differ(self) -> Self:
        _distinct("runs", [run.name for run in self.runs])
        return self


class SettingConfig(_Strict):
    """``train`` and ``test``: changes to the ``data`` of the training configuration; what ``test`` does not name as a
    structure is not scored, and ``centre: labels`` there puts the field of view of every method on the reference.
    ``shots``: the number of training cases, where settings are a few-shot series. ``methods``: only these of the
    protocol's methods (None: all). ``labelled_slices``: slices of the last axis without a label are not scored.
    ``unlabelled``: further training cases, for methods that are ``taught_by`` another. ``budget_tflop`` and ``seeds``:
    the protocol's for this setting."""

    name: str = Name
    kind: Kind
    train: dict[str, Any] = {}
    test: dict[str, Any] = {}
    shots: int | None = Field(default=None, ge=1)
    methods: tuple[str, ...] | None = None
    labelled_slices: bool = False
    unlabelled: tuple[str, ...] = ()
    budget_tflop: float | None = Field(None, gt=0)
    seeds: tuple[int, ...] | None = Field(None, min_length=1)


class Protocol(_Strict):
    """``train``: the training configuration that every run begins with, ``set`` changes it for all. ``budget_tflop``:
    arithmetic of each training, floating-point operations of the forward and backward passes / 1e12; None takes the
    configuration's ``steps``. ``compare_to``: the method (or "method, run") that others are paired with.
    ``tolerance_mm``: of the surface Dice. ``seeds``: training seeds; every one is a training of its own, and cases of
    several are averaged per case before intervals are taken. ``axis``: what ``x`` of the runs is, for the figure."""

    name: str = Name
    title: str
    notes: str = ""
    train: Path
    set: dict[str, Any] = {}
    budget_tflop: float | None = Field(None, gt=0)
    tolerance_mm: float = Field(2.0, ge=0)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    compare_to: str
    axis: str = "x"
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    settings: tuple[SettingConfig, ...] = Field(min_length=1)
    output: Path

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [m.name for m in self.methods]
        _distinct("methods", names)
        _distinct("settings", [s.name for s in self.settings])
        for place, method in enumerate(self.methods):
            if method.taught_by is not None and method.taught_by not in [
                m.name for m in self.methods[:place] if not m.model
            ]:
                raise ValueError(f"methods: '{method.name}' is taught by none of the trained methods before it")
        for setting in self.settings:
            if unknown := set(setting.methods or ()) - set(names):
                raise ValueError(f"settings: '{setting.name}' names methods that are not there: {sorted(unknown)}")
            if any(m.taught_by for m in self.methods_of(setting)) and not (
                setting.unlabelled and "only" in setting.train
            ):
                raise ValueError(
                    f"settings: '{setting.name}' lists no unlabelled cases beside train.only to teach with"
                )
        rows = {f"{m.name}, {r.name}" for m in self.methods for r in m.runs} | set(names)
        if self.compare_to not in rows:
            raise ValueError(f"compare_to: '{self.compare_to}' is none of the methods; there are: {sorted(rows)}")
        return self

    def methods_of(self, setting: SettingConfig) -> tuple[MethodConfig, ...]:
        """The methods that ``setting`` compares, in the protocol's order."""
        return tuple(m for m in self.methods if setting.methods is None or m.name in setting.methods)

    def training(self, setting: SettingConfig, method: MethodConfig, seed: int) -> TrainConfig:
        """The training configuration of one method in one setting.

        Its folder is named after everything that decides what is learnt: settings that differ only in their test cases
        share a training, and a training with other settings is another one.
        """
        changes = {
            **self.set,
            **{f"data.{key}": value for key, value in setting.train.items()},
            **method.set,
            "task": method.task,
            "seed": seed,
        }
        config = load_config(self.train, [f"{key}={_flow(value)}" for key, value in changes.items()])
        folder = (
            self.output / "trainings" / f"{slug(method.name)}-seed-{seed}-{self._fingerprint(config, setting, method)}"
        )
        return config.model_copy(update={"run_folder": folder / "run", "export": folder / "model"})

    def budget_of(self, setting: SettingConfig) -> float | None:
        """The arithmetic of a training in ``setting``, TFLOP; None where the configuration's ``steps`` decide."""
        return setting.budget_tflop or self.budget_tflop

    def seeds_of(self, setting: SettingConfig, method: MethodConfig) -> tuple[int, ...]:
        """The training seeds of ``method`` in ``setting``; one where nothing is trained."""
        seeds = setting.seeds or self.seeds
        return seeds[:1] if method.model else seeds

    def teacher_of(self, method: MethodConfig) -> MethodConfig | None:
        """The method whose answers ``method`` learns from."""
        return next((m for m in self.methods if m.name == method.taught_by), None)

    def _fingerprint(self, config: TrainConfig, setting: SettingConfig, method: MethodConfig) -> str:
        """Where files lie, and what is written on the way, decides nothing."""
        plain = config.model_dump(mode="json", exclude={"run_folder", "export", *NOT_LEARNT})
        for key in ("cache", "path"):
            plain["data"].pop(key)
        if config.start_from is not None:
            plain["start_from"] = _weights_of(config.start_from)
        plain["budget_tflop"] = self.budget_of(setting)
        if (teacher := self.teacher_of(method)) is not None:
            taught = self.training(setting, teacher, config.seed).run_folder.parent.name
            plain["taught"] = [taught, *setting.unlabelled]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]

    def testing(self, setting: SettingConfig) -> TrainConfig:
        """The configuration whose ``data`` names the test cases of a setting."""
        changes = {**self.set, **{f"data.{key}": value for key, value in setting.test.items()}}
        if "structures" in setting.test:  # in the place of the scheme that is trained
            changes = {**changes, "data.scheme": None}
        return load_config(self.train, [f"{key}={_flow(value)}" for key, value in changes.items()])


def _weights_of(start: str) -> str:
    """What decides which weights a run begins with: their sha256, or the name where they are not there yet."""
    if not start.endswith(".safetensors"):
        return read_card(find_model(start)).sha256
    return file_sha256(Path(start)) if Path(start).is_file() else Path(start).name


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...").strip()


def _distinct(what: str, names: list[str]) -> None:
    slugs = [slug(n) for n in names]
    if len(set(slugs)) < len(slugs):
        raise ValueError(f"{what}: two have the same name")


def slug(name: str) -> str:
    """``name`` as a file name."""
    return "-".join("".join(c.lower() if c.isalnum() or c in "._" else " " for c in name).split())


def load_protocol(path: Path) -> Protocol:
    """Read a YAML file; relative paths are taken from its own folder. `BadInput` where it is not a protocol."""
    protocol = load(Protocol, read_mapping(path, "a protocol"), str(path))
    here = path.resolve().parent
    moved = {
        key: p if p.is_absolute() else (here / p).resolve()
        for key in ("train", "output")
        if (p := getattr(protocol, key))
    }
    protocol = protocol.model_copy(update=moved)
    for setting in protocol.settings:  # whatever is wrong in any of them is said before the first is trained
        for method in protocol.methods_of(setting):
            task_of(protocol.training(setting, method, protocol.seeds_of(setting, method)[0]))
        protocol.testing(setting)
    return protocol
