"""Seconds and memory of the shipped models: the whole path, what it is made of, and how it grows.

    python benchmarks/bench_speed.py [--only start path network growth volume precision published] \
        [--published CHECKOUT]

``--published``: a checkout of the authors' code; a pass of its network is then timed in the same run. Every part can be
run alone, the others' figures are kept. Writes benchmarks/results/speed.json; ``python benchmarks/tables.py`` puts it
into docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import read_results, write_results
from common_speed import alternating, now, peak_mb, run_child, run_process, since, taken

HEART = "heart"
PYTHON = sys.executable


def heart_file(folder: Path) -> Path:
    """The digital heart of `diffatlas.session.example` as a file."""
    from diffatlas.io import write_volume
    from diffatlas.session import example

    path = folder / "heart.nii.gz"
    write_volume(example("heart-ct")[0], path)
    return path


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start() -> dict[str, Any]:
    """Processes from nothing: help, import, a whole command."""
    with tempfile.TemporaryDirectory() as name:
        source, labels = heart_file(Path(name)), Path(name) / "labels.nii.gz"
        commands: dict[str, list[str | Path]] = {
            "python alone": [PYTHON, "-c", "pass"],
            "import diffatlas": [PYTHON, "-c", "import diffatlas"],
            "diffatlas --help": [PYTHON, "-m", "diffatlas", "--help"],
            "diffatlas segment": [PYTHON, "-m", "diffatlas", "segment", source, "-o", labels, "--model", HEART],
        }
        out = {}
        for title, command in commands.items():
            runs = [run_process(command) for _ in range(3 if "segment" in title else 7)]
            out[title] = taken([(r["wall_s"], r["cpu_s"]) for r in runs])
    return out


def from_file_to_file(source: Path, target: Path) -> tuple[list[tuple[float, float]], Any]:
    """Times before and after reading, at the first frame, the last one, and when labels are written; the volume."""
    from diffatlas.engine.request import Request
    from diffatlas.io import read_volume, write_label_map
    from diffatlas.session import stream

    marks = [now()]
    volume = read_volume(source)
    marks.append(now())
    frames = stream(volume, Request(model=HEART))
    frame = next(frames)
    marks.append(now())
    frame = list(frames)[-1]
    marks.append(now())
    assert frame.result is not None
    write_label_map(frame.result.labels, target, header=volume.header)
    return [*marks, now()], volume


def child_path(repeats: int) -> dict[str, Any]:
    """Read, segment, write, with the model loaded; and the parts of it."""
    from diffatlas.engine.request import Request
    from diffatlas.session import load_model, stream

    load_model(HEART)
    parts: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        source, target = heart_file(Path(name)), Path(name) / "labels.nii.gz"
        for turn in range(repeats + 1):
            marks, volume = from_file_to_file(source, target)
            whole = volume.grid.shape
            middle = ((8, whole[0] - 8), (8, whole[1] - 8), (8, whole[2] - 8))
            begin = now()
            within = stream(volume, Request(model=HEART, roi=middle))
            next(within)
            placed = since(begin, now())
            within.close()  # type: ignore[attr-defined]
            if turn:
                names = ("read", "first frame, volume larger than the view", "other frames and labels", "write")
                for title, one, two in zip(names, marks[:-1], marks[1:], strict=True):
                    parts.setdefault(title, []).append(since(one, two))
                parts.setdefault("whole path", []).append(since(marks[0], marks[-1]))
                parts.setdefault("first frame, region given", []).append(placed)
    return {"model": HEART} | {title: taken(laps) for title, laps in parts.items()}


def ways_of_a_call(model: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The network by PyTorch's own choice of kernels, and as it is."""
    import torch

    from diffatlas.models import conv
    from diffatlas.models.store import load_model

    loaded = load_model(model)
    x = torch.randn(1, 1 + len(loaded.card.scheme), *loaded.card.space.shape)
    zero, one, chosen = torch.zeros(1), torch.ones(1), conv.onednn

    @torch.no_grad()
    def call() -> None:
        loaded.network(x, zero, one)

    def plain() -> None:
        conv.onednn = lambda x: False
        try:
            call()
        finally:
            conv.onednn = chosen

    return plain, call


