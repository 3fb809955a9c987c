"""A page in a thread of this process, and a real browser to look at it.

Where chromium is missing the tests skip with a reason; under CI they fail instead.
"""

from __future__ import annotations

import gc
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffatlas import session
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, Volume
from diffatlas.models.store import find_model, read_card
from diffatlas.session import ModelCard
from diffatlas_app.visitors.inbox import Inbox
from tests.fakes import FakeBackend

pytest.importorskip("gradio", reason="the web demo needs gradio: pip install napari-diffatlas[app]")
sync_api = pytest.importorskip("playwright.sync_api", reason="these tests drive a browser: pip install playwright")

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-3d-apis",  # no WebGL: the viewer itself has tests with it
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
EXAMPLE_REGION = ((6, 18), (7, 19), (6, 18))  # of the examples here
WAIT_MS = 90_000  # generous: a limit is reached only where something hangs, and the machine may be busy
START_MS = 120_000  # the first example of a server is made when it is first asked for
# What gradio 6.31 asks of pandas 3 for its statistics is deprecated there.
GRADIO_WARNINGS = (
    # Where no event loop runs, gradio makes a dozen while a page is built, and closes none.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated:DeprecationWarning"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder, for what one page leaves open may be collected while another test runs."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in GRADIO_WARNINGS:
                item.add_marker(mark)


def pytest_sessionfinish() -> None:
    """What gradio left open is collected after the last test too, when no mark of a test holds any more."""
    warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
    gc.collect()


@dataclass
class Site:
    """A served page, and the backend that answers in it (tests put their own in)."""

    served: Any
    backend: FakeBackend = field(default_factory=FakeBackend)

    @property
    def url(self) -> str:
        return str(self.served.url)


@dataclass
class Tab:
    """An open page of one visitor with what went wrong in it."""

    page: Any
    site: Site
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def status(self) -> str:
        """What the viewer says."""
        return str(self.page.inner_text("#view .dv-words")).strip()

    def wait_for_status(self, words: str, timeout_ms: int = WAIT_MS) -> None:
        sync_api.expect(self.page.locator("#view .dv-words")).to_contain_text(words, timeout=timeout_ms)

    def viewer(self, name: str, box: str = "#view") -> str:
        """What the viewer says of itself: its data attribute ``name`` (state, stage, shown, ...), "" where unset."""
        return str(self.page.get_attribute(f"{box} .dv", f"data-{name}") or "")

    def wait_for_viewer(self, name: str, value: str, box: str = "#view", timeout_ms: int = WAIT_MS) -> None:
        self.page.wait_for_selector(f'{box} .dv[data-{name}="{value}"]', timeout=timeout_ms)

    def upload(self, path: Any) -> None:
        self.page.set_input_files("#upload input[type=file]", str(path))

    def download(self, title: str, to: Any) -> Any:
        """Click a link below the result; returns the path of the file as saved under ``to``, with its offered name."""
        with self.page.expect_download() as caught:
            self.page.get_by_role("link", name=title).click()
        path = to / caught.value.suggested_filename
        caught.value.save_as(path)
        return path


Open = Callable[..., Tab]
"""`open_tab`: a site, and the query of an address on it with the state in which its viewer opens -> its page."""


def arrived(inbox: Inbox, path: Path, name: str = "") -> Path:
    """A copy of a file in the inbox, as if it had been uploaded under its name."""
    with inbox.receive(name or path.name, "192.0.2.7") as file:
        file.write(path.read_bytes())
    return inbox.find(file.reference)


def load(path: Any) -> Any:
    """A NIfTI file as nibabel reads it."""
    return nib.load(path)


def oblique_scan(path: Path, shape: tuple[int, int, int]) -> Path:
    """An LPS, anisotropic, oblique scan with odd codes: what must come back exactly."""
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, -1.25, 3.0])
    affine[:3, 3] = 40.5, -7.25, 12.0
    image = nib.Nifti1Image(np.random.default_rng(0).normal(100, 20, shape).astype(np.float32), affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    nib.save(image, path)
    return path


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def fake_example(name: str, seed: int = 0) -> tuple[Volume, LabelMap]:
    """A ball in noise, 24^3 voxels of 3 mm."""
    grid = Grid((24, 24, 24), np.diag([3.0, 3.0, 3.0, 1.0]))
    far = np.sqrt(((np.indices(grid.shape) - 11.5) ** 2).sum(axis=0))
    data = 300 - 30 * far + 20 * np.random.default_rng(seed).standard_normal(grid.shape)
    labels = LabelMap((far < 6).astype(np.uint8), grid, MMWHS)
    return Volume(data.astype(np.float32), grid, "ct" if name == "heart-ct" else "mr", name), labels


def fake_models() -> tuple[ModelCard, ...]:
    return tuple(
        replace(
            read_card(find_model(name)),
            title=title,
            summary="Five structures.",
            scheme=scheme,
            modalities=("ct", "mr"),
            intended_use="tests",
            limits=("It is <fake>.",),
            space=ModelSpace((16, 16, 16), (2.0, 2.0, 2.0), 6.0, {}),
            guidance_noise=1.0,
        )
        for name, title, scheme in (
            ("heart-phantom", "Phantom heart", MMWHS),
            ("hippocampus-mri", "Hippocampus", HIPPOCAMPUS),
        )
    )


def fake_card(name: str) -> ModelCard:
    """Stands in for `session.model_card`."""
    return next(card for card in fake_models() if card.name == name)


def serve_site() -> Site:
    """The page on a free port; gradio's own search for one leaves sockets open."""
    from diffatlas_app.serve import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = Site(serve(port=port, warm=False))
    for name in session.EXAMPLES:  # else the first visitor is shown a recorded run
        site.served.visitors.example(name)
    return site


def chromium_path() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = chromium_path()
    if path is None:
        message = "no chromium on this machine: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def fake_site() -> Iterator[Site]:
    """The page over `FakeBackend`; one server for a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "available_models", fake_models)
        patch.setattr(session, "example", fake_example)
        patch.setattr(session, "EXAMPLE_REGION", EXAMPLE_REGION)
        patch.setattr(session, "model_card", fake_card)
        backend = FakeBackend()
        patch.setattr(session, "local_backend", lambda: backend)  # the page asks for plans while it is built
        site = serve_site()
        patch.setattr(session, "local_backend", lambda: site.backend)
        patch.setattr(session, "plan", lambda volume, request: session.local_backend().plan(volume, request))
        patch.setattr(session, "start", lambda volume, request: site.backend.start(volume, request))
        yield site
        site.served.close()


@pytest.fixture
def site(fake_site: Site) -> Site:
    fake_site.backend = FakeBackend()
    return fake_site


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Any]:
    """Opens tabs, each a visitor of its own; at the end none may have asked another host or written an error.

    An address is opened by a tab of its own: gradio writes an error where a page is left while an answer is on its way.
    """
    tabs: list[Tab] = []

    def open_on(site: Site, query: str = "", state: str = "open") -> Tab:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        tab = Tab(page, site)
        tabs.append(tab)
        page.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: tab.errors.append(str(e)))
        page.on("request", lambda r: None if is_local(r.url, site) else tab.outside.append(r.url))
        page.goto(f"{site.url}/{query}")
        tab.wait_for_viewer("state", state, timeout_ms=START_MS)
        return tab

    yield open_on
    for tab in tabs:
        tab.page.context.close()
    assert [tab.outside for tab in tabs if tab.outside] == []
    assert [tab.errors for tab in tabs if tab.errors] == []


def is_local(url: str, site: Site) -> bool:
    return url.startswith((site.url + "/", "data:", "blob:"))
