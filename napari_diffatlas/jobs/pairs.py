"""Pairs from the atlas, as a job of the runner: steps of the current pair, and each finished pair."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.session import Backend, Frame
from napari_diffatlas.jobs.worker import INTERVAL_S, Failed, Stopped, guarded


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its mask on one grid, and the seed they belong to."""

    seed: int
    image: Volume
    mask: LabelMap
    model: str


@dataclass(frozen=True, eq=False)
class Coming:
    """A step of pair ``number`` (from 0)."""

    number: int
    frame: Frame


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pair ``number`` (from 0) is done."""

    number: int
    pair: Pair


@dataclass(frozen=True)
class AllDrawn:
    """As many pairs as were asked for."""

    count: int
    seconds: float


class Pairs:
    """``count`` pairs, one after the other. Steps are passed on as fast as they are drawn, and all pairs are."""

    endings = (AllDrawn,)

    def __init__(
        self, backend: Callable[[], Backend], request: Request, count: int, interval_s: float = INTERVAL_S
    ) -> None:
        self._backend, self._request, self._count, self._interval_s = backend, request, count, interval_s
        self._stop = threading.Event()
        self._free = threading.Event()
        self._free.set()

    def stop(self) -> None:
        """Ask the job to end within one step; finished pairs are kept."""
        self._stop.set()

    def pause(self) -> None:
        """Not of use here."""

    def resume(self) -> None:
        """Not of use here."""

    def shown(self) -> None:
        """Say that the last `Coming` has been drawn."""
        self._free.set()

    def updates(self) -> Iterator[Coming | Drawn | AllDrawn | Stopped | Failed]:
        """`Coming` and `Drawn`; then exactly one of `AllDrawn`, `Stopped`, `Failed`."""
        yield from guarded(self._updates())

    def _updates(self) -> Iterator[Coming | Drawn | AllDrawn | Stopped | Failed]:
        begin, last_s, number = time.monotonic(), -float("inf"), 0
        if not self._stop.is_set():
            frames = session.pairs(self._request, self._count, self._backend())
            with closing(cast(Generator[Frame, None, None], frames)):
                for frame in frames:
                    result = frame.result
                    if result is not None:
                        seed = self._request.seed + number
                        yield Drawn(number, Pair(seed, result.images[0], result.masks[0], self._request.model))
                        number += 1
                        if number == self._count:
                            break
                    elif self._free.is_set() and time.monotonic() - last_s >= self._interval_s:
                        last_s = time.monotonic()
                        self._free.clear()
                        yield Coming(number, frame)
                    if self._stop.is_set():
                        break
        if number == self._count:
            yield AllDrawn(number, time.monotonic() - begin)
        elif self._stop.is_set():
            yield Stopped(number)
        else:
            yield Failed("The engine ended without a result. You can run again.")
