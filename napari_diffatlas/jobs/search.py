"""The search for a region, as a job of the runner: each look of the engine as a plain value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume
from diffatlas.session import Look, Proposal
from napari_diffatlas.jobs.worker import Failed, Stopped, guarded

Locate = Callable[[Volume, Request], Iterator[Look]]


@dataclass(frozen=True)
class Looked:
    """``done`` of at most ``total`` looks."""

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Found:
    """The search is over."""

    proposal: Proposal


class Search:
    """One search; ``locate`` and ``volume`` are called in the worker."""

    endings = (Found,)

    def __init__(self, locate: Locate, volume: Callable[[], Volume], request: Request) -> None:
        self._locate, self._volume, self._request = locate, volume, request
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the search to end within one look."""
        self._stop.set()

    def pause(self) -> None:
        """Not of use here: a search has no steps to show."""

    def resume(self) -> None:
        """See `pause`."""

    def shown(self) -> None:
        """A look draws nothing."""

    def updates(self) -> Iterator[Looked | Found | Stopped | Failed]:
        """`Looked` for each look, then one of `Found`, `Stopped`, `Failed`."""
        yield from guarded(self._updates())

    def _updates(self) -> Iterator[Looked | Found | Stopped | Failed]:
        done = 0
        if not self._stop.is_set():
            looks = cast(Generator[Look, None, None], self._locate(self._volume(), self._request))
            with closing(looks):
                for look in looks:
                    done = look.index + 1
                    if look.proposal is not None:
                        yield Found(look.proposal)
                        return
                    if self._stop.is_set():
                        break
                    yield Looked(done, look.total)
        yield Stopped(done) if self._stop.is_set() else Failed("The search ended without a result. You can run again.")
