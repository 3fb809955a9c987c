"""How well a segmentation agrees with a reference, in numbers whose units are millimetres and millilitres.

For a structure with voxel sets P (prediction) and R (reference):

    Dice           2 |P and R| / (|P| + |R|)
    surface Dice   area of either surface that lies within ``tolerance_mm`` of the other / area of both surfaces
    HD95           the larger of the two 95th percentiles, by area, of the distance from one surface to the other

The surface of a voxel set is the set of voxel *faces* between inside and outside. Each face counts with its area in
mm^2 and sits at its centre in world coordinates, so anisotropic, oblique and sheared grids need no special case. This
is the area-weighted definition of Nikolov et al. (J Med Internet Res 2021;23(7):e26151) with faces in place of their
marching-cubes elements, which makes every answer on a box derivable by hand. MONAI's surface metrics were not used:
they measure between the centres of border voxels without area weights, so a thick slice counts as much as a thin one,
and they would load torch for arithmetic on a few thousand points.

Where a number has no meaning it is NaN, never 1.0 by convention: a structure absent from both maps has no Dice; one
absent from a single map has Dice and surface Dice 0 and no HD95. Means skip NaN and say how many values they hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

SCORES = ("dice", "surface_dice", "hd95_mm")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Figure:
    """A mean over ``n`` cases with its 95 % interval; NaN where no case defines it."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class StructureScore:
    """One structure: Dice and surface Dice in [0, 1], HD95 in mm, volumes in ml; NaN where undefined."""

    name: str
    dice: float
    surface_dice: float
    hd95_mm: float
    volume_prediction_ml: float
    volume_reference_ml: float


@dataclass(frozen=True)
class Comparison:
    """The scores of every structure of a scheme, in its order, and the tolerance of the surface Dice in mm."""

    rows: tuple[StructureScore, ...]
    tolerance_mm: float

    @property
    def mean(self) -> dict[str, float]:
        """Mean of "dice", "surface_dice" and "hd95_mm" over the structures where each is defined; NaN where none is."""
        values = {score: self._defined(score) for score in SCORES}
        return {score: sum(v) / len(v) if v else math.nan for score, v in values.items()}

    @property
    def n(self) -> dict[str, int]:
        """How many structures each mean holds."""
        return {score: len(self._defined(score)) for score in SCORES}

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; NaN becomes None."""
        return {
            "tolerance_mm": self.tolerance_mm,
            "structures": [{key: _or_none(value) for key, value in vars(row).items()} for row in self.rows],
            "mean": {score: _or_none(value) for score, value in self.mean.items()},
            "n": self.n,
        }

    def _defined(self, score: str) -> list[float]:
        return [value for row in self.rows if not math.isnan(value := getattr(row, score))]


def compare(prediction: LabelMap, reference: LabelMap, tolerance_mm: float = 2.0) -> Comparison:
    """Score ``prediction`` against ``reference``: both on the same grid, with the same structures.

    Raises `BadInput` where the grids or the structures differ, or the tolerance is not a length.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise BadInput(f"tolerance must be a length of 0 mm or more, not {tolerance_mm}")
    _check_comparable(prediction, reference)
    grid = prediction.grid
    rows = []
    for index, name in enumerate(prediction.scheme.names, start=1):
        p, r = prediction.data == index, reference.data == index
        count_p, count_r = int(np.count_nonzero(p)), int(np.count_nonzero(r))
        surface_dice, hd95_mm = _surface_scores(p, r, grid, tolerance_mm)
        rows.append(
            StructureScore(
                name=name,
                dice=dice(p, r),
                surface_dice=surface_dice,
                hd95_mm=hd95_mm,
                volume_prediction_ml=count_p * grid.voxel_volume_ml,
                volume_reference_ml=count_r * grid.voxel_volume_ml,
            )
        )
    return Comparison(tuple(rows), float(tolerance_mm))


