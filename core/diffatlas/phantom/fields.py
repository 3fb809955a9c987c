"""Implicit functions, smooth random fields and the diffeomorphic warp that the phantom is made of.

A shape is a function f(p) [mm], negative inside, positive outside, whose gradient has a length of about one at the
surface; unions are minima, cuts are maxima, and the smooth minimum (Quilez's polynomial form)

    smin_k(a, b) = h a + (1 - h) b - k h (1 - h),    h = clip(1/2 + (b - a) / 2k, 0, 1)

blends two shapes over about k mm. Random fields live on coarse lattices in patient coordinates, so that they do not
depend on the voxel grid on which they are read.

The warp is the flow of a stationary velocity field v, exp(v), by scaling and squaring (Arsigny et al., MICCAI 2006):
phi_0 = id + v / 2^n, phi_{i+1} = phi_i o phi_i. Its inverse is exp(-v).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Vector = NDArray[np.float64]

FAR_MM = 60.0  # value of a tube outside the boxes in which its segments are evaluated
WARP_REACH_MM = 198.0
WARP_SPACING_MM = 12.0
_SQUARINGS = 4


@dataclass(frozen=True, eq=False)
class Points:
    """Where to evaluate shapes: float32 coordinates x, y, z [X, Y, Z] in mm, in the frame the shapes are given in.

    ``to_voxel`` [4, 4] takes that frame to voxel indices up to ``slack_mm`` (the warp); it only serves to find the part
    of the array that a small shape can touch.
    """

    x: Field
    y: Field
    z: Field
    to_voxel: Vector
    slack_mm: float

    def box(self, low: Vector, high: Vector) -> tuple[slice, slice, slice] | None:
        """The part of the array that may lie between the corners ``low`` and ``high`` [3], mm; None if empty."""
        low, high = low - self.slack_mm, high + self.slack_mm
        corners = np.array(np.meshgrid(*np.stack([low, high], axis=1))).reshape(3, -1)
        voxels = self.to_voxel[:3, :3] @ corners + self.to_voxel[:3, 3:]
        start = np.maximum(np.floor(voxels.min(axis=1)).astype(int), 0)
        stop = np.minimum(np.ceil(voxels.max(axis=1)).astype(int) + 1, self.x.shape)
        if (start >= stop).any():
            return None
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])

    def rotated(self, rotation: Vector) -> Points:
        """The same places seen from a frame turned by ``rotation`` [3, 3] (columns are its axes)."""
        r = rotation.astype(np.float32)
        x, y, z = (self.along(r[:, i]) for i in range(3))
        to_voxel = self.to_voxel.copy()
        to_voxel[:3, :3] = to_voxel[:3, :3] @ rotation
        return Points(x, y, z, to_voxel, self.slack_mm)

    def along(self, direction: NDArray[np.floating], origin: Sequence[float] | Vector = (0.0, 0.0, 0.0)) -> Field:
        """Signed position along a unit vector, from ``origin``, mm."""
        dx, dy, dz = (np.float32(v) for v in direction)
        offset = np.float32(np.dot(direction, origin))
        return np.asarray(self.x * dx + self.y * dy + self.z * dz - offset, dtype=np.float32)


def rotation_matrix(degrees: Sequence[float]) -> Vector:
    """Rotation [3, 3] by Euler angles about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx, dtype=np.float64)


def ellipsoid(x: Field, y: Field, z: Field, semi_mm: Sequence[float]) -> Field:
    """Ellipsoid about the origin: |q| (|q| - 1) / |q / s| with q = p / s, first order, exact on a sphere."""
    qx, qy, qz = (v * np.float32(1 / s) for v, s in zip((x, y, z), semi_mm, strict=True))
    size = np.sqrt(qx * qx + qy * qy + qz * qz)
    qx, qy, qz = (v * np.float32(1 / s) for v, s in zip((qx, qy, qz), semi_mm, strict=True))
    slope = np.sqrt(qx * qx + qy * qy + qz * qz)
    return np.asarray(size * (size - 1) / (slope + np.float32(1e-6)), dtype=np.float32)


def smooth_min(a: Field, b: Field, k_mm: float) -> Field:
    """Union blended over ``k_mm``."""
    h = np.clip(np.float32(0.5) + (b - a) * np.float32(0.5 / k_mm), 0, 1)
    return np.asarray(b + (a - b) * h - np.float32(k_mm) * h * (1 - h), dtype=np.float32)


def smooth_max(a: Field, b: Field, k_mm: float) -> Field:
    """Intersection blended over ``k_mm``."""
    return -smooth_min(-a, -b, k_mm)


