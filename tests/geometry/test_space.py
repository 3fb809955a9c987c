"""Native to model to native: where things are, whatever way the volume is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import label_distances_mm
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import Resampler, image_to_model, labels_to_model
from diffatlas.geometry.space import FILL, ModelSpace, Window
from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap, Volume
from diffatlas.values import load
from tests.geometry.test_grid import ORIENTATIONS, stored

SPACE = ModelSpace((24, 20, 28), (2.0, 2.0, 2.0), 8.0, {"ct": Window("range", -100, 300)})


def ball_grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], degrees: float = 0.0) -> Grid:
    """A grid centred on the world's origin, turned about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def two_balls(grid: Grid) -> LabelMap:
    """Structure 1: a ball of 10 mm at (6, 0, -4); structure 2: a ball of 7 mm at (-10, 2, 8)."""
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    data = np.zeros(grid.shape, dtype=np.uint8)
    data[np.linalg.norm(world - (6, 0, -4), axis=-1) < 10] = 1
    data[np.linalg.norm(world - (-10, 2, 8), axis=-1) < 7] = 2
    return LabelMap(data, grid, HIPPOCAMPUS)


def dice(a: LabelMap, b: LabelMap, k: int) -> float:
    return float(2 * ((a.data == k) & (b.data == k)).sum() / ((a.data == k).sum() + (b.data == k).sum()))


@pytest.mark.parametrize(
    "grid",
    [
        ball_grid((48, 48, 48), (1.0, 1.0, 1.0)),
        ball_grid((96, 48, 16), (0.5, 1.0, 3.5)),
        ball_grid((48, 48, 48), (1.1, 1.0, 1.2), degrees=25),
    ],
    ids=["isotropic", "anisotropic", "oblique"],
)
def test_labels_return_to_their_voxels(grid: Grid) -> None:
    labels = two_balls(grid)
    model = SPACE.place(grid)
    back = Resampler(grid, model).labels(labels_to_model(labels, model, 8.0), HIPPOCAMPUS)
    assert back.grid is grid
    assert dice(back, labels, 1) > 0.95
    assert dice(back, labels, 2) > 0.93


def test_same_spacing_returns_every_voxel() -> None:
    grid = ball_grid(SPACE.shape, SPACE.spacing_mm)
    labels = two_balls(grid)
    sdf = labels_to_model(labels, SPACE.place(grid), 8.0)
    np.testing.assert_allclose(sdf, label_distances_mm(labels, 8.0), atol=1e-4)
    np.testing.assert_array_equal(Resampler(grid, SPACE.place(grid)).labels(sdf, HIPPOCAMPUS).data, labels.data)


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_48_orientations_agree(permutation: tuple[int, ...], flips: tuple[int, ...], rng: np.random.Generator) -> None:
    grid = ball_grid((21, 24, 19), (2.0, 1.5, 2.5))
    data = rng.normal(size=grid.shape).astype(np.float32) * 100
    sdf = rng.normal(size=(2, *SPACE.shape)).astype(np.float32)
    image = image_to_model(Volume(data, grid, "ct"), SPACE.place(grid), SPACE.windows["ct"]).image
    labels = Resampler(grid, SPACE.place(grid)).labels(sdf, HIPPOCAMPUS).data

    moved, moved_grid = stored(data, grid, permutation, flips)
    place = SPACE.place(moved_grid)
    assert place.same_as(SPACE.place(grid))
    moved_image = image_to_model(Volume(moved, moved_grid, "ct"), place, SPACE.windows["ct"]).image
    np.testing.assert_allclose(moved_image, image, atol=1e-4)
    moved_labels = Resampler(moved_grid, place).labels(sdf, HIPPOCAMPUS).data
    expected, _ = stored(labels, grid, permutation, flips)
    assert (moved_labels != expected).mean() < 1e-3


def test_window_and_outside() -> None:
    grid = ball_grid((10, 10, 10), (2.0, 2.0, 2.0))
    data = np.full(grid.shape, 100, dtype=np.float32)
    data[0] = 10_000
    image, _, limits = image_to_model(Volume(data, grid, "ct"), SPACE.place(grid), SPACE.windows["ct"])
    np.testing.assert_array_equal(limits, (-100, 300))
    assert image[12, 10, 14] == pytest.approx(0.0)  # 100 HU is the middle of -100..300
    assert image.max() == 1.0
    assert image[0, 0, 0] == FILL


def test_a_fine_source_is_averaged_not_picked(rng: np.random.Generator) -> None:
    grid = ball_grid((96, 80, 112), (0.5, 0.5, 0.5))
    noise = Volume(rng.normal(size=grid.shape).astype(np.float32), grid, "ct")
    image = image_to_model(noise, SPACE.place(grid), Window("range", -1, 1)).image
    assert image.std() < 0.2  # white noise of deviation 1 falls by the averaging; picked voxels would keep it


def test_roi_places_and_limits() -> None:
    grid = ball_grid((48, 48, 48), (1.0, 1.0, 1.0))
    roi = ((30, 40), (20, 30), (10, 30))
    place = SPACE.place(grid, roi)
    np.testing.assert_allclose(place.centre_mm, grid.to_world((34.5, 24.5, 19.5)))
    everything = np.full((2, *SPACE.shape), -1, dtype=np.float32)
    labels = Resampler(grid, place).labels(everything, HIPPOCAMPUS, roi).data
    assert labels[30:40, 20:30, 10:30].all()
    assert (labels > 0).sum() == 10 * 10 * 20


@pytest.mark.parametrize("roi", [((0, 0), (0, 5), (0, 5)), ((-1, 5), (0, 5), (0, 5)), ((0, 5), (0, 5), (0, 500))])
def test_roi_outside_is_refused(roi: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(BadInput, match="roi"):
        SPACE.place(ball_grid((48, 48, 48), (1.0, 1.0, 1.0)), roi)  # type: ignore[arg-type]


def test_one_voxel_and_very_anisotropic_volumes() -> None:
    for grid in (ball_grid((1, 1, 1), (3.0, 3.0, 3.0)), ball_grid((60, 60, 3), (0.5, 0.5, 10.0))):
        volume = Volume(np.ones(grid.shape, np.float32), grid, "ct")
        image = image_to_model(volume, SPACE.place(grid), SPACE.windows["ct"]).image
        assert np.isfinite(image).all()
        labels = Resampler(grid, SPACE.place(grid)).labels(np.full((2, *SPACE.shape), -1, np.float32), HIPPOCAMPUS)
        assert labels.data.all()


def test_field_covers_only_what_the_model_saw() -> None:
    grid = ball_grid((80, 80, 80), (1.0, 1.0, 1.0))
    field = Resampler(grid, SPACE.place(grid)).field(np.ones(SPACE.shape, np.float32), 0.0)
    assert field.sum() * grid.voxel_volume_ml == pytest.approx(np.prod(SPACE.extent_mm) / 1000, rel=0.01)


def test_json_round_trip() -> None:
    assert load(ModelSpace, SPACE.to_json(), "space") == SPACE
    assert load(ModelSpace, replace(SPACE, sdf_clip_mm=3.0).to_json(), "space") != SPACE
