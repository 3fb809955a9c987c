"""Names and colours of a label file, in a small JSON file beside it, and the image that the labels belong to.

``case_labels.nii.gz`` has ``case_labels.structures.json``:

    {"image": "case.nii.gz", "structures": [{"id": 500, "name": "left ventricle", "color": [213, 94, 0]}, ...]}

Labels that ``diffatlas segment`` or ``batch`` wrote are named by the report beside them, which names the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas import session
from diffatlas.geometry.volume import LabelScheme, Structure
from diffatlas.io import IMAGE_SUFFIXES, atomic_write_bytes

SUFFIX = ".structures.json"
MAX_BYTES = 2**20
REPORT_MAX_BYTES = 2**24
# Exceptions from reading a file of another program.
DAMAGED = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Names:
    """The structures of a label file, and the name of the image they belong to ("" where it is not known)."""

    scheme: LabelScheme
    image: str = ""


def write(labels: Path, scheme: LabelScheme | None, image: str) -> list[Path]:
    """Write the names beside ``labels``; without names no file is written, and one of older labels is removed."""
    path = _stem(labels, SUFFIX)
    if scheme is None:
        path.unlink(missing_ok=True)
        return []
    structures = [{"id": s.id, "name": s.name, "color": list(s.color)} for s in scheme.structures]
    atomic_write_bytes(path, (json.dumps({"image": image, "structures": structures}, indent=1) + "\n").encode())
    return [path]


def read(labels: Path, ids: NDArray[Any]) -> Names | None:
    """The names in the file beside ``labels``; None where there are none, or they do not know all ``ids``."""
    found = set(np.unique(ids).tolist()) - {0}
    for names in (_own(_stem(labels, SUFFIX)), _reported(_report(labels))):
        if names is not None and found <= set(names.scheme.ids):
            return names
    return None


def _own(path: Path) -> Names | None:
    try:
        content = _json(path, MAX_BYTES)
        structures = tuple(
            Structure(str(s["name"]), int(s["id"]), (int(s["color"][0]), int(s["color"][1]), int(s["color"][2])))
            for s in content["structures"]
        )
        return Names(LabelScheme("labels", structures), str(content.get("image", "")))
    except DAMAGED:
        return None  # names are a help: labels open without them


def _reported(path: Path) -> Names | None:
    try:
        provenance = _json(path, REPORT_MAX_BYTES)["provenance"]
        image = (provenance.get("source") or {}).get("path")
        return Names(session.model_card(str(provenance["model"]["name"])).scheme, Path(image).name if image else "")
    except DAMAGED:
        return None


def _json(path: Path, limit: int) -> Any:
    if path.stat().st_size > limit:
        raise ValueError(f"{path.name} is too large")
    return json.loads(path.read_text(encoding="utf-8"))


def _stem(path: Path, ending: str) -> Path:
    suffix = next((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.with_name(path.name[: len(path.name) - len(suffix)] + ending)


def _report(labels: Path) -> Path:
    """``case.json`` of ``case_labels.nii.gz``, as a batch leaves them."""
    path = _stem(labels, ".json")
    return path.with_name(path.name.replace("_labels.json", ".json"))
