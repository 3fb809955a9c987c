"""The one data model of every source: a `Case`, and the `Collection` a source lists.

Listing opens no image: a collection says which files belong together, what their ids mean and what is wrong with the
layout. What is wrong inside the files shows when a case is resampled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality
from diffatlas.phantom import PhantomModality

SUFFIXES = (".nii.gz", ".nii")
# Enough for every published layout (MMWHS / CT / training_set_full / file), and a home folder is not searched for long.
DEPTH = 4

Centre = Literal["auto", "volume", "labels"]


@dataclass(frozen=True)
class Drawn:
    """The image of a digital heart: its seed, and the appearances it is drawn in."""

    seed: int
    modalities: tuple[PhantomModality, ...]


@dataclass(frozen=True)
class DrawnAnatomy:
    """Images drawn from a heart's label map (`diffatlas.anatomies`): the file that keeps the shapes, the name of one,
    and the patient's seed and number of pictures."""

    shapes: Path
    name: str
    seed: int
    looks: int


@dataclass(frozen=True)
class LabelFile:
    """A label map, or the mask of one structure.

    ``names``: what each id in the file is called (None: the ids are the scheme's own). ``typos``: ids that the release
    holds by mistake, and the ids that were meant.
    """

    path: Path
    names: Mapping[int, str] | None
    typos: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One subject: ``labels`` is empty where the source gives none (a test case), several files where every structure
    has a mask of its own. ``split`` is the source's ("train", "val", "test", "all"). ``channel``: which volume of a
    4-D image."""

    id: str
    image: Path | Drawn | DrawnAnatomy
    labels: tuple[LabelFile, ...]
    modality: Modality
    split: str = "train"
    channel: int | None = None


@dataclass(frozen=True)
class Refused:
    """A case that cannot be used, and why, in one line."""

    id: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What a source holds. ``structures``: the (name, id) pairs it declares, None where its ids have no names.

    ``hint``: what to do where the wanted structures are not annotated in it.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()
    structures: tuple[tuple[str, int], ...] | None = None
    hint: str = ""

    def splits(self) -> dict[str, int]:
        """How many cases each split has."""
        counts: dict[str, int] = {}
        for case in self.cases:
            counts[case.split] = counts.get(case.split, 0) + 1
        return counts

    def select(self, splits: Iterable[str], modalities: Iterable[str] | None = None) -> Collection:
        """The cases of some splits and modalities; `BadInput` where none is left."""
        wanted, kinds = tuple(splits), None if modalities is None else tuple(modalities)
        cases = tuple(c for c in self.cases if c.split in wanted)
        if self.cases and not cases:
            found = ", ".join(f"{name} ({count})" for name, count in sorted(self.splits().items()))
            raise BadInput(f"{self.root}: no case of the split {' or '.join(wanted)}; there are: {found}")
        if kinds is not None and cases:
            kept = tuple(c for c in cases if c.modality in kinds or c.modality == "unknown")
            if not kept:
                found = ", ".join(sorted({c.modality for c in cases}))
                raise BadInput(f"{self.root}: no case of the modality {' or '.join(kinds)}; there are: {found}")
            cases = kept
        return replace(self, cases=cases)


def collect(cases: Iterable[Case | Refused]) -> tuple[tuple[Case, ...], tuple[Refused, ...]]:
    """Cases in order of their id, each id once: later files that claim a taken one are refused."""
    kept: dict[str, Case] = {}
    refused: list[Refused] = []
    for item in cases:
        if isinstance(item, Refused):
            refused.append(item)
        elif item.id in kept:
            refused.append(Refused(item.id, f"{_where(item)}: the id {item.id} is taken by {_where(kept[item.id])}"))
        else:
            kept[item.id] = item
    return tuple(sorted(kept.values(), key=lambda c: c.id)), tuple(refused)


def _where(case: Case) -> str:
    return str(case.image) if isinstance(case.image, Path) else case.id


def walk(root: Path, depth: int = DEPTH, enter: Callable[[Path], bool] = lambda _: True) -> Iterator[Path]:
    """The NIfTI files below ``root`` in the order of their names; hidden ones (macOS makes ``._x.nii.gz``) are not."""
    try:
        with os.scandir(root) as found:
            entries = sorted(found, key=lambda e: e.name)
    except OSError as error:
        raise BadInput(f"{root}: cannot be listed ({(error.strerror or str(error)).lower()})") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = root / entry.name
        if entry.is_dir():
            if depth > 0 and enter(path):
                yield from walk(path, depth - 1, enter)
        elif stem(path) != path.name:
            yield path


def stem(path: Path) -> str:
    """The file name without ``.nii`` or ``.nii.gz``; the whole name where it has another ending."""
    low = path.name.lower()
    return next((path.name[: -len(suffix)] for suffix in SUFFIXES if low.endswith(suffix)), path.name)


def with_suffix(folder: Path, name: str) -> Path | None:
    """``folder/name.nii.gz`` or ``folder/name.nii``, whichever is there."""
    return next((path for suffix in SUFFIXES if (path := folder / (name + suffix)).is_file()), None)
