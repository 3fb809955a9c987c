"""How few steps the published objective needs, beside ours and beside a student of it: Dice against steps and sampler.

    python benchmarks/bench_few_steps.py --train published --minutes 6 [--threads N]     one network a call
    python benchmarks/bench_few_steps.py --train ours --minutes 6
    python benchmarks/bench_few_steps.py --train student --minutes 4    of the published one: `diffatlas distill`
    python benchmarks/bench_few_steps.py [--cases 6] [--long 2]         measures those that are there

No checkpoint of the authors can be had everywhere, so small networks are trained on digital hearts in MR, on 32^3 voxels
of 5 mm: one with the published objective and network, one with our objective and network, both on the same cases, and
one of our networks from the answers of the first, without labels. They stay in runs/few-steps, and another call trains
on. All are told one region about the middle, so that no search comes into it. rho is the guidance noise, 1 as
published; ddpm draws it anew at every step, as published, the other samplers once. Runs of 50 and 300 steps are
made on fewer cases (``--long``). Writes benchmarks/results/few-steps.json after every row; a row that stands there for the same
weights is not measured again.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from bench_accuracy import measure
from common import ROOT, hearts, read_results, write_results

from diffatlas.distill import distill, images_in, settings
from diffatlas.engine.request import Request
from diffatlas.io import write_volume
from diffatlas.models.store import file_sha256, load_model, read_card
from diffatlas.train import run

STEPS = (1, 2, 4, 8, 16)
LONG = (50, 300)
SAMPLERS = ("ddim", "dpmpp-2m", "ddpm")
RHO = (0.0, 0.5, 1.0)
FOLDER = ROOT / "runs" / "few-steps"
REGION = ((8, 88), (8, 88), (8, 88))
SHARED: dict[str, Any] = {
    "licence": "Apache-2.0",
    "intended_use": "benchmarks",
    "data_note": "digital hearts, MR",
    "limits": ["small, and not trained to the end"],
    "space": {
        "shape": [32, 32, 32],
        "spacing_mm": [5, 5, 5],
        "sdf_clip_mm": 32,  # 6.4 voxels, as 0.2 x 32 in the published units
        "fill": 0,
        "windows": {"mr": {"kind": "percentile", "low": 0.5, "high": 99.5}},
    },
    "data": {
        "source": "phantom",
        "cases": 128,
        "seed": 100_000,
        "modalities": ["mr"],
        "scheme": "mmwhs",
        "holdout": 8,
        "margin": 2,
        "cache": "cases.safetensors",
    },
    "steps": 4000,
    "batch": 4,
    "learning_rate": 1e-3,
    "decay": 0.3,
    "ema": 0.99,
    "validate_every": 0,
    "guidance_noise": 1.0,
}
OURS = {"kind": "atlas-unet", "widths": [48, 96, 128], "blocks": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "published": {
        "task": "published",
        "title": "Digital hearts, published objective",
        "summary": "A small published network, to measure samplers with.",
        "network": {"kind": "published-unet", "dim": 24, "multipliers": [1, 2, 4], "heads": 4, "head_size": 16},
    },
    "ours": {
        "title": "Digital hearts, two noise levels",
        "summary": "A small network with our objective, to compare with.",
        "network": OURS,
    },
}
# What the teacher is asked, and of how many hearts; its labels of them are all that the student learns from.
TAUGHT, ASKED = 64, {"steps": 16, "sampler": "ddpm", "guidance_noise": 1.0}


def train(name: str, minutes: float, threads: int | None) -> None:
    """Train one of the networks on for ``minutes``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.yaml"
    if name != "student":
        own = {"name": f"few-steps-{name}", "run_folder": f"{name}-run", "export": name, "threads": threads}
        path.write_text(yaml.safe_dump(SHARED | CONFIGS[name] | own, sort_keys=False), encoding="utf-8")
        run(path, minutes=minutes)
        return
    teacher = str(FOLDER / "published")
    kept = ("steps", "batch", "learning_rate", "decay", "ema", "validate_every")
    more = {"network": OURS, "data": {"holdout": 8}, "threads": threads} | {key: SHARED[key] for key in kept}
    path.write_text(yaml.safe_dump(more, sort_keys=False), encoding="utf-8")
    folder = FOLDER / "hearts"
    folder.mkdir(exist_ok=True)
    for case, volume, _ in hearts("mr", TAUGHT, 500_000):
        if not (folder / f"{case}.nii.gz").exists():
            write_volume(volume, folder / f"{case}.nii.gz")
    images, _ = images_in([folder], FOLDER / "student-run")
    request = Request(model=teacher, roi=REGION, **ASKED)  # type: ignore[arg-type]
    config = settings(read_card(FOLDER / "published"), TAUGHT, FOLDER / "student", request, path, [])
    distill(teacher, images, config, request, minutes)


def settings_of(name: str) -> list[tuple[str, float, int, bool]]:
    """(sampler, rho, steps, whether on all cases) of a network's rows, the short runs first."""
    rows = [(s, r, n, True) for n in STEPS for s, r in product(SAMPLERS, RHO if name == "published" else (0.0, 1.0))]
    if name == "published":
        rows += [(s, r, n, False) for n in LONG for s, r in (("ddim", 0.0), ("ddim", 1.0), ("ddpm", 1.0))]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", choices=(*CONFIGS, "student"), help="train this network, measure nothing")
    parser.add_argument("--minutes", type=float, default=6, help="of training")
    parser.add_argument("--threads", type=int, help="of the processor, for training")
    parser.add_argument("--cases", type=int, default=6, help="hearts that were never trained on")
    parser.add_argument("--long", type=int, default=2, help="of these, for the runs of 50 and 300 steps")
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.minutes, arguments.threads)
        return
    cases = list(hearts("mr", arguments.cases, 800_000))
    results: dict[str, Any] = read_results("few-steps")
    for name in (*CONFIGS, "student"):
        folder: Path = FOLDER / name
        if not folder.is_dir():
            print(f"{name}: not trained yet, see --help")
            continue
        weights = file_sha256(folder / "model.safetensors")
        if results.get(name, {}).get("weights") != weights:
            card = load_model(folder)
            millions = sum(p.numel() for p in card.network.parameters()) / 1e6
            results[name] = {"weights": weights, "parameters_million": round(millions, 2), "rows": {}}
        rows = results[name]["rows"]
        for sampler, rho, steps, all_cases in settings_of(name):
            key = f"{sampler}, {rho:g}, {steps}"
            if key in rows:
                continue
            request = Request(
                model=str(folder), sampler=sampler, steps=steps, guidance_noise=rho, roi=REGION  # type: ignore[arg-type]
            )  # fmt: skip
            row = measure(cases if all_cases else cases[: arguments.long], request)
            rows[key] = {"sampler": sampler, "rho": rho, "steps": steps, "n": row["n"], "dice": row["dice"],
                         "cases": {case: sum(one.values()) / len(one) for case, one in row["cases"].items()}}  # fmt: skip
            print(f"{name:10} {key:20} n = {row['n']}  {row['dice']:.4f}  {row['median_seconds']:.2f} s", flush=True)
            write_results("few-steps", results)


if __name__ == "__main__":
    main()
