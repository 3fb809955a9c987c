"""The viewer in a real browser: sliders, buttons, linked views, the keyboard, and what axe finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.web.viewer.bench import MARKS, coloured, frames_of, opened

pytestmark = MARKS


def test_the_image_half_is_blended_in(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert not shown.slider("blend").is_visible()
    shown.run(frames_of(3))
    before = shown.picture()
    shown.slider("blend").fill("1")
    shown.settle()
    after = shown.picture()
    gray = (np.ptp(before, axis=2) < 12) & (np.ptp(after, axis=2) < 12)
    assert (abs(before - after).max(axis=2)[gray] > 12).sum() > 1000


def test_window_opacity_and_structures(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames_of(3))
    end = coloured(shown.picture())
    shown.page.get_by_role("button", name="myocardium").first.click()
    shown.settle()
    fewer = coloured(shown.picture())
    assert fewer < end
    assert shown.page.get_by_role("button", name="myocardium").first.get_attribute("aria-pressed") == "false"
    shown.slider("opacity").fill("0")
    shown.settle()
    assert coloured(shown.picture()) < min(fewer, 60)
    bright = shown.picture().mean()
    shown.page.locator("#first summary").click()
    shown.slider("low").fill("300")
    shown.settle()
    assert shown.picture().mean() < bright - 2


def test_linked_views_share_crosshair_camera_and_step(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    frames = frames_of(6)
    shown.go((opened(), opened()))
    shown.wait("state", "open", "#second")
    shown.run(frames)
    shown.run(frames[::2], "#second")  # a run with other steps: the nearest is shown
    for box in ("#first", "#second"):
        shown.page.locator(f"{box} summary").click()
    before = shown.picture("#second")
    shown.slider("at2").fill("4")
    shown.slider("azimuth").fill("45")
    shown.page.wait_for_function("document.querySelector('#second [data-control=azimuth]').value == '45'")
    assert shown.value("at2", "#second") == 4
    shown.settle("#second")
    assert (shown.picture("#second") != before).any()
    shown.slider("step", "#second").fill("0")
    shown.wait("shown", 0, "#second")
    shown.wait("shown", 0)
    canvas = shown.page.locator("#first .dv-canvas")
    size = canvas.bounding_box()
    at = shown.value("at0", "#second")
    canvas.click(position={"x": 0.3 * size["width"], "y": 0.3 * size["height"]})
    shown.page.wait_for_function(f"document.querySelector('#second [data-control=at0]').value != '{at:g}'")


def test_disagreement_of_samples_can_be_shown(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.page.locator("#first summary").click()
    assert not shown.slider("unsure").is_visible()
    shown.run(frames_of(2, samples=2))
    before = shown.picture()
    shown.slider("unsure").fill("1")
    shown.settle()
    assert (abs(shown.picture() - before).max(axis=2) > 30).sum() > 1000


def test_by_keyboard_alone(show: Any, browser: Any) -> None:
    shown = show(browser)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames_of(3))
    shown.page.locator("#first summary").focus()
    shown.page.keyboard.press("Enter")
    shown.page.locator("#first :is(button:enabled, input:enabled, summary):visible").first.focus()
    reached: list[str] = []
    for _ in range(40):
        told = shown.page.evaluate(
            "(() => { const e = document.activeElement; return e.closest('#first') ? (e.ariaLabel || "
            "(e.labels && e.labels[0] ? e.labels[0].innerText : e.innerText) || '') : null; })()"
        )
        if told is None:
            break
        reached.append(told.strip())
        shown.page.keyboard.press("Tab")
    controls = shown.page.locator("#first :is(button:enabled, input:enabled, summary):visible").count()
    assert len(reached) == controls
    assert all(reached)
    shown.slider("at0").focus()
    before = shown.value("at0")
    shown.page.keyboard.press("ArrowRight")
    assert shown.value("at0") == before + 1


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_nothing_serious_for_axe_and_no_scrolling_sideways(show: Any, browser: Any, width: int, dark: bool) -> None:
    shown = show(browser, width=width, dark=dark)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames_of(3))
    for summary in shown.page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    report = Axe().run(shown.page).response["violations"]
    serious = [
        (v["id"], [n["html"][:160] for n in v["nodes"]]) for v in report if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