def tube(points: Points, centreline_mm: Vector, radii_mm: Vector, margin_mm: float = 14.0) -> Field:
    """Tube along a smooth curve through ``centreline_mm`` [N, 3] with radii [N]; `FAR_MM` beyond ``margin_mm``."""
    line, radius = _catmull_rom(np.column_stack([centreline_mm, radii_mm]), pieces=4 if len(radii_mm) > 2 else 1)
    out = np.full(points.x.shape, FAR_MM, dtype=np.float32)
    for p, q, r, s in zip(line[:-1], line[1:], radius[:-1], radius[1:], strict=True):
        pad = max(r, s) + margin_mm
        box = points.box(np.minimum(p, q) - pad, np.maximum(p, q) + pad)
        if box is None:
            continue
        axis = q - p
        x, y, z = points.x[box] - np.float32(p[0]), points.y[box] - np.float32(p[1]), points.z[box] - np.float32(p[2])
        ax, ay, az = (np.float32(v) for v in axis)
        t = np.clip((x * ax + y * ay + z * az) * np.float32(1 / max(axis @ axis, 1e-9)), 0, 1)
        x, y, z = x - t * ax, y - t * ay, z - t * az
        distance = np.sqrt(x * x + y * y + z * z) - (np.float32(r) + t * np.float32(s - r))
        np.minimum(out[box], distance, out=out[box])
    return out


def _catmull_rom(nodes: Vector, pieces: int) -> tuple[Vector, Vector]:
    """Points [M, 3] and radii [M] on the Catmull-Rom spline through ``nodes`` [N, 4]."""
    if pieces == 1:
        return nodes[:, :3], nodes[:, 3]
    padded = np.concatenate([[2 * nodes[0] - nodes[1]], nodes, [2 * nodes[-1] - nodes[-2]]])
    t = (np.arange(pieces) / pieces)[:, None]
    out = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        out.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    line = np.concatenate([*out, nodes[-1:]])
    return line[:, :3], np.maximum(line[:, 3], 0.5)


@lru_cache(maxsize=16)
def noise_lattice(seed: int, stream: int, size: int, smooth: float) -> Field:
    """Gaussian noise [size, size, size] of unit variance, smoothed over ``smooth`` nodes."""
    white = np.random.default_rng([seed, stream]).standard_normal((size, size, size), dtype=np.float32)
    soft = ndimage.gaussian_filter(white, smooth, mode="wrap")
    out = np.asarray(soft / soft.std(), dtype=np.float32)
    out.setflags(write=False)
    return out


def read_lattice(lattice: Field, spacing_mm: float, x: Field, y: Field, z: Field) -> Field:
    """Trilinear values at x, y, z (mm, any shape) of a lattice centred on the origin and continued periodically."""
    middle = (lattice.shape[0] - 1) / 2
    where = np.stack([v * np.float32(1 / spacing_mm) + np.float32(middle) for v in (x, y, z)])
    return np.asarray(ndimage.map_coordinates(lattice, where, order=1, mode="grid-wrap"), dtype=np.float32)


@lru_cache(maxsize=8)
def warp_lattice(seed: int, amplitude_mm: float, inverse: bool = False) -> Field:
    """Displacement [3, N, N, N] in mm of exp(v) (exp(-v) if ``inverse``) on nodes `WARP_SPACING_MM` apart.

    v mixes a broad (36 mm) and a finer (18 mm) smooth Gaussian field, with a root mean square of ``amplitude_mm`` and
    0.3 of it per axis. Nodes reach `WARP_REACH_MM` from the origin, where v has faded to zero.
    """
    n = round(2 * WARP_REACH_MM / WARP_SPACING_MM) + 1
    nodes = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32)] * 3, indexing="ij"))
    edge = np.minimum(nodes, n - 1 - nodes).min(axis=0)
    fade = np.clip(edge / 4, 0, 1)
    velocity = np.stack(
        [noise_lattice(seed, 10 + i, n, 3.0) + 0.3 * noise_lattice(seed, 20 + i, n, 1.5) for i in range(3)]
    )
    sign = -1 if inverse else 1
    step: Field = (velocity * fade * (sign * amplitude_mm / 2**_SQUARINGS)).astype(np.float32)
    for _ in range(_SQUARINGS):
        where = nodes + step / np.float32(WARP_SPACING_MM)
        step = step + np.stack([ndimage.map_coordinates(c, where, order=1, mode="nearest") for c in step])
    step.setflags(write=False)
    return step


def displacement(lattice: Field, x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
    """Displacement at x, y, z (mm), mm per axis; zero outside the lattice."""
    middle = (lattice.shape[1] - 1) / 2
    where = np.stack([v * np.float32(1 / WARP_SPACING_MM) + np.float32(middle) for v in (x, y, z)])
    dx, dy, dz = (ndimage.map_coordinates(c, where, order=1, mode="constant", output=np.float32) for c in lattice)
    return dx, dy, dz
