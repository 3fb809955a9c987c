"""Dice of the shipped atlases on cases they were not trained on, by preset.

    python benchmarks/bench_accuracy.py                    # the table in the README and the cards
    python benchmarks/bench_accuracy.py --split holdout    # to choose settings by; val is only ever reported

Hippocampus: the 40 validation cases of ../shared (skipped, and said so, where absent). Hearts: unseen seeds.
``--write-cards`` puts the figures into weights/*/card.yaml.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from common import HIPPOCAMPUS_DATA, hearts, hippocampus, interval, read_results, write_results

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.metrics import compare
from diffatlas.models.store import read_card, shipped_folder, write_card
from diffatlas.session import segment

Cases = Iterable[tuple[str, Volume, LabelMap]]


def measure(cases: Cases, request: Request) -> dict[str, Any]:
    """Mean Dice a case and structure, with a bootstrap interval over cases, and the median seconds a case."""
    per_case: dict[str, dict[str, float]] = {}
    seconds = []
    for name, volume, truth in cases:
        begin = time.perf_counter()
        result = segment(volume, request)
        seconds.append(time.perf_counter() - begin)
        per_case[name] = {row.name: row.dice for row in compare(result.labels, truth).rows}
    means = [float(np.nanmean(list(row.values()))) for row in per_case.values()]
    structures = {s: float(np.nanmean([row[s] for row in per_case.values()])) for s in next(iter(per_case.values()))}
    low, high = interval(means)
    return {
        "n": len(means),
        "dice": round(float(np.mean(means)), 4),
        "interval": [round(low, 4), round(high, 4)],
        "structures": {s: round(v, 4) for s, v in structures.items()},
        "median_seconds": round(statistics.median(seconds), 2),
        "cases": {name: {s: round(v, 4) for s, v in row.items()} for name, row in per_case.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val", choices=("val", "holdout"))
    parser.add_argument("--hearts", type=int, default=20, help="hearts a modality")
    parser.add_argument("--watch", type=int, help="cases for the watch preset (all)")
    parser.add_argument("--published", type=int, default=5, help="cases for the slow published preset")
    parser.add_argument(
        "--only", choices=("hippocampus", "phantom"), help="one of the two; the other's results are kept"
    )
    parser.add_argument("--write-cards", action="store_true")
    arguments = parser.parse_args()

    sets: dict[str, tuple[str, list[tuple[str, Volume, LabelMap]]]] = {}
    if arguments.only == "phantom":
        pass
    elif HIPPOCAMPUS_DATA.is_dir():
        sets["hippocampus"] = ("hippocampus-mri", list(hippocampus(arguments.split)))
    else:
        print("hippocampus: left out, ../shared/data/hippocampus is not here")
    first = 900_000 if arguments.split == "val" else 800_000
    for modality in ("ct", "mr") if arguments.only != "hippocampus" else ():
        sets[f"phantom {modality}"] = ("heart-phantom", list(hearts(modality, arguments.hearts, first)))

    name = f"accuracy-{arguments.split}"
    results: dict[str, Any] = read_results(name) if arguments.only else {}
    print(f"{'cases':14} {'preset':10} {'n':>3}  {'Dice':>6}  {'95 % interval':15}  s a case")
    for title, (model, cases) in sets.items():
        for preset in ("fast", "watch", "published"):
            some = {"watch": arguments.watch, "published": arguments.published}.get(preset)
            row = measure(cases[:some], Request(model=model, preset=preset))
            results.setdefault(title, {})[preset] = row
            low, high = row["interval"]
            print(
                f"{title:14} {preset:10} {row['n']:3}  {row['dice']:.4f}  {low:.4f} - {high:.4f}  "
                f"{row['median_seconds']:.2f}",
                flush=True,
            )
    print("written:", write_results(name, results).name)
    if arguments.write_cards and arguments.split == "val":
        for title, (model, _) in sets.items():
            folder = shipped_folder() / model
            card = read_card(folder)
            figures = {
                f"{title}, {preset}": {k: row[k] for k in ("n", "dice", "interval", "structures")}
                for preset, row in results[title].items()
            }
            write_card(replace(card, metrics=card.metrics | figures), folder)


if __name__ == "__main__":
    main()
