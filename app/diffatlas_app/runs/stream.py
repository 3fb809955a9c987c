"""Runs as streams of updates to show; knows nothing of the page.

A run is a generator of `Update`; closing it, or setting the visitor's stop flag, ends the engine's streams within one
step. Two runs beside each other take their steps in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Frame, FrameMetrics
from diffatlas_app import limits
from diffatlas_app.runs import gpu, results
from diffatlas_app.visitors import uploads
from diffatlas_app.visitors.sessions import Visitor, Visitors


@dataclass(frozen=True, eq=False)
class Update:
    """One step to show.

    ``side``: 0, or 1 for the run beside. ``volume``: what the run looks at. ``metrics``: of all steps so far, shown or
    not. ``seconds_left``: None until it can be estimated. ``saved``: on the last update only, once all is done.
    """

    side: int
    frame: Frame
    volume: Volume | None
    metrics: tuple[FrameMetrics, ...]
    seconds: float
    seconds_left: float | None
    saved: results.Saved | None = None


def run(
    visitors: Visitors,
    visitor: Visitor,
    volume: Volume,
    requests: Sequence[Request],
    shown_as: Callable[[Frame], Frame] = lambda frame: frame,
) -> Iterator[Update]:
    """Run one request, or two beside each other, on ``volume``; at most `limits.FRAMES_PER_S` steps a second are shown.

    Ends early, and silently, when the visitor's stop flag is set. The last update of each side comes in any case; the
    very last one has the files. ``shown_as`` may change a frame before it is shown and saved.
    """
    finished: dict[int, Update] = {}
    film = results.Film(volume if requests[0].task == "segment" else None)
    for update in watch(visitor, volume, requests, film, shown_as):
        if update.frame.result is None:
            yield update
            continue
        finished[update.side] = update
        if len(finished) < len(requests):
            yield update
    if len(finished) < len(requests):
        return
    last = [finished[side].frame.result for side in range(len(requests))]
    assert last[0] is not None
    source = visitor.source
    stem = uploads.display_name(volume.name).replace(" ", "-")
    keep = source is not None and source.path is None and requests[0].task == "segment"
    folder = visitor.folder / visitors.new_run(visitor)
    saved = results.save(folder, stem, last[0], volume, film=film, keep_image=keep)
    for second in last[1:]:
        assert second is not None
        results.save_second(saved, second, volume)
    visitor.saved = saved
    yield _with_files(update, saved)


def _with_files(update: Update, saved: results.Saved) -> Update:
    return Update(update.side, update.frame, update.volume, update.metrics, update.seconds, 0.0, saved)


def watch(
    visitor: Visitor,
    volume: Volume | None,
    requests: Sequence[Request],
    film: results.Film | None = None,
    shown_as: Callable[[Frame], Frame] = lambda frame: frame,
) -> Iterator[Update]:
    """Steps of one or more runs in turn, at most `limits.FRAMES_PER_S` a second, always the first and the last.

    Runs side by side show the same steps, so that their noise levels are equal.
    ``film`` takes its pictures from the first run's steps, shown or not.
    """
    start = time.monotonic()
    metrics: list[list[FrameMetrics]] = [[] for _ in requests]
    first: float | None = None
    shown = -float("inf")
    made = 0
    with ExitStack() as stack:
        streams = []
        for request in requests:
            stream = gpu.frames(volume, request)
            stack.callback(getattr(stream, "close", lambda: None))
            streams.append(stream)
        going = set(range(len(streams)))
        while going:
            due: bool | None = None
            for side in sorted(going):
                frame = next(streams[side], None)
                if frame is None:
                    going.discard(side)
                    continue
                now = time.monotonic()
                if visitor.should_stop():
                    return
                if now - start > limits.RUN_TIME_S:
                    raise BadInput(f"stopped after {limits.RUN_TIME_S / 60:.0f} minutes: choose a faster preset")
                frame = shown_as(frame)
                metrics[side].append(frame.metrics)
                if film is not None and side == 0:
                    film.add(frame)
                made += 1
                if first is None:
                    first = now
                if due is None:  # the first run decides for all
                    due = now - shown >= 1 / limits.FRAMES_PER_S
                if frame.result is None and not due:
                    continue
                # The first step is not counted: loading and looking for the structures come before it.
                left = frame.total * len(requests) - made
                pace = (now - first) / (made - 1) if made > 1 else None
                yield Update(
                    side=side,
                    frame=frame,
                    volume=volume,
                    metrics=tuple(metrics[side]),
                    seconds=now - start,
                    seconds_left=None if pace is None else pace * left,
                )
                shown = time.monotonic()  # after drawing and sending, so that the engine keeps most of the time
