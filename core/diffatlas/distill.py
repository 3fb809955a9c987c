"""A small, fast atlas learnt from what another model answers.

The teacher, any model of this program (also a converted one of the authors), segments every image once, by its own
walk and as well as it can be asked to (steps, several seeds averaged). Image and answer are then a pair like any
other, and a smaller `AtlasUNet` learns from those pairs what every atlas here learns: images need no labels, the
student can generate and paint too, and nothing has to be known of the teacher's network, schedule or noise levels.

Answers are kept one by one in the run folder: a teacher that takes minutes a volume is never asked twice, and a run
that was stopped goes on. The last cases are kept from training; what the student's card says of its agreement with the
teacher was measured on them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from diffatlas.cohort import find_cases
from diffatlas.data import REACH, Facts, Plan, PreparedCase, write_cache
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.resample import image_to_model
from diffatlas.geometry.volume import Volume
from diffatlas.io import atomic_path, read_volume
from diffatlas.metrics import dice, interval
from diffatlas.models.card import ModelCard
from diffatlas.models.store import find_model, load_model, read_card, write_card
from diffatlas.phantom import PhantomModality, phantom
from diffatlas.session import local_backend
from diffatlas.train.config import TrainConfig, load_config, read_mapping
from diffatlas.train.loop import train
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.task import task_of
from diffatlas.train.validate import held_out

# Drawn for teaching alone: apart from the hearts that models are trained on, and from those they are measured on.
HEARTS_FROM = 500_000
LOOKS: tuple[PhantomModality, ...] = ("ct", "mr", "random")
AGREEMENT = "agreement with the teacher, on images kept from training"


@dataclass(frozen=True)
class Image:
    """One image to ask the teacher about."""

    id: str
    read: Callable[[], Volume]


def images_in(inputs: Sequence[Path], run_folder: Path) -> tuple[list[Image], list[str]]:
    """The volumes in files, DICOM folders and folders of these, and what was left out (`cohort.find_cases`)."""
    cases, notes = find_cases(inputs, run_folder)
    return [Image(case.name, lambda path=case.path: read_volume(path)) for case in cases], notes  # type: ignore[misc]


def hearts(count: int, modalities: Sequence[str]) -> list[Image]:
    """``count`` digital hearts, in turn in the appearances that a model of ``modalities`` knows."""
    looks = [look for look in LOOKS if look in modalities or (look == "random" and len(modalities) > 1)] or ["mr"]

    def one(index: int) -> Image:
        seed, look = HEARTS_FROM + index, looks[index % len(looks)]
        return Image(f"heart-{seed}-{look}", lambda: phantom(seed, look)[0])

    return [one(i) for i in range(count)]


def settings(
    teacher: ModelCard, count: int, output: Path, request: Request, config: Path | None, overrides: Sequence[str]
) -> TrainConfig:
    """How the student is trained: what the teacher's card says, then ``config`` (any part of a training
    configuration), then ``overrides`` (``key=value``).

    Space and structures are the teacher's. Written to ``output``-run/distill.yaml, from where the run can be read.
    """
    given = {} if config is None else read_mapping(config, "a training configuration")
    if clash := {"space", "task", "task_options", "start_from", "export"} & given.keys():
        raise BadInput(f"{config}: {min(clash)} follows from the teacher; leave it out")
    if clash := {"source", "path", "structures", "scheme", "cache", "margin"} & given.get("data", {}).keys():
        raise BadInput(f"{config}: data.{min(clash)} follows from the teacher and the images; leave it out")
    run = output.resolve().with_name(output.name + "-run")
    if "run_folder" in given and config is not None:
        run = (config.resolve().parent / str(given["run_folder"])).resolve()
    name, space = output.resolve().name, teacher.space.to_json()
    asked = {key: getattr(request, key) for key in ("preset", "sampler", "steps", "guidance_noise", "samples", "seed")}
    default = {
        "name": name,
        "title": f"{teacher.title} (distilled)",
        "summary": f"Learnt from the answers of {teacher.name}: {teacher.summary}",
        "licence": teacher.licence,
        "intended_use": teacher.intended_use,
        "data_note": f"{count} images with the answers of {teacher.name} in place of labels. The teacher's own data: "
        f"{teacher.data}",
        "limits": [
            f"learnt from {teacher.name} and not from labels: it repeats that model's mistakes",
            *teacher.limits,
        ],
        "network": {"kind": "atlas-unet", "widths": _narrower(teacher), "blocks": 1},
        "learning_rate": 1e-3,
        "ema": 0.995,
    }
    fixed = {
        "task": "distilled",
        "task_options": {
            "teacher": teacher.name,
            "sha256": teacher.sha256,
            "images": count,
            "asked": ", ".join(f"{key} {value}" for key, value in asked.items() if value is not None),
        },
        "space": {
            "shape": list(teacher.space.shape),
            "spacing_mm": list(teacher.space.spacing_mm),
            "sdf_clip_mm": teacher.space.sdf_clip_mm,
            "windows": space["windows"],
            "fill": teacher.space.fill,
        },
        "data": {
            "holdout": max(1, min(16, count // 8)),
            **given.get("data", {}),
            "source": "folder",
            "path": str(run / "answers"),
            "structures": [{"name": s.name, "id": s.id, "color": list(s.color)} for s in teacher.scheme.structures],
            "margin": 0,
            "cache": str(run / "answers.safetensors"),
        },
        "run_folder": str(run),
        "export": str(output.resolve()),
    }
    run.mkdir(parents=True, exist_ok=True)
    path = run / "distill.yaml"
    with atomic_path(path) as part:
        part.write_text(yaml.safe_dump(default | given | fixed, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return load_config(path, overrides)


def _narrower(teacher: ModelCard) -> list[int]:
    """Half the teacher's widths, in whole groups; of the shipped hearts' size where it is another network."""
    if "widths" not in teacher.architecture:
        return [32, 96, 160]
    return [max(16, 8 * round(int(w) / 16)) for w in teacher.architecture["widths"]]


def distill(
    teacher: str, images: Sequence[Image], config: TrainConfig, request: Request, minutes: float | None = None
) -> ModelCard:
    """Ask the teacher, train the student, measure its agreement; returns the student's card (in ``config.export``).

    Continues where it was stopped. ``minutes``: of training; asking the teacher is not counted.
    """
    if len(images) <= config.data.holdout:
        raise BadInput(f"{len(images)} images, and data.holdout keeps {config.data.holdout} of them; give more images")
    card = read_card(find_model(teacher))
    request = replace(request, model=teacher)
    cases = [case for case in answers(card, images, request, config.run_folder / "answers") if case is not None]
    if len(cases) <= config.data.holdout:
        raise BadInput(f"only {len(cases)} of {len(images)} images could be used; the reasons stand above")
    write_cache(config.data.cache, cases, Plan(card.space, config.scheme, margin=0))
    train(config, minutes)
    student = read_card(config.export)
    student = replace(student, metrics={**student.metrics, AGREEMENT: agreement(config)})
    write_card(student, config.export)
    return student


def answers(card: ModelCard, images: Sequence[Image], request: Request, folder: Path) -> Iterator[PreparedCase | None]:
    """The teacher's answer to each image, in its own space; None (and a line that says why) where it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{card.sha256}/{json.dumps(request.to_json(), sort_keys=True)}".encode()).hexdigest()
    for place, image in enumerate(images, 1):
        file = folder / f"{image.id}.npz"
        case = _kept(file, key)
        if case is None:
            try:
                case = _asked(card, image, request)
            except BadInput as error:
                print(f"[{place}/{len(images)}] left out {image.id}: {error}", flush=True)
                yield None
                continue
            with atomic_path(file) as part, part.open("wb") as out:
                np.savez(out, image=case.image, sdf=case.sdf, facts=json.dumps(asdict(case.facts)), key=key)
            print(f"[{place}/{len(images)}] {card.name} answered {image.id}", flush=True)
        yield case


