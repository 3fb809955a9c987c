"""A distilled student beside its teacher: Dice with the truth and with each other, and the time of a call.

    python benchmarks/bench_distill.py [--minutes 10] [--threads N]     distil hippocampus-mri, then measure
    python benchmarks/bench_distill.py --student DIR                    measure one that is there; nothing is written

The teacher answers the training cases but for the 16 of "holdout", on which both are then measured with preset fast;
those labels taught neither (the teacher's own training chose settings by them). Calls of the two networks alternate.
The run stays in runs/, and another call trains on. Writes benchmarks/results/distill.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_accuracy import measure
from common import HIPPOCAMPUS_DATA, ROOT, hippocampus, write_results

from diffatlas.distill import AGREEMENT, distill, images_in, settings
from diffatlas.engine.request import Request
from diffatlas.metrics import compare
from diffatlas.models.store import Model, load_model
from diffatlas.session import segment

TEACHER = "hippocampus-mri"
OUTPUT = ROOT / "runs" / "hippocampus-small"
STUDENT: dict[str, Any] = {
    "network": {"widths": [24, 48, 96], "blocks": 1, "embedding": 96},
    "steps": 1000,
    "batch": 4,
    "warmup": 30,
    "decay": 0.6,
    "learning_rate": 2e-3,
    "ema": 0.99,
    "validate_every": 0,
    "augment": {"rotate_degrees": 10, "scale": 0.1, "shift_mm": 3, "elastic_mm": 0, "bias": 0, "blur": 0},
    "objective": {"one_step": 0.5, "recycled": 0.3, "conditional": 0.05, "shared": 0.1, "paint": 0.05},
}


def distilled(minutes: float, threads: int | None) -> Path:
    """The student's folder, taught for ``minutes``."""
    names = json.loads((HIPPOCAMPUS_DATA / "split.json").read_text())["train"][:-16]
    images, _ = images_in([HIPPOCAMPUS_DATA / "images" / f"{name}.nii.gz" for name in names], OUTPUT)
    OUTPUT.parent.mkdir(exist_ok=True)
    path = OUTPUT.parent / "hippocampus-small.yaml"
    path.write_text(yaml.safe_dump(STUDENT | {"threads": threads}), encoding="utf-8")
    request = Request(model=TEACHER)
    config = settings(load_model(TEACHER).card, len(images), OUTPUT, request, path, [])
    distill(TEACHER, images, config, request, minutes)
    return OUTPUT


@torch.inference_mode()
def calls(models: dict[str, Model], repeat: int = 15) -> dict[str, dict[str, float]]:
    """Median seconds of one pass of each network, of the clock and of the processors; they take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(repeat + 2):
        for name, model in models.items():
            x, t = torch.randn(1, 1 + len(model.card.scheme), *model.card.space.shape), torch.ones(1)
            clock, processors = time.perf_counter(), time.process_time()
            model.network(x, torch.zeros(1), t)
            if turn >= 2:  # after warming up
                taken[name].append((time.perf_counter() - clock, time.process_time() - processors))
    return {
        name: {
            "seconds": statistics.median(a for a, _ in rows),
            "processor_seconds": statistics.median(b for _, b in rows),
            "parameters": sum(p.numel() for p in models[name].network.parameters()),
        }
        for name, rows in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of training; the teacher's answers come before")
    parser.add_argument("--threads", type=int, help="of the CPU, for training")
    parser.add_argument("--student", type=Path, help="measure this student and train none; nothing is written")
    arguments = parser.parse_args()
    if not HIPPOCAMPUS_DATA.is_dir():
        raise SystemExit(f"{HIPPOCAMPUS_DATA}: not here; needs cases of the Decathlon's Task04")
    student = arguments.student or distilled(arguments.minutes, arguments.threads)

    models = {"teacher": load_model(TEACHER), "student": load_model(student)}
    cases = list(hippocampus("holdout"))
    passes = calls(models)
    requests = {"teacher": Request(model=TEACHER), "student": Request(model=str(student))}
    results: dict[str, Any] = {}
    for name, request in requests.items():
        row = measure(cases, request)
        results[name] = {key: row[key] for key in ("n", "dice", "interval", "structures")} | passes[name]
        print(
            f"{name}: Dice {row['dice']:.4f} ({row['interval'][0]:.4f} to {row['interval'][1]:.4f}), n {row['n']}; "
            f"a pass {passes[name]['seconds']:.3f} s, {passes[name]['processor_seconds']:.3f} processor s, "
            f"{passes[name]['parameters'] / 1e6:.2f} M parameters"
        )
    together = [
        np.mean([row.dice for row in compare(pair[0], pair[1]).rows])
        for pair in ([segment(volume, r).labels for r in requests.values()] for _, volume, _ in cases)
    ]
    card = models["student"].card
    results["dice_with_each_other"] = round(float(np.mean(together)), 4)
    results["card"] = {"agreement": card.metrics.get(AGREEMENT), "training": card.training}
    results["times_fewer_processor_seconds"] = (
        passes["teacher"]["processor_seconds"] / passes["student"]["processor_seconds"]
    )
    print(
        f"with each other {results['dice_with_each_other']:.4f}; the student's pass takes "
        f"{results['times_fewer_processor_seconds']:.1f} times fewer processor seconds"
    )
    if arguments.student is None:
        print("written:", write_results("distill", results).name)


if __name__ == "__main__":
    main()
