"""How few steps the published objective needs, beside ours and beside a student of it: Dice against steps and sampler.

    python benchmarks/bench_few_steps.py --prepare          draws the hearts to train on, once
    python benchmarks/bench_few_steps.py --train published ours --minutes 0.8 --measure       on a GPU, a few minutes
    python benchmarks/bench_few_steps.py --train student --minutes 4    of the published one: `diffatlas distill`
    python benchmarks/bench_few_steps.py --measure [--cases 6] [--long 2]      measures those that are there
    python benchmarks/bench_few_steps.py --quick            tiny, to see that it runs

No checkpoint of the authors can be had everywhere, so small networks are trained on digital hearts in MR, on 32^3
voxels of 5 mm: one with the published objective and network, one with our objective and network, both on the same
cases, and one of our networks from the answers of the first, without labels. They stay in runs/few-steps, with the
prepared hearts (cases.safetensors, which another machine can be given), and another call trains on. All are told one
region about the middle, so that no search comes into it. rho is the guidance noise, 1 as published; ddpm draws it anew
at every step, as published, the other samplers once. Runs of 50 and 300 steps are made on fewer cases (``--long``).
Writes benchmarks/results/few-steps.json after every row; a row that stands there for the same weights is not measured
again.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import ROOT, hearts, read_results, write_results

from diffatlas.distill import distill, images_in, settings
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.io import write_volume
from diffatlas.metrics import dice
from diffatlas.models.store import file_sha256, load_model, read_card
from diffatlas.session import segment
from diffatlas.train import run
from diffatlas.train.config import load_config
from diffatlas.train.prepared import _prepare

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


@dataclass
class Bench:
    """``folder``: where networks and hearts lie; ``shared``: settings of all networks; ``networks``: of each."""

    folder: Path = FOLDER
    shared: dict[str, Any] = field(default_factory=lambda: SHARED)
    networks: dict[str, dict[str, Any]] = field(default_factory=lambda: CONFIGS)
    ours: dict[str, Any] = field(default_factory=lambda: OURS)
    taught: int = TAUGHT
    steps: Sequence[int] = STEPS
    long: Sequence[int] = LONG

    def config(self, name: str, threads: int | None = None) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.yaml"
        own = {"name": f"few-steps-{name}", "run_folder": f"{name}-run", "export": name, "threads": threads}
        text = yaml.safe_dump(self.shared | self.networks[name] | own, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    def prepare(self) -> None:
        """Draw the hearts, where they are not there yet."""
        config = load_config(self.config("ours"))
        if not config.data.cache.is_file():
            _prepare(config.data, config.space)

    def train(self, name: str, minutes: float, threads: int | None) -> None:
        """Train one of the networks on for ``minutes``."""
        if name != "student":
            run(self.config(name, threads), minutes=minutes)
            return
        teacher = str(self.folder / "published")
        kept = ("steps", "batch", "learning_rate", "decay", "ema", "validate_every")
        more = {key: self.shared[key] for key in kept}
        more |= {"network": self.ours, "data": {"holdout": max(1, self.taught // 8)}, "threads": threads}
        path = self.folder / "student.yaml"
        path.write_text(yaml.safe_dump(more, sort_keys=False), encoding="utf-8")
        folder = self.folder / "hearts"
        folder.mkdir(exist_ok=True)
        for case, volume, _ in hearts("mr", self.taught, 500_000):
            if not (folder / f"{case}.nii.gz").exists():
                write_volume(volume, folder / f"{case}.nii.gz")
        images, _ = images_in([folder], self.folder / "student-run")
        request = Request(model=teacher, roi=REGION, **ASKED)  # type: ignore[arg-type]
        card = read_card(self.folder / "published")
        config = settings(card, self.taught, self.folder / "student", request, path, [])
        distill(teacher, images, config, request, minutes)

    def rows(self, name: str) -> list[tuple[str, float, int, bool]]:
        """(sampler, rho, steps, whether on all cases) of a network's rows, the short runs first."""
        levels = RHO if name == "published" else (0.0, 1.0)
        rows = [(s, r, n, True) for n in self.steps for s, r in product(SAMPLERS, levels)]
        return rows + [(s, r, n, False) for n in self.long for s, r in (("ddim", 0.0), ("ddim", 1.0), ("ddpm", 1.0))]

    def measure(self, results: dict[str, Any], cases: int, long: int, keep: bool) -> None:
        """Every row that does not stand in ``results`` for the same weights; ``keep``: write after each."""
        seen = list(hearts("mr", cases, 800_000))
        for name in (*self.networks, "student"):
            folder = self.folder / name
            if not (folder / "model.safetensors").is_file():
                print(f"{name}: not trained yet, see --help")
                continue
            weights = file_sha256(folder / "model.safetensors")
            if results.get(name, {}).get("weights") != weights:
                model = load_model(folder)
                millions = sum(p.numel() for p in model.network.parameters()) / 1e6
                made = {key: model.card.training[key] for key in ("updates", "steps") if key in model.card.training}
                results[name] = {"weights": weights, "parameters_million": round(millions, 2), **made, "rows": {}}
            rows = results[name]["rows"]
            for sampler, rho, steps, all_cases in self.rows(name):
                key = f"{sampler}, {rho:g}, {steps}"
                if key in rows:
                    continue
                request = Request(
                    model=str(folder), sampler=sampler, steps=steps, guidance_noise=rho, roi=REGION  # type: ignore[arg-type]
                )  # fmt: skip
                row = scores(seen if all_cases else seen[:long], request)
                rows[key] = {"sampler": sampler, "rho": rho, "steps": steps, **row}
                print(f"{name:10} {key:20} n = {row['n']}  {row['dice']:.4f}  {row['median_s']:.2f} s", flush=True)
                if keep:
                    write_results("few-steps", results)


