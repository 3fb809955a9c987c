"""A page of two linked viewers, and what the browser shows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffatlas.engine.request import Request
from diffatlas.session import Frame
from diffatlas_app.page import viewer
from tests.fakes import FakeBackend
from tests.web.conftest import WAIT_MS, fake_example

MARKS = [pytest.mark.timeout(600)]
SLOW_MS = 2 * WAIT_MS  # the 3-D view without a graphics card, on a busy machine


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
