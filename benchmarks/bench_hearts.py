"""Dice of a heart model on real hearts that it never saw, by set and preset.

    python benchmarks/bench_hearts.py --model heart --model heart-phantom
    python benchmarks/bench_hearts.py --model heart --set mscmr --preset watch --limit 4

Sets (../shared/data/hearts; left out, and said so, where it is absent; its README has sources and terms): "mscmr", late
enhancement MR, short axis; "left_atrium", cropped late enhancement MR, the last 20 of the 80; "acdc", cine MR, the val
patients at end-diastole; "sunnybrook", cine MR, left ventricle, on slices with a contour; "chest_ct", one contrast CT,
all structures together against a mask of the heart; "digital", unseen hearts of `diffatlas.phantom`. What a set does
not label is not scored. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, hearts, interval, read_results, write_results
from numpy.typing import NDArray

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import MMWHS, Volume
from diffatlas.io import read_volume
from diffatlas.io.images import read_label_ids
from diffatlas.metrics import dice
from diffatlas.session import segment

DATA = ROOT / ".." / "shared" / "data" / "hearts"
LV, RV, LA, RA, MYO = range(1, 6)
NAMES = dict(enumerate(MMWHS.names, start=1))


@dataclass(frozen=True, eq=False)
class Case:
    """A volume and what is known of it: ``truth`` [X, Y, Z] of `MMWHS` indices, -1 where nothing is labelled."""

    name: str
    volume: Volume
    truth: NDArray[np.int16]


def _files(folder: str, names: list[str], ids: dict[int, int], modality: str = "mr") -> Iterator[Case]:
    for name in names:
        volume = read_volume(DATA / folder / "images" / f"{name}.nii.gz")
        labels, _ = read_label_ids(DATA / folder / "labels" / f"{name}.nii.gz")
        truth = np.zeros(labels.shape, dtype=np.int16)
        for theirs, ours in ids.items():
            truth[labels == theirs] = ours
        yield Case(name, replace(volume, modality=modality), truth)  # type: ignore[arg-type]


def _split(folder: str, part: str) -> list[str]:
    return list(json.loads((DATA / "split.json").read_text())[folder][part])


VENTRICLES = {1: RV, 2: MYO, 3: LV}


def mscmr() -> Iterator[Case]:
    return _files("mscmr", _split("mscmr", "val"), VENTRICLES)


def left_atrium() -> Iterator[Case]:
    return _files("left_atrium", _split("left_atrium", "train")[-20:], {1: LA})


def acdc() -> Iterator[Case]:
    return _files("acdc", _split("acdc", "val")[::2], VENTRICLES)


def sunnybrook() -> Iterator[Case]:
    for case in _files("sunnybrook", _split("sunnybrook", "val")[::2], {1: LV}):
        without = ~(case.truth > 0).any(axis=(0, 1))
        truth = case.truth.copy()
        truth[:, :, without] = -1
        yield replace(case, truth=truth)


def chest_ct() -> Iterator[Case]:
    return _files("chest_ct", ["chest_ct"], {1: 1}, "ct")


def digital() -> Iterator[Case]:
    for modality in ("ct", "mr"):
        for name, volume, labels in hearts(modality, 6):
            yield Case(name, volume, labels.data.astype(np.int16))


SETS: dict[str, Callable[[], Iterator[Case]]] = {
    "mscmr": mscmr,
    "left_atrium": left_atrium,
    "acdc": acdc,
    "sunnybrook": sunnybrook,
    "chest_ct": chest_ct,
    "digital": digital,
}
WHOLE = ("chest_ct",)


def scores(case: Case, labels: NDArray[np.uint8], whole: bool) -> dict[str, float]:
    """Dice of each structure that the case labels."""
    known = case.truth >= 0
    if whole:
        return {"whole heart": dice((labels > 0) & known, case.truth > 0)}
    present = [k for k in NAMES if (case.truth == k).any()]
    return {NAMES[k]: dice((labels == k) & known, case.truth == k) for k in present}


def measure(name: str, request: Request, limit: int | None) -> dict[str, Any]:
    """Mean Dice over cases and structures, with a bootstrap interval over cases."""
    per_case: dict[str, dict[str, float]] = {}
    seconds = []
    for index, case in enumerate(SETS[name]()):
        if limit is not None and index >= limit:
            break
        begin = time.perf_counter()
        result = segment(case.volume, request)
        seconds.append(time.perf_counter() - begin)
        per_case[case.name] = scores(case, result.labels.data, name in WHOLE)
    means = [float(np.nanmean(list(row.values()))) for row in per_case.values()]
    low, high = interval(means)
    structures = sorted({s for row in per_case.values() for s in row})
    by_name = {s: float(np.nanmean([row[s] for row in per_case.values() if s in row])) for s in structures}
    return {
        "n": len(means),
        "dice": round(float(np.mean(means)), 4),
        "interval": [round(low, 4), round(high, 4)],
        "structures": {s: round(v, 4) for s, v in by_name.items()},
        "median_seconds": round(statistics.median(seconds), 2),
        "cases": {n: {s: round(v, 4) for s, v in row.items()} for n, row in per_case.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name or folder; may be given several times (heart)")
    parser.add_argument("--set", action="append", choices=tuple(SETS), dest="sets", help="one of the sets (all)")
    parser.add_argument("--preset", action="append", choices=("fast", "watch", "published"), help="(fast)")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance-noise", type=float)
    parser.add_argument("--limit", type=int, help="cases of each set")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{'model':14} {'set':12} {'preset':6} {'n':>3}  {'Dice':>6}  {'95 % interval':15}  by structure")
    for model in arguments.model or ["heart"]:
        for name in arguments.sets or SETS:
            if name != "digital" and not DATA.is_dir():
                print(f"{name}: left out, ../shared/data/hearts is not here")
                continue
            for preset in arguments.preset or ["fast"]:
                request = Request(
                    model=model, preset=preset, steps=arguments.steps, guidance_noise=arguments.guidance_noise
                )
                row = measure(name, request, arguments.limit)
                low, high = row["interval"]
                parts = ", ".join(f"{k} {v:.3f}" for k, v in row["structures"].items())
                figures = f"{row['n']:3}  {row['dice']:.4f}  {low:.4f} - {high:.4f}"
                print(f"{model:14} {name:12} {preset:6} {figures}  {parts}; {row['median_seconds']} s", flush=True)
                if not arguments.no_write:
                    results = read_results("hearts")
                    results.setdefault(Path(model).name, {}).setdefault(name, {})[preset] = row
                    write_results("hearts", results)


if __name__ == "__main__":
    main()
