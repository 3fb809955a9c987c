"""How few steps the published objective needs, beside ours and beside a student of it: Dice against steps and sampler.

    python benchmarks/bench_few_steps.py --threads 1 --train published-ours --updates 1000
    python benchmarks/bench_few_steps.py --threads 1 --train ours --updates 985     the same arithmetic
    python benchmarks/bench_few_steps.py --threads 1 --train student --updates 300             `diffatlas distill`
    python benchmarks/bench_few_steps.py --threads 1 --measure [--cases 6] [--long 2]          those that are there
    python benchmarks/bench_few_steps.py --data acdc ...    the same on real hearts, where ../shared/data/hearts is
    python benchmarks/bench_few_steps.py --quick            tiny, to see that it runs

No checkpoint of the authors can be had everywhere, so small networks are trained, on 32^3 voxels of 5 mm, by default on
digital hearts in MR: "published", the published objective and network, which wants a GPU; "published-ours", the
published objective with a network of our kind; "ours", our objective and network, on the same cases; "student", one of
our networks that learns from the answers of the first of these that is there, without labels. To predict noise, a
network of ours needs patches of 1: with patches of 2 the noise of a patch fills its 48 channels. "acdc": cine MR of 40
patients, tested on the val patients at end-diastole; neither data nor weights leave runs/. All are told one region, so
that no search comes into it. rho is the guidance noise, 1 as published; ddpm draws it anew at every step, as published,
the other samplers once. Runs of 50 and 300 steps are made on fewer cases (``--long``). Networks and prepared hearts
stay in runs/few-steps, and another call trains on. Writes benchmarks/results/few-steps.json after every row; a row that
stands there for the same weights is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_hearts import DATA
from common import ROOT, hearts, interval, read_results, write_results
from numpy.typing import NDArray

from diffatlas.distill import distill, images_in, settings
from diffatlas.engine.request import Request
from diffatlas.evaluate.baselines import forward_and_backward_flop
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_volume, write_volume
from diffatlas.io.images import read_label_ids
from diffatlas.metrics import dice
from diffatlas.models.convention import convention_of
from diffatlas.models.store import file_sha256, load_model, read_card
from diffatlas.session import segment
from diffatlas.train import run
from diffatlas.train.config import load_config
from diffatlas.train.prepared import REACH, load_or_prepare

STEPS = (1, 2, 4, 8, 16)
LONG = (50, 300)
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
SAMPLERS = ("ddim", "dpmpp-2m", "ddpm")
RHO = (0.0, 0.5, 1.0)
FOLDER = ROOT / "runs" / "few-steps"
REGION = ((8, 88), (8, 88), (8, 88))
SHARED: dict[str, Any] = {
    "licence": "Apache-2.0",
    "intended_use": "benchmarks",
    "data_note": "for a benchmark: not to be given away",
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
    "pictures": False,
    "guidance_noise": 1.0,
}
ACDC = {
    "source": "folder",
    "path": str((DATA / "acdc").resolve()),
    "modalities": ["mr"],
    "structures": [
        {"name": "right ventricle", "id": 1},
        {"name": "myocardium", "id": 2},
        {"name": "left ventricle", "id": 3},
    ],
    "holdout": 8,
    "margin": 2,
    "cache": "cases.safetensors",
}
OURS = {"kind": "atlas-unet", "widths": [48, 96, 128], "blocks": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "published": {
        "task": "published",
        "title": "Small hearts, published objective",
        "summary": "A small published network, to measure samplers with.",
        "network": {"kind": "published-unet", "dim": 16, "multipliers": [1, 2, 4, 8], "heads": 2, "head_size": 16},
        "batch": 2,  # as its passes cost most, smaller batches for more updates
    },
    "published-ours": {
        "task": "published",
        "title": "Small hearts, published objective, our network",
        "summary": "The published objective with our network, to measure samplers with.",
        "network": {"kind": "atlas-unet", "widths": [24, 64, 96, 128], "blocks": 1, "patch": 1},
        "batch": 2,
        "learning_rate": 2e-3,
    },
    "ours": {
        "title": "Small hearts, two noise levels",
        "summary": "A small network with our objective, to compare with.",
        "network": OURS,
    },
}
# What the teacher is asked, and of how many hearts; its labels of them are all that the student learns from.
TAUGHT, ASKED = 64, {"steps": 16, "sampler": "ddpm", "guidance_noise": 1.0}


# A case: its name, the volume, and the labels [X, Y, Z], 0 or 1 + the place of the structure.
Case = tuple[str, Volume, NDArray[Any]]


def digital_hearts(count: int) -> list[Case]:
    return [(name, volume, labels.data) for name, volume, labels in hearts("mr", count, 800_000)]


def real_hearts(count: int) -> list[Case]:
    """End-diastole of the first ``count`` val patients."""
    found = []
    for name in json.loads((DATA / "split.json").read_text())["acdc"]["val"][::2][:count]:
        volume = read_volume(DATA / "acdc" / "images" / f"{name}.nii.gz")
        labels, _ = read_label_ids(DATA / "acdc" / "labels" / f"{name}.nii.gz")
        found.append((name, replace(volume, modality="mr"), labels))
    return found


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
    data: str = "digital"

    def config(self, name: str, threads: int | None = None) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.yaml"
        if self.data == "acdc":
            names = {"train": json.loads((DATA / "split.json").read_text())["acdc"]["train"]}
            (self.folder / "split.json").write_text(json.dumps(names))
        own = {"name": f"few-steps-{name}", "run_folder": f"{name}-run", "export": name, "threads": threads}
        text = yaml.safe_dump(self.shared | self.networks[name] | own, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    def prepare(self) -> None:
        """Draw the hearts, where they are not there yet."""
        config = load_config(self.config("ours"))
        load_or_prepare(config.data, config.space)

    def train(self, name: str, minutes: float | None, threads: int | None) -> None:
        """Train one of the networks on for ``minutes``."""
        if name != "student":
            run(self.config(name, threads), minutes=minutes)
            return
        teacher = self.teacher()
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
        request = Request(model=str(teacher), roi=REGION, **ASKED)  # type: ignore[arg-type]
        card = read_card(teacher)
        config = settings(card, self.taught, self.folder / "student", request, path, [])
        distill(str(teacher), images, config, request, minutes)

    def teacher(self) -> Path:
        """The first network of the published objective that is trained."""
        found = [name for name, network in self.networks.items() if network.get("task") == "published"]
        trained = [name for name in found if (self.folder / name / "model.safetensors").is_file()]
        if not trained:
            raise SystemExit(f"student: train one of {', '.join(found)} first, see --help")
        return self.folder / trained[0]

    def rows(self, name: str) -> list[tuple[str, float, int, bool]]:
        """(sampler, rho, steps, whether on all cases) of a network's rows, the short runs first."""
        levels = RHO if name.startswith("published") else (0.0, 1.0)
        rows = [(s, r, n, True) for n in self.steps for s, r in product(SAMPLERS, levels)]
        return rows + [(s, r, n, False) for n in self.long for s, r in (("ddim", 0.0), ("ddim", 1.0), ("ddpm", 1.0))]

    def measure(self, results: dict[str, Any], cases: int, long: int, keep: bool) -> None:
        """Every row that does not stand in ``results`` for the same weights; ``keep``: write after each."""
        seen = real_hearts(cases) if self.data == "acdc" else digital_hearts(cases)
        own = results.setdefault(self.data, {})
        for name in (*self.networks, "student"):
            folder = self.folder / name
            if not (folder / "model.safetensors").is_file():
                print(f"{name}: not trained yet, see --help")
                continue
            weights = file_sha256(folder / "model.safetensors")
            if own.get(name, {}).get("weights") != weights:
                own[name] = {"weights": weights, **self.trained(name), "rows": {}}
            if name != "student" and "denoised" not in own[name]:
                own[name]["denoised"] = self.denoised(name)
                print(f"{name:14} one pass on the truth, by level: {own[name]['denoised']}", flush=True)
            rows = own[name]["rows"]
            for sampler, rho, steps, all_cases in self.rows(name):
                key = f"{sampler}, {rho:g}, {steps}"
                if key in rows or not (all_cases or long):
                    continue
                request = Request(model=str(folder), sampler=sampler, steps=steps, guidance_noise=rho)  # type: ignore[arg-type]
                row = scores(seen if all_cases else seen[:long], request, self.data)
                rows[key] = {"sampler": sampler, "rho": rho, "steps": steps, **row}
                print(f"{name:14} {key:20} n = {row['n']}  {row['dice']:.4f}  {row['median_s']:.2f} s", flush=True)
                if keep:
                    write_results("few-steps", results)

    @torch.inference_mode()
    def denoised(self, name: str) -> dict[str, float]:
        """Mean Dice, by noise level t, of one pass on the truth of the cases held out, image and masks noised to t.

        What the network learnt, apart from whether a walk that begins with noise finds its way.
        """
        model, config = load_model(self.folder / name), load_config(self.folder / f"{name}.yaml")
        held = load_or_prepare(config.data, config.space)
        told = convention_of(model.card)
        denoise, schedule, reach = told.denoiser(model.network, "ddim"), told.schedule(), model.card.mask_range
        centre = tuple(
            slice((w - n) // 2, (w + n) // 2) for w, n in zip(held.image.shape[2:], config.space.shape, strict=True)
        )
        found: dict[str, float] = {}
        for level in LEVELS:
            t, values = torch.tensor([level]), []
            alpha, sigma = (float(a) for a in schedule(t))
            for case in range(len(held) - config.data.holdout, len(held)):
                image = held.image[case, :1][:, *centre].float() / 127.5 - 1
                mask = (held.sdf[case][:, *centre].float() * (REACH / 127)).clamp(-1, 1)
                x0 = torch.cat([image, mask * reach])[None]
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(case))
                answer = denoise(alpha * x0 + sigma * noise, t, t)
                labels, truth = distances_to_labels(answer[0, 1:].numpy()), distances_to_labels(mask.numpy())
                values.append(np.nanmean([dice(labels == k, truth == k) for k in range(1, len(mask) + 1)]))
            found[f"{level:g}"] = round(float(np.mean(values)), 4)
        return found

    def trained(self, name: str) -> dict[str, Any]:
        """What the training of a network took."""
        model = load_model(self.folder / name)
        config = load_config(self.folder / ("student-run/distill.yaml" if name == "student" else f"{name}.yaml"))
        updates = int(model.card.training["steps"])
        return {
            "parameters_million": round(sum(p.numel() for p in model.network.parameters()) / 1e6, 2),
            "updates": updates,
            "batch": config.batch,
            "tflop": round(updates * forward_and_backward_flop(config) / 1e12, 1),
        }


