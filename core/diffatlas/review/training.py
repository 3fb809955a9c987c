"""From reviewed cases to a training run: a table of images and kept labels, and the configuration that learns them.

The run starts from the model whose answers were reviewed, with a small learning rate: it is to take in what was
corrected without forgetting the rest. ``train.yaml`` is the user's to change; ``diffatlas train`` reads it.
"""

from __future__ import annotations

import csv
import io as text_io
from pathlib import Path
from typing import Any

import yaml

from diffatlas.engine.run_record import read_report
from diffatlas.errors import BadInput
from diffatlas.io import atomic_write_bytes
from diffatlas.models.card import ModelCard
from diffatlas.models.store import find_model, read_card
from diffatlas.review.verdicts import Verdict, read

CONFIG, CASES = "train.yaml", "cases.csv"
LEAST = 2  # one to learn from, one to see how it goes
STEPS, BATCH, LEARNING_RATE = 400, 4, 2e-4


def write_training(folder: Path, out: Path) -> Path:
    """Write ``train.yaml`` and ``cases.csv`` into ``out`` for the accepted and corrected cases of the results in
    ``folder``; returns the first.

    `BadInput` where there are fewer than `LEAST`, they come from different models, or an image is gone.
    """
    kept = {
        case: said for case, said in read(folder).items() if said.labels and said.state in ("accepted", "corrected")
    }
    if len(kept) < LEAST:
        count = "no case is" if not kept else "one case is"
        raise BadInput(f"{folder}: {count} accepted; accept or correct at least {LEAST} before you train on them")
    rows, models = [], set()
    for case, said in kept.items():
        report = read_report(folder / f"{case}.json")
        source = report["provenance"].get("source") or {}
        image, labels = Path(str(source.get("path") or "")), folder / said.labels
        for path in (image, labels):
            if not path.is_file() and not path.is_dir():
                raise BadInput(f"{case}: its {'labels are' if path is labels else 'image is'} gone ({path})")
        modality = str(source.get("modality", ""))
        known = modality if modality in ("ct", "mr") else ""
        rows.append((case, str(image.resolve()), str(labels.resolve()), known, "train"))
        models.add(said.run.get("model") or str(report["provenance"]["model"]["name"]))
    if len(models) > 1:
        raise BadInput(f"{folder}: cases come from several models ({', '.join(sorted(models))}); review them apart")
    card = read_card(find_model(models.pop()))
    text = text_io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("id", "image", "label", "modality", "split"), *rows])
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out / CASES, text.getvalue().encode())
    values = yaml.safe_dump(configuration(card, list(kept.values())), sort_keys=False, allow_unicode=True, width=110)
    atomic_write_bytes(out / CONFIG, values.encode())
    return out / CONFIG


def configuration(card: ModelCard, kept: list[Verdict]) -> dict[str, Any]:
    """A training configuration (`diffatlas.train.config.TrainConfig` as plain data) for reviewed cases of ``card``."""
    corrected = sum(said.state == "corrected" for said in kept)
    who = ", ".join(sorted({said.who for said in kept if said.who}))
    return {
        "name": f"{card.name}-reviewed",
        "title": f"{card.title}, reviewed cases",
        "summary": f"{card.name}, trained further on {len(kept)} reviewed cases.",
        "licence": card.licence,
        "intended_use": card.intended_use,
        "data_note": f"{len(kept)} cases reviewed by {who or 'unknown'}: {corrected} corrected by hand, "
        f"{len(kept) - corrected} accepted as {card.name} drew them.",
        "limits": [*card.limits, "learnt from labels that a model drew and a person accepted or corrected"],
        "space": card.space.to_json(),
        "data": {
            "source": "folder",
            "path": CASES,
            "structures": [{"name": s.name, "id": s.id, "color": list(s.color)} for s in card.scheme.structures],
            "holdout": max(1, len(kept) // 10),
            "cache": "cache.safetensors",
        },
        "start_from": str(card.path.resolve()),
        "guidance_noise": card.guidance_noise,
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "warmup": 20,
        "save_every": 50,
        "validate_every": 100,
        "run_folder": "run",
        "export": "model",
    }
