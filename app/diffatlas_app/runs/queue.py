"""One line for all model work: whoever runs the engine takes a turn first, and knows how many are before them.

Gradio has a queue too, but it says its position in a box of its own, over the picture, and its length counts every kind
of call. Here a run waits in its own handler, which can tell the visitor where it stands and ends when they leave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffatlas.errors import BadInput
from diffatlas_app import limits


class QueueFull(BadInput):
    """Too many runs are waiting."""


class Ticket:
    """A place in the line."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @property
    def ahead(self) -> int:
        """How many runs must end before this one begins; 0 where it may run."""
        return self._turns.ahead_of(self)

    def wait(self, seconds: float) -> bool:
        """Wait for the turn to come, at most so long; whether it has."""
        return self._turns.wait_for(self, seconds)


class Turns:
    """First come, first served: ``at_once`` run, at most ``waiting`` stand in line."""

    def __init__(self, at_once: int = limits.RUNS_AT_ONCE, waiting: int = limits.QUEUE_SIZE) -> None:
        self.at_once = at_once
        self.waiting = waiting
        self._line: list[Ticket] = []
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many run or wait."""
        return len(self._line)

    @contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """A place in the line until the block ends; `QueueFull` where the line is too long."""
        made = Ticket(self)
        with self._moved:
            if len(self._line) >= self.at_once + self.waiting:
                raise QueueFull(
                    f"{self.waiting} runs are waiting already, which is as many as this page takes: try again in a "
                    f"few minutes, or watch a recorded run meanwhile"
                )
            self._line.append(made)
        try:
            yield made
        finally:
            with self._moved:
                self._line.remove(made)
                self._moved.notify_all()

    def ahead_of(self, ticket: Ticket) -> int:
        with self._moved:
            return self._ahead(ticket)

    def wait_for(self, ticket: Ticket, seconds: float) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: self._ahead(ticket) == 0, seconds)

    def _ahead(self, ticket: Ticket) -> int:
        return max(0, self._line.index(ticket) - self.at_once + 1)


def until_my_turn(ticket: Ticket, left: Callable[[], bool], every_s: float = 0.5) -> Iterator[int]:
    """Yield how many are ahead whenever that changes, until the turn has come or ``left()`` says that nobody waits."""
    told = None
    while not ticket.wait(0.0) and not left():
        ahead = ticket.ahead
        if ahead and ahead != told:
            told = ahead
            yield ahead
        ticket.wait(every_s)
