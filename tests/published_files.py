"""Checkpoints as the authors' code writes them, small and with random weights; for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffatlas.diffusion.schedule import published_alphas_cumprod
from diffatlas.published.network import PublishedUNet

SIZES: dict[str, Any] = {
    "channels": 3,
    "dim": 8,
    "multipliers": (1, 2),
    "heads": 2,
    "head_size": 8,
    "condition": 4,
    "stem": 3,
}
LEVELS = 10
PREFIX = "denoise_fn.module."


def network(seed: int = 0, **changes: Any) -> PublishedUNet:
    torch.manual_seed(seed)
    return PublishedUNet(**(SIZES | changes)).eval().requires_grad_(False)


def schedule_buffers(levels: int = LEVELS) -> dict[str, Tensor]:
    table = published_alphas_cumprod(levels).float()
    return {"betas": 1 - table / torch.cat([torch.ones(1), table[:-1]]), "alphas_cumprod": table}


def state(seed: int = 0, prefix: str = PREFIX, levels: int | None = LEVELS, **changes: Any) -> dict[str, Tensor]:
    """The network's tensors under ``prefix``, the schedule's buffers beside them (without them: ``levels`` None)."""
    buffers = {} if levels is None else schedule_buffers(levels)
    return buffers | {prefix + key: value for key, value in network(seed, **changes).state_dict().items()}


def write(path: Path, **parts: Any) -> Path:
    """A trainer's file; ``model`` and ``ema`` are state dicts, drawn from seeds 0 and 1 where they are not given."""
    content = {"step": 1000, "model": state(0), "ema": state(1), "scaler": {}, "optimizer": {"state": {}}} | parts
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path
