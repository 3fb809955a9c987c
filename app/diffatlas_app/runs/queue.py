"""The queue of all model work: a run takes a ticket, waits for its turn, and knows how many runs are ahead.

Gradio has a queue too, but it shows the position in a box over the picture, and it counts every kind of call. Here a
run waits in its own handler, which can show the position in the page and ends when the visitor leaves.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diffatlas.errors import BadInput
from diffatlas_app import limits


class QueueFull(BadInput):
    """Too many runs are waiting."""


@dataclass(frozen=True)
class Caller:
    """Who asks for a run: ``address`` as the server sees it, ``session`` as the page or client calls itself."""

    address: str = ""
    session: str = ""


class Ticket:
    """A place in the queue."""

    def __init__(self, turns: Turns, caller: Caller) -> None:
        self._turns = turns
        self.caller = caller

    @property
    def ahead(self) -> int:
        """How many runs must end before this one begins; 0 where it may run."""
        return self._turns.ahead_of(self)

    def wait(self, seconds: float) -> bool:
        """Wait for the turn, at most ``seconds``; whether it has come."""
        return self._turns.wait_for(self, seconds)


class Turns:
    """``at_once`` runs go on, at most ``waiting`` wait. Addresses take turns, each in the order of its calls.

    The first waiting call of every address comes before the second of any address: forty calls of one address delay
    another address by one run.
    """

    def __init__(
        self,
        at_once: int = limits.RUNS_AT_ONCE,
        waiting: int = limits.QUEUE_SIZE,
        per_address: int = limits.PER_ADDRESS,
        per_session: int = limits.PER_SESSION,
    ) -> None:
        self.at_once = at_once
        self.waiting = waiting
        self.per_address = per_address
        self.per_session = per_session
        self._running: list[Ticket] = []
        self._line: list[Ticket] = []
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many run or wait."""
        return len(self._running) + len(self._line)

    @contextmanager
    def ticket(self, caller: Caller = Caller()) -> Iterator[Ticket]:
        """A place in the queue until the block ends; `QueueFull` where it, or the caller's part of it, is full."""
        made = Ticket(self, caller)
        with self._moved:
            self._check(caller)
            self._line.append(made)
            self._move()
        try:
            yield made
        finally:
            with self._moved:
                (self._running if made in self._running else self._line).remove(made)
                self._move()
                self._moved.notify_all()

    def ahead_of(self, ticket: Ticket) -> int:
        with self._moved:
            return 0 if ticket in self._running else len(self._running) + self._order().index(ticket) - self.at_once + 1

    def wait_for(self, ticket: Ticket, seconds: float) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: ticket in self._running, seconds)

    def _check(self, caller: Caller) -> None:
        everyone = [*self._running, *self._line]
        mine = sum(t.caller.session == caller.session for t in everyone)
        if caller.session and mine >= self.per_session:
            raise QueueFull(f"{mine} runs of yours are waiting already: wait for one of them")
        neighbours = sum(t.caller.address == caller.address for t in everyone)
        if caller.address and neighbours >= self.per_address:
            raise QueueFull(f"{neighbours} runs from your address are waiting already: try again in a few minutes")
        if len(everyone) >= self.at_once + self.waiting:
            raise QueueFull(
                f"{self.waiting} runs are waiting already, which is as many as this page takes: try again in a "
                f"few minutes, or watch a recorded run meanwhile"
            )

    def _order(self) -> list[Ticket]:
        """Waiting tickets in the order of service: fewest earlier calls of the same address first, then by arrival."""
        before: Counter[str] = Counter(t.caller.address for t in self._running)
        ranked = []
        for arrival, ticket in enumerate(self._line):
            ranked.append((before[ticket.caller.address], arrival, ticket))
            before[ticket.caller.address] += 1
        return [ticket for _, _, ticket in sorted(ranked, key=lambda row: row[:2])]

    def _move(self) -> None:
        """Let the next ones run. The lock is held."""
        while self._line and len(self._running) < self.at_once:
            following = self._order()[0]
            self._line.remove(following)
            self._running.append(following)


def until_my_turn(ticket: Ticket, left: Callable[[], bool], every_s: float = 0.5) -> Iterator[int]:
    """Yield how many runs are ahead whenever that changes, until the turn comes or ``left()`` is true."""
    yielded = None
    while not ticket.wait(0.0) and not left():
        ahead = ticket.ahead
        if ahead and ahead != yielded:
            yielded = ahead
            yield ahead
        ticket.wait(every_s)
