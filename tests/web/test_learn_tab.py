"""The tab *Learn* of the page: where it stands, what it shows, how it hands over to a live run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diffatlas import session
from diffatlas_app.page import layout
from tests.fakes import FakeBackend
from tests.web.conftest import (
    EXAMPLE_REGION,
    GRADIO_WARNINGS,
    WAIT_MS,
    Site,
    Tab,
    fake_card,
    fake_example,
    fake_models,
    serve_site,
    sync_api,
)

pytestmark = [*GRADIO_WARNINGS, pytest.mark.timeout(600)]


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