def _asked(card: ModelCard, image: Image, request: Request) -> PreparedCase:
    volume = image.read()
    with closing(cast("Any", local_backend().stream(volume, request))) as frames:
        *_, frame = frames
    if not (frame.labels > 0).any():
        raise BadInput("the teacher finds none of its structures there")
    seen, _, window = image_to_model(volume, frame.grid, card.space.window_for(volume.modality), card.space.fill)
    found = np.round(frame.sdf / (REACH * card.space.sdf_clip_mm) * 127).astype(np.int8)
    values = (float(volume.data.min()), float(volume.data.max()))
    x, y, z = (float(s) for s in volume.grid.spacing_mm)
    facts = Facts(image.id, volume.modality, "train", volume.grid.shape, (x, y, z), values, window)
    return PreparedCase(np.round((seen[None] + 1) * 127.5).astype(np.uint8), found, facts)


def _kept(file: Path, key: str) -> PreparedCase | None:
    """The answer in ``file``, if it is of this teacher, asked in this way."""
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as held:
        if str(held["key"]) != key:
            return None
        facts: Mapping[str, Any] = json.loads(str(held["facts"]))
        return PreparedCase(held["image"], held["sdf"], Facts(**facts))


def agreement(config: TrainConfig) -> dict[str, Any]:
    """Dice of the student in ``config.export`` with its teacher on the cases held out, as a card's ``metrics`` say it.

    On the model grid, by the same two steps as validation; over structures that either of the two finds.
    """
    held = held_out(load_or_prepare(config.data, config.space), config)
    network, task = load_model(config.export).network, task_of(config)
    rows = []
    for place in range(len(held)):
        answer = distances_to_labels(task.answer(network, held.image[place : place + 1])[0].numpy())
        rows.append([dice(answer == k + 1, held.truth[place] == k + 1) for k in range(len(config.scheme))])
    table = np.array(rows)
    mean = interval(np.nanmean(table, axis=1).tolist())
    by_structure = {name: interval(table[:, k].tolist()).mean for k, name in enumerate(config.scheme.names)}
    return {
        "n": mean.n,
        "dice": round(mean.mean, 4),
        "interval": [round(mean.low, 4), round(mean.high, 4)],
        "structures": {name: round(value, 4) for name, value in by_structure.items()},
    }
