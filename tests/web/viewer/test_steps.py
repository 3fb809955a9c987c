"""The viewer in a real browser: what a run's steps, a mask and a pair look like on the stage."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure
from diffatlas_app.page import viewer
from tests.fakes import FakeBackend
from tests.web.viewer.bench import MARKS, SLOW_MS, coloured, frames_of, opened, viewer_of

pytestmark = MARKS
REGION = LabelScheme("region", (Structure("what the model sees", 1, (86, 180, 233)),))


def test_masks_grow_on_one_canvas_step_by_step(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    frames = frames_of(5)
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert shown.get("stage") == "canvas"
    shown.page.evaluate("document.querySelector('#first .dv-canvas').marked = true")
    seen, pictures = [coloured(shown.picture())], [shown.picture()]
    for i, frame in enumerate(frames):
        metrics = [f.metrics for f in frames[: i + 1]]
        last = frame.result is not None
        shown.go(
            (viewer.done_message(frame, metrics) if last else viewer.frame_message(frame, metrics, left_s=2.0), None)
        )
        shown.wait("shown", i)
        if not last:
            assert shown.words() == f"Step {i + 1} of 5 · noise level {frame.t:.2f} · about 2.0 s left"
        seen.append(coloured(shown.picture()))
        pictures.append(shown.picture())
    assert seen[0] < 50  # the orientation cube is the only colour without a mask
    assert all(after > before for before, after in pairwise(seen[2:]))
    assert seen[-1] > seen[0] + 500
    assert all((a != b).any() for a, b in pairwise(pictures))
    assert shown.page.evaluate("document.querySelector('#first .dv-canvas').marked") is True
    assert shown.words() == "Done: 5 steps"
    assert shown.get("state", "#second") == "empty"


def test_a_mask_ends_where_the_model_s_view_ends(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    frame = frames_of(2)[0]
    full = replace(frame, labels=np.ones_like(frame.labels))  # 32 of 72 mm: a fifth of each plane
    shown.go((viewer.frame_message(full), None))
    shown.wait("shown", 0)
    shown.settle()
    picture = shown.picture()
    gray = (picture.max(axis=2) > 30).sum()
    assert 0.05 * gray < coloured(picture) < 0.45 * gray


def test_walking_back_through_the_steps_asks_the_server_for_nothing(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    frames = frames_of(6)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames)
    end = coloured(shown.picture())
    ml = shown.page.inner_text("#first .dv-legend")
    cursor = shown.page.get_attribute("#first .dv-cursor >> nth=0", "x1")
    shown.requests.clear()
    step = shown.slider("step")
    step.focus()
    shown.page.keyboard.press("Home")
    shown.wait("shown", 0)
    first = coloured(shown.picture())
    assert first < end - 500
    assert shown.page.inner_text("#first .dv-legend") != ml
    assert shown.page.get_attribute("#first .dv-cursor >> nth=0", "x1") == "0" != cursor
    shown.page.keyboard.press("ArrowRight")
    shown.wait("shown", 1)
    assert step.get_attribute("aria-valuetext") == f"Step 2 of 6, noise level {frames[1].t:.2f}"
    shown.page.click('#first [data-button="forth"]')
    shown.wait("shown", 2)
    shown.page.click('#first [data-button="back"]')
    shown.wait("shown", 1)
    plot = shown.page.locator('#first [data-plot="residual"] svg')
    width = plot.bounding_box()["width"]
    plot.click(position={"x": 0.8 * width, "y": 20})  # 0.8 of 0 to 5: the fifth step
    shown.wait("shown", 4)
    assert shown.value("step") == 4
    shown.page.evaluate(
        "() => { window.seen = []; const box = document.querySelector('#first .dv');"
        "new MutationObserver(() => seen.push(box.dataset.shown)).observe(box, {attributeFilter: ['data-shown']}); }"
    )
    for played in (["5"], ["0", "1", "2", "3", "4", "5"]):  # to the end, and from there all over
        shown.page.evaluate("seen.length = 0")
        shown.page.get_by_role("button", name="Play the steps").first.click()
        shown.page.wait_for_function("seen.at(-1) === '5'", timeout=SLOW_MS)
        shown.page.wait_for_selector("#first .dv:not([data-playing])")
        assert shown.page.evaluate("seen") == played
    assert shown.requests == []


def test_a_long_run_keeps_to_its_memory(show: Any, browser: Any) -> None:
    shown = show(browser)
    frames = frames_of(60)
    shown.go((opened(), None))
    shown.wait("state", "open")
    first = viewer_of("#first")
    shown.page.evaluate(f"{first}.limit = 30000")
    shown.run(frames)
    kept = shown.page.evaluate(f"{first}.steps.map((s) => s.index)")
    assert shown.page.evaluate(f"{first}.bytes") <= 30000
    assert 2 < len(kept) < 60
    assert (kept[0], kept[-1]) == (0, 59)


def test_a_pair_from_the_atlas_shows_its_own_image(show: Any, browser: Any) -> None:
    shown = show(browser)
    frames = list(FakeBackend().stream(None, Request(task="generate", steps=3)))
    shown.go((viewer.open_message(None, frames[0].scheme, name="A pair"), None))
    shown.wait("state", "open")
    shown.run(frames)
    assert shown.picture().max() > 100
    assert coloured(shown.picture()) > 500
    assert not shown.slider("blend").is_visible()
    assert not shown.page.locator('#first [data-plot="residual"]').is_visible()


def test_a_mask_alone_is_seen(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    frame = frames_of(4)[-1]
    labels = LabelMap(frame.labels, frame.grid, frame.scheme)
    shown.go((viewer.open_message(None, labels=labels), None))
    shown.wait("state", "open")
    shown.settle()
    assert coloured(shown.picture()) > 500
    painted = list(FakeBackend().stream(None, Request(task="generate", steps=2)))
    shown.go((viewer.frame_message(painted[0]), None))
    shown.wait("shown", 0)
    shown.settle()
    picture = shown.picture()
    assert ((np.ptp(picture, axis=2) < 12) & (picture.max(axis=2) > 90)).sum() > 500  # and then the image below it


def test_after_a_search_every_structure_has_its_own_colour(show: Any, with_webgl: Any) -> None:
    """The box of the search lies on the grid of the run's masks: its colours must not stay with that layer."""
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    frames = frames_of(4)
    box = LabelMap(np.ones(frames[-1].grid.shape, np.uint8), frames[-1].grid, REGION)
    shown.go((viewer.waiting_message("Searching", box), None))
    shown.wait("state", "waiting")
    shown.settle()
    shown.go((viewer.done_message(frames[-1]), None))
    shown.wait("shown", 3)
    shown.settle()
    shown.slider("opacity").fill("1")
    shown.settle()
    picture = shown.picture()
    hues = [np.abs(picture - np.array(s.color)).max(axis=2) < 60 for s in frames[-1].scheme.structures]
    assert sum(mask.sum() > 20 for mask in hues) >= 3
