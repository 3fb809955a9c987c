"""Dice and seconds against steps, guidance noise and sampler, on cases kept apart to choose settings by; and a figure.

    python benchmarks/bench_tradeoff.py --minutes 60          # goes on where it stopped, until all is measured
    python benchmarks/bench_tradeoff.py --split val --minutes 60   # to report: another file, never to choose by

Settings grow together, two cases of each set at a time and the cheap ones first, so that a stop leaves fewer cases
rather than fewer settings; --steps and --cases choose. All on one thread, so that other work may run beside it on two
cores. Writes benchmarks/results/tradeoff.json (or tradeoff-val.json), and from the former
docs/images/tradeoff.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from common import HIPPOCAMPUS_DATA, ROOT, hearts, hippocampus, interval, read_results, write_results
from tables import against, tradeoff_table

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.metrics import compare
from diffatlas.session import segment

STEPS = (1, 2, 4, 8, 16, 50, 300)
RHOS = (0.0, 0.5, 1.0)
SAMPLERS = ("ddim", "ddpm", "dpmpp-2m")
SLOW_CASES = {50: 4, 300: 1}  # cases a set at so many steps
LOWEST_SHOWN = -0.05  # of the figure; one step with rho 1 lies far below
Case = tuple[str, Volume, LabelMap]


def settings() -> list[tuple[int, float, str]]:
    """Cheapest first. A single step is the same whatever the sampler: ddim stands for all."""
    return [(n, rho, s) for n in STEPS for rho in RHOS for s in SAMPLERS if n > 1 or s == "ddim"]


def summary(title: str, setting: tuple[int, float, str], done: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A row of the table from a setting's cases."""
    steps, rho, sampler = setting
    dice = [row["dice"] for row in done.values()]
    low, high = interval(dice)
    return {
        "cases": title,
        "steps": steps,
        "rho": rho,
        "sampler": sampler,
        "n": len(dice),
        "dice": round(float(np.mean(dice)), 4),
        "interval": [round(low, 4), round(high, 4)],
        "median_s": round(statistics.median(row["s"] for row in done.values()), 3),
        "per_case": done,
    }


def figure(results: dict[str, Any]) -> None:
    """Difference in Dice to preset fast on the same cases, against seconds; a panel a set, a line a sampler and rho."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    sets = sorted({row["cases"] for row in results.values()})
    colours = dict(zip(RHOS, ("#0072B2", "#E69F00", "#D55E00"), strict=True))
    lines = dict(zip(SAMPLERS, ("-", ":", "--"), strict=True))
    picture = Figure(figsize=(4.2 * len(sets), 3.8), layout="constrained")
    axes = np.atleast_1d(picture.subplots(1, len(sets), sharey=True))
    for axis, title in zip(axes, sets, strict=True):
        fast = results.get(f"{title}, 2, 0, ddim", {}).get("per_case", {})
        for rho in RHOS:
            for sampler in SAMPLERS:
                rows = [r for r in results.values() if (r["cases"], r["rho"], r["sampler"]) == (title, rho, sampler)]
                rows = sorted(rows, key=lambda r: r["steps"])
                axis.plot(
                    [r["median_s"] for r in rows], [against(r, fast) for r in rows], lines[sampler],
                    color=colours[rho], marker="o", markersize=3, linewidth=1.2, label=f"{sampler}, rho {rho:g}",
                )  # fmt: skip
        axis.set(xscale="log", xlabel="seconds a case, one thread", title=title, ylim=(LOWEST_SHOWN, 0.005))
        axis.xaxis.set_major_formatter(LogFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Dice, against fast on the same cases")
    axes[-1].legend(fontsize=7, frameon=False, loc="lower right")
    picture.savefig(ROOT / "docs" / "images" / "tradeoff.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="holdout", choices=("holdout", "val"))
    parser.add_argument("--cases", type=int, default=16, help="cases a set; fewer for 50 and 300 steps")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="only these")
    parser.add_argument("--only", choices=("hippocampus", "hearts"), help="one of the sets; the others' are kept")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    torch.set_num_threads(1)

    sets: dict[str, tuple[str, list[Case]]] = {}
    if HIPPOCAMPUS_DATA.is_dir() and arguments.only != "hearts":
        sets["hippocampus"] = ("hippocampus-mri", list(hippocampus(arguments.split, arguments.cases)))
    first = 800_000 if arguments.split == "holdout" else 900_000
    for modality in ("ct", "mr") if arguments.only != "hippocampus" else ():
        sets[f"phantom {modality}"] = ("heart-phantom", list(hearts(modality, arguments.cases, first)))
    name = "tradeoff" if arguments.split == "holdout" else "tradeoff-val"
    results = read_results(name)
    for wanted in range(2, arguments.cases + 2, 2):
        for setting in settings():
            steps, rho, sampler = setting
            if steps not in arguments.steps:
                continue
            for title, (model, cases) in sets.items():
                key = f"{title}, {steps}, {rho:g}, {sampler}"
                done: dict[str, dict[str, float]] = results.get(key, {}).get("per_case", {})
                for case, volume, truth in cases[: min(wanted, SLOW_CASES.get(steps, wanted))]:
                    if case in done:
                        continue
                    if time.monotonic() > end:
                        print("stopped; run again to go on")
                        return show(results, name)
                    request = Request(
                        model=model,
                        sampler=sampler,  # type: ignore[arg-type]
                        steps=steps,
                        guidance_noise=rho,
                    )
                    begin = time.perf_counter()
                    labels = segment(volume, request).labels
                    took = time.perf_counter() - begin
                    dice = float(np.nanmean([row.dice for row in compare(labels, truth).rows]))
                    done[case] = {"dice": round(dice, 4), "s": round(took, 3)}
                    results[key] = summary(title, setting, done)
                    write_results(name, results)
    return show(results, name)


def show(results: dict[str, Any], name: str) -> None:
    print(tradeoff_table(results))
    if results and name == "tradeoff":
        figure(results)


if __name__ == "__main__":
    main()