def scores(cases: Sequence[tuple[str, Volume, LabelMap]], request: Request) -> dict[str, Any]:
    """Mean Dice of the structures, of each case and of all, and the median seconds of a case."""
    found, seconds = {}, []
    for name, volume, truth in cases:
        begin = time.perf_counter()
        labels = segment(volume, request).labels
        seconds.append(time.perf_counter() - begin)
        pairs = [dice(labels.data == k, truth.data == k) for k in range(1, len(truth.scheme) + 1)]
        found[name] = round(float(np.nanmean(pairs)), 4)
    mean = round(statistics.mean(found.values()), 4)
    return {"n": len(found), "dice": mean, "median_s": round(statistics.median(seconds), 3), "cases": found}


def quick(folder: Path) -> Bench:
    """As small as can be: that it runs, not what it finds."""
    space = SHARED["space"] | {"shape": [16, 16, 16], "spacing_mm": [10, 10, 10], "sdf_clip_mm": 40}
    data = SHARED["data"] | {"cases": 3, "holdout": 1}
    ours = {"kind": "atlas-unet", "widths": [8, 16], "blocks": 1, "embedding": 16}
    published = {"kind": "published-unet", "dim": 8, "multipliers": [1, 2], "heads": 2, "head_size": 8}
    networks = {name: CONFIGS[name] | {"network": net} for name, net in (("published", published), ("ours", ours))}
    shared = SHARED | {"space": space, "data": data, "steps": 3, "batch": 2, "precision": "fp32"}
    return Bench(folder, shared, networks, ours, taught=3, steps=(1, 2), long=(3,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="draw the hearts to train on")
    parser.add_argument("--train", nargs="+", choices=(*CONFIGS, "student"), default=[], help="train these networks")
    parser.add_argument("--minutes", type=float, default=6, help="of training, each")
    parser.add_argument("--updates", type=int, default=SHARED["steps"], help="after which the learning rate is zero")
    parser.add_argument("--batch", type=int, default=SHARED["batch"])
    parser.add_argument("--threads", type=int, help="of the processor, for training")
    parser.add_argument("--measure", action="store_true", help="measure the networks that are there")
    parser.add_argument("--cases", type=int, default=6, help="hearts that were never trained on")
    parser.add_argument("--long", type=int, default=2, help="of these, for the runs of 50 and 300 steps")
    parser.add_argument("--output", type=Path, help="a copy of the results")
    parser.add_argument("--quick", action="store_true", help="tiny; writes no results")
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            small = quick(Path(folder))
            small.prepare()
            for name in CONFIGS:
                small.train(name, 1, arguments.threads)
            small.measure({}, 1, 1, keep=False)
        return
    bench = Bench(shared=SHARED | {"steps": arguments.updates, "batch": arguments.batch})
    if arguments.prepare:
        bench.prepare()
    for name in arguments.train:
        bench.train(name, arguments.minutes, arguments.threads)
    if arguments.measure:
        bench.measure(read_results("few-steps"), arguments.cases, arguments.long, keep=True)
        if arguments.output:
            shutil.copyfile(ROOT / "benchmarks" / "results" / "few-steps.json", arguments.output)


if __name__ == "__main__":
    main()
