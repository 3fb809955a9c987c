"""Tasks of the Medical Segmentation Decathlon (Antonelli et al. 2022).

``dataset.json`` lists the pairs of ``imagesTr`` and ``labelsTr`` and the images of ``imagesTs``, names the labels and
the modality of every channel; the images of several channels are 4-D.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffatlas.data.case import Case, Collection, LabelFile, Refused, collect, stem
from diffatlas.data.names import modality_of
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality

LAYOUT = "decathlon"
WHAT = "a Decathlon task: dataset.json, imagesTr, labelsTr, imagesTs"
FILE = "dataset.json"


def looks_like(root: Path) -> bool:
    """Whether there is a ``dataset.json``."""
    return (root / FILE).is_file()


def scan(root: Path, labels: Mapping[str, int] | None = None, channel: int | None = None) -> Collection:
    """List the task; ``labels`` (structure to id) overrides the names in the file."""
    description = _description(root / FILE)
    task = str(description.get("name", ""))
    names = {id_: name for name, id_ in labels.items()} if labels else _names(root / FILE, description, task)
    modality = _modality(root / FILE, description, channel)
    cases, refused = collect(_cases(root, description, names, modality))
    return Collection(LAYOUT, root, cases, refused, structures=tuple((name, id_) for id_, name in names.items()))


def _description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; a Decathlon task has one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict) or not isinstance(value.get("training"), list) or not value["training"]:
        raise BadInput(
            f"{path}: lists no training pairs; a Decathlon task names image and label of each under 'training'"
        )
    return value


def _names(path: Path, description: dict[str, Any], task: str) -> dict[int, str]:
    """Id to name; ``{"1": "left atrium"}`` as in the release, or the other way round. Background is left out."""
    given = description.get("labels")
    if not isinstance(given, dict):
        raise BadInput(f"{path}: does not name its labels; name them (name=id)")
    names: dict[int, str] = {}
    for key, value in given.items():
        number, name = (key, value) if str(key).strip().isdigit() else (value, key)
        if isinstance(number, bool) or not str(number).strip().isdigit():
            raise BadInput(f"{path}: the label {key!r}: {value!r} is not a pair of a name and an id")
        if int(number) != 0:
            names[int(number)] = str(name)
    # Task04 calls its two structures Anterior and Posterior, and the whole of them by its title.
    if task.strip().lower() == "hippocampus":
        names = {i: n if "hippocampus" in n.lower() else f"{n.lower()} hippocampus" for i, n in names.items()}
    if not names:
        raise BadInput(f"{path}: names no structure but the background")
    return names


def _modality(path: Path, description: dict[str, Any], channel: int | None) -> Modality:
    given = description.get("modality") or description.get("channel_names") or {}
    if isinstance(given, str):
        given = {"0": given}
    channels = {int(k): str(v) for k, v in given.items() if str(k).isdigit()} if isinstance(given, dict) else {}
    if len(channels) > 1:
        listed = ", ".join(f"{i} {name}" for i, name in sorted(channels.items()))
        if channel is None:
            raise BadInput(f"{path}: the images hold {len(channels)} channels ({listed}); choose one (channel)")
        if channel not in channels:
            raise BadInput(f"{path}: there is no channel {channel}; there are: {listed}")
    return modality_of(channels.get(channel or 0, ""))


def _cases(
    root: Path, description: dict[str, Any], names: Mapping[int, str], modality: Modality
) -> Iterator[Case | Refused]:
    for entry in description["training"]:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("image"), str)
            or not isinstance(entry.get("label"), str)
        ):
            yield Refused(str(entry)[:80], f"{FILE}: an entry of 'training' is not a pair of image and label")
            continue
        image, label = _file(root, entry["image"]), _file(root, entry["label"])
        case = stem(Path(entry["image"]))
        missing = [text for path, text in ((image, entry["image"]), (label, entry["label"])) if path is None]
        if image is None or label is None:
            yield Refused(case, f"{root / missing[0]}: no such file, though {FILE} lists it")
            continue
        yield Case(case, image, (LabelFile(label, names),), modality, "train")
    for entry in description.get("test") or []:
        text = entry.get("image") if isinstance(entry, dict) else entry
        if isinstance(text, str) and (path := _file(root, text)) is not None:
            yield Case(stem(path), path, (), modality, "test")


def _file(root: Path, text: str) -> Path | None:
    """The file that ``dataset.json`` names; some copies pack the volumes again, .nii for .nii.gz or the other way."""
    path = root / text
    if path.is_file():
        return path
    other = path.with_name(stem(path) + (".nii" if path.name.endswith(".gz") else ".nii.gz"))
    return other if other.is_file() else None