def child_network(repeats: int) -> dict[str, Any]:
    """One call, in several ways that take turns."""
    import torch

    from diffatlas.engine.device import has_bf16

    out: dict[str, Any] = {}
    for model in (HEART, "hippocampus-mri"):
        plain, call = ways_of_a_call(model)

        def at(threads: int, way: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                with with_threads(threads):
                    way()

            return run

        def bf16(way: Callable[[], Any] = call) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                way()

        ways = {f"{title}, {n} thread{'s' * (n > 1)}": at(n, way) for n in (1, 2) for title, way in
                (("PyTorch's choice of kernels", plain), ("oneDNN by name", call))}  # fmt: skip
        if has_bf16(torch.device("cpu")):
            ways["bf16, 2 threads"] = at(2, bf16)
        out[model] = alternating(ways, repeats)
    return out


def child_waiting(repeats: int) -> dict[str, Any]:
    """One call with however OMP_WAIT_POLICY says that threads wait."""
    _, call = ways_of_a_call(HEART)
    return alternating({"call": call}, repeats)["call"]


def network(repeats: int) -> dict[str, Any]:
    out = run_child(__file__, "network", repeats)
    # A child each, in turn: the policy is read once, when torch is loaded.
    waits: dict[str, list[dict[str, Any]]] = {"active": [], "passive": []}
    for _ in range(2):
        for policy, rows in waits.items():
            rows.append(run_child(__file__, "waiting", repeats, OMP_WAIT_POLICY=policy))
    out["waiting threads"] = {
        policy: {key: round(float(np.median([row[key] for row in rows])), 4) for key in ("median_s", "cpu_s")}
        for policy, rows in waits.items()
    }
    return out


def child_grid(size: int, structures: int, batch: int) -> dict[str, Any]:
    """A call of the heart model's architecture on a grid of size^3 voxels; seconds a sample."""
    import torch

    from diffatlas.models.store import find_model, read_card
    from diffatlas.models.unet import AtlasUNet, channels_last

    arguments = dict(read_card(find_model(HEART)).architecture)
    arguments.pop("kind")
    net = channels_last(AtlasUNet(structures, **arguments)).eval()
    x, t = torch.randn(batch, 1 + structures, size, size, size), torch.ones(batch)
    with torch.no_grad():
        row = alternating({"call": lambda: net(x, t, t)}, 3)["call"]
    return row | {"median_s": round(row["median_s"] / batch, 4), "cpu_s": round(row["cpu_s"] / batch, 4)}


def child_run(samples: int, steps: int) -> dict[str, Any]:
    """A run on the example heart, region given, seconds."""
    from diffatlas.engine.request import Request
    from diffatlas.session import example, segment

    volume, _ = example("heart-ct")
    roi = ((8, 88), (8, 88), (8, 88))

    def run() -> None:
        segment(volume, Request(model=HEART, roi=roi, samples=samples, steps=steps))

    return alternating({"run": run}, 1)["run"]


def growth(repeats: int) -> dict[str, Any]:
    out: dict[str, Any] = {"grid": {}, "structures": {}, "batch": {}, "samples": {}, "steps": {}}
    for size in (32, 64, 96, 128, 192, 256):
        out["grid"][str(size)] = run_child(__file__, "grid", size, 5, 1)
    for structures in (1, 5, 20, 50):
        out["structures"][str(structures)] = run_child(__file__, "grid", 64, structures, 1)
    for batch in (1, 2, 4):
        out["batch"][str(batch)] = run_child(__file__, "grid", 64, 5, batch)
    for samples in (1, 2, 4, 8, 64):
        out["samples"][str(samples)] = run_child(__file__, "run", samples, 2)
    for steps in (1, 2, 4, 8, 16):
        out["steps"][str(steps)] = run_child(__file__, "run", 1, steps)
    return out


def child_volume(use: int, as_float: int) -> dict[str, Any]:
    """A run on a CT of 512 x 512 x 400 voxels, a chest, with the model loaded: from the file to the written labels.

    Stored as int16, as a scanner's numbers are, or as float32.
    """
    import nibabel
    from scipy import ndimage

    from diffatlas.engine.request import Request
    from diffatlas.geometry.grid import Grid
    from diffatlas.geometry.volume import Volume
    from diffatlas.io import write_volume
    from diffatlas.phantom import phantom
    from diffatlas.session import example, segment

    if not use:  # it is made by a process of its own, for the sake of the peak memory
        small, shape = (128, 128, 100), (512, 512, 400)
        chest, _ = phantom(7, "ct", Grid(small, centred(small, 4 * np.array(SPACING_MM))))
        noise = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
        values = np.rint(ndimage.zoom(chest.data, 4, order=1) + noise)
        affine = centred(shape, np.array(SPACING_MM))
        if as_float:
            write_volume(Volume(values, Grid(shape, affine), "ct"), LARGE)
        else:
            nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), LARGE)
        return {}
    segment(example("heart-ct")[0], Request(model=HEART))
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        marks, _ = from_file_to_file(LARGE, Path(name) / "labels.nii.gz")
    names = ("read", "first frame, with its search", "other frames, labels, confidence, hash", "write")
    for title, one, two in zip(names, marks[:-1], marks[1:], strict=True):
        out[title] = since(one, two)
    return out | {"all": since(marks[0], marks[-1])}


