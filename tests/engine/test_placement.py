"""A low crop whose header tells the wrong distance between slices is looked at as the model is surest of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffatlas.engine import placement
from diffatlas.engine.placement import STRETCH, place
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.models.store import read_card, write_card
from diffatlas.phantom.fields import rotation_matrix
from diffatlas.session import plan, stream
from tests.conftest import make_model
from tests.engine.test_confidence import SURE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("placed"))
    write_card(replace(read_card(folder), calibration=SURE), folder)
    return folder


def crop(model: Path, height: float = 0.35, turn: Any = None) -> Volume:
    """A crop of 1 mm voxels, 0.8 of the model's view wide and ``height`` of it high."""
    view = min(read_card(model).space.extent_mm)
    shape = (round(0.8 * view), round(0.8 * view), round(height * view))
    affine = np.eye(4)
    if turn is not None:
        affine[:3, :3] = turn
    affine[:3, 3] = (7, -3, 2) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    data = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return Volume(data, Grid(shape, affine), "mr", "crop")


def answering(taller: float, lower: float) -> Any:
    """A network that is as deep in its structures as ``taller`` or ``lower`` (clip units), by how much of its view the
    volume fills."""
    filled: list[int] = []

    def answer(image: NDArray[np.float32], known: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        filled.append(int(known.sum()))
        depth = taller if filled[-1] > filled[0] else lower
        return np.where(known, np.float32(-depth), np.float32(1))[None].repeat(2, 0)

    return answer


def placed(model: Path, volume: Volume, answer: Any, **more: Any) -> placement.Placement:
    return place(plan(volume, Request(model=str(model), **more)), volume, answer)


def test_the_surer_view_is_taken_and_the_run_says_so(model: Path) -> None:
    volume = crop(model)
    as_told = placed(model, volume, answering(0.1, 0.9))
    longer = placed(model, volume, answering(0.9, 0.1))
    np.testing.assert_allclose(as_told.grid.spacing_mm, read_card(model).space.spacing_mm)
    np.testing.assert_allclose(longer.grid.spacing_mm, np.array(as_told.grid.spacing_mm) / (1, 1, STRETCH))
    np.testing.assert_allclose(longer.grid.centre_mm, volume.grid.centre_mm, atol=1e-6)
    assert longer.source is volume.grid
    assert [n for n in longer.notes if f"slices {STRETCH:g} times as far apart as the header tells" in n]
    assert not [n for n in as_told.notes if "far apart" in n]


def test_slices_may_lie_in_any_direction(model: Path) -> None:
    turn = rotation_matrix((12, 6, -8))
    grid = placed(model, crop(model, turn=turn), answering(0.9, 0.1)).grid
    told = read_card(model).space.grid_at(grid.centre_mm)
    change = grid.affine[:3, :3] @ np.linalg.inv(told.affine[:3, :3])
    np.testing.assert_allclose(change @ turn[:, 2], turn[:, 2] / STRETCH, atol=1e-9)
    np.testing.assert_allclose(change @ turn[:, 0], turn[:, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("height", "more"),
    [
        (0.35, {"roi": ((2, 9), (2, 9), (0, 4))}),
        (0.35, {"guidance": "none"}),
        (0.5, {}),
        (1.4, {"roi": ((2, 9), (2, 9), (0, 4))}),
    ],
    ids=["a region", "no guidance", "not low", "large"],
)
def test_the_header_is_kept_to_where_nothing_speaks_against_it(model: Path, height: float, more: Any) -> None:
    volume = crop(model, height)
    grid = placed(model, volume, answering(0.9, 0.1), **more).grid
    np.testing.assert_allclose(grid.spacing_mm, read_card(model).space.spacing_mm)


def test_a_model_without_calibration_has_no_say(tiny_model: Path) -> None:
    assert read_card(tiny_model).calibration is None
    grid = placed(tiny_model, crop(tiny_model), answering(0.9, 0.1)).grid
    np.testing.assert_allclose(grid.spacing_mm, read_card(tiny_model).space.spacing_mm)


def test_labels_lie_on_the_volumes_voxels_all_the_same(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SURER", -1.0)  # whatever it sees
    volume = crop(model)
    last = list(stream(volume, Request(model=str(model), steps=2, precision="fp32")))[-1]
    assert last.result is not None
    assert last.result.labels.data.shape == volume.grid.shape
    assert last.result.labels.grid.same_as(volume.grid)
    assert any("far apart" in note for note in last.result.notes)
    np.testing.assert_allclose(last.grid.spacing_mm[2], read_card(model).space.spacing_mm[2] / STRETCH)
    affine = np.array(last.result.provenance["placement"]["affine"])
    np.testing.assert_allclose(affine, last.grid.affine)
