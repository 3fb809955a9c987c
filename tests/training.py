"""A training run that takes seconds: six cases of two balls in noise, and a configuration for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap, Volume
from diffatlas.io import write_label_map, write_volume
from tests.geometry.test_space import ball_grid, two_balls


def balls(folder: Path) -> Path:
    """Write cases and configuration into ``folder``; returns the path of the configuration."""
    data = folder / "data"
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    rng = np.random.default_rng(0)
    names = [f"case{i}" for i in range(6)]
    for name in names:
        grid = ball_grid((44, 40, 40), (1.0, 1.0, 1.0))
        labels = two_balls(grid)
        image = np.array([20.0, 120.0, 200.0])[labels.data] + rng.normal(size=grid.shape) * 10
        write_volume(Volume(image.clip(0).astype(np.float32), grid, "mr"), data / "images" / f"{name}.nii.gz")
        write_label_map(LabelMap(labels.data, grid, HIPPOCAMPUS), data / "labels" / f"{name}.nii.gz")
    (data / "split.json").write_text('{"train": ' + str(names).replace("'", '"') + "}")
    config = {
        "name": "balls",
        "title": "Balls",
        "summary": "two balls",
        "licence": "none",
        "intended_use": "tests",
        "data_note": "drawn",
        "limits": ["balls only"],
        "space": {
            "shape": [24, 24, 24],
            "spacing_mm": [2, 2, 2],
            "sdf_clip_mm": 8,
            "windows": {"mr": {"kind": "percentile", "low": 0.5, "high": 99.5}},
        },
        "data": {
            "source": "folder",
            "path": "data",
            "scheme": "hippocampus",
            "margin": 2,
            "holdout": 1,
            "cache": "cache.safetensors",
        },
        "network": {"widths": [16, 32], "embedding": 32},
        "steps": 6,
        "batch": 4,
        "warmup": 2,
        "save_every": 3,
        "learning_rate": 2e-3,
        "precision": "fp32",
        "ema": 0.9,
        "run_folder": "run",
        "export": "model",
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
