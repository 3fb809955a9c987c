"""When to trust the atlas: Dice as the evidence goes, for one step and for walks at several guidance noises.

    python benchmarks/bench_trust.py --model heart --cases 6
    python benchmarks/bench_trust.py --cases 4 --kind ghost void    these alone; the other rows stay

Cases: unseen digital hearts (CT and MR) and, where ../shared/data/hearts is there, late-enhancement MR. Of each
volume, by degrees (intensities in units of the 1st to 99th percentiles' range):

- missing: a slab across the heart is crossed out (`Request.ignore`; the share is of its length along the body);
- noise: Gaussian noise of this standard deviation is added;
- contrast: the contrast is turned into its negative (0 as it is, 1 the negative);
- ghost: a breath between the lines of a scan: two copies, a quarter of the image to either side, so bright;
- bias: one side is e to this power times as bright as the other;
- void: a ball of this radius, mm, about the middle of the myocardium is as dark as air, as metal makes it in MR;
- void, crossed out: the same, and the ball is crossed out.

The field of view stays where the whole, clean volume puts it, so that only what the network sees changes. Scored is the
whole truth, what is crossed out included.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from bench_hearts import DATA, MYO, SETS, Case, digital, scores
from common import interval, read_results, write_results
from numpy.typing import NDArray

from diffatlas.engine.request import Request
from diffatlas.evaluate.cases import slab
from diffatlas.geometry.volume import Volume
from diffatlas.session import segment

DEGREES = {
    "missing": (0.0, 0.25, 0.5, 0.75),
    "noise": (0.0, 0.1, 0.2, 0.4),
    "contrast": (0.0, 0.5, 1.0),
    "ghost": (0.2, 0.5),
    "bias": (1.0, 2.0),
    "void": (10.0, 20.0, 30.0),
    "void, crossed out": (10.0, 20.0, 30.0),
}


def degraded(case: Case, kind: str, degree: float) -> tuple[Volume, NDArray[np.bool_] | None]:
    """The volume, and what of it is crossed out."""
    data = case.volume.data.astype(np.float32)
    low, high = (np.float32(v) for v in np.percentile(data, (1, 99)))
    if kind == "noise":
        noise = np.random.default_rng(0).normal(0, degree * (high - low), data.shape)
        return replace(case.volume, data=(data + noise).astype(np.float32)), None
    if kind == "contrast":
        turned = (1 - degree) * data + degree * (low + high - data)
        return replace(case.volume, data=np.clip(turned, low, high).astype(np.float32)), None
    if kind == "missing":
        return case.volume, slab(case.truth, case.volume.grid, degree)
    if kind == "ghost":
        quarter = data.shape[1] // 4
        twice = np.roll(data, quarter, axis=1) + np.roll(data, -quarter, axis=1)
        return replace(case.volume, data=data + np.float32(degree / 2) * (twice - 2 * low)), None
    if kind == "bias":
        gain = np.exp(degree * np.linspace(-0.5, 0.5, data.shape[0], dtype=np.float32))[:, None, None]
        return replace(case.volume, data=(data - low) * gain + low), None
    ball = _ball(case, degree)
    return replace(case.volume, data=np.where(ball, low, data)), ball if kind == "void, crossed out" else None


def _ball(case: Case, radius_mm: float) -> NDArray[np.bool_]:
    """Voxels within ``radius_mm`` of the middle one of the myocardium."""
    wall = np.argwhere(case.truth == MYO)
    away = np.indices(case.truth.shape).reshape(3, -1).T - wall[len(wall) // 2]
    distance_mm = np.linalg.norm(away @ case.volume.grid.affine[:3, :3].T, axis=1)
    return np.asarray(distance_mm <= radius_mm).reshape(case.truth.shape)


def cases_of(name: str, count: int) -> Iterator[Case]:
    found = list(digital()) if name == "digital" else list(SETS[name]())
    # Of the digital hearts half are CT, half MR.
    yield from (found[:: max(1, len(found) // count)] if name == "digital" else found)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="heart")
    parser.add_argument("--cases", type=int, default=6, help="of each set")
    parser.add_argument("--steps", type=int, default=10, help="of the walks")
    parser.add_argument("--rho", type=float, nargs="*", default=[0.0, 0.5, 1.0])
    parser.add_argument("--kind", nargs="+", choices=tuple(DEGREES), default=list(DEGREES))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ways = {"fast": Request(model=arguments.model)}
    for rho in arguments.rho:
        ways[f"walk, rho {rho:g}"] = Request(
            model=arguments.model, preset="watch", steps=arguments.steps, guidance_noise=rho
        )
    results: dict[str, Any] = read_results("trust") if arguments.kind != list(DEGREES) else {}
    for name in ("digital", *(("mscmr",) if DATA.is_dir() else ())):
        cases = list(cases_of(name, arguments.cases))
        places = [segment(case.volume, ways["fast"]).provenance["placement"]["affine"] for case in cases]
        for kind in arguments.kind:
            for degree in DEGREES[kind]:
                for way, request in ways.items():
                    means = []
                    for case, affine in zip(cases, places, strict=True):
                        volume, ignore = degraded(case, kind, degree)
                        asked = replace(
                            request, roi=_view(case.volume, np.array(affine), arguments.model), ignore=ignore
                        )
                        labels = segment(volume, asked).labels.data
                        means.append(float(np.nanmean(list(scores(case, labels, False).values()))))
                    low, high = interval(means)
                    row: dict[str, Any] = {"n": len(means), "dice": round(float(np.mean(means)), 4)}
                    row["interval"] = [round(low, 4), round(high, 4)]
                    results.setdefault(name, {}).setdefault(kind, {}).setdefault(str(degree), {})[way] = row
                    print(
                        f"{name:8} {kind:9} {degree:4g} {way:14} {row['dice']:.3f} ({low:.3f} to {high:.3f})",
                        flush=True,
                    )
    print("written:", write_results("trust", results).name)


def _view(volume: Volume, affine: NDArray[np.float64], model: str) -> Any:
    from diffatlas.geometry.space import field_of_view
    from diffatlas.models.store import find_model, read_card

    space = read_card(find_model(model)).space
    centre = affine[:3, :3] @ ((np.array(space.shape) - 1) / 2) + affine[:3, 3]
    return field_of_view(space, volume.grid, centre)


if __name__ == "__main__":
    main()
