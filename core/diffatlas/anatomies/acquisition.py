"""How a scanner would have looked at a drawn patient: where, in which planes, how thick, and what it left out.

An `Acquisition` is drawn before the patient is painted, because it says where the model's grid lies: the middle of what
was acquired is not the heart's. `acquire` averages the image over each slice, moves and dims slices, adds noise where
the scanner adds it, and returns what a reader would interpolate on the model's grid, and which of its voxels were
acquired at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.anatomies.body import Frame, Pose
from diffatlas.geometry.grid import Grid
from diffatlas.phantom.fields import Field, Vector, rotation_matrix

Kind = Literal["volume", "short axis", "lost header", "low crop", "slab"]
KINDS: tuple[Kind, ...] = ("volume", "short axis", "lost header", "low crop", "slab")
SHARES = (0.25, 0.22, 0.20, 0.22, 0.11)
# Samples averaged over the thickness of a slice.
_WITHIN = 3
_PLANE_MM = 2.2  # of the slices' own pixels: what is finer is gone on a grid of 2.5 mm


@dataclass(frozen=True, eq=False)
class Acquisition:
    """``centre_mm`` [3]: middle of the model's grid; ``axes`` [3, 3]: rows are the two directions in the slices and
    their normal; ``box_mm`` [3]: full lengths of what is acquired along them, about ``middle_mm`` [3]; ``thickness_mm``
    and ``step_mm``: of the slices. ``jitter_mm``, ``gain``: spread of the slices' shifts and brightness."""

    kind: Kind
    centre_mm: Vector
    middle_mm: Vector
    axes: Vector
    box_mm: Vector
    thickness_mm: float
    step_mm: float
    jitter_mm: float
    gain: float


def sample_kind(rng: np.random.Generator) -> tuple[Kind, Frame]:
    """The kind of an acquisition, and how the image's axes lie in the body."""
    kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
    lost = kind == "lost header" or (kind == "slab" and rng.uniform() < 0.3)
    return kind, "short axis" if lost else "body"


def sample_acquisition(pose: Pose, kind: Kind, rng: np.random.Generator) -> Acquisition:
    """An acquisition of this ``kind`` of the patient ``pose``."""
    ventricles = (pose.middles["lv"] * 2 + pose.middles["rv"]) / 3
    straight = np.eye(3)
    if kind == "volume":
        far = 40.0 if rng.uniform() < 0.25 else 10.0
        centre = rng.normal(0, far, 3).clip(-60, 60)
        size = np.where(rng.uniform(size=3) < 0.75, 400.0, rng.uniform(90, 160, 3))
        step = float(rng.uniform(0.6, 3.0))
        return Acquisition(kind, centre, centre, straight, size, step, step, 0.0, 0.0)
    if kind == "low crop":
        about = pose.middles["la"] if rng.uniform() < 0.75 else rng.uniform(-45, 45, 3)
        middle = about + rng.normal(0, 9, 3)
        size = np.array([rng.uniform(85, 150), rng.uniform(70, 120), rng.uniform(38, 85)])
        step = float(rng.uniform(0.6, 3.0))
        return Acquisition(kind, middle, middle, straight, size, step, step, 0.0, 0.0)
    if kind == "slab":
        plane = int(rng.integers(4))
        axes = straight[list(((0, 1, 2), (0, 2, 1), (1, 2, 0), (0, 1, 2))[plane])]
        if plane == 3:  # along the ventricle: two and four chambers
            axes = pose.axes[[2, 1, 0]] if rng.uniform() < 0.5 else pose.axes[[2, 0, 1]]
        axes = axes @ rotation_matrix(rng.normal(0, 10, 3).tolist())
        middle = rng.normal(0, 22, 3)
        step = float(rng.uniform(2, 10))
        size = np.array([rng.uniform(110, 330), rng.uniform(110, 330), rng.uniform(35, 130)])
        return Acquisition(
            kind, middle + rng.normal(0, 6, 3), middle, axes, size, step * rng.uniform(0.6, 1), step, 0.8, 0.04
        )
    tilt = 9.0 if kind == "short axis" else 0.0
    axes = pose.axes @ rotation_matrix(rng.normal(0, tilt, 3).tolist()) if kind == "short axis" else straight
    step = float(rng.choice([5.0, 8.0, 10.0]) * rng.uniform(0.9, 1.1))
    middle = ventricles + rng.normal(0, 7, 3)
    # From above the valves to beyond the apex, or with an end cut off.
    size = np.array([400.0, 400.0, rng.uniform(55, 115)])
    centre = middle + rng.normal(0, 10, 3)
    if kind == "lost header":
        size[:2] = rng.uniform(120, 220, 2)
        centre = middle
    return Acquisition(kind, centre, middle, axes, size, step * rng.uniform(0.6, 1), step, 1.2, 0.05)


