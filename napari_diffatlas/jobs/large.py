"""Images larger than memory: the region is found at low resolution, then only that region is read.

A layer is large where its array is lazy and its voxels would not fit (`Source.large`). The whole image is read once,
chunk by chunk, as block means of about the model's spacing, and the engine searches these. The model gets, and the
labels lie on, the model's field of view about the found place, again as block means where that is large too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.engine.request import Request, Roi
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, field_of_view, larger_than_view
from diffatlas.geometry.volume import Volume
from diffatlas.session import Backend
from napari_diffatlas.jobs.recording import Recording
from napari_diffatlas.jobs.worker import Run, Stopped, Update
from napari_diffatlas.viewer.layers import AS_IS, Origin, Source
from napari_diffatlas.viewer.outcome import Outcome

COARSE_VOXELS = 2**26  # of the whole image at the model's spacing; a larger search takes hours
REGION_VOXELS = 2**26  # of the region that the model gets
SLAB_BYTES = 2**27  # float32 bytes read between two checks for Stop


class LargeRun(Run):
    """A run on a large layer. ``source``: the whole; from the first step on the region that was read of it."""

    def __init__(
        self,
        backend: Callable[[], Backend],
        source: Source,
        request: Request,
        space: ModelSpace,
        title: str,
        card: Any,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(backend, source.volume, request, recording=recording, present=self._outcome)
        self.source, self._space, self._title, self._card = source, space, title, card

    def _updates(self) -> Iterator[Update]:
        try:
            yield from super()._updates()
        except Interrupted:
            yield Stopped(0)

    def _prepared(self) -> tuple[Volume, Request]:
        whole, request = self.source, self._request
        roi = request.roi
        if roi is not None:
            centre_mm = whole.grid.to_world(np.array([(a + b - 1) / 2 for a, b in roi]))
        elif larger_than_view(self._space, whole.grid):
            centre_mm = self._found(coarse(whole, self._space, self.stopped), request)
        else:
            centre_mm = whole.grid.centre_mm
        self.source, inside = region(whole, field_of_view(self._space, whole.grid, centre_mm), roi, self.stopped)
        return self.source.file_volume(), replace(request, roi=inside)

    def _found(self, low: Source, request: Request) -> NDArray[np.float64]:
        """Where the engine's search finds the structures, world mm [3]."""
        for look in self._backend().locate(low.volume(), request):
            if self.stopped():
                raise Interrupted
            if look.proposal is not None:
                return look.proposal.centre_mm
        raise BadInput("the search ended without a result; run again")

    def _outcome(self, frame: Any) -> Outcome:
        return Outcome.of(frame, self.source, self._title, self._card)


class Interrupted(Exception):
    """The user stopped while the image was read."""


def coarse(source: Source, space: ModelSpace, stopped: Callable[[], bool] = lambda: False) -> Source:
    """The whole image as block means of about the model's spacing; of several levels, the coarsest one that is fine
    enough is read. `BadInput` where even that is too large."""
    wanted = min(space.spacing_mm)
    data, grid = source.data, source.grid
    for level in source.levels[1:]:
        thinner = _level_grid(source.grid, tuple(level.shape))
        if max(thinner.spacing_mm) <= wanted:
            data, grid = level, thinner
    block = _block(grid, wanted)
    voxels = float(np.prod([max(1, n // b) for n, b in zip(grid.shape, block, strict=True)], dtype=float))
    if voxels > COARSE_VOXELS:
        raise BadInput(
            f"'{source.name}': at the model's spacing it is still {voxels:.3g} voxels, the limit is "
            f"{COARSE_VOXELS:.3g}; set a region with Cursor or Draw"
        )
    return _reduced(source, data, grid, block, stopped)


def region(
    source: Source, ranges: Roi, roi: Roi | None, stopped: Callable[[], bool] = lambda: False
) -> tuple[Source, Roi | None]:
    """Read the voxels in ``ranges`` of ``source``; returns them and ``roi`` on their grid."""
    part = source.data[tuple(slice(a, b) for a, b in ranges)]
    affine = source.grid.affine.copy()
    affine[:3, 3] = source.grid.to_world(np.array([a for a, _ in ranges], dtype=float))
    shape = part.shape
    times = max(1, int(np.ceil((np.prod(shape, dtype=float) / REGION_VOXELS) ** (1 / 3))))
    block = tuple(min(times, n) for n in shape)
    found = _reduced(source, part, Grid(shape, affine), block, stopped)
    if times > 1:
        how = f"the region alone is large: read as means of {times} voxels along each axis"
        found = replace(found, notes=(*found.notes, how))
    if roi is None:
        return found, None
    inside = []
    for (low, high), (start, _), b, size in zip(roi, ranges, block, found.grid.shape, strict=True):
        first = min(max(0, (low - start) // b), size - 1)
        inside.append((first, min(max(first + 1, -(-(high - start) // b)), size)))
    return found, (inside[0], inside[1], inside[2])


def _reduced(source: Source, data: Any, grid: Grid, block: tuple[int, ...], stopped: Callable[[], bool]) -> Source:
    """``data`` on ``grid`` as means of blocks, computed slab after slab along the first axis."""
    import dask.array as da

    lazy = data if isinstance(data, da.Array) else da.from_array(data)
    counts = [n // b for n, b in zip(grid.shape, block, strict=True)]
    out = np.empty(counts, dtype=np.float32)
    plane = 4 * block[0] * float(np.prod(grid.shape[1:], dtype=float))
    chunk = lazy.chunks[0][0] // block[0]  # a chunk is always computed as a whole, so read whole chunks
    rows = max(1, chunk, int(SLAB_BYTES / plane))
    for first in range(0, counts[0], rows):
        if stopped():
            raise Interrupted
        last = min(first + rows, counts[0])
        whole = (
            slice(first * block[0], last * block[0]),
            *(slice(0, n * b) for n, b in zip(counts[1:], block[1:], strict=True)),
        )
        slab = lazy[whole].astype(np.float32)
        if any(b > 1 for b in block):
            slab = da.coarsen(np.mean, slab, dict(enumerate(block)))
        out[first:last] = slab.compute()
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world((np.array(block, dtype=float) - 1) / 2)
    affine[:3, :3] = affine[:3, :3] @ np.diag(block)
    thin = Grid((counts[0], counts[1], counts[2]), affine)
    return replace(source, data=out, grid=thin, origin=Origin(thin, AS_IS), levels=())


def _block(grid: Grid, spacing_mm: float) -> tuple[int, ...]:
    """Voxels of ``grid`` along each axis that make one of about ``spacing_mm``."""
    return tuple(min(max(1, int(spacing_mm // h)), n) for h, n in zip(grid.spacing_mm, grid.shape, strict=True))


def _level_grid(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The grid of a coarser level of the image on ``grid``: the same box in fewer voxels."""
    times = np.array(grid.shape, dtype=float) / np.array(shape, dtype=float)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world((times - 1) / 2)
    affine[:3, :3] = affine[:3, :3] @ np.diag(times)
    return Grid((shape[0], shape[1], shape[2]), affine)
