"""Work for the GUI thread in pieces, one per iteration of the event loop, so that the viewer can repaint."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QTimer


class Turns:
    """A queue of pieces of work, in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._timer = QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._next)

    def add(self, piece: Callable[[], None]) -> None:
        """Do ``piece`` in an iteration of its own, after the waiting pieces."""
        self._waiting.append(piece)
        self._timer.start()

    def flush(self) -> None:
        """Do all waiting pieces now."""
        while self._waiting:
            self._next()

    def clear(self) -> None:
        """Drop all waiting pieces."""
        self._waiting.clear()
        self._timer.stop()

    def _next(self) -> None:
        piece = self._waiting.pop(0) if self._waiting else None
        if not self._waiting:
            self._timer.stop()
        if piece is not None:
            piece()
