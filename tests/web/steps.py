"""What the browser's tests of the page share: a search that waits to be told, a choice from a list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume
from tests.fakes import FakeBackend
from tests.web.conftest import Tab, sync_api


class FakeSearch(FakeBackend):
    """A backend that searches: a look whenever `go_on` is called; the last finds ``roi``."""

    roi = ((2, 6), (3, 7), (1, 5))

    def __init__(self, looks: int, confidence: float = 0.97) -> None:
        super().__init__()
        self.looks, self.confidence, self.made, self.closed = looks, confidence, 0, False
        self._allowed = threading.Semaphore(0)

    def go_on(self) -> None:
        self._allowed.release()

    def plan(self, volume: Volume | None, request: Request) -> session.Plan:
        planned = super().plan(volume, request)
        return replace(planned, search=volume is not None and request.roi is None)

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[session.Look]:
        assert limit == session.AUTOMATIC_LOOKS
        try:
            for index in range(self.looks):
                assert self._allowed.acquire(timeout=60)
                self.made += 1
                centre = volume.grid.centre_mm
                found = None
                if index == self.looks - 1:
                    found = session.Proposal(centre, self.roi, self.confidence, 0.98, 0.9)
                yield session.Look(index, self.looks, centre, 0.9, found)
        finally:
            self.closed = True


def choose(tab: Tab, field: str, option: str) -> None:
    tab.page.click(f"{field} input")
    tab.page.get_by_role("option", name=option, exact=True).click()
    sync_api.expect(tab.page.locator(f"{field} input")).to_have_value(option)
