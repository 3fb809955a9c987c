"""Test cases on their own voxels: volume and reference of every case that a configuration's ``data`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.data import Case, Drawn, read_labels
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.io import read_volume
from diffatlas.phantom import phantom
from diffatlas.train.config import TrainConfig
from diffatlas.train.sources import collection_of


@dataclass(frozen=True, eq=False)
class Subject:
    """A case by name; ``read`` opens it."""

    name: str
    read: Callable[[], tuple[Volume, LabelMap]]


def subjects(config: TrainConfig) -> list[Subject]:
    """The cases that ``config.data`` names, in its order; no image is opened. `BadInput` where there are none."""
    collection, _ = collection_of(config.data, config.space)
    if collection.refused:
        first = collection.refused[0]
        raise BadInput(f"test case {first.id}: {first.reason}")
    cases = [test for case in collection.cases for test in _of(case, config)]
    if config.data.only is not None:
        place = {case.name: case for case in cases}
        if missing := [name for name in config.data.only if name not in place]:
            raise BadInput(f"data.only: no test case {', '.join(missing[:3])}")
        cases = [place[name] for name in config.data.only]
    if not cases:
        raise BadInput("there is no test case")
    return cases


def slab(labels: NDArray[np.integer[Any]], grid: Grid, share: float) -> NDArray[np.bool_] | None:
    """Voxels of a slab across the middle of what is labelled, bool of the shape of ``labels``.

    It takes ``share`` of the length of the labels along the axis of the array that runs along the body most. None where
    that is less than one slice.
    """
    axis = int(np.abs(grid.affine[2, :3]).argmax())
    there = np.flatnonzero((labels > 0).any(axis=tuple(a for a in range(3) if a != axis)))
    length = there[-1] + 1 - there[0] if len(there) else 0
    width = round(share * length)
    if not width:
        return None
    begin = (2 * there[0] + length - width) // 2
    across = tuple(slice(begin, begin + width) if a == axis else slice(None) for a in range(3))
    mask = np.zeros(labels.shape, dtype=bool)
    mask[across] = True
    return mask


def _of(case: Case, config: TrainConfig) -> Iterator[Subject]:
    if isinstance(case.image, Drawn):
        for modality in case.image.modalities:
            if modality == "random":
                raise BadInput("test.modalities: only digital hearts of ct or mr can be tested")
            seed = case.image.seed
            yield Subject(f"{modality}-{seed}", lambda s=seed, m=modality: phantom(s, m))  # type: ignore[misc]
    else:
        yield Subject(case.id, lambda: _read(case, config))


def _read(case: Case, config: TrainConfig) -> tuple[Volume, LabelMap]:
    assert isinstance(case.image, Path)
    volume = read_volume(case.image, volume_index=case.channel)
    if volume.modality == "unknown" and case.modality != "unknown":
        volume = replace(volume, modality=case.modality)
    labels, _ = read_labels(case.labels, config.scheme)
    if not volume.grid.matches(labels.grid):
        raise BadInput(f"test case {case.id}: image and labels do not lie on the same voxels")
    return volume, LabelMap(labels.data, volume.grid, labels.scheme)