SPACING_MM = (0.7, 0.7, 0.75)
LARGE = Path(tempfile.gettempdir()) / "diffatlas-bench-large.nii.gz"


def centred(shape: tuple[int, int, int], spacing_mm: Any) -> Any:
    """The affine of a grid about the world's origin."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def volume(repeats: int) -> dict[str, Any]:
    """`child_volume` on a file of either type of numbers, and the peak memory."""
    out: dict[str, Any] = {}
    for as_float, title in enumerate(("int16", "float32")):
        try:
            run_child(__file__, "volume", 0, as_float)
            rows = [run_child(__file__, "volume", 1, as_float) for _ in range(min(repeats, 3))]
            size_mb = LARGE.stat().st_size / 1e6
        finally:
            LARGE.unlink(missing_ok=True)
        laps = {lap: taken([row[lap] for row in rows]) for lap in rows[0] if lap != "peak_mb"}
        out[title] = laps | {"peak_mb": rows[0]["peak_mb"], "file_mb": round(size_mb)}
    return out


def child_precision(count: int) -> dict[str, Any]:
    """Labels of both models in bf16 and fp32, ``count`` cases a set; a pass of each, and what `auto` makes of it."""
    import os

    import torch
    from common import hearts, hippocampus

    from diffatlas.engine import precision
    from diffatlas.engine.device import Compute, has_bf16
    from diffatlas.engine.request import Request
    from diffatlas.metrics import compare
    from diffatlas.session import load_model, segment

    if not has_bf16(torch.device("cpu")):
        return {}
    sets = {
        HEART: [case for modality in ("ct", "mr") for case in hearts(modality, count, 800_100)],
        "hippocampus-mri": list(hippocampus("holdout", 2 * count)),
    }
    out: dict[str, Any] = {}
    for name, cases in sets.items():
        model, same, gained = load_model(name), [], []
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DIFFATLAS_CACHE"] = folder
            begin = time.perf_counter()
            chosen = Compute.of(Request(model=name), model).provenance()["precision"]
            measuring_s = time.perf_counter() - begin
            (row,) = json.loads((Path(folder) / precision.FILE).read_text()).values()
        for _, image, truth in cases:
            plain, low = (segment(image, Request(model=name, precision=p)).labels for p in ("fp32", "bf16"))
            dice = [float(np.nanmean([r.dice for r in compare(a, b).rows]))
                    for a, b in ((low, plain), (low, truth), (plain, truth))]  # fmt: skip
            same.append(dice[0])
            gained.append(dice[1] - dice[2])
        out[name] = {
            "n": len(same),
            "dice": round(float(np.mean(same)), 5),
            "lowest": round(min(same), 5),
            "gained": round(float(np.mean(gained)), 5),
            "least": round(min(gained), 5),
            "fp32_ms": 1e3 * row["fp32_s"],
            "bf16_ms": 1e3 * row["bf16_s"],
            "auto": chosen,
            "measuring_s": round(measuring_s, 2),
        }
    return out


def published(checkout: Path, whole_path_s: float) -> dict[str, Any]:
    """A pass of the authors' network, without the rest of a step, and how many of our whole paths 300 of them take."""
    import torch
    from common_published import authors_network, inputs

    network, (x, t) = authors_network(checkout), inputs()
    with torch.no_grad():
        seconds = alternating({"pass": lambda: network(x, t)}, 2)["pass"]
    return seconds | {"whole_path_s": whole_path_s, "ratio": round(300 * seconds["median_s"] / whole_path_s)}


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "path": child_path,
    "network": child_network,
    "waiting": child_waiting,
    "grid": child_grid,
    "run": child_run,
    "volume": child_volume,
    "precision": child_precision,
}
PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "start": lambda repeats: start(),
    "path": lambda repeats: run_child(__file__, "path", repeats),
    "network": network,
    "growth": growth,
    "volume": volume,
    "precision": lambda repeats: run_child(__file__, "precision", 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "published"), default=(*PARTS, "published"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--published", type=Path, metavar="CHECKOUT", help="a checkout of the authors' code")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, *numbers = arguments.child
        print(json.dumps(CHILDREN[what](*map(int, numbers)) | {"peak_mb": peak_mb()}))
        return
    results = read_results("speed")
    for part, measure in PARTS.items():
        if part in arguments.only:
            begin = time.perf_counter()
            results[part] = measure(arguments.repeats)
            print(f"{part}: {time.perf_counter() - begin:.0f} s", flush=True)
            write_results("speed", results)
    if arguments.published and "published" in arguments.only:
        if importlib.util.find_spec("common_published") is None:
            print("published: left out, benchmarks/common_published.py is not here")
        else:
            results["published"] = published(arguments.published, results["path"]["whole path"]["median_s"])
            write_results("speed", results)
    from tables import speed_table

    print(speed_table(results))


if __name__ == "__main__":
    main()
