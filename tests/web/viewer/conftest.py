"""The viewer in a real browser, with WebGL (drawn by the processor) and without."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest

from diffatlas_app.page import viewer
from diffatlas_app.page.theme import CSS, head, theme
from diffatlas_app.server.gate import in_front
from diffatlas_app.server.hosts import Hosts
from diffatlas_app.visitors.sessions import Visitors
from tests.web.conftest import WAIT_MS, chromium_path
from tests.web.viewer.bench import Bench, Shown

WEBGL_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# No warning either, but for those of the graphics driver about its own speed.
QUIET = ("GPU stall due to ReadPixels", "GroupMarkerNotSet", "Automatic fallback to software WebGL")


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
