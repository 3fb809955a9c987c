"""The one seam between front ends and engine: the `Backend` protocol.

napari wraps a backend in a worker, the web page yields from it, the command line draws a progress bar with it; tests
pass a fake. `diffatlas.engine.backend.LocalBackend` is the one that runs on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from diffatlas.engine.frame import Frame
from diffatlas.engine.locate import Look
from diffatlas.engine.plan import Plan
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume


class Backend(Protocol):
    """Anything that can run a request. All methods raise `BadInput` for what the user can mend."""

    def plan(self, volume: Volume | None, request: Request) -> Plan:
        """What `stream` will do with the same arguments; loads no network and returns at once."""
        ...

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
        """Search ``volume`` for what the model knows; the last `Look` carries the `Proposal`.

        ``limit``: looks after which no new place is tried. ``close()`` stops the search.
        """
        ...

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        """Yield a frame a step; the last carries the result. ``close()`` stops within one step and frees memory."""
        ...
