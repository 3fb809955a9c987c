"""A voxel grid in the world: shape and affine.

World coordinates are millimetres in the RAS+ frame of NIfTI. Voxel index (i, j, k) is the *centre* of a voxel:
``world = affine[:3, :3] @ (i, j, k) + affine[:3, 3]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import nibabel.orientations as nio
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)


# Of the shortest voxel edge: the one tolerance for files that should lie on the same voxels.
SAME_VOXELS = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """Shape [X, Y, Z] and the float64 [4, 4] affine that takes voxel indices to RAS+ millimetres."""

    shape: tuple[int, int, int]
    affine: Array

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("affine must be a finite, invertible 4 x 4 matrix")
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three positive numbers, not {self.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of one voxel step along each array axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def axis_codes(self) -> str:
        """Direction of each array axis, such as ``RAS`` or ``LPS`` (nearest where the grid is oblique)."""
        return "".join(str(code) for code in nio.aff2axcodes(self.affine))

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Full edge lengths of the grid (voxel borders included), mm."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def words(self) -> str:
        """One clause, such as "64 x 64 x 40 voxels of 1 x 1 x 2.5 mm, RAS"."""
        shape, spacing = (" x ".join(f"{v:g}" for v in values) for values in (self.shape, self.spacing_mm))
        return f"{shape} voxels of {spacing} mm, {self.axis_codes}"

    def __repr__(self) -> str:
        return f"Grid({self.words})"

    @property
    def centre_mm(self) -> Array:
        """World coordinates [3] of the middle of the grid, mm."""
        return self.to_world((np.array(self.shape, dtype=np.float64) - 1) / 2)

    def to_world(self, voxels: Array | tuple[float, ...]) -> Array:
        """Voxel indices [..., 3] to world mm [..., 3]."""
        return np.asarray(voxels, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxel(self, world_mm: Array | tuple[float, ...]) -> Array:
        """World mm [..., 3] to fractional voxel indices [..., 3]."""
        return (np.asarray(world_mm, dtype=np.float64) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids put every voxel within ``tolerance_mm`` of the same place."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= tolerance_mm)

    def matches(self, other: Grid) -> bool:
        """Whether two files lie on the same voxels: same shape, no voxel off by more than `SAME_VOXELS` of an edge.

        Headers that went through other programs differ in their last digits; a shift of half a voxel is another place.
        """
        return self.same_as(other, SAME_VOXELS * min(*self.spacing_mm, *other.spacing_mm))

    def to_canonical(self) -> NDArray[np.float64]:
        """The axis flips and permutation (nibabel orientation [3, 2]) that bring the array closest to RAS+."""
        return np.asarray(nio.io_orientation(self.affine))

    def reoriented(self, orientation: NDArray[np.float64]) -> Grid:
        """The grid after `reorient` with the same ``orientation``: other axes, the same voxels in the world."""
        shape = [0, 0, 0]
        for source, (target, _) in enumerate(orientation):
            shape[int(target)] = self.shape[source]
        return Grid((shape[0], shape[1], shape[2]), self.affine @ nio.inv_ornt_aff(orientation, self.shape))


def oriented(data: NDArray[T], orientation: NDArray[np.float64]) -> NDArray[T]:
    """Flip and permute the three axes of ``data`` [X, Y, Z]; no voxel value changes, and none is copied."""
    return np.asarray(nio.apply_orientation(data, orientation))


def reorient(data: NDArray[T], orientation: NDArray[np.float64]) -> NDArray[T]:
    """`oriented`, as an array of its own layout."""
    return np.ascontiguousarray(oriented(data, orientation))


def inverse_orientation(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orientation that undoes ``orientation``."""
    inverse = np.zeros((3, 2))
    for source, (target, flip) in enumerate(orientation):
        inverse[int(target)] = source, flip
    return inverse
