"""From a training run to a folder that every part of the program can load."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from diffatlas.errors import BadInput
from diffatlas.io import atomic_path
from diffatlas.models.card import ModelCard
from diffatlas.models.store import CARD_FILE, WEIGHTS_FILE, file_sha256, read_card, write_card
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.devices import start
from diffatlas.train.state import CONFIG, Run

Which = Literal["ema", "raw"]


def export(run: Run, folder: Path | None = None, weights: Which = "ema") -> Path:
    """Write weights (half precision) and card to ``folder``, by default ``config.export``; returns it.

    ``weights``: the moving average, or those of the last update. The card says nothing that was not measured on just
    these weights: measured figures of an older card stay only where the weights are the same.
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
        metrics = old.metrics if old.sha256 == sha256 else {}
    except BadInput:
        metrics = {}
    say: dict[str, Any] = {
        "name": config.name,
        "title": config.title,
        "summary": config.summary,
        "scheme": config.scheme,
        "modalities": tuple(dict.fromkeys(m for m in config.space.windows if m != "unknown")),
        "space": config.space,
        "guidance_noise": config.guidance_noise,
        "data": config.data_note,
        "licence": config.licence,
        "intended_use": config.intended_use,
        "limits": config.limits,
        "metrics": metrics,
        "training": _training(run, weights) | fields.pop("training", {}),
        "sha256": sha256,
    }
    write_card(ModelCard(**(say | fields)), folder)
    return folder


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
    return export(run, folder, weights)


def _training(run: Run, weights: Which) -> dict[str, Any]:
    config = run.config
    averaged = f"exponential moving average, {config.ema}" if weights == "ema" else "those of the last update"
    said = {
        "command": f"diffatlas train weights/{config.name}/train.yaml",
        "seed": config.seed,
        "steps": run.step,
        "batch": config.batch,
        "seconds": round(run.seconds),
        "torch": version("torch"),
        "weights": f"{averaged}; stored in half precision",
    }
    if config.task != "atlas":
        said["task"] = config.task
    return said | _began_with(config)


def _began_with(config: TrainConfig) -> dict[str, str]:
    """What a run that did not begin with random weights owes to an earlier one."""
    if config.start_from is None:
        return {}
    try:
        before = read_card(config.start_from)
    except BadInput:  # it was there when the run began
        return {"started_from": config.start_from.name}
    told = ", ".join(f"{key} {before.training[key]}" for key in ("steps", "batch", "seed") if key in before.training)
    return {"started_from": f"{before.name} {before.sha256[:12]}" + (f" ({told})" if told else "")}
