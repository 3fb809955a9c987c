"""Label files of any source to one `LabelMap` in the order of a scheme; structures are matched by name, never by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.data.case import LabelFile
from diffatlas.data.names import canonical
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme
from diffatlas.io import read_label_ids


def read_labels(files: tuple[LabelFile, ...], scheme: LabelScheme) -> tuple[LabelMap, tuple[str, ...]]:
    """The label map of a case in the order of ``scheme``, whatever ids and files its source has, and notes.

    Structures are matched by name. Ids without a name are refused; named structures that the scheme does not have
    become background; where masks overlap, the scheme's first structure keeps the voxel. Raises `BadInput` also where
    the source does not annotate a structure at all: that is not the same as its absence.
    """
    index = {canonical(name): k for k, name in enumerate(scheme.names, start=1)}
    annotated = {canonical(n) for f in files for n in (scheme.names if f.names is None else f.names.values())}
    if lacking := [name for name in scheme.names if canonical(name) not in annotated]:
        raise BadInput(f"{files[0].path.parent}: {', '.join(lacking)} not annotated, which is not the same as absent")
    data: NDArray[np.uint8] | None = None
    grid: Grid | None = None
    first = files[0].path
    notes: list[str] = []
    wanted = sorted((f for f in files if _rank(f, index)), key=lambda f: _rank(f, index))
    for file in wanted:
        ids, here = read_label_ids(file.path, notes=notes)
        if data is None or grid is None:
            data, grid, first = np.zeros(ids.shape, dtype=np.uint8), here, file.path
        else:
            same_grid(first, grid, file.path, here)
        names = file.names if file.names is not None else dict(zip(scheme.ids, scheme.names, strict=True))
        present = _present(ids)
        for id_ in present:
            meant = file.typos.get(id_, id_)
            if meant != id_:
                count = int(np.count_nonzero(ids == id_))
                notes.append(f"{file.path.name}: {count} voxels of id {id_} read as {meant}, a known slip")
            if meant not in names:
                known = ", ".join(f"{i} {n}" for i, n in sorted(names.items())[:12])
                raise BadInput(f"{file.path}: holds the id {id_}, which has no name; named are: {known}")
            if k := index.get(canonical(names[meant])):
                data[(ids == id_) & (data == 0)] = k
    assert data is not None
    assert grid is not None
    return LabelMap(data, grid, scheme), tuple(notes)


def _rank(file: LabelFile, index: dict[str, int]) -> int:
    """The scheme's first structure that a file may hold; 0 where it holds none of them and need not be read."""
    if file.names is None:
        return 1
    return min((index[c] for n in file.names.values() if (c := canonical(n)) in index), default=0)


def _present(ids: NDArray[Any]) -> list[int]:
    """The ids in an array but 0, ascending; slice by slice, because sorting a whole CT takes long."""
    found: set[int] = set()
    for k in range(ids.shape[2]):
        found.update(int(v) for v in np.unique(ids[:, :, k]))
    return sorted(found - {0})


def same_grid(path: Path, grid: Grid, other_path: Path, other: Grid) -> None:
    """`BadInput` where two files of a case do not lie on the same voxels."""
    if grid.shape != other.shape:
        raise BadInput(
            f"{other_path}: has {_x(other.shape)} voxels, {path.name} has {_x(grid.shape)}; they do not match"
        )
    if not grid.matches(other):
        raise BadInput(
            f"{other_path}: lies elsewhere in the world than {path.name} (another affine); mend the wrong header"
        )


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
