"""Images and labels to the model's grid, and signed distances back to the voxels of the source.

`image_to_model` resamples an image onto a model grid and maps its window to [-1, 1]; `labels_to_model` gives the signed
distances of a label map there; `Resampler` brings *signed distances* (not labels) back to the source's voxels, so that
borders fall between the model's voxels where the distances say so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels, signed_distance_mm
from diffatlas.geometry.grid import Grid, oriented, reorient
from diffatlas.geometry.space import FILL, Ranges, Window
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume

# Voxels of a slab; two are worked on at a time.
SLAB_VOXELS = 2_000_000


class OnModelGrid(NamedTuple):
    """An image on a model grid: ``image`` float32 [X, Y, Z] in [-1, 1]; ``known`` bool [X, Y, Z], the voxels that
    come from ones to be believed; ``limits``: the intensities of -1 and 1."""

    image: NDArray[np.float32]
    known: NDArray[np.bool_]
    limits: tuple[float, float]


def image_to_model(
    volume: Volume, grid: Grid, window: Window, fill: float = FILL, ignore: NDArray[np.bool_] | None = None
) -> OnModelGrid:
    """Resample ``volume`` on the model ``grid`` and map its window to [-1, 1].

    Not known are voxels outside the volume, those in `Volume.unknown`, and those that ``ignore`` (bool, the volume's
    shape) marks: they are ``fill`` and have no part in the window. `BadInput` where nothing is left within ``grid``.
    """
    hidden = volume.unknown if ignore is None else ignore
    if volume.unknown is not None and ignore is not None:
        hidden = volume.unknown | ignore
    values, known = resample_believed(volume, grid, hidden)
    if hidden is not None and hidden.any() and not known.any():
        raise BadInput("nothing within the field of view is to be believed; there is nothing to segment by")
    return apply_window(values, known, window, fill)


def resample_believed(
    volume: Volume, grid: Grid, hidden: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`resample`, with voxels that are ``hidden`` (bool, the volume's shape) left out: they have no part in the values
    [X, Y, Z], and a voxel of ``grid`` is known where at least half of it is believed."""
    if hidden is None or not hidden.any():
        return resample(volume, grid)
    # Resampling is linear: with weights that are zero where hidden, those voxels have no part in their neighbours.
    keep = (~hidden).astype(np.float32)
    weighted, known = resample(Volume(volume.data * keep, volume.grid), grid)
    share, _ = resample(Volume(keep, volume.grid), grid)
    values = np.asarray(weighted / np.maximum(share, np.float32(1e-3)), dtype=np.float32)
    return values, known & (share > 0.5)


def apply_window(
    values: NDArray[np.float32], known: NDArray[np.bool_], window: Window, fill: float = FILL
) -> OnModelGrid:
    """Intensities [X, Y, Z] to [-1, 1], ``fill`` where not ``known``."""
    if not known.any():
        raise BadInput("the region of interest does not meet the volume")
    bottom, top = window.limits(values[known])
    scaled = (values - bottom) / max(top - bottom, 1e-6) * 2 - 1
    image = np.where(known, np.clip(scaled, -1, 1), fill).astype(np.float32)
    return OnModelGrid(image, known, (bottom, top))


