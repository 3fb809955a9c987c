"""Work for the GUI thread in pieces: one a turn of the event loop, between which the viewer draws and listens."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QTimer


class Turns:
    """Pieces of work that wait for their turn, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._timer = QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._next)

    def add(self, piece: Callable[[], None]) -> None:
        """Do ``piece`` in a turn of its own, after what waits already."""
        self._waiting.append(piece)
        self._timer.start()

    def flush(self) -> None:
        """Do what waits now."""
        while self._waiting:
            self._next()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._timer.stop()

    def _next(self) -> None:
        piece = self._waiting.pop(0) if self._waiting else None
        if not self._waiting:
            self._timer.stop()
        if piece is not None:
            piece()