def interval(values: Iterable[float], seed: int = 0) -> Figure:
    """The mean of the finite values and its bootstrap interval."""
    data = np.array([v for v in values if math.isfinite(v)])
    if not len(data):
        return Figure(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return Figure(float(data.mean()), float(low), float(high), len(data))


def dice(a: Mask, b: Mask) -> float:
    """Dice of two boolean arrays of one shape, 0 to 1; NaN where both are empty."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"masks must have one shape, not {a.shape} and {b.shape}")
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else math.nan


def surface(mask: Mask, grid: Grid) -> tuple[Floats, Floats]:
    """The faces between ``mask`` [X, Y, Z] and its outside (the border of the grid is outside).

    Returns their centres in world mm [N, 3] and their areas in mm^2 [N].
    """
    occupied = np.argwhere(mask)
    if not len(occupied):
        return np.empty((0, 3)), np.empty(0)
    low, high = occupied.min(axis=0), occupied.max(axis=0) + 1
    inside = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1).astype(np.int8)
    step = grid.affine[:3, :3]
    centres, areas = [], []
    for axis in range(3):
        faces = np.argwhere(np.diff(inside, axis=axis)).astype(np.float64)
        # np.diff's index i lies between padded voxels i and i + 1; the padding shifted every axis by one.
        faces += low - 1
        faces[:, axis] += 0.5
        edges = np.delete(step, axis, axis=1).T
        centres.append(grid.to_world(faces))
        areas.append(np.full(len(faces), np.linalg.norm(np.cross(edges[0], edges[1]))))
    return np.concatenate(centres), np.concatenate(areas)


def _surface_scores(p: Mask, r: Mask, grid: Grid, tolerance_mm: float) -> tuple[float, float]:
    """Surface Dice and HD95 (mm) of two masks [X, Y, Z]."""
    (points_p, area_p), (points_r, area_r) = surface(p, grid), surface(r, grid)
    if not len(points_p) and not len(points_r):
        return math.nan, math.nan
    if not len(points_p) or not len(points_r):
        return 0.0, math.nan
    from scipy.spatial import cKDTree  # imported by few runs: a search needs Dice alone

    p_to_r = np.asarray(cKDTree(points_r).query(points_p)[0])
    r_to_p = np.asarray(cKDTree(points_p).query(points_r)[0])
    # A distance of exactly the tolerance counts as within it, whatever the last bit of the affine product says.
    limit = tolerance_mm + 1e-6
    within = area_p[p_to_r <= limit].sum() + area_r[r_to_p <= limit].sum()
    hd95_mm = max(_percentile(p_to_r, area_p, 0.95), _percentile(r_to_p, area_r, 0.95))
    return float(within / (area_p.sum() + area_r.sum())), hd95_mm


def _percentile(values: Floats, weights: Floats, share: float) -> float:
    """The smallest value that at least ``share`` of the weight does not exceed."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    position = int(np.searchsorted(cumulative, share * cumulative[-1] * (1 - 1e-12)))
    return float(values[order[min(position, len(values) - 1)]])


def _check_comparable(prediction: LabelMap, reference: LabelMap) -> None:
    a, b = prediction.grid, reference.grid
    if a.shape != b.shape:
        raise BadInput(
            f"prediction has {_times(a.shape)} voxels and reference {_times(b.shape)}; "
            "resample one onto the other's grid"
        )
    if not a.matches(b):
        if a.axis_codes != b.axis_codes:
            what = f"axes ({a.axis_codes} and {b.axis_codes})"
        elif not np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-3):
            what = f"voxel size ({_times(a.spacing_mm)} and {_times(b.spacing_mm)} mm)"
        else:
            corners = np.array([[0.0, 0.0, 0.0], [n - 1.0 for n in a.shape]])
            apart = np.linalg.norm(a.to_world(corners) - b.to_world(corners), axis=1).max()
            what = f"position (up to {apart:.3g} mm apart)"
        raise BadInput(f"prediction and reference differ in {what}; resample one onto the other's grid")
    ours, theirs = prediction.scheme, reference.scheme
    if ours.ids != theirs.ids:
        raise BadInput(
            f"prediction and reference name different structures: ids {list(ours.ids)} ('{ours.name}') and "
            f"{list(theirs.ids)} ('{theirs.name}'); read both with one scheme"
        )


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
