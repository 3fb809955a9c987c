"""When is a low crop shown to the network with its slices further apart than its header tells? Decision 28.

    python benchmarks/bench_low_crops.py

For every case: mean Dice and the share of the labels that is expected to be wrong, as the header tells and with the
slices `STRETCH` times as far apart; then, for each margin by which the second must be surer, the difference in mean
Dice to the header's distance and how many cases are stretched. One pass from the clean image.

Cases to choose by, none that `bench_hearts.py` reports but for late enhancement, of which there is no other part:
left atria of the training list, whose headers are wrong; and volumes whose headers are right, cropped as low as those,
about the left atrium or the left ventricle. Writes benchmarks/results/low-crops.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import bench_hearts
import numpy as np
import torch
from bench_placement import SETS
from common import hearts, read_results, write_results

from diffatlas.engine.device import Compute
from diffatlas.engine.placement import two_looks
from diffatlas.engine.plan import plan
from diffatlas.engine.request import Request
from diffatlas.engine.walk import one_step
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import Resampler, image_to_model
from diffatlas.models.store import load_model

CHOOSING = 810_000
MARGINS = (0.0, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02)
LA, LV = bench_hearts.LA, bench_hearts.LV


def cropped(case: bench_hearts.Case, about: int, height_mm: float, width_mm: float) -> bench_hearts.Case:
    """The slices of ``case`` about the middle of a structure, ``height_mm`` in all and ``width_mm`` wide."""
    middle = np.argwhere(case.truth == about).mean(axis=0)
    grid = case.volume.grid
    sizes = [width_mm, width_mm, height_mm]
    ranges = []
    for at, edge, count, size in zip(middle, grid.spacing_mm, grid.shape, sizes, strict=True):
        half = size / edge / 2
        ranges.append(slice(max(0, round(at - half)), min(count, max(round(at + half), round(at - half) + 1))))
    box = tuple(ranges)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.array([r.start for r in ranges], dtype=np.float64))
    data = case.volume.data[box]
    volume = replace(case.volume, data=data, grid=Grid(data.shape, affine), unknown=None)
    return replace(case, volume=volume, truth=case.truth[box])


def digital(count: int, about: int, height_mm: float) -> Iterator[bench_hearts.Case]:
    for modality in ("ct", "mr"):
        for name, volume, labels in hearts(modality, count // 2, CHOOSING):
            case = bench_hearts.Case(name, volume, labels.data.astype(np.int16))
            yield cropped(case, about, height_mm, 110)


def sets(limit: int | None) -> Iterator[tuple[str, Iterator[bench_hearts.Case]]]:
    yield "left atrium, training list", islice(SETS["left_atrium"](), limit or 60)
    yield "digital hearts, 55 mm about the left atrium", digital(limit or 12, LA, 55)
    yield "digital hearts, 50 mm about the left ventricle", digital(limit or 12, LV, 50)
    yield "ACDC, 55 mm about the left ventricle", (cropped(c, LV, 55, 150) for c in islice(SETS["acdc"](), limit or 10))
    for name in ("sunnybrook", "mscmr"):
        lower = (cropped(c, LV, 50, 150) for c in islice(SETS[name](), limit or 10))
        yield f"{name}, 50 mm about the left ventricle", lower


def both_ways(case: bench_hearts.Case, model: str, precision: str) -> tuple[float, float, float, float] | None:
    """Expected to be wrong and Dice, as told and stretched; None where the volume is no low crop."""
    planned = plan(case.volume, Request(model=model, precision=precision))  # type: ignore[arg-type]
    model_ = load_model(planned.card.path)
    answer = one_step(model_, planned, Compute.of(planned.request, model_))
    space = planned.card.space
    grid = space.grid_at(case.volume.grid.centre_mm)
    looks = two_looks(planned, case.volume, grid, answer)
    if looks is None:
        return None
    scores = []
    for at in (grid, looks.longer):
        seen = image_to_model(case.volume, at, space.window_for(case.volume.modality), space.fill)
        distance_mm = answer(seen.image, seen.known, 0) * np.float32(space.sdf_clip_mm)
        labels = Resampler(case.volume.grid, at).labels(distance_mm, planned.card.scheme)
        scores.append(float(np.nanmean(list(bench_hearts.scores(case, labels.data, whole=False).values()))))
    return looks.as_told, looks.stretched, scores[0], scores[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="heart")
    parser.add_argument("--limit", type=int, help="cases of each set")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = read_results("low-crops")
    for title, cases in sets(arguments.limit):
        found = [both_ways(case, arguments.model, arguments.precision) for case in cases]
        rows = np.array([row for row in found if row is not None])
        if not len(rows):
            print(f"{title}: no low crop among {len(found)}")
            continue
        told, stretched, dice_told, dice_stretched = rows.T
        table: dict[str, dict[str, float]] = {}
        for margin in MARGINS:
            moved = stretched <= told - margin
            gain = np.where(moved, dice_stretched - dice_told, 0).mean()
            table[str(margin)] = {"difference": round(float(gain), 4), "stretched": float(moved.sum())}
        print(f"{title} (n = {len(rows)}): Dice {dice_told.mean():.3f}, stretched {dice_stretched.mean():.3f}")
        for least, line in table.items():
            print(f"  {float(least):5.1%}  {line['difference']:+.3f}, {line['stretched']:.0f}")
        results[title] = {
            "n": len(rows),
            "dice_as_told": round(float(dice_told.mean()), 4),
            "dice_stretched": round(float(dice_stretched.mean()), 4),
            "margins": table,
        }
    if not arguments.no_write:
        print(write_results("low-crops", results))


if __name__ == "__main__":
    main()
