"""The teaching site in a real browser, from a plain file server: every scene driven, on a screen and on a phone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from diffatlas_app import learn

SCENES = ("destroy", "toy", "back", "unguided", "rho", "fool", "modality", "seeds", "dreams", "paint")
PAGES = ("before", *SCENES, "after", "teacher", "sheets")
FIRST_SCENE_BYTES = 350_000
"""What the first scene may weigh: 2.8 s at 1 Mbit/s."""


@dataclass
class Site:
    """An exported site behind the plainest of servers, and what it was asked for."""

    folder: Path
    url: str
    asked: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("learn") / "site"
    learn.export(folder)

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            path = self.translate_path(self.path)
            bytes_sent = Path(path).stat().st_size if Path(path).is_file() else 0
            served.asked.append((self.path, bytes_sent))

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    served = Site(folder, f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served
    server.shutdown()
    server.server_close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, site: Site) -> Iterator[Open]:
    """Opens the site at a state; at the end no page may have asked another host or written an error."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_at(
        hash_: str = "",
        width: int = 1280,
        dark: bool = False,
        url: str | None = None,
        lang: str = "en",
        before: Callable[[Any], None] = lambda page: None,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800 if width > 600 else 844},
            color_scheme="dark" if dark else "light",
            has_touch=width < 600,
            accept_downloads=True,
            locale=lang,
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        base = url or site.url
        own = (site.url, "data:", "blob:", site.folder.as_uri())
        page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
        before(page)
        page.goto(f"{base}{hash_}")
        wait(page, hash_.split("scene=")[-1].split("&")[0] if "scene=" in hash_ else "destroy")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert wrong == []


def wait(page: Any, scene: str) -> None:
    page.wait_for_selector(f"html[data-ready={scene}]")


def says(page: Any, words: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(".see p")).to_contain_text(words, timeout=60_000)


def move(page: Any, name: str, value: float) -> None:
    page.get_by_label(name, exact=True).fill(str(value))


def see(page: Any) -> str:
    return str(page.inner_text(".see p"))


def pixels(page: Any, number: int = 0) -> str:
    """A picture's content, to tell whether it changed."""
    return str(page.evaluate(f"document.querySelectorAll('.stage canvas')[{number}].toDataURL()"))


def predict(page: Any, number: int = 0) -> None:
    page.locator(".predict input").nth(number).check()


@pytest.mark.timeout(900)  # ten scenes, one of which trains a network
@pytest.mark.parametrize("width", [1280, 390])
def test_every_scene_is_predicted_done_and_explained(open_page: Open, width: int) -> None:
    page = open_page("#scene=destroy", width)
    for number, (scene, drive) in enumerate(DRIVES.items()):
        if number:
            page.get_by_role("link", name="Next", exact=True).click()
            wait(page, scene)
        assert page.locator("[role=alert]").all_inner_texts() == [], scene
        assert page.evaluate("document.querySelector('.controls').disabled"), "first predict"
        assert not page.is_visible(".why")
        predict(page)
        assert not page.is_visible(".why"), "first do"
        before = see(page)
        drive(page)
        page.wait_for_selector(".why:visible")
        assert len(page.inner_text(".why p").split()) > 8
        assert before != see(page) or scene in ("dreams", "seeds", "paint")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def drive_destroy(page: Any) -> None:
    clean = pixels(page)
    move(page, "Noise level", 0.8)
    says(page, "Noise level 0.80: 0.31 of the picture plus 0.95 of noise")
    assert pixels(page) != clean
    page.get_by_role("button", name="Hide A or B").click()
    assert "who=" not in page.url, "the address does not tell"
    move(page, "Noise level", 0.2)
    for name in ("It is A", "It is B"):
        button = page.get_by_role("button", name=name)
        if button.is_visible():
            button.click()
    assert "Right, at noise level 0.20: 90 % of the variance is signal" in page.inner_text(".controls")


def drive_toy(page: Any) -> None:
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector("text=Pairs out of noise", timeout=240_000)
    page.get_by_role("button", name="Slice").click()
    page.wait_for_selector("text=Intensity 0.50 given")
    move(page, "Intensity that is given", -0.5)
    page.wait_for_selector("text=Intensity -0.50 given: the model says inside in 0 %")


