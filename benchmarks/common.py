"""What benchmarks share: cases no model was trained on, intervals, a result file that says where it was made."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap, Volume
from diffatlas.io import read_label_map, read_volume
from diffatlas.phantom import phantom
from diffatlas.values import program_version

ROOT = Path(__file__).resolve().parents[1]
HIPPOCAMPUS_DATA = ROOT / ".." / "shared" / "data" / "hippocampus"
# Training hearts begin at 100 000; these seeds were never drawn for training.
UNSEEN_HEARTS = 900_000


def hippocampus(split: str, count: int | None = None) -> Iterator[tuple[str, Volume, LabelMap]]:
    """Cases of the Decathlon's Task04: "val" is for reporting only, "holdout" (16 of train) for choosing settings."""
    lists = json.loads((HIPPOCAMPUS_DATA / "split.json").read_text())
    names = lists["train"][-16:] if split == "holdout" else lists[split]
    for name in names[:count]:
        volume = read_volume(HIPPOCAMPUS_DATA / "images" / f"{name}.nii.gz")
        yield name, volume, read_label_map(HIPPOCAMPUS_DATA / "labels" / f"{name}.nii.gz", HIPPOCAMPUS)


def hearts(modality: str, count: int, first: int = UNSEEN_HEARTS) -> Iterator[tuple[str, Volume, LabelMap]]:
    """Digital hearts on their own 2 mm grid."""
    for seed in range(first, first + count):
        volume, labels = phantom(seed, modality)  # type: ignore[arg-type]
        yield f"{modality}-{seed}", volume, labels


def interval(values: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over cases (10 000 resamples)."""
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(10_000, len(data)))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def machine() -> dict[str, Any]:
    """Processor, versions and commit, for a result file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout if shutil.which("git") else ""
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {"napari-diffatlas": program_version()} | {n: version(n) for n in ("torch", "numpy", "scipy")},
        "commit": commit.strip(),
    }


def read_results(name: str) -> dict[str, Any]:
    """Results of an earlier run, empty where there was none."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return dict(json.loads(path.read_text())["results"]) if path.is_file() else {}


def write_results(name: str, results: Any) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    return path
