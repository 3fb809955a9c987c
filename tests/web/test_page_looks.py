"""What a visitor sees of a run: names, scores, doubt, focus, and that it is in sight."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from diffatlas.geometry.volume import HIPPOCAMPUS
from diffatlas_app.page import html as markup
from diffatlas_app.runs.results import Measured
from tests import fakes
from tests.fakes import FakeBackend
from tests.web.conftest import (
    Open,
    Site,
    oblique_scan,
)
from tests.web.steps import FakeSearch, choose

pytestmark = pytest.mark.timeout(400)


def test_a_link_to_the_settings_is_copied_and_the_run_stays(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.fill("#seed input", "4")
    tab.page.locator("#seed input").blur()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    tab.page.get_by_role("link", name="Copy a link").click()
    tab.page.get_by_role("link", name="Copied").wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == f"{site.url}/?run=1&seed=4"
    assert tab.status().startswith("Done")
    assert tab.page.locator(".da-volumes").count() == 1


def test_the_same_guidance_is_not_run_twice(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.click("#more >> text=More settings")
    choose(tab, "#beside", "Guided by the noisy image, as published (1)")
    tab.page.locator("#second .dv").wait_for()  # the server knows of the choice
    tab.page.click("#run")
    tab.wait_for_status("would repeat the first")
    assert site.backend.requests == []
    choose(tab, "#beside", "Guided by the clean image (0)")
    tab.page.click("#run")
    tab.wait_for_viewer("state", "done", "#second")
    first, second = site.backend.requests[-2:]
    assert (first.guidance_noise, second.guidance_noise) == (None, 0.0)


def test_runs_beside_each_other_have_names_scores_and_the_same_steps(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 30)
    site.backend = FakeBackend(delay_s=0.02)
    tab = open_tab(site)
    tab.page.click("#more >> text=More settings")
    choose(tab, "#beside", "The next seed")
    tab.page.locator("#second .dv").wait_for()
    tab.page.click("#run")
    tab.wait_for_viewer("state", "done")
    tab.wait_for_viewer("state", "done", "#second")
    assert [tab.page.inner_text(f"{box} .dv-caption") for box in ("#view", "#second")] == ["Seed 0", "Seed 1"]
    heads = tab.page.locator(".da-volumes thead th").all_inner_texts()
    assert [h for h in heads if h.startswith("Dice")] == ["Dice", "Dice, second"]
    kept = [
        tab.page.evaluate(
            f"[...document.querySelectorAll('{box}, {box} *')].find((e) => e.viewer).viewer.steps.map((s) => s.index)"
        )
        for box in ("#view", "#second")
    ]
    assert len(set(kept[0]) & set(kept[1])) >= 0.8 * max(len(kept[0]), len(kept[1]))
    for box, other in (("#view", "#second"), ("#second", "#view")):
        tab.page.locator(f"{box} [data-control=blend]").fill("0.5" if box == "#view" else "0.25")
        value = tab.page.locator(f"{box} [data-control=blend]").input_value()
        assert tab.page.locator(f"{other} [data-control=blend]").input_value() == value


def test_a_structure_has_one_volume_on_the_page(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_status("Done")
    tab.page.locator(".da-volumes tbody tr").first.wait_for()
    in_table = [float(c) for c in tab.page.locator(".da-volumes tbody tr td:nth-child(2)").all_inner_texts() if c]
    in_legend = [float(t.split()[0]) for t in tab.page.locator("#view .dv-legend b").all_inner_texts()]
    assert in_legend == pytest.approx(in_table, rel=0.02, abs=0.6)


def test_a_structure_that_is_cut_off_says_so_where_its_interval_would_stand() -> None:
    first, second = HIPPOCAMPUS.names
    run = Measured({first: 1.0, second: 2.0}, {second: (1.5, 2.5)}, {first: 0.25})
    rows = markup.table([run], HIPPOCAMPUS).split("<tr>")[2:]
    assert "1.0 <small>cut off: 25% beyond the image</small>" in rows[0]
    assert "1.5 to 2.5</small>" in rows[1]
    assert "cut off" not in rows[1]


def test_a_find_in_doubt_is_amber_and_folded(site: Site, open_tab: Open, tmp_path: Path) -> None:
    search = site.backend = FakeSearch(looks=1, confidence=0.0)
    tab = open_tab(site)
    tab.upload(oblique_scan(tmp_path / "spleen.nii.gz", (12, 14, 10)))
    tab.page.locator("#source >> text=12×14×10").wait_for()
    tab.page.click("#run")
    search.go_on()
    tab.wait_for_viewer("state", "doubt")
    assert "nothing for certain" in tab.status()
    tab.page.locator("#result details").wait_for()
    assert not tab.page.locator(".da-volumes").is_visible()
    tab.page.locator("#result summary").click()
    assert tab.page.locator(".da-volumes").is_visible()


def test_the_recorded_run_makes_way_for_the_example_once_it_is_made(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()
    monkeypatch.setattr(site.served.visitors, "has_example", lambda name: made.is_set())
    tab = open_tab(site)
    assert "recorded run" in tab.status()
    made.set()
    tab.wait_for_status("Press Run and watch")
    assert tab.page.input_value("#examples input") == "Phantom heart CT"
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert len(site.backend.requests) == 1


def test_the_volume_is_sent_once_on_opening(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    second = "[...document.querySelectorAll('#second, #second *')].find((e) => e.viewer)"
    assert tab.page.locator("#second .dv").count() == 0 or tab.viewer("state", "#second") != "open"
    tab.page.click("#more >> text=More settings")
    choose(tab, "#beside", "Without guidance")
    tab.wait_for_viewer("state", "open", "#second")
    assert tab.page.evaluate(f"!!{second}.viewer.patient")


def test_the_keyboard_stays_where_it_is_needed(site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.1)
    tab = open_tab(site)
    focused = "document.activeElement.closest('#run, #stop')?.id"
    tab.page.locator("#run").focus()
    tab.page.keyboard.press("Enter")
    tab.wait_for_status(" of 400")
    tab.page.wait_for_function(f"{focused} === 'stop'")
    tab.page.keyboard.press("Enter")
    tab.wait_for_status("Stopped")
    tab.page.wait_for_function(f"{focused} === 'run'")
    tab.page.locator("#preset input").nth(1).focus()
    tab.page.keyboard.press("ArrowLeft")
    assert tab.page.locator("#preset input").nth(0).is_checked()
    tab.page.keyboard.press("ArrowLeft")
    assert tab.page.locator("#preset input").nth(2).is_checked()


def test_links_and_headings(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_status("Done")
    links = {a.inner_text(): a.get_attribute("href") for a in tab.page.locator(".da-links a").all()}
    assert links["Paper"].startswith("https://arxiv.org/abs/")
    for name in ("Guide", "Card: Phantom heart"):
        answer = tab.page.request.get(f"{site.url}/{links[name]}")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain")
    assert tab.page.locator("h1").count() == 1
    assert {"Result", "Files"} <= set(tab.page.locator("h2").all_inner_texts())


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_what_a_run_shows_is_in_sight(site: Site, open_tab: Open, width: int, height: int) -> None:
    tab = open_tab(site)
    tab.page.set_viewport_size({"width": width, "height": height})
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width

    def bottom(selector: str) -> float:
        return float(
            tab.page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().bottom + scrollY")
        )

    if width == 1280:
        for selector in ("#view .dv-legend", "#view .dv-plots"):
            assert bottom(selector) <= height
        assert tab.page.locator("#view .dv-fields input:visible").count() == 0  # the sliders are behind one button
        tips = tab.page.locator("#view .dv-tip")
        assert tips.count() == 3
        tab.page.locator("#view .dv-about").first.hover()
        assert tips.first.is_visible()
        assert tab.page.locator("#view .dv-top").first.inner_text()
    else:
        tabs, view, fields = (bottom(s) for s in ("#tasks .tab-wrapper", "#view", "#examples"))
        assert tabs < view < fields
