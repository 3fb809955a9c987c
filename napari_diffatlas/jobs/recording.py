"""The steps of a run, kept within a memory limit; filled by the worker, read by the viewer's thread.

Images are kept in half precision, labels as they are. Beyond the limit every second step is dropped, as often as
needed: the kept steps are spread evenly over the run, and the first and the newest are always kept. The metrics of all
steps are kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelScheme
from diffatlas.session import Frame, FrameMetrics

LIMIT_BYTES = 256 * 2**20


class Picture(Protocol):
    """What can be drawn of a step: a `Frame`, or the `Moment` that was kept of it."""

    @property
    def t(self) -> float: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def scheme(self) -> LabelScheme: ...
    @property
    def image(self) -> NDArray[np.floating[Any]]: ...
    @property
    def noisy_image(self) -> NDArray[np.floating[Any]]: ...
    @property
    def labels(self) -> NDArray[np.uint8]: ...
    @property
    def confidence(self) -> NDArray[np.floating[Any]] | None: ...


@dataclass(frozen=True, eq=False)
class Moment:
    """One kept step. ``image``, ``noisy_image``, ``confidence``: float16 [X, Y, Z]; ``labels``: uint8 [X, Y, Z]."""

    index: int
    t: float
    grid: Grid
    scheme: LabelScheme
    image: NDArray[np.float16]
    noisy_image: NDArray[np.float16]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float16] | None

    @classmethod
    def of(cls, frame: Frame) -> Moment:
        confidence = None if frame.confidence is None else frame.confidence.astype(np.float16)
        image, noisy = frame.image.astype(np.float16), frame.noisy_image.astype(np.float16)
        return cls(frame.index, frame.t, frame.grid, frame.scheme, image, noisy, frame.labels.copy(), confidence)

    @property
    def nbytes(self) -> int:
        arrays = (self.image, self.noisy_image, self.labels, self.confidence)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, eq=False)
class Trace:
    """A recording at one moment: the steps that are ``kept``, and the metrics of all, by step index."""

    total: int
    kept: tuple[int, ...]
    metrics: dict[int, FrameMetrics]
    levels: dict[int, float]
    scheme: LabelScheme | None
    nbytes: int
    limit_bytes: int


class Recording:
    """Keeps what `add` gives it within ``limit_bytes`` (the first and the newest step are always kept)."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._moments: dict[int, Moment] = {}
        self._metrics: dict[int, FrameMetrics] = {}
        self._levels: dict[int, float] = {}
        self._total = 0
        self._every = 1
        self._nbytes = 0

    def add(self, frame: Frame, paused_s: float = 0.0) -> None:
        """Keep a step; ``paused_s`` is left out of its time."""
        moment = Moment.of(frame)
        with self._lock:
            newest = max(self._moments, default=0)
            if newest % self._every:  # it was kept only because it was the newest
                self._nbytes -= self._moments.pop(newest).nbytes
            self._moments[frame.index] = moment
            self._nbytes += moment.nbytes
            self._metrics[frame.index] = replace(frame.metrics, seconds=frame.metrics.seconds - paused_s)
            self._levels[frame.index] = frame.t
            self._total = frame.total
            while self._nbytes > self._limit and len(self._moments) > 2:
                self._every *= 2
                for index in [i for i in self._moments if i % self._every and i != frame.index]:
                    self._nbytes -= self._moments.pop(index).nbytes

    def trace(self) -> Trace:
        with self._lock:
            scheme = next((m.scheme for m in self._moments.values()), None)
            kept = tuple(sorted(self._moments))
            metrics, levels = dict(self._metrics), dict(self._levels)
            return Trace(self._total, kept, metrics, levels, scheme, self._nbytes, self._limit)

    def at(self, index: int) -> Moment | None:
        """The kept step nearest to ``index``; None while there is none."""
        with self._lock:
            near = min(self._moments, key=lambda kept: abs(kept - index), default=None)
            return None if near is None else self._moments[near]
