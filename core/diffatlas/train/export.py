"""Writes the model of a training run: a folder with weights and card."""

from __future__ import annotations

import copy
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.io import atomic_path
from diffatlas.metrics import dice, interval
from diffatlas.models.calibration import Calibration, fit
from diffatlas.models.card import ModelCard
from diffatlas.models.store import CARD_FILE, WEIGHTS_FILE, file_sha256, find_model, read_card, write_card
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.devices import start
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.state import CONFIG, Run
from diffatlas.train.validate import Held, held_out

Which = Literal["ema", "raw"]
HELD_OUT = "cases held out of training, on the model's grid"


def export(run: Run, folder: Path | None = None, weights: Which = "ema", held: Held | None = None) -> Path:
    """Write weights (half precision) and card to ``folder``, by default ``config.export``; returns it.

    ``weights``: the moving average, or those of the last update. ``held``: cases kept from training, on which the
    weights are measured as they are written. The card says nothing that was not measured on just these weights:
    measured figures of an older card stay only where the weights are the same.
    """
    config = run.config
    folder = folder or config.export
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS_FILE
    state = (run.averaged if weights == "ema" else run.network).state_dict()
    half = {k: v.to("cpu", torch.float16 if v.is_floating_point() else v.dtype).contiguous() for k, v in state.items()}
    with atomic_path(path) as part:
        save_file(half, part)
        part.chmod(0o644)  # safetensors writes 0600, which a system-wide installation could not read
    fields = run.task.card(config)
    if fields is None:
        (folder / CARD_FILE).unlink(missing_ok=True)  # of whatever was here before
        return folder
    sha256 = file_sha256(path)
    try:
        old = read_card(folder)
        metrics, calibration = (old.metrics, old.calibration) if old.sha256 == sha256 else ({}, None)
    except BadInput:
        metrics, calibration = {}, None
    if held is not None and len(held):
        row, calibration = measured(run, half, held)
        metrics = {**metrics, HELD_OUT: row}
    say: dict[str, Any] = {
        "name": config.name,
        "title": config.title,
        "summary": config.summary,
        "scheme": config.scheme,
        "modalities": tuple(dict.fromkeys(m for m in config.space.windows if m != "unknown")),
        "space": config.space,
        "guidance_noise": config.guidance_noise,
        "data": config.data_note,
        "datasets": config.datasets,
        "licence": config.licence,
        "intended_use": config.intended_use,
        "limits": config.limits,
        "metrics": metrics,
        "calibration": calibration,
        "training": _training(run, weights) | fields.pop("training", {}),
        "sha256": sha256,
    }
    write_card(ModelCard(**(say | fields)), folder)
    return folder


@torch.no_grad()
def measured(run: Run, weights: dict[str, Tensor], held: Held) -> tuple[dict[str, Any], Calibration | None]:
    """Dice of ``weights`` on ``held`` as a card's ``metrics`` say it: on the model's grid, a mean over structures and
    cases with its interval over cases; and the calibration fitted on them, None where they are too few."""
    network = copy.deepcopy(run.averaged)
    network.load_state_dict({key: value.to(run.fabric.device) for key, value in weights.items()})
    names = run.config.scheme.names
    rows, answers = [], []
    clip_mm = np.float32(run.config.space.sdf_clip_mm)
    for place in range(len(held)):
        answer = run.task.answer(network, held.image[place : place + 1].to(run.fabric.device))[0]
        answers.append(answer.float().cpu().numpy() * clip_mm)
        found = distances_to_labels(answers[-1])
        rows.append([dice(found == k + 1, held.truth[place] == k + 1) for k in range(len(names))])
    with warnings.catch_warnings():  # a case without any structure has no mean
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = interval(np.nanmean(np.array(rows), axis=1).tolist())
    by_structure = {name: interval([row[k] for row in rows]).mean for k, name in enumerate(names)}
    row = {
        "n": mean.n,
        "dice": round(mean.mean, 4),
        "interval": [round(mean.low, 4), round(mean.high, 4)],
        "structures": {name: round(value, 4) for name, value in by_structure.items() if not math.isnan(value)},
    }
    return row, fit(names, answers, list(held.truth), "cases held out of training", seen=held.seen)


def export_run(source: Path, folder: Path | None = None, weights: Which = "ema") -> Path:
    """Export the last checkpoint of a run, given its folder or its configuration; `BadInput` where there is none."""
    if source.is_dir() and not (source / CONFIG).is_file():
        raise BadInput(f"{source}: no {CONFIG} in it; give the run_folder of a training, or its configuration")
    config = load_config(source / CONFIG if source.is_dir() else source)
    if source.is_dir():  # wherever it has been moved to
        config = config.model_copy(update={"run_folder": source.resolve()})
    alone = start(config.model_copy(update={"accelerator": "cpu", "devices": 1, "nodes": 1, "accumulate": 1}))
    run = Run(config, alone)
    if not run.resume():
        raise BadInput(f"{run.file}: no such checkpoint; there is nothing to export yet")
    run.command = run.made_by or f"diffatlas train {source}"
    held = None
    if config.data.cache.is_file():
        try:
            held = held_out(load_or_prepare(config.data, config.space), config)
        except BadInput as error:
            print(f"note: not measured on the cases held out: {error}", flush=True)
    return export(run, folder, weights, held)


def _training(run: Run, weights: Which) -> dict[str, Any]:
    config = run.config
    averaged = f"exponential moving average, {config.ema}" if weights == "ema" else "those of the last update"
    said = {
        "command": run.command,
        "seed": config.seed,
        "steps": run.step,
        "batch": config.batch,
        **({} if run.cases is None else {"cases": run.cases[0], "cases_held_out": run.cases[1]}),
        "seconds": round(run.seconds),
        "torch": version("torch"),
        "weights": f"{averaged}; stored in half precision",
    }
    if config.task != "atlas":
        said["task"] = config.task
    return said | _began_with(config)


def _began_with(config: TrainConfig) -> dict[str, str]:
    """The model that the run started from, for the card."""
    if config.start_from is None:
        return {}
    try:
        before = read_card(find_model(config.start_from))
    except BadInput:  # it was there when the run began
        return {"started_from": Path(config.start_from).name}
    told = ", ".join(f"{key} {before.training[key]}" for key in ("steps", "batch", "seed") if key in before.training)
    return {"started_from": f"{before.name} {before.sha256[:12]}" + (f" ({told})" if told else "")}
