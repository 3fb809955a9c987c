"""Whether a caller still listens for an answer, from the open connections of the server."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffatlas_app import limits


class Presence:
    """Open event streams by key: a page's session, a client's session, or the id of a call.

    A caller whose stream has closed is gone at once. One who never opened a stream is gone after
    `limits.LISTEN_WITHIN_S`.
    """

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._closed: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def listening(self, *keys: str) -> Iterator[None]:
        """A connection over which answers to ``keys`` travel, open until the block ends."""
        with self._lock:
            self._open.update(keys)
        try:
            yield
        finally:
            with self._lock:
                now = time.monotonic()
                self._open.subtract(keys)
                self._open += Counter()
                self._closed.update(dict.fromkeys(keys, now))
                self._closed = {k: t for k, t in self._closed.items() if now - t < limits.REMEMBER_S}

    def is_open(self, key: str) -> bool:
        """Whether a connection of this key is open now."""
        with self._lock:
            return self._open[key] > 0

    def absence(self, *keys: str) -> Callable[[], bool]:
        """A function that says whether the caller known by any of ``keys`` is gone, asked from now on."""
        begun = time.monotonic()
        known = [key for key in keys if key]

        def gone() -> bool:
            with self._lock:
                if any(self._open[key] > 0 for key in known):
                    return False
                if any(self._closed.get(key, -1.0) >= begun for key in known):
                    return True
            return time.monotonic() - begun > limits.LISTEN_WITHIN_S

        return gone