def acquire(
    image: Field, grid: Grid, plan: Acquisition, noise: float, rician: bool, rng: np.random.Generator
) -> tuple[Field, NDArray[np.bool_]]:
    """What ``plan`` makes of ``image`` [X, Y, Z] on ``grid``, and which voxels it acquired; ``noise``: standard
    deviation on the grid's voxels, in the image's units."""
    slices = max(1, int(plan.box_mm[2] / plan.step_mm))
    extent = np.array([n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)])
    reach = float(np.linalg.norm(extent))
    counts = [int(min(plan.box_mm[a], reach) / _PLANE_MM) + 1 for a in (0, 1)]
    spacing = np.array([_PLANE_MM, _PLANE_MM, plan.step_mm])
    if plan.step_mm <= 3.0:  # as fine as the grid: nothing to average, and the planes lie as the grid does
        known = _within(grid, plan, plan.box_mm)
        return _noisy(image, noise, rician, rng), known
    slices = min(slices, int(reach / plan.step_mm) + 1)
    shape = (counts[0], counts[1], slices)
    u, v, w = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True))
    shift = rng.normal(0, plan.jitter_mm, (2, slices))
    stack = np.zeros(shape, dtype=np.float32)
    to_voxel: Vector = np.asarray(np.linalg.inv(grid.affine), dtype=np.float64)
    for part in (np.arange(_WITHIN) - (_WITHIN - 1) / 2) / _WITHIN * plan.thickness_mm:
        along = [
            u[:, None, None] + shift[0][None, None, :],
            v[None, :, None] + shift[1][None, None, :],
            (w + part)[None, None, :],
        ]
        at = _voxels(along, plan, to_voxel, shape)
        stack += ndimage.map_coordinates(image, at, order=1, mode="nearest", output=np.float32, prefilter=False)
    stack *= np.exp(rng.normal(0, plan.gain, slices)).astype(np.float32) / _WITHIN
    stack = _noisy(stack, noise * float(np.sqrt(2.5 / plan.step_mm) + 0.3), rician, rng)
    # Back on the grid, as a reader interpolates.
    offset = grid.affine[:3, 3] - plan.middle_mm
    linear = (plan.axes @ grid.affine[:3, :3]) / spacing[:, None]
    start = (plan.axes @ offset) / spacing + (np.array(shape) - 1) / 2
    out = ndimage.affine_transform(stack, linear, start, grid.shape, order=1, mode="nearest", output=np.float32)
    return out, _within(grid, plan, np.array([counts[0] * _PLANE_MM, counts[1] * _PLANE_MM, slices * plan.step_mm]))


def _voxels(along: list[NDArray[np.floating]], plan: Acquisition, to_voxel: Vector, shape: tuple[int, ...]) -> Vector:
    """Voxel coordinates [3, *shape] of places given along the plan's axes, mm from its middle."""
    matrix = to_voxel[:3, :3] @ plan.axes.T
    start = to_voxel[:3, :3] @ plan.middle_mm + to_voxel[:3, 3]
    return np.stack(
        [
            np.broadcast_to(
                sum((matrix[a, b] * along[b] for b in range(3)), np.float64(start[a])), shape
            )
            for a in range(3)
        ]
    )  # fmt: skip


def _within(grid: Grid, plan: Acquisition, box_mm: Vector) -> NDArray[np.bool_]:
    """Which voxels lie in a box about the plan's middle, along its axes."""
    matrix = plan.axes @ grid.affine[:3, :3]
    start = plan.axes @ (grid.affine[:3, 3] - plan.middle_mm)
    i, j, k = (np.arange(n, dtype=np.float32) for n in grid.shape)
    inside = np.ones(grid.shape, dtype=bool)
    for row, offset, size in zip(matrix.astype(np.float32), start, box_mm, strict=True):
        place = row[0] * i[:, None, None] + row[1] * j[None, :, None] + row[2] * k[None, None, :] + np.float32(offset)
        inside &= np.abs(place) <= np.float32(size / 2)
    return inside


def _noisy(image: Field, sd: float, rician: bool, rng: np.random.Generator) -> Field:
    """Gaussian noise, or the magnitude of a signal with noise in both its parts."""
    white = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sd)
    if not rician:
        return image + white
    other = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sd)
    return np.asarray(np.hypot(image + white, other), dtype=np.float32)
