"""The line for the engine: order, length, and what those who wait are told."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from diffatlas_app.runs.queue import Caller, QueueFull, Turns, until_my_turn


def test_first_come_first_served_and_everyone_knows_their_place() -> None:
    turns = Turns(at_once=1, waiting=3)
    with ExitStack() as stack:
        first = stack.enter_context(turns.ticket())
        rest = [turns.ticket() for _ in range(3)]
        second, third, fourth = (ticket.__enter__() for ticket in rest)
        assert [t.ahead for t in (first, second, third, fourth)] == [0, 1, 2, 3]
        assert first.wait(0.0)
        assert not second.wait(0.0)
        rest[1].__exit__(None, None, None)  # who leaves the line lets the others move up
        assert [t.ahead for t in (second, fourth)] == [1, 2]
        stack.close()
        assert second.wait(0.0)
        assert not fourth.wait(0.0)


def test_a_full_line_refuses_and_says_how_many_wait() -> None:
    turns = Turns(at_once=1, waiting=2)
    with turns.ticket(), turns.ticket(), turns.ticket():
        with pytest.raises(QueueFull, match="2 runs are waiting"), turns.ticket():
            pass
        assert len(turns) == 3
    assert len(turns) == 0


def test_one_address_cannot_fill_the_line_and_delays_another_by_one() -> None:
    turns = Turns(at_once=1, waiting=6, per_address=5, per_session=9)
    many, other = Caller("192.0.2.1", "a"), Caller("192.0.2.2", "b")
    with ExitStack() as stack:
        crowd = [stack.enter_context(turns.ticket(many)) for _ in range(5)]
        with pytest.raises(QueueFull, match="5 runs from your address"), turns.ticket(many):
            pass
        late = stack.enter_context(turns.ticket(other))
        assert [t.ahead for t in crowd] == [0, 2, 3, 4, 5]
        assert late.ahead == 1


def test_one_session_has_a_bound_of_its_own() -> None:
    turns = Turns(at_once=1, waiting=6, per_address=9, per_session=2)
    with turns.ticket(Caller("192.0.2.1", "a")), turns.ticket(Caller("192.0.2.1", "a")):
        with pytest.raises(QueueFull, match="2 runs of yours"), turns.ticket(Caller("192.0.2.1", "a")):
            pass
        with turns.ticket(Caller("192.0.2.1", "b")):
            assert len(turns) == 3


def test_several_at_once() -> None:
    turns = Turns(at_once=2, waiting=1)
    with turns.ticket() as a, turns.ticket() as b, turns.ticket() as c:
        assert [t.wait(0.0) for t in (a, b, c)] == [True, True, False]


def test_who_waits_hears_of_every_change_once_and_wakes_when_the_turn_comes() -> None:
    turns = Turns(at_once=1, waiting=5)
    with ExitStack() as ahead:
        tickets = [turns.ticket() for _ in range(2)]
        for ticket in tickets:
            ticket.__enter__()
        with turns.ticket() as mine:
            heard = []
            for position in until_my_turn(mine, lambda: False, every_s=0.01):
                heard.append(position)
                tickets.pop(0).__exit__(None, None, None)
            assert heard == [2, 1]
            assert mine.ahead == 0
        ahead.close()


def test_who_left_waits_no_longer() -> None:
    turns = Turns(at_once=1, waiting=5)
    with turns.ticket(), turns.ticket() as mine:
        left = threading.Event()
        heard = []
        for position in until_my_turn(mine, left.is_set, every_s=0.01):
            heard.append(position)
            left.set()
        assert heard == [1]
        assert mine.ahead == 1


def test_only_one_of_many_threads_runs_at_a_time() -> None:
    turns = Turns(at_once=1, waiting=50)
    inside, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with turns.ticket() as ticket:
            while not ticket.wait(0.05):
                pass
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert len(turns) == 0
