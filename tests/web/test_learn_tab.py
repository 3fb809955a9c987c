"""The tab *Learn* of the page: where it stands, what it shows, how it hands over to a live run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from diffatlas import session
from diffatlas_app.page import layout
from tests.fakes import FakeBackend
from tests.web.conftest import (
    EXAMPLE_REGION,
    WAIT_MS,
    Site,
    Tab,
    fake_card,
    fake_example,
    fake_models,
    serve_site,
    sync_api,
    wait_until,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The page as a hosted demo serves it: the scenes first."""
    monkeypatch.setenv(layout.LEARN_FIRST, "1")
    for name, value in {
        "available_models": fake_models,
        "example": fake_example,
        "EXAMPLE_REGION": EXAMPLE_REGION,
        "model_card": fake_card,
    }.items():
        monkeypatch.setattr(session, name, value)
    backend = FakeBackend()
    monkeypatch.setattr(session, "local_backend", lambda: backend)
    monkeypatch.setattr(session, "plan", backend.plan)
    monkeypatch.setattr(session, "start", backend.start)
    site = serve_site()
    site.backend = backend
    yield site
    site.served.close()


def chosen(page: Any) -> str:
    return str(page.inner_text("#pages > .tab-wrapper [role=tab][aria-selected=true]")).strip()


def test_where_the_scenes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for space, setting, first in (("", "", False), ("who/what", "", True), ("", "1", True), ("who/what", "0", False)):
        for name, value in (("SPACE_ID", space), (layout.LEARN_FIRST, setting)):
            if value:
                monkeypatch.setenv(name, value)
            else:
                monkeypatch.delenv(name, raising=False)
        assert layout.opens_with_learn() is first


def test_on_one_s_own_machine_the_scenes_are_the_second_tab(site: Site, open_tab: Callable[[Site], Tab]) -> None:
    page = open_tab(site).page
    assert chosen(page) == "Try it"
    assert page.locator("#learn-frame").count() == 0, "nothing is fetched before the tab is opened"
    page.get_by_role("tab", name="Learn").click()
    scenes = page.frame_locator("#learn-frame")
    scenes.locator("html[data-ready=destroy]").wait_for(timeout=WAIT_MS)
    scenes.locator(".predict input").first.check()
    scenes.get_by_label("Noise level", exact=True).fill("0.8")
    sync_api.expect(scenes.locator(".see p")).to_contain_text("Noise level 0.80", timeout=WAIT_MS)
    # One scroll bar: the frame is as high as the scene in it.
    page.wait_for_function(
        """() => {
          const frame = document.querySelector('#learn-frame');
          return Math.abs(frame.clientHeight - frame.contentDocument.body.getBoundingClientRect().height) < 2;
        }"""
    )
    assert not scenes.locator(".brand").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_hosted_demo_opens_with_the_scenes_and_hands_over_to_a_live_run(hosted: Site, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    try:
        page = context.new_page()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.goto(hosted.url)
        scenes = page.frame_locator("#learn-frame")
        scenes.locator("html[data-ready=destroy]").wait_for()
        assert chosen(page) == "Learn"
        scenes.get_by_role("link", name="4. ").click()
        scenes.locator("html[data-ready=unguided]").wait_for()
        scenes.get_by_role("link", name="Try it live").click()
        page.wait_for_selector('#view .dv[data-state="open"]')
        assert chosen(page) == "Try it"
        assert "beside=unguided" in page.url
        page.wait_for_selector("#second .dv")
        page.click("#run")
        page.wait_for_selector('#second .dv[data-state="done"]')
        assert [r.guidance for r in hosted.backend.requests] == ["image", "none"]
    finally:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_brush_of_scene_6_is_answered_by_the_engine(hosted: Site, browser: Any, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 844}, has_touch=width < 600, color_scheme="dark", locale="en"
    )
    context.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    try:
        page = context.new_page()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: None if r.url.startswith((hosted.url, "data:")) else wrong.append(r.url))
        page.goto(f"{hosted.url}/learn/?live#scene=fool")
        page.wait_for_selector("html[data-ready=fool]")
        assert "goes to this page's server" in page.inner_text("#foot")
        canvas, ask = page.locator("canvas.brush"), page.get_by_role("button", name="Ask the atlas")
        assert ask.is_disabled(), "first predict"
        page.locator(".predict input").first.check()
        ask.click()
        page.wait_for_selector("text=Brush a place in the first picture")
        assert hosted.backend.requests == [], "nothing is brushed over yet"

        def answered() -> Any:
            """The mask that the second run ignored, once both have ended and are shown."""
            hosted.backend.requests.clear()
            before = page.locator("canvas").nth(2).evaluate("c => c.toDataURL()")
            ask.click()
            page.wait_for_selector("text=This is the answer")
            page.wait_for_selector("text=Labels with your brush")
            assert "In the brushed place" in page.inner_text(".see p")
            assert page.locator("canvas").nth(2).evaluate("c => c.toDataURL()") != before
            first, second = hosted.backend.requests
            assert first.ignore is None
            return second.ignore

        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] * 20.5 / 64, box["y"] + box["height"] * 10.5 / 64
        if width < 600:
            page.touchscreen.tap(x, y)
        else:
            page.mouse.click(x, y)
        ignore = answered()
        # Column 20 and row 10 of a picture whose left is the patient's right and whose top is in front.
        assert [round(float(v.mean())) for v in np.nonzero(ignore)] == [63 - 20, 63 - 10, 32]
        assert int(ignore.sum()) == 515  # lattice points in a ball of radius 5
        assert page.is_visible(".why")
        assert "heart-phantom" in page.inner_text(".stage")
        assert "saw the place as black" in page.inner_text(".stage")
        report = Axe().run(page).response["violations"]
        assert [v["id"] for v in report if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

        page.get_by_role("button", name="Clean brush").click()
        page.get_by_label("Height of the slice").fill("40")
        canvas.focus()
        for key in ("ArrowRight", "ArrowRight", "Space"):
            canvas.press(key)
        ignore = answered()
        assert [round(float(v.mean())) for v in np.nonzero(ignore)] == [39, 53, 40], "on from where the brush was"

        page.get_by_label("wipes out", exact=True).check()
        assert page.get_by_text("Labels with your brush").count() == 0, "another question"
        assert answered() is None
        before, after = hosted.backend.volumes[-2:]
        assert before is not None
        assert after is not None
        assert (before.data != after.data).any()

        hosted.backend.delay_s = 0.5
        ask.click()
        assert wait_until(lambda: hosted.backend.open_runs == 1)
        page.evaluate("location.hash = '#scene=paint'")
        page.wait_for_selector("html[data-ready=paint]")
        assert wait_until(lambda: hosted.backend.open_runs == 0)
        assert wait_until(lambda: len(hosted.served.visitors.turns) == 0)
    finally:
        context.close()
    assert wrong == []