def scores(cases: Sequence[Case], request: Request, data: str) -> dict[str, Any]:
    """Mean Dice of the structures, of each case and of all with an interval, and the median seconds of a case."""
    found, seconds = {}, []
    for name, volume, truth in cases:
        region = REGION if data == "digital" else tuple((0, n) for n in truth.shape)
        begin = time.perf_counter()
        labels = segment(volume, replace(request, roi=region)).labels  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - begin)
        pairs = [dice(labels.data == k, truth == k) for k in range(1, len(labels.scheme) + 1)]
        found[name] = round(float(np.nanmean(pairs)), 4)
    low, high = interval(list(found.values()))
    return {
        "n": len(found),
        "dice": round(statistics.mean(found.values()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "median_s": round(statistics.median(seconds), 3),
        "cases": found,
    }


def quick(folder: Path) -> Bench:
    """As small as can be: that it runs, not what it finds."""
    space = SHARED["space"] | {"shape": [16, 16, 16], "spacing_mm": [10, 10, 10], "sdf_clip_mm": 40}
    data = SHARED["data"] | {"cases": 3, "holdout": 1}
    ours = {"kind": "atlas-unet", "widths": [8, 16], "blocks": 1, "embedding": 16}
    published = {"kind": "published-unet", "dim": 8, "multipliers": [1, 2], "heads": 2, "head_size": 8}
    sizes = {"published": published, "published-ours": ours | {"patch": 1}, "ours": ours}
    networks = {name: CONFIGS[name] | {"network": network} for name, network in sizes.items()}
    shared = SHARED | {"space": space, "data": data, "steps": 3, "batch": 2, "precision": "fp32"}
    return Bench(folder, shared, networks, ours, taught=3, steps=(2,), long=())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digital", "acdc"), default="digital", help="hearts to train and test on")
    parser.add_argument("--prepare", action="store_true", help="prepare the hearts to train on")
    parser.add_argument("--train", nargs="+", choices=(*CONFIGS, "student"), default=[], help="train these networks")
    parser.add_argument("--minutes", type=float, help="of training, each, at most")
    parser.add_argument("--updates", type=int, default=SHARED["steps"], help="after which the learning rate is zero")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--measure", action="store_true", help="measure the networks that are there")
    parser.add_argument("--cases", type=int, default=6, help="hearts that were never trained on")
    parser.add_argument("--long", type=int, default=2, help="of these, for runs of 50 and 300 steps; 0: none")
    parser.add_argument("--output", type=Path, help="a copy of the results")
    parser.add_argument("--quick", action="store_true", help="tiny; writes no results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            small = quick(Path(folder))
            for name in (*CONFIGS, "student"):
                small.train(name, None, arguments.threads)
            small.measure({}, 1, 1, keep=False)
        return
    bench = Bench(shared=SHARED | {"steps": arguments.updates})
    if arguments.data == "acdc":
        if not DATA.is_dir():
            raise SystemExit(f"{DATA}: not here; needs the real hearts")
        if "student" in arguments.train:
            parser.error("the student is taught by digital hearts alone")
        shared = bench.shared | {"data": ACDC | {"split": str(FOLDER.parent / "few-steps-acdc" / "split.json")}}
        bench = Bench(FOLDER.parent / "few-steps-acdc", shared, data="acdc")
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
