"""Speed on one GPU, in under two minutes: shipped models, samples in one batch, the published network, training.

    python benchmarks/bench_gpu.py [--published CHECKOUT] [--output FILE] [--commit NAME] [--only PART ...]
    python benchmarks/bench_gpu.py --quick      small and on any machine, to see that it runs; writes no results

Needs torch, numpy, scipy, pydantic, nibabel, isal, PyYAML and safetensors (training also lightning-fabric and Pillow;
``--published``, a clone of the authors' repository, einops, einops-exts and rotary-embedding-torch). The program need
not be installed: ``core`` beside this folder is taken. Figures are written after each one, to
benchmarks/results/gpu.json or ``--output``, and every part has a time of its own, so that a run that is cut off leaves
what it had. ``python benchmarks/tables.py`` puts them into docs/performance.md.

fp32 means what the program does by that name: convolutions in TF32 where the card has it, as PyTorch does by itself,
all else in float32.
"""

from __future__ import annotations

import time

BEGIN = time.monotonic()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

# What "precision auto" finds is measured, not remembered from another day.
os.environ["DIFFATLAS_CACHE"] = tempfile.mkdtemp(prefix="diffatlas-gpu-")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from common import ROOT  # noqa: E402
from common_gpu import Record, against_roofline, ceilings, head, spread, timed, wait  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from diffatlas.engine.device import Compute, has_bf16  # noqa: E402
from diffatlas.engine.placement import place  # noqa: E402
from diffatlas.engine.request import Request  # noqa: E402
from diffatlas.engine.walk import Walk, denoiser_of, one_step  # noqa: E402
from diffatlas.geometry.distance import distances_to_labels  # noqa: E402
from diffatlas.geometry.resample import image_to_model, labels_to_model  # noqa: E402
from diffatlas.geometry.volume import Volume  # noqa: E402
from diffatlas.metrics import dice  # noqa: E402
from diffatlas.models.store import load_model, read_card  # noqa: E402
from diffatlas.published.network import PublishedUNet  # noqa: E402
from diffatlas.session import EXAMPLE_REGION, example, plan, segment, stream  # noqa: E402

MODELS = ("heart-phantom", "hippocampus-mri")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Seconds of each part at most; together less than the whole may take.
LIMITS = {"ceilings": 15, "model": 25, "samples": 14, "published": 25, "training": 25, "levers": 15}


