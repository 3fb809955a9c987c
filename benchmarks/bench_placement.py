"""Does it matter where, how large, how long or after which noise a model sees a volume smaller than its field of view?

    python benchmarks/bench_placement.py --set left_atrium --limit 40

One pass from the clean image, with the volume's middle moved in the field of view by `SHIFTS` (mm, R A S), with voxels
of the model's grid `SCALES` times as large as it was trained for (below 1 the heart looks larger), with the distance
between the volume's slices taken to be `STRETCHES` times what its header tells, and from other noise. For each way:
mean Dice as in bench_hearts.py; the best of a case, chosen with the truth; and the mean of the distances over all
shifts of at most 37.5 mm. Cases to choose by, never those that bench_hearts.py reports of `left_atrium`: its first 60;
every second volume of acdc's train part (end-diastole); sunnybrook at end-systole; mscmr, of which there is no other
part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import bench_hearts as hearts
import numpy as np
import torch
from common import read_results, write_results
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.engine.device import Compute
from diffatlas.engine.plan import Plan, plan
from diffatlas.engine.request import Request
from diffatlas.engine.walk import one_step
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import Resampler, image_to_model
from diffatlas.geometry.volume import Volume
from diffatlas.models.store import load_model

Shift = tuple[float, float, float]
ALONG = (-50, -37.5, -25, -12.5, 0, 12.5, 25, 37.5, 50)
SHIFTS: tuple[Shift, ...] = (*((0, 0, z) for z in ALONG), (-25, 0, 0), (25, 0, 0), (0, -25, 0), (0, 25, 0))
SCALES = (0.8, 0.9, 1.1, 1.2)
STRETCHES = (0.75, 1.25, 1.5, 1.75, 2.0)
SEEDS = range(13)


def _sunnybrook() -> Iterator[hearts.Case]:
    for case in hearts._files("sunnybrook", hearts._split("sunnybrook", "val")[1::2], {1: hearts.LV}):
        case.truth[:, :, ~(case.truth > 0).any(axis=(0, 1))] = -1
        yield case


SETS: dict[str, Callable[[], Iterator[hearts.Case]]] = {
    "left_atrium": lambda: hearts._files("left_atrium", hearts._split("left_atrium", "train")[:-20], {1: hearts.LA}),
    "acdc": lambda: hearts._files("acdc", hearts._split("acdc", "train")[::2], hearts.VENTRICLES),
    "sunnybrook": _sunnybrook,
    "mscmr": hearts.mscmr,
}


def answers(
    case: hearts.Case, planned: Plan, compute: Compute
) -> Iterator[tuple[str, Volume, Grid, NDArray[np.float32]]]:
    """What was done, the volume, the grid, and the signed distances [K, X, Y, Z] in mm of one pass there."""
    space, centre_mm = planned.card.space, case.volume.grid.centre_mm
    answer = one_step(load_model(planned.card.path), planned, compute)
    ways = [(f"shift {shift}", np.array(shift), 1.0, 0) for shift in SHIFTS]
    ways += [(f"scale {scale}", np.zeros(3), scale, 0) for scale in SCALES]
    ways += [(f"seed {seed}", np.zeros(3), 1.0, seed) for seed in SEEDS]
    for name, shift, scale, seed in ways:
        affine = np.diag([*(scale * s for s in space.spacing_mm), 1.0])
        affine[:3, 3] = centre_mm + shift - affine[:3, :3] @ ((np.array(space.shape) - 1) / 2)
        grid = Grid(space.shape, affine)
        seen = image_to_model(case.volume, grid, space.window_for(case.volume.modality), space.fill)
        yield name, case.volume, grid, answer(seen.image, seen.known, seed) * np.float32(space.sdf_clip_mm * scale)
    for stretch in STRETCHES:
        affine = case.volume.grid.affine.copy()
        affine[:3, 2] *= stretch
        volume = replace(case.volume, grid=Grid(case.volume.grid.shape, affine))
        grid = space.grid_at(volume.grid.centre_mm)
        seen = image_to_model(volume, grid, space.window_for(volume.modality), space.fill)
        yield f"stretch {stretch}", volume, grid, answer(seen.image, seen.known, 0) * np.float32(space.sdf_clip_mm)


def of_case(case: hearts.Case, planned: Plan, compute: Compute) -> dict[str, float]:
    """Mean Dice over structures of every way, and "mean" of the distances."""

    def score(volume: Volume, grid: Grid, sdf_mm: NDArray[np.float32]) -> float:
        labels = Resampler(volume.grid, grid).labels(sdf_mm, planned.card.scheme)
        return float(np.nanmean(list(hearts.scores(case, labels.data, whole=False).values())))

    row, moved = {}, []
    middle = planned.card.space.grid_at(case.volume.grid.centre_mm)
    for name, volume, grid, sdf_mm in answers(case, planned, compute):
        row[name] = score(volume, grid, sdf_mm)
        if name.startswith("shift") and max(abs(at) for at in _shift(name)) <= 37.5:
            by = np.array(_shift(name)) / np.array(planned.card.space.spacing_mm)  # whole voxels
            moved.append(ndimage.shift(sdf_mm, (0, *by), order=0, mode="nearest"))
    return row | {"mean": score(case.volume, middle, np.mean(moved, axis=0, dtype=np.float32))}


def _shift(name: str) -> Shift:
    return next(shift for shift in SHIFTS if name == f"shift {shift}")


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over cases, and of the best of each case among shifts, shifts along the body, and seeds."""
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    along = {f"shift {(0, 0, z)}" for z in ALONG}
    kinds: dict[str, Callable[[str], bool]] = {
        "best shift": lambda name: name.startswith("shift"),
        "best shift along the body": lambda name: name in along,
        "best seed": lambda name: name.startswith("seed"),
    }
    best = {
        kind: round(float(np.mean([max(value for name, value in row.items() if of(name)) for row in rows])), 4)
        for kind, of in kinds.items()
    }
    return {"n": len(rows), **means, **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=tuple(SETS), dest="sets", help="one of the sets (all)")
    parser.add_argument("--model", default="heart")
    parser.add_argument("--limit", type=int, help="cases of each set")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in arguments.sets or SETS:
        rows = []
        for index, case in enumerate(SETS[name]()):
            if arguments.limit is not None and index >= arguments.limit:
                break
            planned = plan(case.volume, Request(model=arguments.model, precision=arguments.precision))
            compute = Compute.of(planned.request, load_model(planned.card.path))
            rows.append(of_case(case, planned, compute))
        row = summary(rows)
        print(name, *(f"  {key}: {value}" for key, value in row.items()), sep="\n", flush=True)
        if not arguments.no_write:
            write_results("placement", read_results("placement") | {name: row})


if __name__ == "__main__":
    main()
