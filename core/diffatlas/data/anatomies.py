"""Label maps of hearts as a source: a folder of NIfTI files and ``labels.json``; their images are drawn.

What is drawn, and from what, is said in `diffatlas.anatomies`. The distances of all maps are kept in one file, so that
the processes that draw need not measure them again.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from diffatlas.anatomies import HeartShape, label_ids, shape_of, write_shapes
from diffatlas.data.case import Case, Collection, DrawnAnatomy, stem, walk
from diffatlas.data.pool import default_workers
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS
from diffatlas.io import check_output
from diffatlas.io.images import read_label_ids

LAYOUT = "anatomies"
WHAT = "label maps of hearts with labels.json; images are drawn"
TABLE = "labels.json"
# Of the maps, one in this many is kept for the cases held out.
KEPT = 10


def scan(path: Path, cases: int, seed: int, looks: int, holdout: int, shapes: Path) -> Collection:
    """``cases`` patients from ``seed`` on, each in ``looks`` pictures, around the hearts in the folder ``path``.

    The last ``holdout`` are drawn from maps of which no other case is. ``shapes``: where the distances are kept; made
    where it is missing. `BadInput` where the folder holds too few maps or no table of ids.
    """
    if cases < 1 or seed < 0 or looks < 1:
        raise BadInput("data: anatomies need at least one case, one look, and a seed of 0 or more")
    files = {stem(p): p for p in walk(path)}
    if len(files) < 2:
        raise BadInput(f"{path}: holds {len(files)} label maps; give at least two")
    if not shapes.is_file():
        shapes.parent.mkdir(parents=True, exist_ok=True)
        check_output(shapes, (".safetensors",))
        with ProcessPoolExecutor(default_workers()) as pool:
            write_shapes(shapes, list(pool.map(partial(_shape, ids=label_ids(path / TABLE)), files.values())))
    names = sorted(files)
    kept = names[KEPT - 1 :: KEPT] or names[-1:]
    used = [n for n in names if n not in kept] if holdout else names
    chosen = [used[i % len(used)] for i in range(cases - holdout)] + [kept[i % len(kept)] for i in range(holdout)]
    made = tuple(
        Case(f"{name}-{seed + i}", DrawnAnatomy(shapes, name, seed + i, looks), (), "unknown")
        for i, name in enumerate(chosen)
    )
    return Collection(LAYOUT, path, made, structures=tuple((s.name, s.id) for s in MMWHS.structures))


def _shape(path: Path, ids: dict[str, int]) -> HeartShape:
    labels, grid = read_label_ids(path)
    return shape_of(stem(path), labels, grid, ids)