def resample(volume: Volume, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Intensities of ``volume`` on the coarser or equal ``grid``: float32 [X, Y, Z], and which voxels it covers.

    Trilinear, after a Gaussian that removes what the spacing of ``grid`` cannot hold.
    """
    orientation = volume.grid.to_canonical()
    canonical = volume.grid.reoriented(orientation)
    data = oriented(volume.data, orientation)
    matrix = np.linalg.inv(canonical.affine) @ grid.affine  # model voxel -> source voxel
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
    reach = corners @ matrix[:3, :3].T + matrix[:3, 3]
    ratio = np.array(grid.spacing_mm) / np.array(canonical.spacing_mm)
    # sigma such that a voxel-wide box of the target is matched; nothing where the source is the coarser one
    sigma = np.where(ratio > 1, 0.5 * np.sqrt(np.maximum(ratio**2 - 1, 0)), 0.0)
    margin = np.ceil(4 * sigma).astype(int) + 2
    low = np.clip(np.floor(reach.min(0)).astype(int) - margin, 0, canonical.shape)
    high = np.clip(np.ceil(reach.max(0)).astype(int) + margin + 1, 0, canonical.shape)
    if (high <= low).any():
        raise BadInput("the region of interest does not meet the volume")
    part = np.ascontiguousarray(data[low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    if sigma.any():
        part = ndimage.gaussian_filter(part, sigma, mode="nearest")
    offset = matrix[:3, 3] - low
    out = ndimage.affine_transform(part, matrix[:3, :3], offset, grid.shape, order=1, mode="nearest")
    inside = np.ones(grid.shape, dtype=bool)
    coordinates = np.indices(grid.shape, dtype=np.float32, sparse=True)
    for axis in range(3):
        index: NDArray[Any] = matrix[axis, 3] + sum(matrix[axis, a] * coordinates[a] for a in range(3))
        # A model voxel that overlaps the volume counts, so that a volume smaller than one still shows.
        reach_voxels = 0.5 * max(1.0, float(ratio[axis])) + 1e-4
        inside &= (index > -reach_voxels) & (index < canonical.shape[axis] - 1 + reach_voxels)
    return out.astype(np.float32, copy=False), inside


@dataclass(frozen=True, eq=False)
class Resampler:
    """Brings fields on the model grid to the voxels of a source grid, slab by slab (memory stays bounded).

    ``box``: the part of the canonically oriented source the model grid covers.
    """

    source: Grid
    model: Grid

    def __post_init__(self) -> None:
        orientation = self.source.to_canonical()
        canonical = self.source.reoriented(orientation)
        matrix = np.linalg.inv(self.model.affine) @ canonical.affine  # source voxel -> model voxel
        back = np.linalg.inv(matrix)
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in self.model.shape])).reshape(3, -1).T
        reach = corners @ back[:3, :3].T + back[:3, 3]
        low = np.clip(np.floor(reach.min(0)).astype(int), 0, canonical.shape)
        high = np.clip(np.ceil(reach.max(0)).astype(int) + 1, 0, canonical.shape)
        object.__setattr__(self, "orientation", orientation)
        object.__setattr__(self, "canonical", canonical)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "box", tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)))

    orientation: NDArray[np.float64] = None  # type: ignore[assignment]
    canonical: Grid = None  # type: ignore[assignment]
    matrix: NDArray[np.float64] = None  # type: ignore[assignment]
    box: Ranges = None  # type: ignore[assignment]

    @property
    def _axis_aligned(self) -> bool:
        off_diagonal = self.matrix[:3, :3] - np.diag(np.diag(self.matrix[:3, :3]))
        return bool(np.abs(off_diagonal).max() * max(self.canonical.shape) < 1e-3)

    def slab(self, fields: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Trilinear values of ``fields`` [K, x, y, z] at source rows start..stop: [K, stop - start, Y, Z]."""
        (_, _), (y0, y1), (z0, z1) = self.box
        if self._axis_aligned:
            ranges = ((start, stop), (y0, y1), (z0, z1))
            x, y, z = (
                _between(np.arange(*ranges[a]) * self.matrix[a, a] + self.matrix[a, 3], self.model.shape[a])
                for a in range(3)
            )
            first, last = int(x[0].min()), int(x[1].max()) + 1  # the rows of the model that reach into this slab
            out = np.empty((len(fields), stop - start, y1 - y0, z1 - z0), dtype=np.float32)
            for k, field in enumerate(fields):
                planes = _interpolated(_interpolated(field[first:last].astype(np.float32, copy=False), z, 2), y, 1)
                # The first axis row by row, in place: this is by far the largest array.
                for row, (low, high, weight) in enumerate(zip(*x, strict=True)):
                    np.subtract(planes[high - first], planes[low - first], out=out[k, row])
                    out[k, row] *= weight
                    out[k, row] += planes[low - first]
            return out
        index = np.indices((stop - start, y1 - y0, z1 - z0), dtype=np.float64).reshape(3, -1)
        index += np.array([[start], [y0], [z0]])
        at = self.matrix[:3, :3] @ index + self.matrix[:3, 3:]
        shape = (stop - start, y1 - y0, z1 - z0)
        return np.stack([ndimage.map_coordinates(f, at, order=1, mode="nearest").reshape(shape) for f in fields])

    def covered(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which source voxels of the slab have their centre inside the model grid: bool [stop - start, Y, Z]."""
        (_, _), (y0, y1), (z0, z1) = self.box
        axes = np.ogrid[start:stop, y0:y1, z0:z1]
        inside = np.ones((stop - start, y1 - y0, z1 - z0), dtype=bool)
        for axis in range(3):
            # Axes that the index does not depend on are left out: between parallel grids a line is compared, no slab.
            turned = [self.matrix[axis, a] * axes[a] for a in range(3) if self.matrix[axis, a] != 0]
            at: NDArray[Any] = self.matrix[axis, 3] + sum(turned)
            inside &= (at > -0.5 - 1e-6) & (at < self.model.shape[axis] - 0.5 + 1e-6)
        return inside

    def _slabs(self) -> list[tuple[int, int]]:
        (x0, x1), (y0, y1), (z0, z1) = self.box
        rows = max(1, SLAB_VOXELS // max((y1 - y0) * (z1 - z0), 1))
        return [(a, min(a + rows, x1)) for a in range(x0, x1, rows)]

    def labels(self, sdf_mm: NDArray[np.float32], scheme: LabelScheme, roi: Ranges | None = None) -> LabelMap:
        """Distances [K, x, y, z] on the model grid to a `LabelMap` on the source grid (within ``roi``, if given)."""
        data = np.zeros(self.source.shape, dtype=np.uint8)
        self._fill(data, lambda start, stop: distances_to_labels(self.slab(sdf_mm, start, stop)))
        if roi is not None:
            keep = np.zeros_like(data)
            window = tuple(slice(a, b) for a, b in roi)
            keep[window] = data[window]
            data = keep
        return LabelMap(data, self.source, scheme)

    def field(self, values: NDArray[np.float32], outside: float) -> NDArray[np.float32]:
        """One field [x, y, z] on the model grid to the source grid, ``outside`` where the model does not reach."""
        # Zeros cost nothing where nobody writes them.
        out = np.full(self.source.shape, outside, np.float32) if outside else np.zeros(self.source.shape, np.float32)
        self._fill(out, lambda start, stop: self.slab(values[None], start, stop)[0])
        return out

    def _fill(self, out: NDArray[Any], values: Callable[[int, int], NDArray[Any]]) -> None:
        """Write ``values`` of every slab to the voxels of ``out`` (the source's axes) that the model covers."""
        (_, _), (y0, y1), (z0, z1) = self.box
        canonical = oriented(out, self.orientation)  # a view

        def fill(slab: tuple[int, int]) -> None:
            part = canonical[slab[0] : slab[1], y0:y1, z0:z1]
            np.copyto(part, values(*slab), where=self.covered(*slab))

        # Half of this waits for memory; the slabs do not meet.
        with ThreadPoolExecutor(2) as pool:
            deque(pool.map(fill, self._slabs()), maxlen=0)


Between = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _between(at: NDArray[np.float64], size: int) -> Between:
    """For fractional indices ``at`` the two whole ones they lie between and the weight of the second, ends held."""
    at = np.clip(at, 0, size - 1)
    low = np.minimum(np.floor(at).astype(np.int64), max(size - 2, 0))
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)


def _interpolated(values: NDArray[np.float32], between: Between, axis: int) -> NDArray[np.float32]:
    """Linear interpolation of ``values`` along ``axis``.

    As products with matrices of weights this would be left to BLAS, whose threads wait for each other longer than it
    takes.
    """
    low, high, weight = between
    below = np.take(values, low, axis)
    return below + (np.take(values, high, axis) - below) * weight.reshape([-1 if a == axis else 1 for a in range(3)])


def labels_to_model(labels: LabelMap, grid: Grid, clip_mm: float) -> NDArray[np.float32]:
    """Signed distances of a native label map, at its own resolution, on a model ``grid``: float32 [K, x, y, z], mm.

    Outside the label map's volume the distances of its border are held.
    """
    orientation = labels.grid.to_canonical()
    canonical = labels.grid.reoriented(orientation)
    data = reorient(labels.data, orientation)
    matrix = np.linalg.inv(canonical.affine) @ grid.affine
    out = np.empty((len(labels.scheme), *grid.shape), dtype=np.float32)
    for k in range(len(labels.scheme)):
        distance = signed_distance_mm(data == k + 1, canonical.spacing_mm, clip_mm)
        out[k] = ndimage.affine_transform(distance, matrix[:3, :3], matrix[:3, 3], grid.shape, order=1, mode="nearest")
    return out
