"""A plan says what the run will do, and the run does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine import backend as local
from diffatlas.engine import pace
from diffatlas.engine.request import MaskEdit, PresetName, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.published.convert import Options, convert
from tests import published_files
from tests.fakes import FakeBackend
from tests.geometry.test_space import ball_grid


def noise(shape: tuple[int, int, int], spacing_mm: float = 1.0) -> Volume:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Volume(values, ball_grid(shape, (spacing_mm,) * 3), "mr", "noise")


SMALL = noise((24, 26, 22))
LARGE = noise((48, 30, 26))
MASK = MaskEdit(np.ones(SMALL.grid.shape, np.uint8), t=0.4)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(local, "load_model", refuse)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("published")
    convert(published_files.write(folder / "c.pt"), folder / "model", Options(labels="a,b", size=16, name="small"))
    return str(folder / "model")


@pytest.fixture(autouse=True)
def fresh_pace() -> Iterator[None]:
    pace.forget()
    yield
    pace.forget()


REQUESTS = [
    Request(),
    Request(steps=3, samples=2),
    Request(steps=10, edit=MASK),
    Request(task="generate", steps=4, guidance="none"),
    Request(task="paint", steps=2, edit=MASK),
    Request(preset="published", steps=25),  # a converted model of the tests has 10 levels
    Request(steps=9, sampler="ddpm", edit=MASK),
]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("kind", ["two-level", "published"])
def test_a_run_does_what_its_plan_says(request_: Request, kind: str, tiny_model: Path, converted: str) -> None:
    request_ = replace(request_, model=str(tiny_model) if kind == "two-level" else converted, force=True)
    volume = None if request_.task == "generate" else SMALL
    planned = session.plan(volume, request_)
    frames = list(session.stream(volume, request_))
    assert planned.steps == len(frames) == frames[0].total
    result = frames[-1].result
    assert result is not None
    assert result.provenance["request"] == planned.request.to_json()
    assert result.provenance["model"]["sha256"] == planned.card.sha256
    assert set(planned.notes) <= set(result.notes)
    if planned.grid is not None:
        assert planned.grid.same_as(frames[0].grid)


def test_a_plan_loads_no_network(tiny_model: Path, no_network: None) -> None:
    planned = session.plan(LARGE, Request(model=str(tiny_model)))
    assert (planned.request.sampler, planned.request.steps, planned.request.guidance_noise) == ("ddim", 2, 0.0)
    assert session.plan(None, Request(model=str(tiny_model), preset="watch")).request.guidance_noise == 0.5
    with pytest.raises(AssertionError, match="a network was loaded"):
        next(session.stream(LARGE, Request(model=str(tiny_model))))


def test_fast_means_more_steps_to_a_published_model(converted: str) -> None:
    planned = session.plan(None, Request(model=converted))
    assert (planned.steps, planned.preset.steps, planned.preset.guidance_noise) == (8, 8, 1.0)
    assert planned.summary == "small, 8 steps, seed 0"


def test_a_network_of_one_level_never_sees_a_cleaner_image_unless_asked(converted: str) -> None:
    for preset in get_args(PresetName):
        assert session.plan(None, Request(model=converted, preset=preset)).request.guidance_noise == 1.0
    fast = session.plan(None, Request(model=converted))
    assert fast.request.sampler == "ddim"
    assert 4 <= fast.steps <= 12
    asked = Request(model=converted, steps=3, guidance_noise=0.5, sampler="dpmpp-2m")
    planned = session.plan(None, asked).request
    assert (planned.steps, planned.guidance_noise, planned.sampler) == (3, 0.5, "dpmpp-2m")


def test_planning_loads_no_torch(converted: str) -> None:
    code = (
        "import sys\n"
        "from diffatlas import Request, session\n"
        f"for model in ('heart-phantom', {converted!r}):\n"
        "    session.plan(None, Request(model=model))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_a_run_looks(tiny_model: Path, converted: str) -> None:
    ours = Request(model=str(tiny_model))
    assert session.plan(None, ours).grid is None
    small, large = session.plan(SMALL, ours), session.plan(LARGE, ours)
    assert (small.search, small.where) == (False, "")
    assert (large.search, large.grid) == (True, None)
    assert "larger than the model's field of view" in large.where
    boxed = session.plan(LARGE, replace(ours, roi=((0, 20), (0, 20), (0, 20))))
    assert boxed.grid is not None
    assert (boxed.search, boxed.where) == (False, "")
    assert boxed.grid.centre_mm == pytest.approx(LARGE.grid.to_world((9.5, 9.5, 9.5)))
    published = session.plan(LARGE, Request(model=converted, force=True))
    assert published.grid is not None
    assert not published.search
    assert not session.plan(SMALL, replace(ours, task="paint", edit=MASK)).search


def test_auto_is_settled_by_the_plan() -> None:
    volume = replace(SMALL, modality="unknown")
    assert session.plan(volume, Request()).request.model == session.choose_model(volume)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("size_mm", "model"),
    [
        ((35, 51, 35), "hippocampus-mri"),  # a crop about a hippocampus, as in the Decathlon
        ((60, 80, 60), "hippocampus-mri"),
        ((114, 88, 55), "heart"),  # a crop about a left atrium: nearer to the hippocampus's view in ml
        ((92, 82, 55), "heart"),
        ((160, 150, 70), "heart"),
        ((487, 380, 473), "heart"),  # larger than either sees
    ],
)
def test_auto_takes_the_model_that_sees_the_volume(size_mm: tuple[int, int, int], model: str) -> None:
    shape = tuple(n // 5 for n in size_mm)
    grid = Grid(shape, np.diag([*(mm / n for mm, n in zip(size_mm, shape, strict=True)), 1.0]))  # type: ignore[arg-type]
    assert session.choose_model(Volume(np.zeros(shape, np.float32), grid, "mr", "sized")) == model


def test_a_plan_refuses_what_the_run_refuses(tiny_model: Path) -> None:
    request = Request(model=str(tiny_model))
    for volume, asked, match in (
        (replace(SMALL, modality="ct"), request, "looks like ct"),
        (SMALL, replace(request, roi=((0, 99), (0, 5), (0, 5))), "roi X"),
        (SMALL, replace(request, model="nothing"), "no model named"),
    ):
        for call in (session.plan, lambda v, r: next(session.stream(v, r))):
            with pytest.raises(BadInput, match=match):
                call(volume, asked)


def test_seconds_are_expected_once_a_run_was_measured(tiny_model: Path) -> None:
    request = Request(model=str(tiny_model), steps=4)
    assert session.plan(SMALL, request).seconds is None
    session.segment(SMALL, request)
    some, more = (session.plan(SMALL, replace(request, steps=n)).seconds for n in (4, 400))
    assert some is not None
    assert more is not None
    assert 0 < some < more < 100 * some + 1e-9
    assert session.plan(SMALL, replace(request, guidance="gradient")).seconds is None


def test_the_pace_is_a_mean_over_steps_and_samples() -> None:
    request = Request(samples=2)
    pace.record("a", request, pace.Pace(1.0, 4.0))
    pace.record("a", request, pace.Pace(2.0, 2.0))
    assert pace.expected("a", request, 10) == pytest.approx(3 + 1.5 * 10 * 2)
    assert pace.expected("b", request, 10) is None


def test_the_fake_backend_is_a_whole_one() -> None:
    backend: session.Backend = FakeBackend()
    request = Request(model="heart-phantom")
    planned, frames = backend.plan(SMALL, request), list(backend.stream(SMALL, request))
    assert planned.steps == len(frames)
    assert planned.grid is not None
    assert planned.grid.same_as(frames[0].grid)
    *_, last = backend.locate(SMALL, request)
    assert last.proposal is not None
