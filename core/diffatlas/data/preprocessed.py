"""The data that the authors of DiffAtlas (arXiv 2503.06748) released beside their code, 64 x 64 x 64 voxels.

``MMWHS/{CT,MRI}/{training_set_full,testing_set,all}`` and ``TotalSegmentator/{train,test}`` (also called training_set
and testing_set) hold ``*image.nii.gz`` with ``*label.nii.gz`` and, for MM-WHS, ``*sdf.nii.gz``. The sdf files are not
read: distances are computed from the labels, in millimetres. Labels are numbered 1 to 5, and no text we could read
says in which order; ours is assumed unless you say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from diffatlas.data.case import Case, Collection, LabelFile, Refused, collect, stem, walk
from diffatlas.geometry.volume import MMWHS, Modality

LAYOUT = "diffatlas"
WHAT = "the authors' preprocessed data: *image.nii.gz with *label.nii.gz (and *sdf.nii.gz)"

SPLITS = {
    "training_set_full": "train",
    "training_set": "train",
    "train": "train",
    "testing_set": "test",
    "test": "test",
    "all": "all",
}
MODALITIES: Mapping[str, Modality] = {"ct": "ct", "mri": "mr", "totalsegmentator": "ct"}
ASSUMED = ", ".join(f"{i} {name}" for i, name in enumerate(MMWHS.names, start=1))


def looks_like(root: Path) -> bool:
    """Whether an image lies beside its signed distances, or with its labels in a folder named as the authors do."""
    if not root.is_dir():
        return False
    for path in walk(root):
        name = stem(path)
        if not name.endswith("image"):
            continue
        if _beside(path, "sdf"):
            return True
        parts = {part.lower() for part in path.resolve().parts[-4:-1]}
        if _beside(path, "label") and parts & {"training_set_full", "testing_set", "totalsegmentator"}:
            return True
    return False


def scan(root: Path, labels: Mapping[str, int] | None = None) -> Collection:
    """List the images below ``root``; ``labels``: structure to id, where the assumed order is not right."""
    numbered = dict(labels) if labels else {name: i for i, name in enumerate(MMWHS.names, start=1)}
    names = {id_: name for name, id_ in numbered.items()}
    cases, refused = collect(_cases(root, names))
    note = f"the order of the labels is assumed: {ASSUMED}; look at one case, and name them if it is another"
    notes = () if labels else (note,)
    return Collection(LAYOUT, root, cases, refused, notes, tuple(numbered.items()))


def _beside(image: Path, kind: str) -> Path | None:
    name = stem(image)
    ending = image.name[len(name) :]
    path = image.with_name(name[: -len("image")] + kind + ending)
    return path if path.is_file() else None


def _cases(root: Path, names: Mapping[int, str]) -> Iterator[Case | Refused]:
    for image in walk(root):
        name = stem(image)
        if not name.endswith("image"):
            continue
        relative = image.relative_to(root).parent / name[: -len("image")].rstrip("_-.")
        case = relative.as_posix() if relative.as_posix() != "." else root.resolve().name
        parts = [part.lower() for part in reversed(image.resolve().parts[:-1])]
        split = next((SPLITS[part] for part in parts[:2] if part in SPLITS), "train")
        modality: Modality = next((MODALITIES[part] for part in parts[:4] if part in MODALITIES), "unknown")
        label = _beside(image, "label")
        if label is None:
            yield Refused(case, f"{image}: no {name[: -len('image')]}label.nii.gz beside it")
            continue
        yield Case(case, image, (LabelFile(label, names),), modality, split)
