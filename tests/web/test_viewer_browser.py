"""The viewer in a real browser, with WebGL (drawn by the processor) and without, on a page of two linked viewers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from typing import Any

import gradio as gr
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure
from diffatlas.session import Frame
from diffatlas_app.page import viewer
from diffatlas_app.page.theme import CSS, head, theme
from diffatlas_app.server.gate import in_front
from diffatlas_app.server.hosts import Hosts
from diffatlas_app.visitors.sessions import Visitors
from tests.fakes import FakeBackend
from tests.web.conftest import GRADIO_WARNINGS, WAIT_MS, chromium_path, fake_example

pytestmark = [*GRADIO_WARNINGS, pytest.mark.timeout(600)]
WEBGL_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
REGION = LabelScheme("region", (Structure("what the model sees", 1, (86, 180, 233)),))
SLOW_MS = 2 * WAIT_MS  # the 3-D view without a graphics card, on a busy machine
# No warning either, but for those of the graphics driver about its own speed.
QUIET = ("GPU stall due to ReadPixels", "GroupMarkerNotSet", "Automatic fallback to software WebGL")


@dataclass
class Bench:
    """A page with two viewers of one group; "Go" sends what `script` yields, a message or None for each."""

    url: str = ""
    script: Callable[[], Iterator[tuple[str | None, str | None]]] = lambda: iter(())


@dataclass
class Shown:
    """The page in a browser. Viewers are "#first" and "#second"."""

    page: Any
    bench: Bench
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, *messages: tuple[str | None, str | None]) -> None:
        self.bench.script = lambda: iter(messages)
        self.page.click("#go")

    def get(self, name: str, box: str = "#first") -> str | None:
        value = self.page.get_attribute(f"{box} .dv", f"data-{name}")
        return None if value is None else str(value)

    def wait(self, name: str, value: object, box: str = "#first") -> None:
        self.page.wait_for_selector(f'{box} .dv[data-{name}="{value}"]', timeout=SLOW_MS)

    def picture(self, box: str = "#first") -> NDArray[np.int64]:
        """The stage as it is on the screen, [rows, columns, 3]."""
        png = self.page.locator(f"{box} .dv-view").screenshot(timeout=SLOW_MS)
        return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(np.int64)

    def slider(self, name: str, box: str = "#first") -> Any:
        return self.page.locator(f'{box} [data-control="{name}"]')

    def value(self, name: str, box: str = "#first") -> float:
        return float(self.slider(name, box).input_value())

    def words(self, box: str = "#first") -> str:
        return str(self.page.inner_text(f"{box} .dv-words"))

    def settle(self, box: str = "#first") -> None:
        """Until all that has changed is drawn."""
        self.page.wait_for_function(
            f"(() => {{ const v = {viewer_of(box)}; return !v.updating && !v.showing && !v.changed.size; }})()",
            timeout=SLOW_MS,
        )

    def run(self, frames: list[Frame], box: str = "#first") -> None:
        """A whole run, all at once, and its last step on the stage."""
        metrics = [f.metrics for f in frames]
        message = viewer.recording_message(frames, metrics, play=False)
        self.go((message, None) if box == "#first" else (None, message))
        self.wait("shown", frames[-1].index, box)


def viewer_of(box: str) -> str:
    """The viewer's own object, in the browser."""
    return f"[...document.querySelectorAll('{box}, {box} *')].find((e) => e.viewer).viewer"


def coloured(picture: NDArray[np.int64]) -> int:
    """Pixels with more red or green than blue: structures (but the blue ones), not the image nor the blue crosshair."""
    return int((picture[..., :2].max(axis=2) - picture[..., 2] > 15).sum())


def frames_of(steps: int, **options: Any) -> list[Frame]:
    return list(FakeBackend().stream(fake_example("heart-ct")[0], Request(steps=steps, **options)))


def opened() -> str:
    return viewer.open_message(fake_example("heart-ct")[0], hint="Ready")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()

    def go() -> Iterator[list[Any]]:
        for messages in made.script():
            yield [gr.skip() if m is None else m for m in messages]

    with gr.Blocks(title="Bench", analytics_enabled=False) as page:
        with gr.Row():
            views = [viewer.viewer(f"The {name} run", elem_id=name, group="g") for name in ("first", "second")]
        gr.Button("Go", elem_id="go").click(go, None, views, show_progress="hidden")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    visitors = Visitors()
    page.launch(
        app_kwargs={"lifespan": in_front(visitors, Hosts("127.0.0.1"), {})},
        server_port=port,
        prevent_thread_lock=True,
        theme=theme(),
        css=CSS,
        head=head(),
        quiet=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
    )
    made.url = f"http://127.0.0.1:{port}"
    yield made
    page.close()
    visitors.close()


