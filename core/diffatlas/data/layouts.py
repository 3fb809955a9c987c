"""Which source a path is: told, or read off the names of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from diffatlas.data import decathlon, folder, mmwhs, preprocessed, totalsegmentator
from diffatlas.data.case import Collection
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality

Layout = Literal["mmwhs", "totalsegmentator", "diffatlas", "decathlon", "folder", "phantom", "anatomies"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# In this order: the authors' files may carry the names of MM-WHS, and a task of the Decathlon has a file that says so.
_SOURCES = {s.LAYOUT: s for s in (decathlon, totalsegmentator, folder, preprocessed, mmwhs)}


def find_layout(path: Path) -> str:
    """The layout of a folder or table; `BadInput` where it has none that is known."""
    _check(path)
    found = _recognise(path)
    if found is None:
        known = "; ".join(source.WHAT for source in _SOURCES.values())
        what = "is empty" if path.is_dir() and not any(path.iterdir()) else "has no layout that is known"
        raise BadInput(f"{path}: {what}; there are: {known}")
    return found


def scan(
    path: Path,
    layout: str | None = None,
    *,
    labels: Mapping[str, int] | None = None,
    modality: Modality = "unknown",
    channel: int | None = None,
    split: str = "split.json",
) -> Collection:
    """List what is at ``path``; ``layout`` overrides what its files look like.

    ``labels`` (structure to id in the files), ``modality``, ``channel`` and ``split`` mean something to the sources
    that do not say themselves. Raises `BadInput` where nothing of that layout is there.
    """
    _check(path)
    layout = layout or find_layout(path)
    if labels is not None:
        labels = {name: id_ for name, id_ in labels.items() if id_ != 0}  # the background needs no name
        if twice := [id_ for id_ in labels.values() if list(labels.values()).count(id_) > 1]:
            raise BadInput(f"labels: the id {twice[0]} has two names")
    if layout not in _SOURCES:
        raise BadInput(f"{path}: cannot be read as '{layout}'; layouts of files are: {', '.join(_SOURCES)}")
    if not _SOURCES[layout].looks_like(path):
        found = _recognise(path)
        other = f"; it looks like '{found}': {_SOURCES[found].WHAT}" if found else ""
        raise BadInput(f"{path}: nothing of the layout '{layout}' is there ({_SOURCES[layout].WHAT}){other}")
    if layout == "mmwhs":
        collection = mmwhs.scan(path)
    elif layout == "totalsegmentator":
        collection = totalsegmentator.scan(path)
    elif layout == "diffatlas":
        collection = preprocessed.scan(path, labels)
    elif layout == "decathlon":
        collection = decathlon.scan(path, labels, channel)
    else:
        collection = folder.scan(path, labels, modality, split)
    if channel is not None:
        collection = replace(collection, cases=tuple(replace(case, channel=channel) for case in collection.cases))
    if not collection.cases and not collection.refused:
        raise BadInput(f"{path}: holds no case ({_SOURCES[layout].WHAT})")
    return collection


def _check(path: Path) -> None:
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")


def _recognise(path: Path) -> str | None:
    return next((name for name, source in _SOURCES.items() if source.looks_like(path)), None)
