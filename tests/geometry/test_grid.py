"""Grids: voxels and millimetres, and the 48 ways to store the same volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffatlas.geometry.grid import Grid, inverse_orientation, reorient

ORIENTATIONS = [
    (permutation, flips)
    for permutation in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def stored(
    data: np.ndarray, grid: Grid, permutation: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, Grid]:
    """The same voxels in the world, stored with other axes."""
    orientation = np.array([[target, flip] for target, flip in zip(permutation, flips, strict=True)], dtype=float)
    return reorient(data, orientation), grid.reoriented(orientation)


def oblique(shape: tuple[int, int, int] = (7, 8, 9), degrees: float = 20.0) -> Grid:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.0, 2.0, 0.5])
    affine[:3, 3] = (5, -7, 11)
    return Grid(shape, affine)


def test_spacing_volume_and_codes() -> None:
    grid = oblique()
    assert grid.spacing_mm == pytest.approx((1.0, 2.0, 0.5))
    assert grid.voxel_volume_ml == pytest.approx(0.001)
    assert grid.axis_codes == "RAS"
    assert Grid((2, 2, 2), np.diag([-1.0, -1, 1, 1])).axis_codes == "LPS"


def test_world_and_voxel_are_inverse(rng: np.random.Generator) -> None:
    grid, points = oblique(), rng.normal(size=(20, 3)) * 10
    np.testing.assert_allclose(grid.to_voxel(grid.to_world(points)), points, atol=1e-12)
    np.testing.assert_allclose(grid.to_world((0.0, 0.0, 0.0)), (5, -7, 11))


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_reorientation_keeps_every_voxel_in_its_place(
    permutation: tuple[int, ...], flips: tuple[int, ...], rng: np.random.Generator
) -> None:
    grid = oblique()
    data = rng.normal(size=grid.shape)
    moved, moved_grid = stored(data, grid, permutation, flips)
    voxel = (2, 5, 1)
    at = np.round(moved_grid.to_voxel(grid.to_world(voxel))).astype(int)
    assert moved[tuple(at)] == data[voxel]
    back = moved_grid.to_canonical()
    np.testing.assert_array_equal(reorient(moved, back), data)
    assert moved_grid.reoriented(back).same_as(grid)
    np.testing.assert_array_equal(reorient(reorient(moved, back), inverse_orientation(back)), moved)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_impossible_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="affine"):
        Grid((2, 2, 2), affine)


def test_same_as_notices_a_shift() -> None:
    affine = oblique().affine.copy()
    affine[0, 3] += 0.01
    assert not oblique().same_as(Grid((7, 8, 9), affine))
    assert oblique().same_as(Grid((7, 8, 9), affine), tolerance_mm=0.1)


def test_files_match_within_a_tenth_of_the_shortest_voxel_edge() -> None:
    """The last digits of a header differ after another program; a third of a voxel is another place."""
    grid = Grid((6, 6, 6), np.diag([2.0, 2.0, 0.5, 1.0]))
    for shift_mm, same in ((0.0, True), (0.049, True), (0.06, False), (0.25, False)):
        affine = grid.affine.copy()
        affine[1, 3] += shift_mm
        assert grid.matches(Grid(grid.shape, affine)) is same
        assert Grid(grid.shape, affine).matches(grid) is same
    assert not grid.matches(Grid((6, 6, 5), grid.affine))
