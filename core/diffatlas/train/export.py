"""From a training run to a folder that every part of the program can load."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from diffatlas.checkpoint import WEIGHTS_FILE, ModelCard, file_sha256, read_card, write_card
from diffatlas.errors import BadInput

if TYPE_CHECKING:
    from diffatlas.train.config import TrainConfig
    from diffatlas.train.state import Run


def export(run: Run, folder: Path | None = None, weights: str = "ema") -> Path:
    """Write the averaged weights (half precision) and the card; measured figures of an older card are dropped."""
    config = run.config
    folder = folder or config.export
    told = run.task.card(config)
    if told is None:
        return folder
    network = run.averaged if weights == "ema" else run.network
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS_FILE
    part = path.with_suffix(".part")
    save_file({k: v.to(torch.float16).contiguous() for k, v in network.state_dict().items()}, part)
    part.chmod(0o644)  # safetensors writes 0600, which a system-wide installation could not read
    part.replace(path)
    sha256 = file_sha256(path)
    try:
        old = read_card(folder)
        metrics = old.metrics if old.sha256 == sha256 else {}
    except BadInput:
        metrics = {}
    modalities = tuple(dict.fromkeys(m for m in config.space.windows if m != "unknown"))
    write_card(
        ModelCard(
            name=config.name,
            title=config.title,
            summary=config.summary,
            scheme=config.scheme,
            modalities=modalities,
            space=config.space.build(),
            **told,
            guidance_noise=config.guidance_noise,
            data=config.data_note,
            licence=config.licence,
            intended_use=config.intended_use,
            limits=config.limits,
            metrics=metrics,
            training={
                "command": f"diffatlas train weights/{config.name}/train.yaml",
                "seed": config.seed,
                "steps": run.step,
                "batch": config.batch,
                "seconds": round(run.seconds),
                "torch": version("torch"),
                "weights": f"exponential moving average, {config.ema}; stored in half precision",
                **_began_with(config),
            },
            sha256=sha256,
        ),
        folder,
    )
    return folder


def _began_with(config: TrainConfig) -> dict[str, str]:
    """What a run that did not begin with random weights owes to an earlier one."""
    if config.start_from is None:
        return {}
    before = read_card(config.start_from)
    how = ", ".join(f"{key} {before.training.get(key)}" for key in ("steps", "batch", "seed"))
    return {"started_from": f"{before.name} {before.sha256[:12]} ({how})"}
