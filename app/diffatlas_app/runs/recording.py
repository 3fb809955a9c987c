"""Recorded runs: a volume and the steps of one run on it in one small file, played back without engine or weights.

What a page shows while the model is loading, the queue is full or a GPU quota is used up. Image halves are kept in 5
bits, the noisy state not at all. `python -m diffatlas_app.runs.recording -o FILE` makes one; files in the package's
folder ``recorded`` and in the folder that ``DIFFATLAS_RECORDED`` names are offered.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas import io, session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure, Volume
from diffatlas.session import Frame, FrameMetrics, Result

SUFFIX = ".recorded.npz"
FOLDER = Path(__file__).resolve().parents[1] / "recorded"
LEVELS = 25
VOLUME_LEVELS = 20
STEPS = 5
# What numpy, zipfile and the two compressions raise on a file that is damaged or not a recording.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Recording:
    """``title``: for people. ``volume``: the image, in 5 bits; None for a pair drawn from the atlas. ``frames``: some
    steps of the run; the last has the result."""

    title: str
    volume: Volume | None
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Entry:
    """A recording on the disk; ``key`` is its file's name without the extension."""

    key: str
    title: str
    path: Path


def save(path: Path, recording: Recording) -> None:
    """Write a recording; its name must end in `SUFFIX`."""
    frames = recording.frames
    result = frames[-1].result
    assert result is not None
    about: dict[str, Any] = {
        "title": recording.title,
        "scheme": {"name": frames[0].scheme.name, "structures": [asdict(s) for s in frames[0].scheme.structures]},
        "affine": frames[0].grid.affine.tolist(),
        "total": frames[0].total,
        "index": [f.index for f in frames],
        "t": [f.t for f in frames],
        "metrics": [asdict(f.metrics) for f in frames],
        "report": result.report(),
        "all_metrics": [asdict(m) for m in result.metrics],
        "labels_affine": result.labels.grid.affine.tolist(),
    }
    images = np.stack([_bits(f.image, -1.0, 1.0, LEVELS) for f in frames])
    arrays: dict[str, NDArray[Any]] = {
        # Differences to the step before, modulo 256, are smaller when they are packed.
        "image": np.concatenate([images[:1], np.diff(images, axis=0)]),
        "labels": np.stack([f.labels for f in frames]),
        "result": result.labels.data,
    }
    if recording.volume is not None:
        volume = recording.volume
        low, high = (float(v) for v in np.percentile(volume.data, (0.5, 99.5)))
        about["volume"] = {
            "name": volume.name,
            "modality": volume.modality,
            "affine": volume.grid.affine.tolist(),
            "low": low,
            "high": max(high, low + 1e-6),
        }
        arrays["volume"] = _bits(volume.data, low, max(high, low + 1e-6), VOLUME_LEVELS)
    arrays["about"] = np.frombuffer(json.dumps(about, allow_nan=False).encode("utf-8"), np.uint8)
    # As numpy's npz, with the better packing that zip files know.
    with io.atomic_path(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_LZMA) as packed:
        for name, array in arrays.items():
            with packed.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load(path: Path) -> Recording:
    """Read what `save` wrote; `BadInput` on anything else. The result is cached by file."""
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{path.name}: is not a recorded run of this program ({type(error).__name__})") from error


@lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int) -> Recording:
    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays["about"].tobytes())
        return _recording(about, arrays)
    except UNREADABLE as error:
        raise BadInput(f"{path.name}: is not a recorded run of this program ({type(error).__name__})") from error


def available() -> tuple[Entry, ...]:
    """The recordings at hand; a file that is not one is left out."""
    folders = [FOLDER]
    if os.environ.get("DIFFATLAS_RECORDED"):
        folders.append(Path(os.environ["DIFFATLAS_RECORDED"]))
    found = []
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.glob(f"*{SUFFIX}"))):
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                title = str(json.loads(file["about"].tobytes())["title"])
        except UNREADABLE:
            continue
        found.append(Entry(path.name.removesuffix(SUFFIX), title, path))
    return tuple(found)


def record(title: str, volume: Volume | None, request: Request, steps: int = STEPS) -> Recording:
    """Run ``request`` and keep ``steps`` of its frames, evenly spaced, first and last among them."""
    frames = list(session.stream(volume, request))
    chosen = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(steps, len(frames)))})
    return Recording(title, volume, tuple(frames[i] for i in chosen))


def _recording(about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Recording:
    structures = tuple(Structure(s["name"], int(s["id"]), tuple(s["color"])) for s in about["scheme"]["structures"])
    scheme = LabelScheme(about["scheme"]["name"], structures)
    images, masks = np.cumsum(arrays["image"], axis=0, dtype=np.uint8), arrays["labels"]
    shape = images.shape[1:]
    grid = Grid(shape, np.array(about["affine"]))
    volume = None
    if "volume" in about:
        facts, data = about["volume"], arrays["volume"]
        values = data.astype(np.float32) / VOLUME_LEVELS * (facts["high"] - facts["low"]) + facts["low"]
        volume = Volume(values, Grid(data.shape, np.array(facts["affine"])), facts["modality"], facts["name"])
    source = Grid(arrays["result"].shape, np.array(about["labels_affine"]))
    result = Result(
        labels=LabelMap(arrays["result"], source, scheme),
        confidence=None,
        metrics=tuple(FrameMetrics(**m) for m in about["all_metrics"]),
        provenance=about["report"]["provenance"],
        notes=tuple(about["report"]["notes"]),
    )
    last = len(images) - 1
    # A recording holds no distances: its pictures are made from the labels.
    no_sdf = np.broadcast_to(np.float32(0), (len(scheme), *shape))
    frames = []
    for i, (image, labels) in enumerate(zip(images, masks, strict=True)):
        shown = image.astype(np.float32) / LEVELS * 2 - 1
        frames.append(
            Frame(
                index=int(about["index"][i]),
                total=int(about["total"]),
                t=float(about["t"][i]),
                grid=grid,
                scheme=scheme,
                noisy_image=shown,
                image=shown,
                labels=labels,
                sdf=no_sdf,
                confidence=None,
                metrics=FrameMetrics(**about["metrics"][i]),
                result=result if i == last else None,
            )
        )
    return Recording(about["title"], volume, tuple(frames))


def _bits(data: NDArray[np.float32], low: float, high: float, levels: int) -> NDArray[np.uint8]:
    """``low`` to ``high`` as 0 to ``levels``."""
    return np.rint((np.clip(data, low, high) - low) / (high - low) * levels).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record a run of the engine: on an example, a file, or a pair drawn from the atlas."""
    parser = argparse.ArgumentParser(prog="python -m diffatlas_app.runs.recording", description=main.__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar=f"NAME{SUFFIX}")
    parser.add_argument("--title", required=True)
    parser.add_argument("--input", type=Path, help="a volume of your own")
    parser.add_argument("--example", choices=session.EXAMPLES)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--preset", default="watch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-kept", type=int, default=STEPS)
    given = parser.parse_args(arguments)
    if not given.output.name.endswith(SUFFIX):
        parser.error(f"--output must end in {SUFFIX}")
    volume = None
    if given.input is not None:
        volume = io.read_volume(given.input)
    elif given.example is not None:
        volume = session.example(given.example)[0]
    request = Request(
        task="generate" if volume is None else "segment",
        model=given.model,
        preset=given.preset,
        guidance="none" if volume is None else "image",
        seed=given.seed,
    )
    save(given.output, record(given.title, volume, request, given.steps_kept))
    print(f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
