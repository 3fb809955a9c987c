"""Record the runs that the teaching site shows: `python tools/record_scenes.py`, about twenty minutes on one core.

Every picture of the site's scenes comes from here: digital hearts (no patient's data) and runs of `heart-phantom` on
them (of `heart` where a place is crossed out), written to ``app/diffatlas_app/static/learn/data``. Volumes are
[64, 64, 64] on the model's grid, cut into axial slices that lie as 8 x 8 tiles in one WebP picture: tile z, row y,
column x (`atlas_of`). Label maps are lossless, images (display only) are not. ``scenes.json`` holds every number.
`--only NAME` records one scene again.
"""

from __future__ import annotations

import argparse
import csv
import io as memory
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffatlas import io, metrics, session
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.phantom import default_grid, label_map, phantom, sample_anatomy
from diffatlas.session import Frame
from diffatlas_app.runs.brushed import DATA as FOLDER

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "benchmarks" / "results" / "samples.csv"
DOMAINS = ROOT / "benchmarks" / "results" / "phantom-domains.csv"
MODEL = "heart-phantom"
TELLABLE = ROOT / "weights" / "heart"  # has an input for where the image is not to be believed
# Far from every seed that training, choosing of settings and the reported figures draw from.
PATIENT, OTHER, REAL = 1_000_000, 1_000_007, 1_000_100
POPULATION_SEED, POPULATION = 1_000_200, 60
# Of forty steps: most of what happens, happens early.
KEPT = (0, 1, 2, 3, 4, 6, 8, 11, 15, 19, 24, 29, 34, 39)
RHO = tuple(i / 10 for i in range(11))
# Of WebP, for what the camera saw and for image halves.
QUALITY_SCAN, QUALITY_HALF = 38, 38

