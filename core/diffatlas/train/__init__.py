"""Training of atlases: data, augmentation, objective, loop.

`run` is the whole of it: a YAML file in, a folder with weights and a card out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run(config: Path, overrides: Sequence[str] = (), minutes: float | None = None) -> Path:
    """Train what ``config`` describes, or resume it where its run folder holds a checkpoint; returns the folder."""
    from diffatlas.train.config import load_config
    from diffatlas.train.loop import train

    return train(load_config(config, overrides), minutes=minutes)
