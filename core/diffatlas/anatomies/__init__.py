"""Training images drawn from label maps of hearts alone: no image needed.

A label map becomes distances (`source`), a patient around them (`body`), a picture (`looks`), and what a scanner keeps
of it (`acquisition`). `draw_pair` does all of it on a model's grid; the same seed gives the same pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffatlas.anatomies.acquisition import KINDS, acquire, sample_acquisition, sample_kind
from diffatlas.anatomies.body import draw_distances, paint_body, sample_pose
from diffatlas.anatomies.looks import FAMILIES, Family, sample_look
from diffatlas.anatomies.source import HeartShape, label_ids, read_shapes, shape_of, write_shapes
from diffatlas.geometry.space import ModelSpace

__all__ = [
    "FAMILIES",
    "KINDS",
    "Drawn",
    "HeartShape",
    "draw_pair",
    "label_ids",
    "read_shapes",
    "shape_of",
    "write_shapes",
]

SHARES = (0.24, 0.04, 0.20, 0.25, 0.05, 0.22)  # of FAMILIES, where slices are not thick
MR_SHARES = (0.0, 0.0, 0.32, 0.36, 0.06, 0.26)  # short-axis stacks and crops of the atrium are MR


@dataclass(frozen=True, eq=False)
class Drawn:
    """``image`` float32 [M, X, Y, Z] in [-1, 1], ``known`` bool [M, X, Y, Z], ``distance_mm`` float32 [5, X, Y, Z]."""

    image: NDArray[np.float32]
    known: NDArray[np.bool_]
    distance_mm: NDArray[np.float32]
    kind: str
    families: tuple[Family, ...]


def draw_pair(shape: HeartShape, seed: int, space: ModelSpace, looks: int = 2) -> Drawn:
    """A patient around ``shape`` on the grid of ``space``, in ``looks`` pictures of it."""
    rng = np.random.default_rng([seed, 100])
    kind, frame = sample_kind(rng)
    pose = sample_pose(shape, seed, frame)
    plan = sample_acquisition(pose, kind, rng)
    grid = space.grid_at(plan.centre_mm)
    body = paint_body(pose, grid)
    images, knowns, families = [], [], []
    shares = MR_SHARES if kind in ("short axis", "lost header", "low crop") else SHARES
    for _ in range(looks):
        family = FAMILIES[int(rng.choice(len(FAMILIES), p=shares))]
        look = sample_look(body, grid, family, rng)
        image, known = acquire(look.image, grid, plan, look.noise, look.rician, rng)
        if not known.any():
            known = np.ones_like(known)
        low, high = space.window_for(look.modality).limits(image[known])
        scaled = np.clip((image - low) / max(high - low, 1e-6) * 2 - 1, -1, 1)
        images.append(np.where(known, scaled, np.float32(space.fill)).astype(np.float32))
        knowns.append(known)
        families.append(family)
    distance = draw_distances(body, grid, space.sdf_clip_mm * 1.3)
    return Drawn(np.stack(images), np.stack(knowns), distance, kind, tuple(families))
