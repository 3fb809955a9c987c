"""TotalSegmentator's public data sets (Wasserthal et al. 2023), CT v1 and v2, and the MR set.

One folder a case, ``s0011/ct.nii.gz`` (or ``mri.nii.gz``), with one mask a structure in ``s0011/segmentations``;
``meta.csv`` (semicolons) names the split of each case. Of the heart,

- v1 has heart_myocardium, heart_atrium_left, heart_ventricle_left, heart_atrium_right, heart_ventricle_right,
  pulmonary_artery and aorta: all that MM-WHS has (its aorta is the whole one, the aorta of MM-WHS the ascending
  part);
- v2 and the MR set have *heart* as one structure and aorta (v2 also pulmonary_vein and atrial_appendage_left): the
  chambers, the myocardium and the pulmonary artery moved to the tool's task ``heartchambers_highres``, which writes
  files of the v1 names, and are not in the data set.

A mask that is empty says that the structure is not in view. A mask that is not there says nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from diffatlas.data.case import Case, Collection, LabelFile, Refused, collect, stem, walk, with_suffix
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality

LAYOUT = "totalsegmentator"
WHAT = "TotalSegmentator: s0011/ct.nii.gz (or mri.nii.gz) with s0011/segmentations/*.nii.gz"

MASKS = "segmentations"
V1_HEART = (
    "heart_ventricle_left",
    "heart_ventricle_right",
    "heart_atrium_left",
    "heart_atrium_right",
    "heart_myocardium",
    "pulmonary_artery",
)
V2_HINT = (
    "TotalSegmentator v2 labels the heart as one structure: its chambers, myocardium and pulmonary artery are not "
    "in that release; take v1, or add them (TotalSegmentator -i ct.nii.gz -o segmentations -ta heartchambers_highres), "
    "or name structures that it has (heart, aorta, atrial_appendage_left, pulmonary_vein)"
)


def looks_like(root: Path) -> bool:
    """Whether at least one case folder lies in ``root``."""
    return root.is_dir() and any(_image(folder) and (folder / MASKS).is_dir() for folder in _folders(root))


def scan(root: Path) -> Collection:
    """List the case folders of ``root``."""
    splits = _splits(root / "meta.csv")
    cases, refused = collect(_cases(root, splits))
    names = {name for case in cases for file in case.labels for name in (file.names or {}).values()}
    notes: tuple[str, ...] = ()
    hint = ""
    if "heart" in names and not names & set(V1_HEART):
        hint = V2_HINT
        notes = ("TotalSegmentator v2: the heart is one structure, without chambers",)
    return Collection(LAYOUT, root, cases, refused, notes, tuple((n, i + 1) for i, n in enumerate(sorted(names))), hint)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _image(folder: Path) -> Path | None:
    return with_suffix(folder, "ct") or with_suffix(folder, "mri")


def _cases(root: Path, splits: dict[str, str]) -> Iterator[Case | Refused]:
    for folder in _folders(root):
        image = _image(folder)
        if image is None and not (folder / MASKS).is_dir():
            continue
        if image is None:
            yield Refused(folder.name, f"{folder}: no ct.nii.gz or mri.nii.gz in it")
            continue
        masks = {stem(p): p for p in walk(folder / MASKS, 0)} if (folder / MASKS).is_dir() else {}
        if not masks:
            yield Refused(folder.name, f"{folder}: no masks in {MASKS}/")
            continue
        labels = tuple(LabelFile(path, {1: name}) for name, path in masks.items())
        modality: Modality = "ct" if stem(image).lower() == "ct" else "mr"
        yield Case(folder.name, image, labels, modality, splits.get(folder.name, "train"))


def _splits(path: Path) -> dict[str, str]:
    """Case to split, from ``meta.csv``; empty where it is not there or has no such columns."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text; take it from the release again") from error
    lines = text.splitlines()
    delimiter = ";" if lines and lines[0].count(";") >= lines[0].count(",") else ","
    rows = csv.DictReader(lines, delimiter=delimiter)
    return {row["image_id"]: row["split"].strip() for row in rows if row.get("image_id") and row.get("split")}