class Bench:
    """What the parts share. ``quick``: as small as can be."""

    def __init__(self, record: Record, device: torch.device, quick: bool) -> None:
        self.record, self.device, self.quick = record, device, quick
        self.repeats = 1 if quick else 5
        self.rates: dict[str, float] = {}
        self.precisions = ("fp32", "bf16") if has_bf16(device) and not quick else ("fp32",)

    def volume(self, model: str) -> tuple[Volume, Request]:
        """An image of the kind that the model knows, and a request for its place: the digital heart with its region, or
        an image that the model draws from its own atlas."""
        request = Request(model=model, device=self.device.type, precision="fp32")  # type: ignore[arg-type]
        if model == "heart-phantom":
            return example("heart-ct")[0], replace(request, roi=EXAMPLE_REGION)
        drawn = segment(None, replace(request, task="generate", guidance="none", seed=3, steps=2 if self.quick else 12))
        return replace(drawn.images[0], modality="mr"), request

    # -- parts -----------------------------------------------------------------------------------------------------

    def ceilings(self, out: dict[str, Any]) -> None:
        for name, rate in ceilings(self.device, self.quick):
            out[name] = self.rates[name] = rate
            self.record.save()

    def model(self, out: dict[str, Any], name: str) -> None:
        """Presets, a pass, frames a second, and agreement with the processor."""
        volume, request = self.volume(name)
        model = load_model(name)
        begin = time.perf_counter()
        labels = {"fp32": segment(volume, request).labels.data}
        out["first_run_s"] = round(time.perf_counter() - begin, 3)
        if not self.quick:
            before = time.perf_counter()
            out["auto_takes"] = Compute.of(replace(request, precision="auto"), model).provenance()["precision"]
            out["auto_asks_s"] = round(time.perf_counter() - before, 3)
        shape = (1 + len(model.card.scheme), *model.card.space.shape)
        for precision in self.precisions:
            asked = replace(request, precision=precision)  # type: ignore[arg-type]
            row: dict[str, Any] = out.setdefault(precision, {})
            row["fast"] = timed(lambda asked=asked: segment(volume, asked), self.device, self.repeats)  # type: ignore[misc]
            labels[precision] = segment(volume, asked).labels.data
            self.record.save()
            compute = Compute(self.device, DTYPES[precision])
            denoiser = denoiser_of(model, plan(volume, asked), compute)
            for batch in (1,) if self.quick else (1, 8):
                x, t = torch.randn(batch, *shape, device=self.device), torch.ones(batch, device=self.device)
                once = torch.no_grad()(lambda d=denoiser, x=x, t=t: d(x, torch.zeros_like(t), t))
                row[f"pass of {batch}"] = took = timed(once, self.device, 4 * self.repeats, warm=3)
                took |= against_roofline(once, took["median_s"], self.rates)
                self.record.save()
            row["watch"], row["frames_s"] = self.watched(volume, replace(asked, preset="watch"))
            self.record.save()
        there = segment(volume, replace(request, device="cpu")).labels.data
        out["agreement"] = {
            f"{precision} with the processor": agreement(found, there, len(model.card.scheme))
            for precision, found in labels.items()
        }

    def watched(self, volume: Volume, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
        """Seconds of runs of preset watch; frames a second between their first and their last but one."""
        asked = replace(request, steps=3) if self.quick else request
        seconds, rates = [], []
        for turn in range(1 if self.quick else 4):
            begin = time.perf_counter()
            times = [time.perf_counter() for _ in stream(volume, asked)]
            if turn or self.quick:
                seconds.append(times[-1] - begin)
                rates.append((len(times) - 2) / (times[-2] - times[0]))
        return spread(seconds), {"median": round(float(np.median(rates)), 1), "aim": 30}

    def samples(self, out: dict[str, Any]) -> None:
        """Eight samples in one batch and one by one, and how many voxels of their labels differ."""
        count = 2 if self.quick else 8
        volume, request = self.volume("heart-phantom")
        model = load_model("heart-phantom")
        planned = plan(volume, replace(request, samples=count, guidance_noise=0.5, steps=2 if self.quick else 10))
        for precision in self.precisions:
            compute = Compute(self.device, DTYPES[precision])
            placement = place(planned, volume, one_step(model, planned, compute))
            denoiser, found = denoiser_of(model, planned, compute), {}
            row: dict[str, Any] = {}
            for title, batch in (("one by one", 1), ("in one batch", count)):

                def walk(size: int = batch, d: Any = denoiser, c: Compute = compute, p: Any = placement) -> Any:
                    walk = Walk(planned, p, None, d, c, batch=size)
                    return [np.stack([distances for _, distances in step.pairs]) for step in walk][-1]

                row[title] = timed(walk, self.device, 1 if self.quick else 3, warm=0 if self.quick else 1)
                found[title] = np.stack([distances_to_labels(one) for one in walk()])
            one, many = found["one by one"], found["in one batch"]
            row["times_faster"] = round(row["one by one"]["median_s"] / row["in one batch"]["median_s"], 2)
            row["agreement"] = agreement(many, one, len(model.card.scheme))
            row["samples"], row["steps"] = count, planned.steps
            row["agreement of two seeds"] = agreement(one[1], one[0], len(model.card.scheme))
            out[precision] = row
            self.record.save()

    def published(self, out: dict[str, Any], checkout: Path | None) -> None:
        """A step at the published size: ours, and the authors' code with the same weights."""
        from common_published import authors_network, inputs, twin

        dim, edge = (8, 16) if self.quick else (64, 64)
        torch.manual_seed(0)
        theirs = None if checkout is None else authors_network(checkout, dim).to(self.device)
        network = PublishedUNet(dim=dim).eval().requires_grad_(False) if theirs is None else twin(theirs, dim)
        ours = network.to(self.device)
        x, t = (tensor.to(self.device) for tensor in inputs(edge))
        answers = {}
        for precision in self.precisions:
            row: dict[str, Any] = out.setdefault(precision, {})
            for title, one in (("ours", ours), ("authors", theirs)):
                if one is None:
                    continue

                @torch.no_grad()
                def step(one: Any = one, bf16: bool = precision == "bf16") -> torch.Tensor:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                        answer: torch.Tensor = one(x, t)
                        return answer

                answers[title, precision] = step().float()
                row[title] = took = timed(step, self.device, 1 if self.quick else 8)
                row[title]["steps_300_s, extrapolated"] = round(300 * took["median_s"], 2)
                if title == "ours":
                    row[title] |= against_roofline(step, took["median_s"], self.rates)
                self.record.save()
            if theirs is not None:
                row["times_faster"] = round(row["authors"]["median_s"] / row["ours"]["median_s"], 2)
                row["largest_difference"] = float((answers["ours", precision] - answers["authors", "fp32"]).abs().max())
                row["output_deviation"] = float(answers["authors", "fp32"].std())
                self.record.save()

    def training(self, out: dict[str, Any]) -> None:
        """Updates a second of the heart model's network, our objective, digital hearts."""
        from diffatlas.train.loop import advance
        from diffatlas.train.state import Run

        data = hearts_in_memory(2 if self.quick else 4, self.quick)
        for batch in (2,) if self.quick else (4, 16):
            for precision in self.precisions:
                with tempfile.TemporaryDirectory() as folder:
                    run = Run(training_config(Path(folder), batch, precision, self.device.type, self.quick))
                    counted, begin = 0, 0.0
                    for update in range(2 if self.quick else 33):
                        if update == (1 if self.quick else 3):
                            wait(self.device)
                            begin = time.perf_counter()
                        advance(run, data)
                        counted += begin > 0
                        if begin and time.perf_counter() - begin > 4:
                            break
                    wait(self.device)
                    seconds = time.perf_counter() - begin
                row = {"updates": counted, "updates_s": round(counted / seconds, 2)}
                row["samples_s"] = round(batch * counted / seconds, 1)
                if self.device.type == "cuda":
                    row["peak_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
                    torch.cuda.reset_peak_memory_stats(self.device)
                run.meter.gather()
                row["finite"] = run.meter.finite
                out[f"batch {batch}, {precision}"] = row
                self.record.save()

    def levers(self, out: dict[str, Any]) -> None:
        """What else a pass of the heart model could be: another memory layout, tuned kernels, a graph."""
        model = load_model("heart-phantom")
        network = model.on(self.device)
        shape = (1 + len(model.card.scheme), *model.card.space.shape)
        for batch in (1,) if self.quick else (1, 8):
            x, t = torch.randn(batch, *shape, device=self.device), torch.ones(batch, device=self.device)
            for precision in self.precisions:
                dtype = DTYPES[precision]

                @torch.no_grad()
                def once(net: Any = network, x: Any = x, t: Any = t, half: bool = dtype == torch.bfloat16) -> Any:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                        return net(x, torch.zeros_like(t), t)

                name = f"{precision}, batch {batch}"
                row: dict[str, Any] = out.setdefault(name, {})
                row["as it is"] = timed(once, self.device, self.repeats, warm=2)
                self.record.save()
                if self.device.type == "cuda":
                    row["in a CUDA graph"] = timed(graph(once), self.device, self.repeats, warm=2)
                    self.record.save()
                plain = load_copy("heart-phantom").to(self.device)
                plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                row["channels first"] = timed(lambda n=plain, o=once: o(n), self.device, self.repeats, warm=2)  # type: ignore[misc]
                if self.device.type == "cuda":
                    torch.backends.cudnn.benchmark = True
                    try:
                        row["kernels tuned"] = timed(once, self.device, self.repeats, warm=2)
                        row["channels first, kernels tuned"] = timed(
                            lambda n=plain, o=once: o(n), self.device, self.repeats, warm=2  # type: ignore[misc]
                        )  # fmt: skip
                    finally:
                        torch.backends.cudnn.benchmark = False
                self.record.save()


def load_copy(name: str) -> torch.nn.Module:
    """A network of a model's own, with its weights."""
    import copy

    return copy.deepcopy(load_model(name).network)


def graph(work: Callable[[], Any]) -> Callable[[], None]:
    """``work`` recorded as a CUDA graph, to be played again."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        work()
    return recorded.replay


def agreement(found: NDArray[np.uint8], expected: NDArray[np.uint8], structures: int) -> dict[str, Any]:
    """Mean Dice of the structures, and the share of voxels with another label."""
    scores = [dice(found == k, expected == k) for k in range(1, structures + 1)]
    return {"dice": round(float(np.nanmean(scores)), 6), "voxels_that_differ": float((found != expected).mean())}


def hearts_in_memory(count: int, quick: bool) -> Any:
    """Digital hearts in the heart model's space, with a margin of four voxels a side, as a training prepares them."""
    from diffatlas.data.resample import with_margin
    from diffatlas.train.prepared import REACH, Prepared

    space = with_margin(read_card_of("heart-phantom").space, 4)
    if quick:
        space = replace(space, shape=(24, 24, 24), spacing_mm=(8.0, 8.0, 8.0))
    images, distances = [], []
    for seed in range(count):
        volume, labels = example("heart-ct", seed=900_000 + seed)
        grid = space.place(volume.grid, EXAMPLE_REGION)
        seen = image_to_model(volume, grid, space.window_for("ct")).image
        far = labels_to_model(labels, grid, REACH * space.sdf_clip_mm) / (REACH * space.sdf_clip_mm)
        images.append(torch.from_numpy(np.round((seen + 1) * 127.5).astype(np.uint8))[None])
        distances.append(torch.from_numpy(np.round(far * 127).astype(np.int8)))
    return Prepared(torch.stack(images), torch.stack(distances), tuple(f"heart-{i}" for i in range(count)))


def read_card_of(name: str) -> Any:
    from diffatlas.models.store import find_model

    return read_card(find_model(name))


def training_config(folder: Path, batch: int, precision: str, device: str, quick: bool) -> Any:
    """The training of the heart model's network, as far as speed goes."""
    from diffatlas.train.config import TrainConfig

    card = read_card_of("heart-phantom")
    space = card.space.to_json()
    network = dict(card.architecture)
    if quick:
        space |= {"shape": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]}
        network |= {"widths": [8, 16], "blocks": 1}
    return TrainConfig.model_validate(
        {
            "name": "speed", "title": "speed", "summary": "speed", "licence": "none", "intended_use": "benchmarks",
            "data_note": "digital hearts", "limits": ["none"], "space": space, "network": network, "batch": batch,
            "precision": precision, "accelerator": device, "steps": 1000, "run_folder": folder / "run",
            "export": folder / "model",
            "data": {"source": "phantom", "scheme": "mmwhs", "cache": folder / "none.safetensors"},
        }
    )  # fmt: skip


def main() -> int:
    parts = ("ceilings", *MODELS, "samples", "published", "training", "levers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, on any machine, to see that it runs")
    parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="a clone of the authors' repository")
    parser.add_argument("--output", type=Path, help="where the figures go instead of benchmarks/results/gpu.json")
    parser.add_argument("--commit", default="", help="of this checkout, where git cannot say it")
    parser.add_argument("--seconds", type=float, help="of all parts together, from the start (105; quick: 300)")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    if not arguments.quick and not torch.cuda.is_available():
        parser.exit(2, "bench_gpu.py: no CUDA device here; --quick runs on any machine\n")
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.quick else "cpu")
    output = arguments.output or (None if arguments.quick else ROOT / "benchmarks" / "results" / "gpu.json")
    limit_s = arguments.seconds or (300 if arguments.quick else 105)
    record = Record(output, head(device, arguments.commit), limit_s, BEGIN)
    record.results["imports_s"] = round(time.monotonic() - BEGIN, 1)
    bench = Bench(record, device, arguments.quick)
    measure: dict[str, Callable[[dict[str, Any]], None]] = {
        "ceilings": bench.ceilings,
        **{name: lambda out, name=name: bench.model(out, name) for name in MODELS},  # type: ignore[misc]
        "samples": bench.samples,
        "published": lambda out: bench.published(out, arguments.published),
        "training": bench.training,
        "levers": bench.levers,
    }
    for name in parts:
        if name in arguments.only:
            with record.part(name, LIMITS.get(name, LIMITS["model"]) * (3 if arguments.quick else 1)) as out:
                measure[name](out)
    print(f"all: {time.monotonic() - BEGIN:.0f} s", flush=True)
    return int(record.failed)


if __name__ == "__main__":
    sys.exit(main())
