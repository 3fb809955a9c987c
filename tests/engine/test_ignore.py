"""Voxels that are not to be believed: what a run makes of them, and how a request carries them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffatlas.engine import locate
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.resample import image_to_model
from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import Volume
from diffatlas.session import plan, segment
from tests.conftest import make_model
from tests.engine.test_session import VOLUME

IGNORED = np.zeros(VOLUME.grid.shape, dtype=bool)
IGNORED[:, :, :9] = True


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A request to a model that is told where there is no evidence."""
    folder = make_model(tmp_path_factory.mktemp("models") / "told", evidence=True)
    return Request(model=str(folder), steps=2, seed=5, precision="fp32")


def test_what_is_ignored_has_no_part_in_the_answer(told: Request) -> None:
    metal = VOLUME.data.copy()
    metal[IGNORED] = 4000.0
    spoiled = replace(VOLUME, data=metal)
    clean = segment(VOLUME, told, ignore=IGNORED).labels.data
    assert np.array_equal(segment(spoiled, told, ignore=IGNORED).labels.data, clean)
    assert not np.array_equal(segment(spoiled, told).labels.data, clean)
    assert not np.array_equal(segment(VOLUME, told).labels.data, clean)


def test_nothing_ignored_changes_nothing(told: Request) -> None:
    none = np.zeros_like(IGNORED)
    assert np.array_equal(segment(VOLUME, told, ignore=none).labels.data, segment(VOLUME, told).labels.data)


def test_a_model_that_cannot_be_told_says_so(tiny_model: Path) -> None:
    request = Request(model=str(tiny_model), steps=1, precision="fp32", ignore=IGNORED)
    assert any("cannot be told" in note for note in segment(VOLUME, request).notes)


def test_the_mask_is_on_the_voxels_of_the_volume(told: Request) -> None:
    with pytest.raises(BadInput, match="to ignore has shape"):
        plan(VOLUME, replace(told, ignore=IGNORED[1:]))
    with pytest.raises(BadInput, match="nothing to segment"):
        segment(VOLUME, told, ignore=np.ones_like(IGNORED))


def test_a_report_carries_the_mask(told: Request) -> None:
    request = replace(told, ignore=IGNORED)
    again = Request.from_json(json.dumps(request.to_json()))
    assert again.ignore is not None
    assert np.array_equal(again.ignore, IGNORED)
    recorded = segment(VOLUME, request).provenance["request"]
    assert np.array_equal(Request.from_json(recorded).ignore, IGNORED)  # type: ignore[arg-type]
    broken = request.to_json() | {"ignore": {"shape": [5, 5, 5], "voxels": "AAAA"}}
    with pytest.raises(BadInput, match="not a request"):
        Request.from_json(broken)


def test_known_is_what_comes_from_believed_voxels() -> None:
    space = ModelSpace((32, 32, 32), (2.0, 2.0, 2.0), 6.0, {})
    grid = space.place(VOLUME.grid)
    window = Window("percentile", 0.0, 100.0)
    whole = image_to_model(VOLUME, grid, window)
    outside = grid.to_voxel(VOLUME.grid.to_world((0.0, 0.0, 0.0)))[0] - 1
    assert not whole.known[: int(outside)].any()
    part = image_to_model(VOLUME, grid, window, ignore=IGNORED)
    assert (part.known <= whole.known).all()
    assert (part.image[~part.known] == -1).all()
    spoiled = VOLUME.data.copy()
    spoiled[IGNORED] = 1e6
    again = image_to_model(Volume(spoiled, VOLUME.grid, "mr"), grid, window, ignore=IGNORED)
    np.testing.assert_allclose(again.image, part.image, atol=1e-6)
    flat = Volume(np.where(IGNORED, np.float32(9), np.float32(3)), VOLUME.grid, "mr")
    inside = image_to_model(flat, grid, Window("range", 0.0, 6.0), ignore=IGNORED)
    np.testing.assert_allclose(inside.image[inside.known], 0.0, atol=1e-5)


@pytest.mark.parametrize("spacing_mm", [2.0, 8.0])  # as fine as the volume, and in blocks of it
def test_the_search_does_not_believe_what_is_ignored_either(spacing_mm: float) -> None:
    space = ModelSpace((16, 16, 16), (spacing_mm,) * 3, 6.0, {})
    seen = []
    for value in (0.0, 5000.0):
        data = np.where(IGNORED, np.float32(value), VOLUME.data)
        coarse = locate._Coarse(replace(VOLUME, data=data, unknown=IGNORED), space)
        seen.append(np.where(coarse.inside, coarse.values, 0))
        assert 0.2 < coarse.inside.mean() < 0.8
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-3)
