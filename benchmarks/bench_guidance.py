"""Dice against steps and guidance noise rho, on the cases kept apart to choose settings by (never on val).

    python benchmarks/bench_guidance.py [--only hippocampus|ct|mr] [--cases 16]

rho = 0 hands the clean image to the network, rho = 1 is the published guidance. Writes
benchmarks/results/guidance.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench_accuracy import measure
from common import HIPPOCAMPUS_DATA, hearts, hippocampus, read_results, write_results

from diffatlas.engine.request import Request

# (steps, rho)
GRID = ((1, 0.0), (2, 0.0), (4, 0.0), (10, 0.0), (10, 0.25), (10, 0.5), (10, 1.0), (40, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("hippocampus", "ct", "mr"), help="one of the sets; the others' are kept")
    parser.add_argument("--cases", type=int, default=16, help="cases a set")
    parser.add_argument("--model", help="folder of other weights than the shipped ones; nothing is written then")
    arguments = parser.parse_args()

    sets: dict[str, tuple[str, list[Any]]] = {}
    if arguments.only in (None, "hippocampus") and HIPPOCAMPUS_DATA.is_dir():
        sets["hippocampus"] = ("hippocampus-mri", list(hippocampus("holdout", arguments.cases)))
    for modality in ("ct", "mr"):
        if arguments.only in (None, modality):
            sets[f"phantom {modality}"] = ("heart-phantom", list(hearts(modality, arguments.cases, 800_000)))

    results: dict[str, Any] = read_results("guidance") if arguments.only else {}
    print(f"{'cases':14} {'n':>3} {'steps':>5} {'rho':>5}  {'Dice':>6}  {'95 % interval':15}  s a case")
    for title, (model, cases) in sets.items():
        rows = []
        for steps, rho in GRID:
            request = Request(model=arguments.model or model, sampler="ddim", steps=steps, guidance_noise=rho)
            row = measure(cases, request)
            low, high = row["interval"]
            print(
                f"{title:14} {row['n']:3} {steps:5} {rho:5.2f}  {row['dice']:.4f}  {low:.4f} - {high:.4f}  "
                f"{row['median_seconds']:.2f}",
                flush=True,
            )
            rows.append({"steps": steps, "rho": rho} | {k: row[k] for k in ("n", "dice", "interval", "structures")})
        results[title] = rows
    if arguments.model is None:
        print("written:", write_results("guidance", results).name)


if __name__ == "__main__":
    main()
