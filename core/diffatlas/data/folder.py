"""Data of one's own: a folder with ``images/`` and ``labels/``, or a CSV table.

In the folder, image and label of a case have the same name (``.nii.gz`` or ``.nii``); ``split.json``, where there is
one, lists the cases of each split, ``{"train": [...], "val": [...]}``. The table has a header with the columns
``image`` and ``label``, and ``id``, ``modality`` and ``split`` where wanted; its paths are taken from its own folder.
Columns of other names are noted and not read. A folder with one such table in it stands for the table.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffatlas.data.case import Case, Collection, LabelFile, Refused, collect, stem, walk, with_suffix
from diffatlas.data.names import modality_of
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality

LAYOUT = "folder"
WHAT = "a folder with images/ and labels/, or a .csv table with the columns id, image, label, modality, split"
COLUMNS = ("id", "image", "label", "modality", "split")


def looks_like(root: Path) -> bool:
    """Whether it is a table, a folder with one, or a folder with images and labels."""
    if root.is_file():
        return root.suffix.lower() == ".csv"
    return ((root / "images").is_dir() and (root / "labels").is_dir()) or bool(_tables(root))


def _tables(root: Path) -> list[Path]:
    """The tables of cases in a folder: CSV files whose header names image and label."""
    found = []
    for path in sorted(root.glob("*.csv")):
        with suppress(BadInput):
            if {"image", "label"} <= set(_header(path)[1]):
                found.append(path)
    return found


def scan(
    root: Path,
    labels: Mapping[str, int] | None = None,
    modality: Modality = "unknown",
    split: str = "split.json",
) -> Collection:
    """List a folder or a table.

    ``labels``: structure to id in the files (else the scheme's ids are meant); ``modality``: of all images the source
    says nothing of; ``split``: the file that lists the splits.
    """
    names = {id_: name for name, id_ in labels.items()} if labels else None
    notes: tuple[str, ...] = ()
    if root.is_dir() and not (root / "images").is_dir() and (tables := _tables(root)):
        if len(tables) > 1:
            raise BadInput(f"{root}: holds {len(tables)} tables ({tables[0].name}, {tables[1].name}, ...); name one")
        root = tables[0]
    if root.is_file():
        if unknown := [c for c in _header(root)[1] if c and c not in COLUMNS]:
            notes = (f"{root.name}: columns not read: {', '.join(unknown)}; known are {', '.join(COLUMNS)}",)
        made = _rows(root, names, modality)
    else:
        made = _pairs(root, names, modality, split)
    cases, refused = _ordered(made)
    return Collection(LAYOUT, root, cases, refused, notes, structures=tuple(labels.items()) if labels else None)


def _ordered(made: Iterator[Case | Refused]) -> tuple[tuple[Case, ...], tuple[Refused, ...]]:
    """As `collect`, but in the order the user gave: the last cases may be kept from training."""
    listed = list(made)
    cases, refused = collect(listed)
    order = {item.id: i for i, item in reversed(list(enumerate(listed)))}
    return tuple(sorted(cases, key=lambda c: order[c.id])), refused


def _pairs(
    root: Path, names: Mapping[int, str] | None, modality: Modality, split_file: str
) -> Iterator[Case | Refused]:
    images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; {WHAT}")
    splits = _splits(root / split_file, must=split_file != "split.json")
    if splits is None:
        listed: list[tuple[str, str, Path | None]] = [(stem(path), "train", path) for path in walk(images, 0)]
    else:
        listed = [(name, split, with_suffix(images, name)) for split, names_ in splits for name in names_]
    for name, split, image in listed:
        label = with_suffix(labels, name)
        if image is None:
            yield Refused(name, f"{images / name}.nii.gz: no such file, though {split_file} lists it")
        elif label is None:
            yield Refused(name, f"{labels / name}.nii.gz: no such file: the image has no label")
        else:
            yield Case(name, image, (LabelFile(label, names),), modality, split)


def _splits(path: Path, must: bool) -> list[tuple[str, list[str]]] | None:
    """(split, case names) in the file's order; other entries of the file (its data set, few-shot lists) are left."""
    if not path.is_file():
        if must:
            raise BadInput(f"{path}: no such file; it should list the cases of each split")
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict) or not isinstance(value.get("train"), list):
        raise BadInput(f'{path}: must list the training cases: {{"train": ["name", ...]}}')
    return [(key, [str(n) for n in value[key]]) for key in ("train", "val", "test") if isinstance(value.get(key), list)]


def _header(path: Path) -> tuple[list[str], list[str], str]:
    """Lines of a table, its columns in lower case, and its delimiter; `BadInput` where it is no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a text file; save the table as CSV (UTF-8)") from error
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    columns = [column.strip().lower() for column in next(csv.reader([header], delimiter=delimiter), [])]
    return lines, columns, delimiter


def _rows(path: Path, names: Mapping[int, str] | None, modality: Modality) -> Iterator[Case | Refused]:
    lines, columns, delimiter = _header(path)
    if not {"image", "label"} <= set(columns):
        raise BadInput(f"{path}: the header needs the columns image and label (and may have id, modality, split)")
    for number, cells in enumerate(csv.reader(lines[1:], delimiter=delimiter), start=2):
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if not any(row.values()):
            continue
        case = row.get("id") or stem(Path(row.get("image", ""))) or f"line {number}"
        if not row.get("image"):
            yield Refused(case, f"{path.name}, line {number}: names no image")
            continue
        image, label = path.parent / row["image"], path.parent / row.get("label", "")
        split = row.get("split") or "train"
        if not image.exists():
            yield Refused(case, f"{image}: no such file ({path.name}, line {number})")
        elif row.get("label") and not label.exists():
            yield Refused(case, f"{label}: no such file ({path.name}, line {number})")
        elif not row.get("label") and split != "test":
            yield Refused(case, f"{path.name}, line {number}: names no label")
        else:
            kind = modality_of(row["modality"]) if row.get("modality") else modality
            files = (LabelFile(label, names),) if row.get("label") else ()
            yield Case(case, image, files, kind, split)