def drive_back(page: Any) -> None:
    says(page, "Step 1, noise level 0.98")
    first = [pixels(page, i) for i in range(4)]
    move(page, "Step", 13)
    says(page, "Step 40, noise level 0.00")
    assert all(pixels(page, i) != first[i] for i in range(4)), "four linked views"
    assert "Within 0.05 of the final Dice" in page.inner_text(".verdict")
    solid = page.locator("canvas.solid")
    turned = solid.evaluate("c => c.toDataURL()")
    solid.press("ArrowLeft")
    assert solid.evaluate("c => c.toDataURL()") != turned


def drive_unguided(page: Any) -> None:
    move(page, "Step", 13)
    says(page, "Step 40")
    notes = page.locator(".picture .note").all_inner_texts()
    off, on = (float(text.split()[1]) for text in notes)
    assert on > off + 0.3
    assert "another one" in page.inner_text(".verdict")


def drive_rho(page: Any) -> None:
    for scan in ("Noisy", "A slab missing", "Good"):
        page.get_by_label(scan, exact=True).check()
        move(page, "Guidance noise", 10)
        says(page, f"Guidance noise 1.0 on the scan “{scan}”")
    assert page.locator(".plot circle").count() == 33
    points = page.eval_on_selector_all(".plot circle", "all => all.map((one) => Number(one.getAttribute('cy')))")
    axis = page.eval_on_selector_all(".plot .grid", "all => all.map((one) => Number(one.getAttribute('y1')))")
    assert min(axis) <= min(points) <= max(points) <= max(axis)  # none is drawn beyond the chart


def drive_fool(page: Any) -> None:
    page.get_by_label("Left ventricle wiped out").check()
    says(page, "In the changed place")
    page.get_by_label("As it is").check()
    says(page, "Nothing was changed")
    page.get_by_label("Left ventricle wiped out").check()
    says(page, "In the changed place")
    believed = pixels(page, 1)
    page.get_by_label("crossed out", exact=True).check()
    says(page, "when it was crossed out")
    assert "trust=crossed" in page.url
    assert pixels(page, 1) != believed
    assert "The image half of that run" in page.inner_text(".stage")
    page.get_by_label("believed", exact=True).check()
    says(page, "In the changed place")


def drive_modality(page: Any) -> None:
    for look in ("Contrast CT", "MR, bright blood", "CT without contrast", "MR, black blood"):
        page.locator(".controls").get_by_label(look, exact=True).check()
        page.wait_for_selector("text=Covered until you guess")
        page.get_by_role("button", name="Show the score").click()
        page.wait_for_selector("text=your guess 0.80")
    assert page.locator(".bar").count() == 8


def drive_seeds(page: Any) -> None:
    first = pixels(page)
    for seed in ("2", "3"):
        page.get_by_label(seed, exact=True).check()
    assert pixels(page) != first
    assert "Where all eight agree" in page.inner_text(".verdict")
    assert "0.15" in page.inner_text(".stage"), "the measured calibration error"


def drive_dreams(page: Any) -> None:
    for round_ in range(1, 5):
        says(page, f"Pair {round_} of 4")
        page.get_by_role("button", name="A is generated").click()
        page.wait_for_selector("text=generated by the atlas")
        assert page.locator(".plot .mark").count() == 5
        if round_ < 4:
            page.get_by_role("button", name="Next pair").click()


def drive_paint(page: Any) -> None:
    painted = pixels(page, 2)
    page.get_by_label("Mirrored").check()
    says(page, "does the bright area change sides")
    assert pixels(page, 2) != painted


DRIVES = {
    "destroy": drive_destroy,
    "toy": drive_toy,
    "back": drive_back,
    "unguided": drive_unguided,
    "rho": drive_rho,
    "fool": drive_fool,
    "modality": drive_modality,
    "seeds": drive_seeds,
    "dreams": drive_dreams,
    "paint": drive_paint,
}


