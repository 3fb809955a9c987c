"""The viewer in a real browser: what it says of the run, and what it does without WebGL."""

from __future__ import annotations

from typing import Any

from diffatlas_app.page import viewer
from tests.web.viewer.bench import MARKS, coloured, frames_of, opened, viewer_of

pytestmark = MARKS


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


def test_another_image_may_come_while_the_server_draws(show: Any, browser: Any) -> None:
    """A picture has the colours of the moment at which its slices were cut."""
    shown = show(browser)
    shown.go((opened(), None))
    shown.wait("state", "open")
    shown.run(frames_of(4))
    asked = shown.page.evaluate(
        f"""async () => {{
          const viewer = {viewer_of("#first")};
          await viewer.updating;
          let asked = null;
          const {{ stage, scene }} = viewer;
          const server = stage.server;
          stage.server = {{ drawn_slices: (what) => ((asked = what), server.drawn_slices(what)) }};
          const drawing = stage.update();
          Object.assign(scene, {{ colors: [], visible: [] }});
          await drawing;
          return asked.colors.length;
        }}"""
    )
    assert asked == len(frames_of(1)[0].scheme)
    assert shown.get("state") == "done"


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


def test_a_processor_that_draws_is_spared_unless_one_insists(show: Any, with_webgl: Any) -> None:
    shown = show(with_webgl, insist=False)
    shown.go((opened(), None))
    shown.wait("state", "open")
    assert shown.get("stage") == "slices"
    shown.page.get_by_role("button", name="Show 3-D all the same").first.click()
    shown.wait("stage", "canvas")
    shown.wait("stage", "canvas", "#second")
