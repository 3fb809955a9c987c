"""Scores against answers derived by hand in mm, and against a slow independent count of voxel faces."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure
from diffatlas.metrics import Comparison, StructureScore, compare, dice, surface

Faces = list[tuple[tuple[float, ...], float]]

ONE = LabelScheme("one", (Structure("blob", 7, (200, 0, 0)),))


def grid_of(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    return Grid(shape, np.diag([*spacing_mm, 1.0]))


def blob(mask: NDArray[np.bool_], grid: Grid) -> LabelMap:
    return LabelMap(mask.astype(np.uint8), grid, ONE)


def only(comparison: Comparison) -> StructureScore:
    (row,) = comparison.rows
    return row


# Two plates, one voxel thick in x and 20 x 20 voxels wide, n voxels apart in x. Of each plate the face that looks at
# the other is (n - 1) sx away from it and the far face n sx; the narrow sides lie between the two.
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.5, 0.7, 3.0)])
@pytest.mark.parametrize("n", [2, 5])
def test_shifted_plates(spacing_mm: tuple[float, float, float], n: int) -> None:
    sx, sy, sz = spacing_mm
    grid = grid_of((10, 24, 24), spacing_mm)
    p = np.zeros(grid.shape, bool)
    r = np.zeros(grid.shape, bool)
    p[1, 2:22, 2:22] = True
    r[1 + n, 2:22, 2:22] = True
    plate = 400 * sy * sz
    rim = 40 * (sx * sy + sx * sz)

    row = only(compare(blob(p, grid), blob(r, grid), tolerance_mm=(n - 1) * sx))
    assert row.dice == 0
    assert row.hd95_mm == pytest.approx(n * sx)
    assert row.surface_dice == pytest.approx(plate / (2 * plate + rim))
    assert row.volume_prediction_ml == pytest.approx(400 * sx * sy * sz / 1000)

    assert only(compare(blob(p, grid), blob(r, grid), tolerance_mm=n * sx)).surface_dice == 1
    assert only(compare(blob(p, grid), blob(r, grid), tolerance_mm=(n - 1) * sx - 0.01)).surface_dice == 0


def test_boxes_half_overlapping() -> None:
    grid = grid_of((20, 12, 12), (1.0, 2.0, 3.0))
    p = np.zeros(grid.shape, bool)
    r = np.zeros(grid.shape, bool)
    p[2:10, 2:8, 2:8] = True
    r[6:14, 2:8, 2:8] = True
    row = only(compare(blob(p, grid), blob(r, grid), tolerance_mm=0.0))
    assert row.dice == pytest.approx(0.5)
    # Of each box's four long sides, half lies exactly on the other box; its two ends do not.
    sides, ends = 2 * (8 * 12 + 8 * 18), 2 * (12 * 18)
    assert row.surface_dice == pytest.approx(sides / 2 / (sides + ends))
    assert row.volume_reference_ml == pytest.approx(8 * 6 * 6 * 6 / 1000)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_concentric_spheres(spacing_mm: tuple[float, float, float]) -> None:
    shape = (64, 64, int(64 / spacing_mm[2]))
    grid = grid_of(shape, spacing_mm)
    radius = np.linalg.norm(
        grid.to_world(np.indices(shape, dtype=np.float64).transpose(1, 2, 3, 0)) - grid.centre_mm, axis=-1
    )
    small, large = blob(radius < 20, grid), blob(radius < 26, grid)
    row = only(compare(small, large, tolerance_mm=4.0))
    assert row.dice == pytest.approx(2 * 20**3 / (20**3 + 26**3), abs=0.005)
    assert row.hd95_mm == pytest.approx(6.0, abs=0.75)
    assert row.surface_dice == 0
    assert row.volume_reference_ml == pytest.approx(4 / 3 * math.pi * 26**3 / 1000, rel=0.01)
    assert only(compare(small, large, tolerance_mm=8.0)).surface_dice == 1


def test_scores_do_not_depend_on_how_the_grid_lies() -> None:
    rng = np.random.default_rng(0)
    p, r = rng.random((2, 6, 7, 5)) < 0.4
    straight = grid_of((6, 7, 5), (1.0, 1.5, 3.0))
    angle = np.deg2rad(33)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.0, 1.0]) @ straight.affine[:3, :3]
    affine[:3, 3] = 12, -40, 7
    oblique = Grid((6, 7, 5), affine)
    a = only(compare(blob(p, straight), blob(r, straight)))
    b = only(compare(blob(p, oblique), blob(r, oblique)))
    assert list(vars(a).values())[1:] == pytest.approx(list(vars(b).values())[1:])


def test_surface_of_one_voxel() -> None:
    grid = Grid((3, 3, 3), np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]]))
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    centres, areas = surface(mask, grid)
    found = {tuple(c): a for c, a in zip(centres.tolist(), areas.tolist(), strict=True)}
    assert found == {
        (11.0, 23.0, 35.0): 15.0,
        (13.0, 23.0, 35.0): 15.0,
        (12.0, 21.5, 35.0): 10.0,
        (12.0, 24.5, 35.0): 10.0,
        (12.0, 23.0, 32.5): 6.0,
        (12.0, 23.0, 37.5): 6.0,
    }


def test_a_structure_that_fills_the_grid_has_its_border_as_surface() -> None:
    _, areas = surface(np.ones((2, 3, 4), bool), grid_of((2, 3, 4)))
    assert areas.sum() == 2 * (2 * 3 + 3 * 4 + 2 * 4)


def test_absent_structures_are_undefined_not_perfect() -> None:
    grid = grid_of((8, 8, 8))
    p = np.zeros(grid.shape, np.uint8)
    r = np.zeros(grid.shape, np.uint8)
    p[1:4, 1:4, 1:4] = r[1:4, 1:4, 1:4] = 1  # in both
    p[5:7, 5:7, 5:7] = 2  # predicted only
    r[5:7, 1:3, 1:3] = 3  # missed
    result = compare(LabelMap(p, grid, MMWHS), LabelMap(r, grid, MMWHS))
    left_ventricle, right_ventricle, left_atrium, right_atrium, _ = result.rows
    assert (left_ventricle.dice, left_ventricle.surface_dice, left_ventricle.hd95_mm) == (1, 1, 0)
    for row in (right_ventricle, left_atrium):
        assert (row.dice, row.surface_dice) == (0, 0)
        assert math.isnan(row.hd95_mm)
    assert math.isnan(right_atrium.dice)
    assert math.isnan(right_atrium.surface_dice)
    assert math.isnan(right_atrium.hd95_mm)
    assert right_atrium.volume_prediction_ml == 0
    assert result.n == {"dice": 3, "surface_dice": 3, "hd95_mm": 1}
    assert result.mean == pytest.approx({"dice": 1 / 3, "surface_dice": 1 / 3, "hd95_mm": 0.0})
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["structures"][3]["dice"] is None
    assert data["structures"][0]["name"] == "left ventricle"
    assert data["n"]["hd95_mm"] == 1


def test_nothing_anywhere() -> None:
    grid = grid_of((4, 4, 4))
    empty = LabelMap(np.zeros(grid.shape, np.uint8), grid, HIPPOCAMPUS)
    result = compare(empty, empty)
    assert result.n == {"dice": 0, "surface_dice": 0, "hd95_mm": 0}
    assert math.isnan(result.mean["dice"])
    assert math.isnan(dice(np.zeros(3, bool), np.zeros(3, bool)))


def slow_scores(
    p: NDArray[np.bool_], r: NDArray[np.bool_], spacing: tuple[float, float, float], tolerance_mm: float
) -> tuple[float, float]:
    """Surface Dice and HD95 by visiting every voxel, every neighbour and every pair of faces."""

    def faces(mask: NDArray[np.bool_]) -> Faces:
        voxels = {tuple(v) for v in np.argwhere(mask).tolist()}
        found = []
        for voxel, axis, side in product(voxels, range(3), (-1, 1)):
            neighbour = tuple(c + side * (a == axis) for a, c in enumerate(voxel))
            if neighbour not in voxels:
                centre = tuple((c + side * 0.5 * (a == axis)) * spacing[a] for a, c in enumerate(voxel))
                found.append((centre, math.prod(spacing) / spacing[axis]))
        return found

    def directed(a: Faces, b: Faces) -> list[tuple[float, float]]:
        return sorted((min(math.dist(x, y) for y, _ in b), area) for x, area in a)

    def percentile_95(distances: list[tuple[float, float]]) -> float:
        total, seen = sum(area for _, area in distances), 0.0
        for distance, area in distances:
            seen += area
            if seen >= 0.95 * total - 1e-9:
                return distance
        raise AssertionError("unreachable: the whole area holds 95% of it")

    both = [directed(faces(p), faces(r)), directed(faces(r), faces(p))]
    area = sum(a for d in both for _, a in d)
    within = sum(a for d in both for distance, a in d if distance <= tolerance_mm + 1e-6)
    return within / area, max(percentile_95(d) for d in both)


masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((2, 4, 3, 4)) < 0.35)


@settings(max_examples=25, deadline=None)
@given(masks, st.sampled_from([(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)]), st.sampled_from([0.0, 0.75, 1.0]))
def test_agrees_with_counting_faces(
    pair: NDArray[np.bool_], spacing: tuple[float, float, float], tolerance_mm: float
) -> None:
    p, r = pair
    p[0, 0, 0] = r[-1, -1, -1] = True
    grid = grid_of((4, 3, 4), spacing)
    row = only(compare(blob(p, grid), blob(r, grid), tolerance_mm))
    assert (row.surface_dice, row.hd95_mm) == pytest.approx(slow_scores(p, r, spacing, tolerance_mm))


@settings(max_examples=25, deadline=None)
@given(masks)
def test_symmetric_bounded_and_perfect_only_on_itself(pair: NDArray[np.bool_]) -> None:
    p, r = pair
    p[0, 0, 0] = True
    grid = grid_of((4, 3, 4), (1.0, 2.0, 0.5))
    a, b = only(compare(blob(p, grid), blob(r, grid))), only(compare(blob(r, grid), blob(p, grid)))
    assert [a.dice, a.surface_dice, a.hd95_mm] == pytest.approx([b.dice, b.surface_dice, b.hd95_mm], nan_ok=True)
    assert 0 <= a.dice <= 1
    assert 0 <= a.surface_dice <= 1
    assert (a.dice == 1) == bool((p == r).all())
    itself = only(compare(blob(p, grid), blob(p, grid), tolerance_mm=0.0))
    assert (itself.dice, itself.surface_dice, itself.hd95_mm) == (1, 1, 0)


def test_other_places_are_refused() -> None:
    grid = grid_of((4, 5, 6))
    here = blob(np.ones(grid.shape, bool), grid)

    def there(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> LabelMap:
        return blob(np.ones(shape, bool), Grid(shape, affine))

    moved = np.eye(4)
    moved[:3, 3] = 3, 0, 4
    with pytest.raises(BadInput, match="4 x 5 x 6 voxels and reference 4 x 5 x 7"):
        compare(here, there((4, 5, 7), np.eye(4)))
    with pytest.raises(BadInput, match=r"position \(up to 5 mm apart\)"):
        compare(here, there(grid.shape, moved))
    with pytest.raises(BadInput, match=r"voxel size \(1 x 1 x 1 and 1 x 1 x 2 mm\)"):
        compare(here, there(grid.shape, np.diag([1.0, 1, 2, 1])))
    with pytest.raises(BadInput, match=r"axes \(RAS and LAS\)"):
        compare(here, there(grid.shape, np.diag([-1.0, 1, 1, 1])))
    with pytest.raises(BadInput, match="different structures"):
        compare(here, LabelMap(np.zeros(grid.shape, np.uint8), grid, HIPPOCAMPUS))
    with pytest.raises(BadInput, match="tolerance"):
        compare(here, here, tolerance_mm=math.nan)
    with pytest.raises(ValueError, match="one shape"):
        dice(np.ones(3, bool), np.ones(4, bool))
