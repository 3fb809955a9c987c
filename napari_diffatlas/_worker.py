"""A run of the engine as a stream of plain values, for any kind of worker thread; knows no Qt.

`Run.updates` is made to be iterated in a worker thread: every exception leaves it as a `Failed` value (napari's workers
lose a `RuntimeError` without a word, and torch raises little else), the engine's stream is closed on every way out, and
steps are passed on at most ten times a second and never faster than the viewer draws them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from diffatlas.errors import BadInput
from diffatlas.request import Request
from diffatlas.session import Backend, Frame, Result
from diffatlas.volume import Volume

log = logging.getLogger(__name__)

INTERVAL_S = 0.1


@dataclass(frozen=True, eq=False)
class Step:
    """A frame worth drawing; ``seconds_left`` is None until there is something to measure."""

    frame: Frame
    seconds_left: float | None


@dataclass(frozen=True, eq=False)
class Done:
    result: Result


@dataclass(frozen=True)
class Stopped:
    """The run was stopped after ``steps`` steps; the stream is closed."""

    steps: int


@dataclass(frozen=True)
class Failed:
    """``message`` is one line for the user."""

    message: str


Update = Step | Done | Stopped | Failed


class Run:
    """One run: iterate `updates` in a worker; call `stop` and `shown` from any thread.

    ``backend`` and ``volume`` are called in the worker: the first loads torch and the weights, the second may compute a
    lazy array.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        volume: Callable[[], Volume],
        request: Request,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._backend = backend
        self._volume = volume
        self._request = request
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._free = threading.Event()
        self._free.set()

    def stop(self) -> None:
        """Ask the run to end within one step."""
        self._stop.set()

    def shown(self) -> None:
        """Say that the last `Step` has been drawn and the next may come."""
        self._free.set()

    def updates(self) -> Iterator[Update]:
        """Steps, then exactly one of `Done`, `Stopped`, `Failed`."""
        try:
            yield from self._updates()
        except BadInput as error:
            yield Failed(str(error))
        except Exception as error:
            log.error("a run of DiffAtlas failed", exc_info=True)
            line = " ".join(str(error).split())
            yield Failed(f"The engine failed ({type(error).__name__}: {line[:200]}). You can run again.")

    def _updates(self) -> Iterator[Update]:
        steps = 0
        result: Result | None = None
        if not self._stop.is_set():
            volume = self._volume()
            stream = self._backend().stream(volume, self._request)
            with closing(cast(Generator[Frame, None, None], stream)):
                first: Frame | None = None
                last_s = -float("inf")
                for frame in stream:
                    steps, result = frame.index + 1, frame.result
                    if self._stop.is_set() and result is None:
                        break
                    first = first or frame
                    now = time.monotonic()
                    due = self._free.is_set() and now - last_s >= self._interval_s
                    if due or result is not None:
                        last_s = now
                        self._free.clear()
                        yield Step(frame, _seconds_left(first, frame))
        if result is not None:
            yield Done(result)
        elif self._stop.is_set():
            yield Stopped(steps)
        else:
            yield Failed("The engine ended without a result. You can run again.")


def _seconds_left(first: Frame, frame: Frame) -> float | None:
    """Time left at the pace since the first step (which alone pays for loading the model), s."""
    made = frame.index - first.index
    if made < 1:
        return None
    return (frame.metrics.seconds - first.metrics.seconds) / made * (frame.total - 1 - frame.index)
