"""Does the search find the heart, and is it as sure as it is right? Digital chests, and real volumes.

    python benchmarks/bench_locate.py                  # the hit rate in docs/models.md; writes results/locate.json
    python benchmarks/bench_locate.py --real           # real volumes with a heart and without, and noise; adds to it
    python benchmarks/bench_locate.py --split choose   # other seeds: the curve of `locate.confidence`

A digital volume is 270 to 400 mm long on each side; the heart lies anywhere in it, whole, or (every third volume)
beyond its border. A hit is a proposal within `diffatlas.engine.locate.HIT_MM` of the middle of the box around the true
labels. Where labels do not tell that middle (ventricles alone, a trunk besides), ``held`` says more: the share of them
that the field of view at the proposal holds. Real volumes (../shared/data, left out where it is absent):
late-enhancement MR of 350 to 390 mm and a chest CT, with labels; a contrast CT with a heart but without labels; an
abdomen in CT and in MR; crops of heads, the first of `val`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from bench_hearts import DATA, chest_ct, mscmr
from common import HIPPOCAMPUS_DATA, hippocampus, read_results, write_results

from diffatlas.engine.locate import HIT_MM, LIKELY, SURE
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.io import read_volume
from diffatlas.models.store import find_model, read_card
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


def real(heads: int = 6) -> Iterator[tuple[str, Volume, np.ndarray[Any, Any] | None, bool]]:
    """(name, volume, labels or None, whether there is a heart in it) of what is at hand, and noise."""
    if DATA.is_dir():
        for case in (*mscmr(), *chest_ct()):
            yield case.name, case.volume, case.truth > 0, True
        others = DATA.parent / "ct_mr"
        yield "heart_ct", replace(read_volume(others / "heart_ct.nii.gz"), modality="ct"), None, True
        for modality in ("ct", "mr"):
            volume = read_volume(others / f"example_{modality}_sm.nii.gz")
            yield f"abdomen, {modality}", replace(volume, modality=modality), None, False
    if HIPPOCAMPUS_DATA.is_dir():
        for name, volume, _ in hippocampus("val", heads):
            yield f"head, {name}", replace(volume, modality="mr"), None, False
    for seed, edge in enumerate((64, 96, 128)):
        values = np.random.default_rng(seed).normal(size=(edge,) * 3).astype(np.float32)
        yield f"noise, {edge}", Volume(values, Grid((edge,) * 3, np.diag([3.0, 3, 3, 1])), "mr"), None, False


def measure(volume: Volume, found: np.ndarray[Any, Any] | None, request: Request) -> dict[str, Any]:
    """The search's figures for one volume, in which the heart is where ``found`` [X, Y, Z] is true; ``error_mm`` None
    where that is not known, or nowhere."""
    begin = time.perf_counter()
    looks = list(locate(volume, request))
    proposal = looks[-1].proposal
    assert proposal is not None
    places = (np.argwhere(found) if found is not None else np.empty((0, 3))).astype(np.float64)
    error_mm = held = None
    if len(places):
        middle = volume.grid.to_world((places.min(axis=0) + places.max(axis=0)) / 2)
        error_mm = round(float(np.linalg.norm(proposal.centre_mm - middle)), 1)
        view = read_card(find_model(request.model)).space.grid_at(proposal.centre_mm)
        at = view.to_voxel(volume.grid.to_world(places))
        held = round(float(((at >= 0) & (at <= np.array(view.shape) - 1)).all(axis=1).mean()), 4)
    return {
        "modality": volume.modality,
        "extent_mm": [round(e) for e in volume.grid.extent_mm],
        "error_mm": error_mm,
        "held": held,
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
    parser.add_argument("--model", default="heart")
    parser.add_argument("--real", action="store_true", help="real volumes in place of digital ones")
    options = parser.parse_args()
    request = Request(model=options.model, force=True)
    results = read_results("locate")
    own = results.setdefault(options.model, {"hit_mm": HIT_MM})
    cases: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        cases.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)

    if options.real:
        for name, volume, found, there in real():
            add({"name": name, "heart": there, **measure(volume, found, request)})
        own["real"] = cases
    else:
        for seed in range(SEEDS[options.split], SEEDS[options.split] + options.count):
            volume, truth = case(seed)
            add({"seed": seed, **measure(volume, truth.data > 0, request)})
        own |= {"summary": summary(cases), "cases": cases}
        print(own["summary"])
    if options.split == "report":
        write_results("locate", results)


if __name__ == "__main__":
    main()
