"""The map of when to trust the atlas: Dice as the evidence goes, from benchmarks/results.

python docs/make_pictures/trust_map.py

Writes docs/images/trust-map.png from trust.json (`bench_trust.py`) and real-missing.csv (`diffatlas evaluate
benchmarks/protocols/real-missing.yaml`).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FAST, WALK, HALF, SEGMENTER, UNET = "#1f6fb4", "#d2601a", "#e0a458", "#3d8b5f", "#8a8a8a"
# What a line is, its colour, and where its figures stand: in trust.json by way, in real-missing.csv by method and run.
WAYS = (
    ("clean image (fast)", FAST, "fast"),
    ("walk, rho 0.5", HALF, "walk, rho 0.5"),
    ("walk, rho 1: the atlas", WALK, "walk, rho 1"),
)
METHODS = (
    ("atlas, clean image (fast)", FAST, "atlas from heart", "fast, "),
    ("atlas, walk, rho 1", WALK, "atlas from heart", "walk rho 1, "),
    ("plain segmenter", SEGMENTER, "segmenter from heart", ""),
    ("DynUNet", UNET, "unet", ""),
)
SHARES = {"all there": 0, "25 of 100 missing": 25, "50 of 100 missing": 50, "75 of 100 missing": 75}
# Title, set in trust.json, what is done to the image, name of the degrees, factor of the degrees.
SPOILED = (
    ("Noise", "noise", "SD, share of the range", 1.0),
    ("Ghosts", "ghost", "brightness of the two copies", 1.0),
    ("Shading", "bias", "log of the ratio of its sides", 1.0),
    ("Void of metal", "void", "radius, mm", 1.0),
)
Points = list[tuple[float, float, float, float]]  # x, mean, low, high


def from_trust(data: dict[str, Any], case: str, kind: str, way: str, factor: float = 1.0) -> Points:
    """Dice over degrees of what is done to the image; at 0 stands the image as it is."""
    rows = dict(data[case][kind])
    rows.setdefault("0.0", data[case]["missing"]["0.0"])
    found = sorted((float(degree) * factor, row[way]) for degree, row in rows.items())
    return [(x, row["dice"], *row["interval"]) for x, row in found]


def from_table(rows: list[dict[str, str]], setting: str, method: str, run: str) -> Points:
    wanted = [
        r
        for r in rows
        if (r["setting"], r["method"], r["structure"], r["measure"]) == (setting, method, "mean", "dice")
    ]
    found = [(float(SHARES[r["run"].removeprefix(run)]), r) for r in wanted if r["run"].removeprefix(run) in SHARES]
    return [
        (x, float(r["mean"]), float(r["low"]), float(r["high"])) for x, r in sorted(found, key=lambda pair: pair[0])
    ]


def line(axes: Any, points: Points, label: str, colour: str, style: str = "-") -> None:
    x, mean, low, high = zip(*points, strict=True)
    axes.plot(x, mean, style, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def finish(axes: Any, title: str, of: str, below: str, lowest: float = 0.0) -> None:
    axes.set_title(f"{title}\n", fontsize=10.5, loc="left")
    axes.text(0, 1.03, of, transform=axes.transAxes, fontsize=8.5, color="#555555")
    axes.set_xlabel(below, fontsize=9)
    axes.set_ylim(lowest, 1)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    data = json.loads((RESULTS / "trust.json").read_text())["results"]
    with (RESULTS / "real-missing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    canvas = Figure(figsize=(12, 6.4), layout="constrained")
    (top, bottom) = canvas.subplots(2, 4)
    below = "% of the heart's length crossed out"
    for axes, of, setting in (
        (top[0], "cine MR, trained on cine MR", "40 patients, missing"),
        (top[1], "late enhancement, trained on cine MR", "40 patients, late enhancement, missing"),
    ):
        for label, colour, method, run in METHODS:
            line(axes, from_table(rows, setting, method, run), label, colour)
        finish(axes, "Crossed out", of, below)
    top[1].legend(fontsize=7.5, frameon=False, loc="upper right")
    for axes, of, case in (
        (top[2], "late enhancement, model heart, zero-shot", "mscmr"),
        (top[3], "digital hearts, model heart", "digital"),
    ):
        for label, colour, way in WAYS:
            line(axes, from_trust(data, case, "missing", way, 100), label, colour)
        finish(axes, "Crossed out", of, below)
    top[3].legend(fontsize=7.5, frameon=False, loc="lower left")
    for axes, (title, kind, degrees, factor) in zip(bottom, SPOILED, strict=True):
        for label, colour, way in (WAYS[0], WAYS[2]):
            line(axes, from_trust(data, "mscmr", kind, way, factor), label, colour)
            if kind == "void":
                line(
                    axes,
                    from_trust(data, "mscmr", "void, crossed out", way),
                    f"{label.split(':')[0]}, void crossed out",
                    colour,
                    "--",
                )
        finish(axes, title, "late enhancement, model heart, zero-shot", degrees, 0.4)
    bottom[0].legend(fontsize=7.5, frameon=False, loc="lower left")
    bottom[3].legend(fontsize=7.5, frameon=False, loc="lower left")
    for axes in (top[0], bottom[0]):
        axes.set_ylabel("mean Dice, 95 % interval", fontsize=9)
    path = ROOT / "docs" / "images" / "trust-map.png"
    canvas.savefig(path, dpi=110, format="png")
    print("written:", path.name)


if __name__ == "__main__":
    main()
