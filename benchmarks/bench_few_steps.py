"""How few steps a network with the published objective needs: Dice against steps and sampler.

    python benchmarks/bench_few_steps.py [--minutes 10] [--cases 8] [--threads N]
    python benchmarks/bench_few_steps.py --model DIR        (a published model that knows the structures of hearts)

No checkpoint of the authors can be had everywhere, so a small network of theirs is trained first, with their objective,
on digital hearts of 32^3 voxels; it stays in runs/few-steps and is trained on by another call. The image is as noisy as
the mask in every row (the published guidance): with noise of its own at every step for ddpm, as published, with one
noise through the walk for the others. Writes benchmarks/results/few-steps.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from bench_accuracy import measure
from common import ROOT, hearts, write_results

from diffatlas.engine.request import Request
from diffatlas.models.store import file_sha256
from diffatlas.train import run

STEPS = (1, 2, 4, 8, 16, 50, 300)
SAMPLERS = ("ddim", "dpmpp-2m", "ddpm")
FOLDER = ROOT / "runs" / "few-steps"
CONFIG: dict[str, Any] = {
    "task": "published",
    "name": "few-steps",
    "title": "Digital hearts, published objective",
    "summary": "A small published network, to measure samplers with.",
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
    "network": {"kind": "published-unet", "dim": 24, "multipliers": [1, 2, 4], "heads": 4, "head_size": 16},
    "steps": 4000,
    "batch": 4,
    "learning_rate": 1e-3,
    "decay": 0.3,
    "ema": 0.99,
    "validate_every": 0,
    "guidance_noise": 1.0,
    "run_folder": "run",
    "export": "model",
}


def trained(minutes: float, threads: int | None) -> Path:
    """The network's folder, trained on for ``minutes``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "train.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"threads": threads}, sort_keys=False), encoding="utf-8")
    return run(path, minutes=minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of training")
    parser.add_argument("--cases", type=int, default=8, help="hearts that were never trained on")
    parser.add_argument("--threads", type=int, help="of the CPU, for training")
    parser.add_argument("--model", type=Path, help="measure this published model and train none; nothing is written")
    arguments = parser.parse_args()
    model = arguments.model or trained(arguments.minutes, arguments.threads)

    cases = list(hearts("mr", arguments.cases, 800_000))
    rows = []
    print(f"{'sampler':9} {'steps':>5}  {'Dice':>6}  {'95 % interval':15}  s a case")
    for sampler in SAMPLERS:
        for steps in STEPS:
            request = Request(model=str(model), sampler=sampler, steps=steps, guidance_noise=1.0)  # type: ignore[arg-type]
            row = measure(cases, request)
            low, high = row["interval"]
            print(
                f"{sampler:9} {steps:5}  {row['dice']:.4f}  {low:.4f} - {high:.4f}  {row['median_seconds']:.2f}",
                flush=True,
            )
            rows.append({"sampler": sampler, "steps": steps} | {k: row[k] for k in ("n", "dice", "interval")})
    if arguments.model is None:
        weights = file_sha256(model / "model.safetensors")
        print("written:", write_results("few-steps", {"weights": weights, "rows": rows}).name)


if __name__ == "__main__":
    main()
