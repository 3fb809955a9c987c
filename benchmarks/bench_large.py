"""Peak memory of a run on an image that does not fit: a lazily computed array of 2,000 x 2,000 x 1,500 voxels.

    python benchmarks/bench_large.py [--shape 2000 2000 1500] [--spacing 0.25]

A phantom heart off the middle of 500 x 500 x 375 mm, computed chunk by chunk when it is read (24 GB as float32).
``heart-phantom`` runs on it as the napari widget does: the whole is read once as means of blocks, the search finds the
place, and the region about it is read. Prints the seconds of each part, how far the place is from the heart's middle,
and the peak resident memory of the process, before and after. Writes benchmarks/results/large.json.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
from common import UNSEEN_HEARTS, write_results

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.phantom import phantom
from napari_diffatlas.jobs.large import LargeRun
from napari_diffatlas.jobs.worker import Done, Failed, Step
from napari_diffatlas.viewer.layers import AS_IS, RAS_MM, Origin, Source

MIDDLE_MM = np.array([60.0, -45.0, 30.0])
CHUNK = 250
AIR = -1000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(2000, 2000, 1500))
    parser.add_argument("--spacing", type=float, default=0.25, help="mm")
    options = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    affine = np.diag([options.spacing] * 3 + [1.0])
    affine[:3, 3] = -options.spacing * (np.array(options.shape) - 1) / 2
    grid = Grid(tuple(options.shape), affine)
    heart, truth = phantom(UNSEEN_HEARTS, "ct")
    source = Source("large", lazy(grid, heart), grid, RAS_MM, Origin(grid, AS_IS), "ct")
    request = Request(model="heart-phantom", preset="fast")
    card = session.model_card(request.model)
    next(iter(session.stream(phantom(UNSEEN_HEARTS + 1, "ct")[0], request)))  # torch and the weights are there
    before = peak_mib()
    begin = time.monotonic()
    run = LargeRun(session.local_backend, source, request, card.space, "labels", card)
    first_s, found = None, None
    for update in run.updates():
        if isinstance(update, Step) and first_s is None:
            first_s = time.monotonic() - begin
        if isinstance(update, Failed):
            raise SystemExit(update.message)
        if isinstance(update, Done):
            found = update.result
    assert found is not None
    assert first_s is not None
    labels = found.result.labels
    middle = labels.grid.to_world(np.argwhere(labels.data).mean(axis=0))
    true = truth.grid.to_world(np.argwhere(truth.data).mean(axis=0)) + MIDDLE_MM
    rows: dict[str, Any] = {
        "shape": list(grid.shape),
        "whole_gib_as_float32": round(4 * float(np.prod(grid.shape, dtype=float)) / 2**30, 1),
        "labels_shape": list(labels.grid.shape),
        "seconds_to_first_step": round(first_s, 1),
        "seconds": round(time.monotonic() - begin, 1),
        "middle_of_labels_off_mm": round(float(np.linalg.norm(middle - true)), 1),
        "peak_mib_before": round(before),
        "peak_mib": round(peak_mib()),
    }
    for name, value in rows.items():
        print(f"{name:28s} {value}")
    print(write_results("large", rows))


def lazy(grid: Grid, heart: Any) -> Any:
    """The heart about `MIDDLE_MM` in air, nearest values, computed when it is read."""
    to_heart = np.linalg.inv(heart.grid.affine)
    inverse = to_heart @ grid.affine
    offset = inverse[:3, 3] - to_heart[:3, :3] @ MIDDLE_MM
    values = heart.data.astype(np.int16)

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        place = block_info[None]["array-location"]
        at = []
        for axis, (low, high) in enumerate(place):
            index = np.rint(np.arange(low, high) * inverse[axis, axis] + offset[axis]).astype(np.intp)
            at.append(np.where((index >= 0) & (index < values.shape[axis]), index, -1))
        out = np.full([len(a) for a in at], AIR, dtype=np.int16)
        if all((a >= 0).any() for a in at):
            inside = np.ix_(*[np.flatnonzero(a >= 0) for a in at])
            out[inside] = values[np.ix_(*[a[a >= 0] for a in at])]
        return out

    chunks = tuple(tuple(min(CHUNK, n - i) for i in range(0, n, CHUNK)) for n in grid.shape)
    empty = np.empty((0, 0, 0), np.int16)
    return da.map_blocks(block, chunks=chunks, dtype=np.int16, meta=empty)  # type: ignore[no-untyped-call]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
