"""Does the search find the heart, and is it as sure as it is right? Large volumes with a digital heart, and without.

    python benchmarks/bench_locate.py                  # the hit rate in docs/models.md; writes results/locate.json
    python benchmarks/bench_locate.py --split choose   # other seeds: the curve of `locate.confidence`

A volume is 270 to 400 mm long on each side; the heart lies anywhere in it, whole, or (every third volume) beyond its
border. A hit is a proposal within `diffatlas.engine.locate.HIT_MM` of the middle of the box around the true labels.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import write_results

from diffatlas.engine.locate import HIT_MM, LIKELY, SURE
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.phantom import phantom
from diffatlas.session import locate

SEEDS = {"choose": 800_000, "report": 850_000}
SPACING_MM = 3.0
HEART_MM = 80.0  # half of what a whole heart needs, with room to spare


def case(seed: int) -> tuple[Volume, LabelMap]:
    """A chest around a heart somewhere, or, where the seed divides by three, a chest beside a heart."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(90, 134, size=3)
    half = SPACING_MM * shape / 2
    offset = rng.uniform(-(half - HEART_MM), half - HEART_MM)
    if seed % 3 == 0:
        offset[2] = rng.choice((-1.0, 1.0)) * (half[2] + HEART_MM + rng.uniform(0, 60))
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -offset - SPACING_MM * (shape - 1) / 2
    grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    return phantom(seed, ("ct", "mr")[seed % 2], grid)


def measure(seed: int, request: Request) -> dict[str, Any]:
    """The search's figures for one volume; ``error_mm`` None where there is no heart in it."""
    volume, truth = case(seed)
    begin = time.perf_counter()
    looks = list(locate(volume, request))
    proposal = looks[-1].proposal
    assert proposal is not None
    found = np.argwhere(truth.data > 0)
    error_mm = None
    if len(found):
        middle = truth.grid.to_world((found.min(axis=0) + found.max(axis=0)) / 2)
        error_mm = round(float(np.linalg.norm(proposal.centre_mm - middle)), 1)
    return {
        "seed": seed,
        "modality": volume.modality,
        "extent_mm": [round(e) for e in volume.grid.extent_mm],
        "error_mm": error_mm,
        "hit": error_mm is not None and error_mm <= HIT_MM,
        "confidence": round(proposal.confidence, 4),
        "agreement": round(proposal.agreement, 4),
        "fit": round(proposal.fit, 4),
        "looks": len(looks),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    there = [row for row in cases if row["error_mm"] is not None]
    absent = [row for row in cases if row["error_mm"] is None]
    bands = {"sure": (SURE, 1.01), "likely": (LIKELY, SURE), "unsure": (-0.01, LIKELY)}
    return {
        "with a heart": len(there),
        "hits": sum(row["hit"] for row in there),
        "median_error_mm": round(float(np.median([row["error_mm"] for row in there])), 1),
        "without a heart": len(absent),
        "said to be found without one": sum(row["confidence"] >= SURE for row in absent),
        "median_looks_with": float(np.median([row["looks"] for row in there])),
        "median_seconds_with": round(float(np.median([row["seconds"] for row in there])), 1),
        "median_seconds_without": round(float(np.median([row["seconds"] for row in absent])), 1),
        "bands": {
            name: {"n": len(rows), "hits": sum(row["hit"] for row in rows)}
            for name, (low, high) in bands.items()
            for rows in [[row for row in cases if low <= row["confidence"] < high]]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="report", choices=tuple(SEEDS))
    parser.add_argument("--count", type=int, default=18, help="volumes")
    options = parser.parse_args()
    request = Request(model="heart-phantom", force=True)
    cases = []
    for seed in range(SEEDS[options.split], SEEDS[options.split] + options.count):
        cases.append(measure(seed, request))
        print(" ".join(f"{key}={value}" for key, value in cases[-1].items()), flush=True)
    figures = summary(cases)
    print(figures)
    if options.split == "report":
        write_results("locate", {"hit_mm": HIT_MM, "summary": figures, "cases": cases})


if __name__ == "__main__":
    main()
