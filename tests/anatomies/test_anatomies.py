"""Pairs drawn from label maps: repeatable, sizes move as asked, and what was not acquired is known to be unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffatlas.anatomies import HeartShape, draw_pair, label_ids, read_shapes, shape_of, write_shapes
from diffatlas.anatomies.acquisition import KINDS, Acquisition, acquire, sample_acquisition
from diffatlas.anatomies.body import STRUCTURES, paint_body, sample_pose
from diffatlas.anatomies.source import NAMES, REGIONS, SCALE, distance_of
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import LabelMap
from diffatlas.phantom import label_map, sample_anatomy
from tests.geometry.test_space import ball_grid

SPACE = ModelSpace((32, 32, 32), (5.0, 5.0, 5.0), 15.0, {"unknown": Window("percentile", 0.5, 99.5)})
LV, RV, LA, RA, MYO = range(5)


def drawn_labels() -> tuple[LabelMap, NDArray[np.uint8], dict[str, int]]:
    """A digital heart as a label map with the regions that `NAMES` asks for; its vessels are balls above the base."""
    grid = ball_grid((76, 76, 76), (2.0, 2.0, 2.0))
    heart = label_map(sample_anatomy(5), grid)
    ids = {"lv": 1, "rv": 2, "la": 3, "ra": 4, "myocardium": 5, "aorta": 6, "pulmonary": 7, "valves": 0}
    data = heart.data.copy()
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    for region, middle in (("aorta", (12, -5, 42)), ("pulmonary", (-5, 8, 46))):
        data[(np.linalg.norm(world - middle, axis=-1) < 12) & (data == 0)] = ids[region]
    return heart, data, ids


@pytest.fixture(scope="module")
def shape() -> HeartShape:
    heart, data, ids = drawn_labels()
    return shape_of("case01", data, heart.grid, ids)


def test_a_shape_holds_the_distances_of_its_label_map(shape: HeartShape) -> None:
    heart, data, ids = drawn_labels()
    for region in ("lv", "la", "myocardium"):
        volume = (shape.distance[REGIONS.index(region)] < 0).sum() * shape.grid.voxel_volume_ml
        truth = (data == ids[region]).sum() * heart.grid.voxel_volume_ml
        assert volume == pytest.approx(truth, rel=0.03)
        truth_mm = heart.grid.to_world(np.argwhere(data == ids[region]).mean(0))
        np.testing.assert_allclose(shape.landmarks[region], truth_mm, atol=0.5)
    together = shape.distance[REGIONS.index("epicardium")] / SCALE
    apart = np.minimum(shape.distance[REGIONS.index("lv")], shape.distance[REGIONS.index("myocardium")]) / SCALE
    assert (together < apart + 1.5).all()


def test_the_distance_of_a_half_filled_layer_is_below_a_voxel() -> None:
    fraction = np.zeros((9, 3, 3), dtype=np.float32)
    fraction[:4], fraction[4] = 1, 0.75  # the surface lies a quarter of a voxel beyond the middle of layer 4
    distance = distance_of(fraction, (2.0, 2.0, 2.0))
    np.testing.assert_allclose(distance[:, 1, 1], [-8, -6.0, -5.0 + 1, -3.0 + 1, -0.5, 1, 3, 5, 7], atol=1.01)
    assert distance[4, 1, 1] == pytest.approx(-0.5)


def test_shapes_survive_their_file(shape: HeartShape, tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes.safetensors", [shape, replace(shape, name="other")])
    (again,) = read_shapes(tmp_path / "shapes.safetensors", ["case01"])
    assert again.name == shape.name
    assert np.array_equal(again.distance, shape.distance)
    assert again.grid.same_as(shape.grid)
    np.testing.assert_allclose(again.landmarks["la"], shape.landmarks["la"])
    (tmp_path / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(BadInput, match="delete it"):
        read_shapes(tmp_path / "broken.safetensors")


def test_a_table_without_a_chamber_is_refused(tmp_path: Path) -> None:
    table = {str(i): name for i, name in enumerate(NAMES.values(), start=1)}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(table))
    assert label_ids(path)["rv"] == 2
    path.write_text(json.dumps({k: v for k, v in table.items() if v != "LA blood"}))
    with pytest.raises(BadInput, match="LA blood"):
        label_ids(path)


def test_the_same_seed_gives_the_same_pair_and_another_one_another(shape: HeartShape) -> None:
    one, same, other = (draw_pair(shape, seed, SPACE) for seed in (3, 3, 4))
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.distance_mm, same.distance_mm)
    assert not np.array_equal(one.distance_mm, other.distance_mm)
    assert one.image.shape == one.known.shape == (2, 32, 32, 32)
    assert one.distance_mm.shape == (STRUCTURES, 32, 32, 32)
    assert not np.array_equal(one.image[0], one.image[1])  # one anatomy, many looks
    assert np.abs(one.image).max() <= 1


def test_what_was_not_acquired_is_unknown_and_carries_nothing(shape: HeartShape) -> None:
    seen = set()
    for seed in range(12):
        pair = draw_pair(shape, seed, SPACE, looks=1)
        seen.add(pair.kind)
        assert (pair.image[~pair.known] == SPACE.fill).all()
        if pair.kind == "low crop":
            assert pair.known.mean() < 0.5
    assert len(seen) >= 3


def unchanged(shape: HeartShape, **change: float) -> NDArray[np.floating]:
    """Volumes, ml, of a patient that differs from the label map by ``change`` alone."""
    pose = sample_pose(shape, 0)
    none: dict[str, Any] = dict.fromkeys(("lv", "wall", "rv", "la", "ra", "uneven_mm"), 0.0)
    pose = replace(pose, change=replace(pose.change, **(none | change)), warp_mm=0.0)
    grid = ball_grid((64, 64, 64), (2.5, 2.5, 2.5))
    return np.asarray(paint_body(pose, grid).occupied.sum((1, 2, 3)) * grid.voxel_volume_ml)


def test_chambers_and_walls_move_by_the_distance_asked(shape: HeartShape) -> None:
    before = unchanged(shape)
    dilated, systole = unchanged(shape, lv=4.0, wall=4.0), unchanged(shape, lv=-5.0, wall=-1.0)
    thick, atrium = unchanged(shape, wall=4.0), unchanged(shape, la=5.0)
    assert dilated[LV] > 1.2 * before[LV]
    assert systole[LV] < 0.7 * before[LV]
    assert systole[MYO] > before[MYO]
    assert thick[LV] == pytest.approx(before[LV], rel=0.02)
    assert thick[MYO] > 1.3 * before[MYO]
    assert atrium[LA] > 1.3 * before[LA]
    assert atrium[LV] == pytest.approx(before[LV], rel=0.02)


def test_a_lost_header_puts_the_apex_along_z(shape: HeartShape) -> None:
    for seed in range(6):
        axes = sample_pose(shape, seed, "short axis").axes
        assert abs(axes[2, 2]) > 0.85
        np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1)
    body = sample_pose(shape, 0, "body")
    assert body.axes[2] @ shape.lv_axis > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_of_what_is_acquired_is_not_the_hearts(shape: HeartShape, kind: str) -> None:
    pose = sample_pose(shape, 1, "body")
    middles = [sample_acquisition(pose, kind, np.random.default_rng(s)).middle_mm for s in range(40)]  # type: ignore[arg-type]
    assert np.linalg.norm(middles, axis=1).max() > 20
    assert np.std(middles, axis=0).min() > 4


def test_thick_slices_average_over_their_thickness_and_stay_in_place() -> None:
    grid = Grid((40, 40, 40), np.diag([2.5, 2.5, 2.5, 1.0]))
    centre = grid.centre_mm
    z = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))[..., 2]
    ramp, stripes = z.astype(np.float32), np.sin(z * 2 * np.pi / 8).astype(np.float32)
    box = np.array([80.0, 80.0, 60.0])
    plan = Acquisition("slab", centre, centre, np.eye(3), box, 8.0, 8.0, 0.0, 0.0)
    rng = np.random.default_rng(0)
    out, known = acquire(ramp, grid, plan, 0.0, False, rng)
    inner = known & (np.abs(z - centre[2]) < 24)
    np.testing.assert_allclose(out[inner], ramp[inner], atol=0.3)
    flat, _ = acquire(stripes, grid, plan, 0.0, False, rng)
    assert flat[inner].std() < 0.4 * stripes[inner].std()
    assert known.sum() * grid.voxel_volume_ml == pytest.approx(80 * 80 * 56 / 1000, rel=0.1)
