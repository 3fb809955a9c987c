"""A run of the engine as a stream of plain values, for any kind of worker thread; knows no Qt.

`Run.updates` is made to be iterated in a worker thread: every exception becomes a `Failed` value (napari's workers lose
a `RuntimeError` silently, and torch raises mostly these), the engine's stream is closed in any case, and steps are
passed on at most ten times a second and never faster than the viewer draws them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Backend, Frame
from napari_diffatlas.jobs.recording import Recording

log = logging.getLogger(__name__)

INTERVAL_S = 0.1


@dataclass(frozen=True, eq=False)
class Step:
    """A frame to draw. ``pace_s``: seconds per step, None until it is measured."""

    frame: Frame
    pace_s: float | None

    @property
    def seconds_left(self) -> float | None:
        return None if self.pace_s is None else self.pace_s * (self.frame.total - 1 - self.frame.index)


@dataclass(frozen=True)
class Paused:
    """The run is paused after ``steps`` steps, the last of which was yielded; `Run.resume` continues it."""

    steps: int


@dataclass(frozen=True)
class Resumed:
    """The run goes on."""


@dataclass(frozen=True, eq=False)
class Done:
    """``result``: what the run's ``present`` made of it. ``seconds``: from the first step on, without pauses."""

    result: Any
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """The run was stopped after ``steps`` steps; the stream is closed."""

    steps: int


@dataclass(frozen=True)
class Failed:
    """``message`` is one line for the user."""

    message: str


U = TypeVar("U")
Update = Step | Paused | Resumed | Done | Stopped | Failed


def guarded(updates: Iterator[U]) -> Iterator[U | Failed]:
    """The same updates; an exception becomes a `Failed` at their end."""
    try:
        yield from updates
    except GeneratorExit:
        raise
    except BadInput as error:
        yield Failed(" ".join(str(error).split()))
    except BaseException as error:  # a worker would also lose SystemExit and its like silently
        log.error("a run of DiffAtlas failed", exc_info=True)
        yield Failed(f"The engine failed ({_words(error)}). You can run again.")


def _words(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    try:
        line = " ".join(str(error).split())[:200]
    except Exception:  # even that may fail
        line = ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


class Run:
    """One run: iterate `updates` in a worker; call `stop`, `pause`, `resume` and `shown` from any thread.

    ``backend`` and ``volume`` are called in the worker: the first loads torch and the weights, the second may compute a
    lazy array. ``recording`` gets every step. ``present`` is called in the worker with the last
    frame and makes the value of `Done`.
    """

    endings = (Done,)

    def __init__(
        self,
        backend: Callable[[], Backend],
        volume: Callable[[], Volume],
        request: Request,
        interval_s: float = INTERVAL_S,
        recording: Recording | None = None,
        present: Callable[[Frame], Any] = lambda frame: frame.result,
    ) -> None:
        self._backend = backend
        self._volume = volume
        self._request = request
        self._interval_s = interval_s
        self._present = present
        self.recording = recording or Recording()
        self._stop = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._go = threading.Event()
        self._go.set()
        self._paused_s = 0.0

    def stop(self) -> None:
        """Ask the run to end within one step."""
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        """Ask the run to pause after its current step."""
        self._go.clear()

    def resume(self) -> None:
        """Continue a paused run."""
        self._go.set()

    def shown(self) -> None:
        """Say that the last `Step` has been drawn and the next may come."""
        self._free.set()

    def updates(self) -> Iterator[Update]:
        """Steps, between them `Paused` and `Resumed` in pairs; then exactly one of `Done`, `Stopped`, `Failed`."""
        yield from guarded(self._updates())

    def _updates(self) -> Iterator[Update]:
        steps = 0
        last: Frame | None = None
        if not self._stop.is_set():
            volume, request = self._prepared()
            stream = self._backend().stream(volume, request)
            with closing(cast(Generator[Frame, None, None], stream)):
                first: Frame | None = None
                last_s = -float("inf")
                for frame in stream:
                    steps, last = frame.index + 1, frame
                    if self._stop.is_set() and frame.result is None:
                        break
                    first = first or frame
                    self.recording.add(frame, self._paused_s)
                    now = time.monotonic()
                    due = self._free.is_set() and now - last_s >= self._interval_s
                    hold = not self._go.is_set() and frame.result is None
                    if due or hold or frame.result is not None:
                        last_s = now
                        self._free.clear()
                        yield Step(frame, self._pace(first, frame))
                    if hold:
                        yield from self._hold(steps)
                        if self._stop.is_set():
                            break
        if last is not None and last.result is not None:
            yield Done(self._present(last), last.metrics.seconds - self._paused_s)
        elif self._stop.is_set():
            yield Stopped(steps)
        else:
            yield Failed("The engine ended without a result. You can run again.")

    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    def _prepared(self) -> tuple[Volume, Request]:
        """The volume and request for the engine; called in the worker."""
        return self._volume(), self._request

    def _hold(self, steps: int) -> Iterator[Update]:
        begin = time.monotonic()
        yield Paused(steps)
        self._go.wait()
        self._paused_s += time.monotonic() - begin
        if not self._stop.is_set():
            yield Resumed()

    def _pace(self, first: Frame, frame: Frame) -> float | None:
        """Seconds per step after the first step (which includes loading the model), without pauses."""
        made = frame.index - first.index
        if made < 1:
            return None
        return (frame.metrics.seconds - first.metrics.seconds - self._paused_s) / made
