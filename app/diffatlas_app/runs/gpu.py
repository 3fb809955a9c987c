"""Calls of the engine that run on the GPU that a Space lends for one call (ZeroGPU). Elsewhere they are plain calls.

On ZeroGPU the functions run in a process of their own: what goes in and comes out are `Request`, `Volume`, `Frame` and
`Look`, all of them plain data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume
from diffatlas.session import Frame, Look

T = TypeVar("T")
STARTUP_S = 15.0
# Generous guesses: the speed of the shared GPU is not known, and too short a time ends the run.
STEP_S = 0.25
MAX_DURATION_S = 120


def duration_s(volume: Volume | None, request: Request) -> int:
    """Seconds of GPU to ask for: more means a longer wait in the Space's own queue, too few end the run early."""
    steps = session.plan(volume, request).steps
    return min(MAX_DURATION_S, round(STARTUP_S + STEP_S * steps * request.samples))


def on_gpu(stream: Callable[..., Iterator[T]]) -> Callable[..., Iterator[T]]:
    """Wrap a function for ZeroGPU where this process runs there."""
    if not os.environ.get("SPACES_ZERO_GPU"):
        return stream
    import spaces

    wrapped: Any = spaces.GPU(duration=duration_s)(stream)
    return wrapped


@on_gpu
def frames(volume: Volume | None, request: Request) -> Iterator[Frame]:
    """`Backend.stream` of this machine."""
    yield from session.local_backend().stream(volume, request)


@on_gpu
def looks(volume: Volume, request: Request) -> Iterator[Look]:
    """The search that a run on a large volume begins with."""
    yield from session.locate(volume, request, session.AUTOMATIC_LOOKS)