Labels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def atlas_of(volume: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[64, 64, 64] indexed x, y, z to [512, 512]: tile z (8 a row), within it row y, column x (`brushed.volume_of`)."""
    tiles = volume.transpose(2, 1, 0).reshape(8, 8, 64, 64)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3).reshape(512, 512))


class Recorder:
    """Writes pictures into ``folder`` and says what they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = session.model_card(MODEL)

    def labels(self, name: str, data: Labels) -> str:
        """A label map, lossless."""
        return self._write(name, data, lossless=True, quality=100)

    def image(self, name: str, data: Floats, quality: int) -> str:
        """An image half, [-1, 1] as 0 to 255."""
        return self._write(
            name, np.rint((data.clip(-1, 1) + 1) * 127.5).astype(np.uint8), lossless=False, quality=quality
        )

    def scan(self, name: str, volume: Volume, quality: int = QUALITY_SCAN) -> str:
        """A volume as the model sees it, in its window."""
        return self.image(name, windowed(volume, self.card), quality)

    def _write(self, name: str, data: NDArray[np.uint8], lossless: bool, quality: int) -> str:
        buffer = memory.BytesIO()
        picture = Image.fromarray(atlas_of(data)).convert("RGB")
        picture.save(buffer, "WEBP", lossless=lossless, quality=quality, method=6)
        with io.atomic_path(self.folder / f"{name}.webp") as part:
            part.write_bytes(buffer.getvalue())
        return name


def windowed(volume: Volume, card: session.ModelCard) -> Floats:
    """The voxels in the model's window, [-1, 1]."""
    low, high = card.space.window_for(volume.modality).limits(volume.data)
    return np.asarray((volume.data - low) / (high - low) * 2 - 1, dtype=np.float32).clip(-1, 1)


def patient(seed: int, modality: str = "ct") -> tuple[Volume, LabelMap]:
    """A digital heart on the model's own grid, the heart in its middle."""
    space = session.model_card(MODEL).space
    coarse = default_grid()
    inside = np.argwhere(label_map(sample_anatomy(seed), coarse).data > 0)
    middle = coarse.affine[:3, :3] @ ((inside.min(axis=0) + inside.max(axis=0)) / 2) + coarse.affine[:3, 3]
    affine = np.diag([*space.spacing_mm, 1.0])
    affine[:3, 3] = middle - (np.array(space.shape) - 1) / 2 * np.array(space.spacing_mm)
    volume, truth = phantom(seed, "mr" if modality == "mr" else "ct", Grid(space.shape, affine))
    return volume, truth


def scores(found: Labels, truth: Labels) -> list[float | None]:
    """Dice of every structure; None where both are empty."""
    values = [metrics.dice(found == k, truth == k) for k in range(1, 6)]
    return [None if np.isnan(v) else round(v, 4) for v in values]


def watch(volume: Volume | None, request: Request) -> Iterator[Frame]:
    """A run of the model that is recorded."""
    return session.stream(volume, replace(request, model=MODEL))


def end(volume: Volume | None, request: Request) -> Frame:
    """The last frame of a run."""
    return deque(watch(volume, request), maxlen=1)[0]


def walk(recorder: Recorder, name: str, volume: Volume, truth: LabelMap, request: Request) -> dict[str, Any]:
    """A whole run: numbers of every step, pictures of those in `KEPT`."""
    steps: list[dict[str, Any]] = []
    for frame in watch(volume, request):
        step: dict[str, Any] = {
            "t": round(frame.t, 4),
            "dice": scores(frame.labels, truth.data),
            "residual": None if frame.metrics.guidance_residual is None else round(frame.metrics.guidance_residual, 4),
            "ml": {n: round(v, 1) for n, v in frame.metrics.volumes_ml.items()},
        }
        if frame.index in KEPT:
            step["labels"] = recorder.labels(f"{name}-{frame.index:02d}-labels", frame.labels)
            step["image"] = recorder.image(f"{name}-{frame.index:02d}-image", frame.image, QUALITY_HALF)
        steps.append(step)
    return {"steps": steps, "kept": list(KEPT)}


# -- the scenes ------------------------------------------------------------------------------------------------------


def destroy(recorder: Recorder) -> dict[str, Any]:
    """Two patients, image and true mask."""
    out: dict[str, Any] = {}
    for key, seed in (("patient", PATIENT), ("other", OTHER)):
        volume, truth = patient(seed)
        out[key] = {
            "image": recorder.scan(key, volume),
            "labels": recorder.labels(f"{key}-truth", truth.data),
            "ml": {n: round(v, 1) for n, v in truth.volumes_ml().items()},
        }
    return out


def back(recorder: Recorder) -> dict[str, Any]:
    """The published guidance on the patient, forty steps."""
    volume, truth = patient(PATIENT)
    return walk(recorder, "guided", volume, truth, Request(preset="watch", guidance_noise=1.0))


def unguided(recorder: Recorder) -> dict[str, Any]:
    """The same seed without the image."""
    volume, truth = patient(PATIENT)
    return walk(recorder, "free", volume, truth, Request(preset="watch", guidance="none"))


def slider(recorder: Recorder) -> dict[str, Any]:
    """Eleven values of the guidance noise on three scans of the patient."""
    good, truth = patient(PATIENT)
    noise = np.random.default_rng(5).normal(0, 300, good.data.shape).astype(np.float32)
    missing = good.data.copy()
    missing[:, :, 26:40] = -1000.0
    scans = {"good": good, "noisy": replace(good, data=good.data + noise), "slab": replace(good, data=missing)}
    out: dict[str, Any] = {"rho": list(RHO), "scans": {}, "steps": 10}
    for name, volume in scans.items():
        runs = []
        for i, rho in enumerate(RHO):
            frame = end(volume, Request(preset="watch", steps=10, guidance_noise=rho))
            runs.append(
                {
                    "labels": recorder.labels(f"rho-{name}-{i:02d}", frame.labels),
                    "dice": scores(frame.labels, truth.data),
                }
            )
        picture = "patient" if name == "good" else recorder.scan(f"scan-{name}", volume, 25 if name == "slab" else 10)
        out["scans"][name] = {"image": picture, "runs": runs}
    return out


def fool(recorder: Recorder) -> dict[str, Any]:
    """The patient with a chamber wiped out, or with something there that is not one; four seeds each."""
    good, truth = patient(PATIENT)
    out: dict[str, Any] = {"steps": 10, "samples": 4, "cases": {}}
    for key, (data, where) in fooled(good, truth).items():
        frame = end(replace(good, data=data), Request(preset="watch", steps=10, samples=4))
        assert frame.confidence is not None
        out["cases"][key] = {
            "image": "patient" if key == "as-it-is" else recorder.scan(f"fool-{key}", replace(good, data=data), 28),
            "half": recorder.image(f"fool-{key}-half", frame.image, 30),
            "labels": recorder.labels(f"fool-{key}-labels", frame.labels),
            "agreement": recorder.labels(f"fool-{key}-agreement", np.rint(frame.confidence * 4).astype(np.uint8)),
            "where": recorder.labels(f"fool-{key}-where", where.astype(np.uint8)),
            "dice": scores(frame.labels, truth.data),
            "ml": {n: round(v, 1) for n, v in frame.metrics.volumes_ml.items()},
        }
    return out


def crossed(recorder: Recorder) -> dict[str, Any]:
    """The wiped-out chambers of `fool`, once believed and once crossed out, by a model that can be told what to ignore.

    ``right``: share of the place's voxels that got their true label, background included.
    """
    good, truth = patient(PATIENT)
    card = session.model_card(str(TELLABLE))
    assert card.evidence
    out: dict[str, Any] = {"model": {"name": card.name, "sha256": card.sha256}, "cases": {}}
    for key, (data, where) in fooled(good, truth).items():
        if not key.startswith("no-"):  # what was added to a picture looks the same believed and crossed out
            continue
        found: dict[str, Any] = {}
        for name, ignore in (("believed", None), ("crossed", where)):
            request = Request(preset="fast", model=str(TELLABLE), ignore=ignore)
            *_, frame = session.stream(replace(good, data=data), request)
            assert frame.grid.same_as(good.grid)
            found[name] = {
                "labels": recorder.labels(f"fool-{key}-{name}", frame.labels),
                "dice": scores(frame.labels, truth.data),
                "right": round(float((frame.labels == truth.data)[where].mean()), 4),
            }
        found["half"] = recorder.image(f"fool-{key}-filled", frame.image, 10)
        out["cases"][key] = found
    return out


def fooled(good: Volume, truth: LabelMap) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """Changed copies of a scan, and where each was changed."""
    rng = np.random.default_rng(6)
    cases = {"as-it-is": (good.data, np.zeros(good.data.shape, bool))}
    muscle = np.float32(60) + rng.normal(0, 25, good.data.shape).astype(np.float32)
    names = truth.scheme.names
    for key, structure in (("no-left-ventricle", "left ventricle"), ("no-right-atrium", "right atrium")):
        where = ndimage.binary_dilation(truth.data == names.index(structure) + 1, iterations=1)
        cases[key] = (np.where(where, muscle, good.data), where)
    bright = np.float32(380) + rng.normal(0, 25, good.data.shape).astype(np.float32)
    index = np.indices(good.data.shape)
    for key, centre, radius in (
        ("blob-in-lung", _lung(good, truth), 7.0),
        ("ball-in-ventricle", _middle(truth, 1), 5.0),
    ):
        where = sum((index[i] - centre[i]) ** 2 for i in range(3)) < radius**2
        cases[key] = (np.where(where, bright if key == "blob-in-lung" else muscle, good.data), where)
    return cases


def _middle(truth: LabelMap, index: int) -> NDArray[np.float64]:
    return np.asarray(np.argwhere(truth.data == index).mean(axis=0))


def _lung(volume: Volume, truth: LabelMap) -> NDArray[np.float64]:
    """The voxel of lung that lies deepest in it, at least 12 voxels (30 mm) from the border of the picture."""
    lung = volume.data < -600
    depth = ndimage.distance_transform_edt(lung)
    depth[:12] = depth[-12:] = depth[:, :12] = depth[:, -12:] = depth[:, :, :12] = depth[:, :, -12:] = 0
    return np.array(np.unravel_index(int(depth.argmax()), depth.shape), dtype=float)


def modality(recorder: Recorder) -> dict[str, Any]:
    """One patient in four appearances, two of which the atlas has never seen; and what an atlas of CT alone scores."""
    ct, truth = patient(PATIENT)
    mr, _ = patient(PATIENT, "mr")
    low, high = (float(v) for v in np.percentile(mr.data, (0.5, 99.5)))
    flat = np.minimum(ct.data, 55.0) + np.where(ct.data > 55, (ct.data - 55) * 0.03, 0)
    looks = {
        "ct": ct,
        "mr": mr,
        "black-blood": replace(mr, data=(low + high - mr.data).astype(np.float32)),
        "no-contrast": replace(ct, data=flat.astype(np.float32)),
    }
    out: dict[str, Any] = {"looks": {}, "domains": {}}
    for key, volume in looks.items():
        frame = end(volume, Request(preset="fast"))
        out["looks"][key] = {
            "image": "patient" if key == "ct" else recorder.scan(f"look-{key}", volume),
            "labels": recorder.labels(f"look-{key}-labels", frame.labels),
            "dice": scores(frame.labels, truth.data),
        }
    out["domains"] = measured_domains()
    return out


def measured_domains() -> list[dict[str, Any]]:
    """Mean Dice of small atlases trained on one modality and asked about another, from the benchmarks' results."""
    with DOMAINS.open(encoding="utf-8") as lines:
        return [
            {k: row[k] for k in ("setting", "method", "run", "mean", "low", "high", "n")}
            for row in csv.DictReader(lines)
            if row["method"].startswith("atlas") and row["measure"] == "dice" and row["structure"] == "mean"
        ]


def seeds(recorder: Recorder) -> dict[str, Any]:
    """Eight seeds of the published guidance, and how far agreement could be trusted on measured cases."""
    volume, truth = patient(PATIENT)
    frame = end(volume, Request(preset="watch", steps=12, samples=8))
    assert frame.result is not None
    masks = [recorder.labels(f"seed-{i}", mask.data) for i, mask in enumerate(frame.result.masks)]
    together = recorder.labels("seed-mean", frame.labels)
    votes = np.stack([mask.data == frame.labels for mask in frame.result.masks]).sum(axis=0)
    touched = (frame.labels > 0) | (truth.data > 0) | (votes < 8)
    right = frame.labels == truth.data
    curve = [
        {
            "agree": n,
            "voxels": int((touched & (votes == n)).sum()),
            "right": int((touched & (votes == n) & right).sum()),
        }
        for n in range(1, 9)
    ]
    return {
        "masks": masks,
        "mean": together,
        "steps": 12,
        "dice": [scores(mask.data, truth.data) for mask in frame.result.masks],
        "dice_mean": scores(frame.labels, truth.data),
        "curve": curve,
        "measured": measured_calibration(),
    }


def measured_calibration() -> list[dict[str, Any]]:
    """The benchmark's calibration figures (40 hippocampi), as they stand in the results."""
    with SAMPLES.open(encoding="utf-8") as lines:
        return [
            {k: row[k] for k in ("run", "measure", "mean", "low", "high", "n")}
            for row in csv.DictReader(lines)
            if row["structure"] == "mean" and row["measure"] in ("dice", "calibration error")
        ]


def dreams(recorder: Recorder) -> dict[str, Any]:
    """Pairs from the atlas alone, digital hearts it never saw, and the volumes of a population of them."""
    pairs = []
    for i in range(4):
        frame = end(None, Request(task="generate", guidance="none", preset="watch", steps=40, seed=i + 1))
        assert frame.result is not None
        pairs.append(
            {
                "made": True,
                "image": recorder.image(f"dream-{i}", frame.result.images[0].data, QUALITY_HALF),
                "labels": recorder.labels(f"dream-{i}-labels", frame.labels),
                "ml": {n: round(v, 1) for n, v in frame.metrics.volumes_ml.items()},
            }
        )
    for i in range(4):
        volume, truth = patient(REAL + i)
        pairs.append(
            {
                "made": False,
                "image": recorder.scan(f"drawn-{i}", volume, 30),
                "labels": recorder.labels(f"drawn-{i}-labels", truth.data),
                "ml": {n: round(v, 1) for n, v in truth.volumes_ml().items()},
            }
        )
    grid = Grid((48, 48, 48), np.array([[4.0, 0, 0, -94], [0, 4, 0, -94], [0, 0, 4, -94], [0, 0, 0, 1]]))
    people = [label_map(sample_anatomy(POPULATION_SEED + i), grid).volumes_ml() for i in range(POPULATION)]
    return {"pairs": pairs, "population": {n: [round(p[n], 1) for p in people] for n in people[0]}}


def paint(recorder: Recorder) -> dict[str, Any]:
    """Masks, and the image that the atlas paints on each."""
    volume, truth = patient(PATIENT)
    shapes: dict[str, Labels] = {"heart": truth.data, "mirrored": np.ascontiguousarray(truth.data[::-1])}
    without = truth.data.copy()
    without[without == 4] = 0
    shapes["three-chambers"] = without
    ball = truth.data.copy()
    wide = ndimage.binary_dilation(ball == 1, iterations=3)
    ring = ndimage.binary_dilation(wide, iterations=2) & (ball != 1) & np.isin(ball, (0, 5))
    ball[ring] = 5
    ball[wide & np.isin(ball, (0, 5))] = 1
    shapes["wide-ventricle"] = ball
    index = np.indices(truth.data.shape) - 31.5
    letter = np.zeros_like(truth.data)
    bar = (np.abs(index[2]) < 5) & (np.abs(index[1]) < 20)
    letter[bar & (np.abs(index[0] + 14) < 4)] = 1
    letter[bar & (np.abs(index[0] - 14) < 4)] = 2
    letter[(np.abs(index[2]) < 5) & (np.abs(index[1]) < 4) & (np.abs(index[0]) <= 11)] = 3
    shapes["letter"] = letter
    out: dict[str, Any] = {"masks": {}, "steps": 12}
    for key, labels in shapes.items():
        request = Request(task="paint", preset="watch", steps=12, edit=MaskEdit(labels, t=1.0))
        frame = end(volume, request)
        assert frame.result is not None
        out["masks"][key] = {
            "labels": "patient-truth" if key == "heart" else recorder.labels(f"paint-{key}-labels", labels),
            "image": recorder.image(f"paint-{key}", frame.result.images[0].data, QUALITY_HALF),
        }
    return out


SCENES = {
    "destroy": destroy,
    "back": back,
    "unguided": unguided,
    "slider": slider,
    "fool": fool,
    "crossed": crossed,
    "modality": modality,
    "seeds": seeds,
    "dreams": dreams,
    "paint": paint,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=SCENES, help="record these scenes again, keep the others")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    book = given.output / "scenes.json"
    recorder = Recorder(given.output)
    card = recorder.card
    about: dict[str, Any] = json.loads(book.read_text(encoding="utf-8")) if given.only and book.exists() else {}
    about["model"] = {"name": card.name, "sha256": card.sha256}
    about["cases"] = {"patient": PATIENT, "other": OTHER, "run": Request().seed}
    about["spacing_mm"] = list(card.space.spacing_mm)
    about["sdf_clip_mm"] = card.space.sdf_clip_mm
    about["structures"] = [{"name": s.name, "color": list(s.color)} for s in card.scheme.structures]
    for name, record in SCENES.items():
        if not given.only or name in given.only:
            print(name, flush=True)
            about[name] = record(recorder)
            with io.atomic_path(book) as part:
                part.write_text(json.dumps(about, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    if not given.only:
        _tidy(given.output, about)
    print(f"{sum(p.stat().st_size for p in given.output.iterdir()) / 1e6:.2f} MB in {given.output}")


def _tidy(folder: Path, about: dict[str, Any]) -> None:
    """Remove pictures of an earlier recording that nothing names any more."""
    text = json.dumps(about)
    for path in folder.glob("*.webp"):
        if f'"{path.stem}"' not in text:
            path.unlink()


if __name__ == "__main__":
    main()
