"""The space a model lives in: a small grid of fixed shape and spacing, and the windows of its images.

The grid's axes are the patient's (RAS+). `ModelSpace.place` puts it into the world of a volume.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Modality
from diffatlas.values import Positive, Real, Whole, plain, value

FILL = -1.0  # model value outside the volume: the lower end of the window, as air would be

Size = Annotated[Whole, Field(ge=1)]
Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


MAX_VOXELS = 2**27


@value(frozen=True)
class Window:
    """How intensities become [-1, 1]: the values ``low`` and ``high`` themselves, or percentiles of what is in view."""

    kind: Literal["range", "percentile"]
    low: Real
    high: Real

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"window: low must lie below high, not {self.low:g} and {self.high:g}")
        if self.kind == "percentile" and not 0 <= self.low < self.high <= 100:
            raise ValueError(f"window: percentiles lie between 0 and 100, not {self.low:g} and {self.high:g}")

    def limits(self, values: NDArray[np.float32]) -> tuple[float, float]:
        """The intensities that map to -1 and 1, given the voxels [N] of the volume inside the field of view."""
        if self.kind == "range":
            return self.low, self.high
        low, high = np.percentile(values, [self.low, self.high])
        return float(low), float(high)


@value(frozen=True)
class ModelSpace:
    """``shape`` [3] voxels of ``spacing_mm`` along right, anterior, superior; ``sdf_clip_mm``: the distance of 1.

    ``fill``: model value outside the volume; the published preprocessing pads with 0, the middle of the window.
    """

    shape: tuple[Size, Size, Size]
    spacing_mm: tuple[Positive, Positive, Positive]
    sdf_clip_mm: Positive
    windows: dict[str, Window]
    fill: Annotated[Real, Field(ge=-1, le=1)] = FILL

    def __post_init__(self) -> None:
        if math.prod(self.shape) > MAX_VOXELS:
            raise ValueError(f"shape: {' x '.join(map(str, self.shape))} voxels are more than a model's grid can have")
        if unknown := sorted(self.windows.keys() - set(get_args(Modality))):
            raise ValueError(f"windows: there is no modality {unknown[0][:40]!r}; there are ct, mr and unknown")

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    def grid_at(self, centre_mm: NDArray[np.float64]) -> Grid:
        """The model's grid with its middle at ``centre_mm`` [3], world."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return Grid(self.shape, affine)

    def window_for(self, modality: Modality) -> Window:
        """The window of a modality; one the model does not know falls back to percentiles."""
        return self.windows.get(modality) or self.windows.get("unknown") or Window("percentile", 0.5, 99.5)

    def place(self, grid: Grid, roi: Ranges | None = None, centre_mm: NDArray[np.float64] | None = None) -> Grid:
        """The model grid for a source ``grid``: centred on ``roi`` (voxel ranges), ``centre_mm`` or the volume."""
        if roi is not None:
            check_roi(roi, grid.shape)
            middle = np.array([(low + high - 1) / 2 for low, high in roi])
            centre_mm = grid.to_world(middle)
        return self.grid_at(grid.centre_mm if centre_mm is None else centre_mm)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `diffatlas.values.load` is the inverse. ``fill`` stands in it only where it is not the usual."""
        data = plain(self)
        return data if self.fill != FILL else {key: item for key, item in data.items() if key != "fill"}


def world_box(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners [3], [3] of the box along the world's axes that holds all voxels of ``grid``, mm."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1).T
    world = grid.to_world(corners)
    return world.min(axis=0), world.max(axis=0)


def larger_than_view(space: ModelSpace, grid: Grid) -> bool:
    """Whether ``grid`` reaches so far beyond the model's field of view that its middle may miss the structures."""
    low, high = world_box(grid)
    return any(size > 1.15 * seen for size, seen in zip((high - low).tolist(), space.extent_mm, strict=True))


def field_of_view(space: ModelSpace, grid: Grid, centre_mm: NDArray[np.float64]) -> Ranges:
    """Voxel ranges of ``grid`` that hold the model's field of view about ``centre_mm`` [3], world.

    Moved into the volume where it would stick out; the whole axis where the volume is the smaller one. As a region of
    interest they have their middle, and with it the model, within a voxel of ``centre_mm``, unless they were moved.
    """
    half = np.array(space.extent_mm) / 2
    corners = np.array(np.meshgrid(*[(-h, h) for h in half])).reshape(3, -1).T
    at = grid.to_voxel(centre_mm + corners) + 0.5  # borders of voxels
    ranges = []
    for low, high, size in zip(at.min(axis=0), at.max(axis=0), grid.shape, strict=True):
        length = min(max(1, round(high - low)), size)
        start = min(max(0, round((low + high - length) / 2)), size - length)
        ranges.append((start, start + length))
    return ranges[0], ranges[1], ranges[2]


def check_roi(roi: Ranges, shape: tuple[int, int, int]) -> None:
    """`BadInput` unless every range is within ``shape`` and not empty."""
    for axis, (low, high), size in zip("XYZ", roi, shape, strict=True):
        if not 0 <= low < high <= size:
            raise BadInput(f"roi {axis} {low}:{high} is not a range within the volume (0:{size})")
