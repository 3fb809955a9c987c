"""Comparison of two label layers: matched structures, one grid, scores, disagreements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure
from diffatlas.metrics import Comparison, compare
from napari_diffatlas.viewer.layers import LabelSource, nearest, scheme_of

ONLY_FIRST, ONLY_SECOND, DIFFERENT = 1, 2, 3
MAX_STRUCTURES = 255


@dataclass(frozen=True, eq=False)
class Agreement:
    """The scores of the first layer against the second, and where they differ on the second's voxels.

    ``scheme``: the structures compared. ``disagreement``: uint8 [X, Y, Z], 0 where both say the same, else one of the
    numbers above. ``notes``: what had to be done before they could be compared.
    """

    comparison: Comparison
    scheme: LabelScheme
    disagreement: NDArray[np.uint8]
    notes: tuple[str, ...]


def agree(first: LabelSource, second: LabelSource, tolerance_mm: float) -> Agreement:
    """Compare two layers; computes lazy ones. `BadInput` where there is nothing to compare."""
    ids, reference_ids = first.ids(), second.ids()
    scheme, to_first, to_second = _matched(first, second, _found(ids), _found(reference_ids))
    if not len(scheme):
        raise BadInput("both layers are empty; there is nothing to compare")
    a, b = _indices(ids, to_first), _indices(reference_ids, to_second)
    notes = []
    if not first.grid.same_as(second.grid):
        whole = int(np.count_nonzero(a)) * first.grid.voxel_volume_ml
        a = nearest(a, first.grid, second.grid)
        notes.append(
            f"'{first.name}' lies on other voxels ({_voxels(first)}) than '{second.name}' ({_voxels(second)}). It was "
            f"put onto those of '{second.name}', the nearest value each"
        )
        kept = int(np.count_nonzero(a)) * second.grid.voxel_volume_ml
        if whole > 0 and kept == 0 and b.any():
            raise BadInput(
                f"'{first.name}' has no label within '{second.name}'; they lie apart, or are of two patients"
            )
        if kept < 0.98 * whole:
            notes.append(f"{whole - kept:.3g} ml of '{first.name}' lie outside or fell between the voxels")
    scores = compare(LabelMap(a, second.grid, scheme), LabelMap(b, second.grid, scheme), tolerance_mm)
    differ = np.zeros(b.shape, dtype=np.uint8)
    differ[(a > 0) & (b == 0)] = ONLY_FIRST
    differ[(a == 0) & (b > 0)] = ONLY_SECOND
    differ[(a > 0) & (b > 0) & (a != b)] = DIFFERENT
    return Agreement(scores, scheme, differ, tuple(f"{note}." for note in notes))


def _matched(
    first: LabelSource, second: LabelSource, found: tuple[int, ...], reference: tuple[int, ...]
) -> tuple[LabelScheme, dict[int, int], dict[int, int]]:
    """The structures that occur, and for each layer a table from its ids to their indices.

    By name where both layers carry names, else by id, under the names of the layer that has some.
    """
    by_name = first.scheme is not None and second.scheme is not None
    own = first.scheme or second.scheme or scheme_of(np.array(found))
    others = second.scheme or first.scheme or scheme_of(np.array(reference))
    structures: dict[str, Structure] = {}

    def way(scheme: LabelScheme, ids: tuple[int, ...]) -> dict[int, int]:
        known = {s.id: s for s in scheme.structures}
        order = {id_: place for place, id_ in enumerate(known)}
        out = {}
        for id_ in sorted(ids, key=lambda i: (order.get(i, len(order)), i)):
            structure = known.get(id_) or scheme_of(np.array([id_])).structures[0]
            key = structure.name.casefold() if by_name else str(id_)
            structures.setdefault(key, structure)
            out[id_] = list(structures).index(key) + 1
        return out

    to_second = way(others, reference)  # the reference first: its order and its colours are the ones that are shown
    to_first = way(own, found)
    if len(structures) > MAX_STRUCTURES:
        raise BadInput(f"{len(structures)} different structures; at most {MAX_STRUCTURES} can be compared at a time")
    numbered = tuple(Structure(s.name, index, s.color) for index, s in enumerate(structures.values(), start=1))
    return LabelScheme("compared", numbered), to_first, to_second


def _found(ids: NDArray[np.generic]) -> tuple[int, ...]:
    found = tuple(int(i) for i in np.unique(ids) if i != 0)
    if min(found, default=0) < 0:
        raise BadInput("a label map holds no negative ids; choose another layer")
    if len(found) > MAX_STRUCTURES:
        raise BadInput(f"a layer with {len(found)} different ids is no map of structures; choose another layer")
    return found


def _indices(ids: NDArray[np.generic], way: Mapping[int, int]) -> NDArray[np.uint8]:
    out = np.zeros(ids.shape, dtype=np.uint8)
    for id_, index in way.items():
        out[ids == id_] = index
    return out


def _voxels(source: LabelSource) -> str:
    shape = " × ".join(map(str, source.grid.shape))
    return f"{shape} of {' × '.join(f'{s:.3g}' for s in source.grid.spacing_mm)} mm"