@pytest.fixture(scope="module")
def with_webgl(browser: Any) -> Iterator[Any]:
    chromium = browser.browser_type.launch(executable_path=chromium_path(), args=WEBGL_FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture
def show(bench: Bench) -> Iterator[Callable[..., Shown]]:
    """Opens the page; at the end nothing may have been asked of another host or complained of in the console."""
    all_shown: list[Shown] = []

    def open_in(chromium: Any, width: int = 800, dark: bool = False, insist: bool = True, **options: Any) -> Shown:
        context = chromium.new_context(
            viewport={"width": width, "height": 560}, color_scheme="dark" if dark else "light", **options
        )
        context.set_default_timeout(WAIT_MS)
        if insist:  # the drawing is the processor's here, which the page avoids unless it is asked for
            context.add_init_script("sessionStorage.setItem('diffatlas-3d', 'on')")
        shown = Shown(context.new_page(), bench)
        all_shown.append(shown)
        shown.page.on("console", lambda m: shown.complaints.append(m.text) if m.type in ("error", "warning") else None)
        shown.page.on("pageerror", lambda e: shown.complaints.append(str(e)))
        shown.page.on("request", lambda r: shown.requests.append(r.url))
        shown.page.goto(bench.url + ("/?__theme=dark" if dark else "/"))
        for box in ("#first", "#second"):
            shown.wait("state", "empty", box)
        return shown

    yield open_in
    for shown in all_shown:
        shown.page.context.close()
    for shown in all_shown:
        local = (bench.url + "/", "data:", "blob:")
        assert [u for u in shown.requests if not u.startswith(local)] == []
        assert [c for c in shown.complaints if not any(known in c for known in QUIET)] == []


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


def test_without_webgl_the_server_draws_and_the_same_controls_work(show: Any, browser: Any) -> None:
    shown = show(browser)
    frames = frames_of(4)
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert shown.get("stage") == "slices"
    shown.page.wait_for_selector("#first .dv-slice img[src]")
    assert coloured(shown.picture()) == 0
    assert shown.page.get_by_role("img", name="axial slice").first.is_visible()
    shown.run(frames)
    end = coloured(shown.picture())
    assert end > 500
    shown.requests.clear()
    shown.slider("step").fill("0")
    shown.wait("shown", 0)
    assert coloured(shown.picture()) < end / 2
    asked = [u.rstrip("/").rsplit("/", 1)[1] for u in shown.requests if not u.startswith("data:")]
    assert set(asked) == {"component_server"}
    shown.slider("step").fill("3")
    shown.wait("shown", 3)
    picture = "document.querySelectorAll('#first .dv-slice img')[{}].src"
    before = [shown.page.evaluate(picture.format(i)) for i in range(3)]
    shown.page.locator("#first summary").click()
    shown.slider("at2").fill("3")
    shown.page.wait_for_function(f"{picture.format(0)} !== {before[0]!r}")
    assert shown.page.evaluate(picture.format(1)) == before[1]  # the others cut elsewhere
    tile = shown.page.locator("#first .dv-slice").nth(1)
    size = tile.bounding_box()
    tile.click(position={"x": 0.2 * size["width"], "y": 0.3 * size["height"]})
    shown.page.wait_for_function("document.querySelector('#first [data-control=at2]').value === '16'")
    shown.slider("opacity").fill("0")
    shown.settle()
    assert coloured(shown.picture()) == 0


def test_a_lost_context_goes_over_to_slices(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames_of(2))
    context = "document.querySelector('#first .dv-canvas').getContext('webgl2')"
    shown.page.evaluate(f"{context}.getExtension('WEBGL_lose_context').loseContext()")
    shown.wait("stage", "slices")
    shown.page.wait_for_selector("#first .dv-slice img[src]")
    assert coloured(shown.picture()) > 500
    shown.complaints[:] = [c for c in shown.complaints if "CONTEXT_LOST" not in c and "context lost" not in c.lower()]


def test_every_state_says_where_the_run_is(show: Any, browser: Any) -> None:
    shown = show(browser)
    frames = frames_of(4)
    assert "No image yet" in shown.words()
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert shown.words() == "Ready"
    shown.go((viewer.waiting_message("Third in line"), None))
    shown.wait("state", "waiting")
    assert shown.words() == "Third in line"
    shown.go((viewer.frame_message(frames[0]), None), (viewer.frame_message(frames[1]), None))
    shown.wait("state", "running")
    shown.wait("shown", 1)
    shown.go((viewer.stopped_message(), None))
    shown.wait("state", "stopped")
    assert shown.words() == "Stopped at step 2 of 4"
    assert shown.slider("step").is_enabled()
    shown.go((viewer.error_message("scan.nii: cut short"), None))
    shown.wait("state", "error")
    assert shown.words() == "scan.nii: cut short"
    assert shown.page.inner_text("#first .dv-live") == "scan.nii: cut short"
    shown.go((viewer.frame_message(frames[0]), None))  # an older step: another run
    shown.wait("shown", 0)
    assert not shown.slider("step").is_enabled()
    shown.go((viewer.empty_message(), None))
    shown.wait("state", "empty")
    assert not shown.page.locator("#first .dv-transport").is_visible()


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


def test_a_processor_that_draws_is_spared_unless_one_insists(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl, insist=False)
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert shown.get("stage") == "slices"
    shown.page.get_by_role("button", name="Show 3-D all the same").first.click()
    shown.wait("stage", "canvas")
    shown.wait("stage", "canvas", "#second")
