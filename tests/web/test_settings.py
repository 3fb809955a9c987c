"""Settings to requests and addresses, and back."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas_app import limits
from diffatlas_app.runs import settings
from diffatlas_app.runs.settings import Settings
from tests.web.conftest import fake_models


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available_models", fake_models)


def query(link: str) -> dict[str, str]:
    return dict(parse_qsl(link.removeprefix("?"), keep_blank_values=True))


@pytest.mark.parametrize(
    "chosen",
    [
        Settings(),
        Settings("heart-mr", "heart-phantom", "published", "gradient", 0.35, "dpmpp-2m", 17, 4, 123456, "unguided"),
        Settings(centre=(12.5, 0.0, 100.0), seed=3, example=""),
    ],
)
def test_a_link_restores_the_settings(chosen: Settings) -> None:
    assert Settings.from_link(query(chosen.link())) == chosen


def test_a_link_holds_only_what_differs() -> None:
    assert query(Settings(seed=5).link()) == {"run": "1", "seed": "5"}


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "/etc"},
        {"model": "../../weights/heart-phantom"},
        {"steps": "100000"},
        {"samples": "64"},
        {"seed": "-1"},
        {"seed": "nan"},
        {"noise": "nan"},
        {"noise": "2"},
        {"preset": "<script>"},
        {"sampler": "euler"},
        {"guidance": "wish"},
        {"beside": "everything"},
        {"example": "../secret"},
        {"centre": "1,2"},
        {"centre": "1,2,inf"},
        {"centre": "1,2,101"},
    ],
)
def test_an_address_that_asks_for_what_cannot_be_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        Settings.from_link(asked)


def test_other_names_in_an_address_are_ignored() -> None:
    assert Settings.from_link({"__theme": "dark", "view": "api", "seed": "2"}) == Settings(seed=2)


def test_a_model_is_a_name_of_this_page_never_a_folder(tmp_path: object) -> None:
    with pytest.raises(BadInput, match="no model"):
        Settings(model=str(tmp_path)).request()


def test_the_page_takes_less_than_the_engine() -> None:
    with pytest.raises(BadInput, match="command line"):
        Settings(steps=limits.MAX_STEPS + 1).request()
    with pytest.raises(BadInput, match="command line"):
        Settings(samples=limits.MAX_SAMPLES + 1).request()


@pytest.mark.parametrize(
    ("beside", "changed"),
    [
        ("unguided", {"guidance": "none"}),
        ("published", {"guidance_noise": 1.0}),
        ("seed", {"seed": 8}),
    ],
)
def test_the_run_beside_differs_in_one_thing(beside: str, changed: dict[str, object]) -> None:
    first, second = Settings(beside=beside, seed=7, noise=0.5).requests()
    a, b = first.to_json(), second.to_json()
    assert {name: b[name] for name in b if a[name] != b[name]} == changed


def test_whole_numbers() -> None:
    assert settings.whole("seed", 3.0) == 3
    for wrong in (None, 1.5, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="seed must be a whole number"):
            settings.whole("seed", wrong)


def test_the_region_is_the_field_of_view_around_the_centre_and_stays_inside() -> None:
    grid = Grid((100, 80, 60), np.diag([1.0, 2.0, 4.0, 1.0]))
    assert settings.region(grid, (50, 50, 50), (40.0, 40.0, 40.0)) == ((30, 70), (30, 50), (25, 35))
    assert settings.region(grid, (0, 100, 50), (40.0, 40.0, 40.0)) == ((0, 40), (60, 80), (25, 35))
    assert settings.region(grid, (10, 20, 30), (1000.0, 1000.0, 1000.0)) == ((0, 100), (0, 80), (0, 60))


def test_the_region_follows_axes_that_are_turned() -> None:
    affine = np.array([[0, 0, 4.0, 0], [1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1.0]])
    grid = Grid((100, 80, 60), affine)
    # Array axes run along world y, -z and x: their extents are those of these world axes.
    assert settings.region(grid, (50, 50, 50), (40.0, 20.0, 80.0)) == ((40, 60), (20, 60), (25, 35))


@pytest.mark.parametrize("beside", ["published", "clean", "unguided"])
def test_a_second_run_that_repeats_the_first_is_refused(beside: str) -> None:
    same = {
        "published": Settings(preset="watch", noise=1.0),
        "clean": Settings(preset="watch", noise=0.0),
        "unguided": Settings(preset="watch", guidance="none"),
    }
    with pytest.raises(BadInput, match="would repeat the first"):
        replace(same[beside], beside=beside).requests()
    first, second = replace(same[beside], beside="seed").requests()
    assert second.seed == first.seed + 1