def test_the_brushes_find_what_is_meant(open_page: Open) -> None:
    page = open_page("#scene=fool&case=no-left-ventricle")
    height = page.get_by_label("Height of the slice").input_value()
    page.get_by_label("As it is").check()
    says(page, "Nothing was changed")
    move(page, "Height of the slice", float(height))
    where = page.evaluate(
        """async ([z]) => {
          const { loadVolume } = await import(new URL('js/files.js', location));
          const { sliceOf } = await import(new URL('js/volume.js', location));
          const slice = sliceOf(await loadVolume('fool-no-left-ventricle-where'), 'axial', z);
          return [...slice.keys()].filter((i) => slice[i]).map((i) => [i % 64, Math.floor(i / 64)]);
        }""",
        [int(height)],
    )
    box = page.locator("canvas.brush").bounding_box()
    page.mouse.move(*at(box, where[0]))
    page.mouse.down()
    for point in where[:: max(1, len(where) // 60)]:
        page.mouse.move(*at(box, point))
    page.mouse.up()
    page.wait_for_selector("text=Recorded: Left ventricle wiped out")
    page = open_page("#scene=paint&mask=mirrored")
    box = page.locator("canvas.brush").bounding_box()
    for column in (17, 46):  # two upright strokes and a bar: an H
        page.mouse.move(*at(box, (column, 13)))
        page.mouse.down()
        page.mouse.move(*at(box, (column, 51)), steps=20)
        page.mouse.up()
    page.mouse.move(*at(box, (20, 31)))
    page.mouse.down()
    page.mouse.move(*at(box, (42, 31)), steps=20)
    page.mouse.up()
    page.get_by_role("button", name="Show the nearest").click()
    page.wait_for_selector("text=Nearest: The letter H.")


def at(box: Any, voxel: Any) -> tuple[float, float]:
    column, row = voxel
    return box["x"] + (column + 0.5) / 64 * box["width"], box["y"] + (row + 0.5) / 64 * box["height"]


@pytest.mark.timeout(900)  # fourteen pages
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_for_axe_and_no_scrolling_sideways(open_page: Open, width: int, dark: bool) -> None:
    page = open_page("#scene=destroy", width, dark)
    for name in PAGES:
        page.evaluate(f"location.hash = '#scene={name}'")
        wait(page, name)
        if name in SCENES:
            predict(page)
        report = Axe().run(page).response["violations"]
        serious = [
            (v["id"], [n["html"][:160] for n in v["nodes"]]) for v in report if v["impact"] in ("serious", "critical")
        ]
        assert (name, serious) == (name, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_a_link_brings_the_state_back(open_page: Open) -> None:
    page = open_page("#scene=rho&rho=0.7&scan=noisy&z=30")
    says(page, "Guidance noise 0.7 on the scan “Noisy”")
    assert page.get_by_label("Height of the slice").input_value() == "30"
    assert not page.evaluate("document.querySelector('.controls').disabled"), "a link is not held up by a prediction"
    url = page.url
    again = open_page(url.removeprefix(page.url.split("#")[0]))
    assert see(again) == see(page)
    wild = open_page("#scene=rho&rho=nonsense&scan=%3Cscript%3E&z=1e9")
    says(wild, "Guidance noise 0.0 on the scan “Good”")


def test_german_by_the_browser_s_language_and_by_choice(open_page: Open) -> None:
    page = open_page("#scene=back", lang="de-DE")
    assert page.inner_text("h1") == "Der Weg zurück"
    says(page, "Rauschpegel 0,98")
    page.get_by_role("link", name="English").click()
    page.wait_for_selector("h1:has-text('Walk back')")
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_third_language_is_one_file_and_one_name(open_page: Open, site: Site) -> None:
    def third(page: Any) -> None:
        main = (site.folder / "js" / "main.js").read_text(encoding="utf-8")
        changed = main.replace('de: "Deutsch"', 'de: "Deutsch", nl: "Nederlands"')
        page.route("**/js/main.js", lambda r: r.fulfill(body=changed, content_type="text/javascript"))
        words = (site.folder / "words" / "en.json").read_text(encoding="utf-8").replace("Walk back", "Terug")
        page.route("**/words/nl.json", lambda r: r.fulfill(body=words, content_type="application/json"))

    page = open_page("#scene=back", before=third)
    for name, title in (("Nederlands", "Terug"), ("Deutsch", "Der Weg zurück"), ("Nederlands", "Terug")):
        page.get_by_role("link", name=name).click()
        page.wait_for_selector(f"h1:has-text('{title}')")


def test_by_keyboard_alone(open_page: Open) -> None:
    page = open_page("#scene=unguided")
    keys = page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(60):
            keys.press("Tab")
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    tab_to(".predict input")
    keys.press("Space")
    tab_to(".controls input[type=range]")
    for _ in range(13):
        keys.press("ArrowRight")
    says(page, "Step 40")
    page.wait_for_selector(".why:visible")
    tab_to("a.next")
    keys.press("Enter")
    wait(page, "rho")
    assert page.evaluate("document.activeElement.tagName") == "H1", "a new scene is announced"


def test_questions_are_kept_here_and_saved_as_a_file(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#scene=before")
    page.get_by_label("Name or number").fill("17")
    for number in range(5):
        page.locator("fieldset.question").nth(number).get_by_role("radio").first.check()
    page.evaluate("location.hash = '#scene=after'")
    wait(page, "after")
    for number, right in enumerate((1, 2, 0, 1, 2)):
        page.locator("fieldset.question").nth(number).get_by_role("radio").nth(right).check()
    page.get_by_role("button", name="Count").click()
    page.wait_for_selector("text=Questions before: 1 / 5 · Questions after: 5 / 5")
    with page.expect_download() as caught:
        page.get_by_role("button", name="Save answers").first.click()
    path = tmp_path / "answers.csv"
    caught.value.save_as(path)
    assert path.read_text(encoding="utf-8").count("\n17,") == 10

    teacher = open_page("#scene=teacher")
    (tmp_path / "bad.csv").write_text("a,b\n")
    teacher.set_input_files("#csv", [str(path), str(tmp_path / "bad.csv")])
    teacher.wait_for_selector("text=bad.csv")
    assert teacher.inner_text("tr:has(th:text-is('q3'))").split("\t") == ["q3", "1 / 1", "–", "1 / 1"]
    assert teacher.inner_text("tr:has(th:text-is('q1'))").split("\t") == ["q1", "0 / 1", "–", "1 / 1"]


def test_the_first_scene_is_light(open_page: Open, site: Site) -> None:
    site.asked.clear()
    open_page("")
    assert sum(size for _, size in site.asked) < FIRST_SCENE_BYTES, site.asked
    assert len(site.asked) < 40


def test_decoded_in_the_browser_a_label_map_is_the_one_that_was_recorded(open_page: Open) -> None:
    import numpy as np

    from tests.web.test_learn import decoded

    page = open_page("#scene=destroy")
    found = page.evaluate(
        """async () => {
          const { loadVolume } = await import(new URL('js/files.js', location));
          return [...await loadVolume('patient-truth')];
        }"""
    )
    # index x + 64 (y + 64 z): x runs fastest
    assert (np.array(found, np.uint8).reshape(64, 64, 64).transpose(2, 1, 0) == decoded("patient-truth")).all()


def test_one_file_opens_without_any_server(open_page: Open, site: Site) -> None:
    page = open_page("#scene=back", url=(site.folder / "offline.html").as_uri())
    predict(page)
    drive_back(page)
    page.get_by_role("link", name="Next", exact=True).click()
    wait(page, "unguided")
    predict(page)
    drive_unguided(page)


def test_a_page_without_an_engine_offers_no_live_run(open_page: Open) -> None:
    page = open_page("#scene=unguided")
    assert page.locator(".live").count() == 0
    assert page.locator("#foot a").count() == 2
    page.evaluate("location.hash = '#scene=fool'")
    wait(page, "fool")
    assert page.get_by_role("button", name="Ask the atlas").count() == 0
    assert page.get_by_text("picks a recorded change").count() == 0


def test_with_an_engine_a_scene_opens_it_with_its_settings(open_page: Open, site: Site) -> None:
    page = open_page("?live#scene=unguided")
    link = page.locator(".live")
    assert link.inner_text() == "Try it live"
    assert link.get_attribute("href") == "../?run=1&preset=watch&noise=1&beside=unguided"
    assert page.locator("#foot a", has_text="live page").get_attribute("href") == "../?run=1"


def test_worksheets_print_without_the_frame(open_page: Open) -> None:
    page = open_page("#scene=sheets")
    page.emulate_media(media="print")
    assert page.locator(".sheet").count() == len(SCENES)
    assert not page.is_visible("#top")
    assert not page.is_visible("#foot")
