"""The run as plain values: one ending each, the stream closed on every way out, no faster than it is drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Backend
from napari_diffatlas.jobs import worker as _worker
from napari_diffatlas.jobs.worker import Done, Failed, Paused, Resumed, Run, Step, Stopped
from tests.fakes import DEFAULT_STEPS, FakeBackend


def start(backend: FakeBackend, volume: Volume, steps: int | None = None, interval_s: float = 0.0) -> Run:
    return Run(lambda: backend, lambda: volume, Request(steps=steps, seed=3), interval_s)


def play(run: Run) -> list[Any]:
    """Every update of a run whose viewer draws at once."""
    updates = []
    for update in run.updates():
        updates.append(update)
        run.shown()
    return updates


def test_every_step_then_the_result(volume: Volume) -> None:
    backend = FakeBackend()
    *steps, done = play(start(backend, volume))
    assert [s.frame.index for s in steps] == list(range(DEFAULT_STEPS))
    assert isinstance(done, Done)
    assert done.result is steps[-1].frame.result
    assert backend.open_runs == 0


def test_time_left_is_unknown_at_first_and_nothing_at_last(volume: Volume) -> None:
    steps = play(start(FakeBackend(delay_s=0.02), volume))[:-1]
    assert steps[0].seconds_left is None
    first, second = (s.frame.metrics.seconds for s in steps[:2])
    assert second > first
    assert steps[1].seconds_left == pytest.approx(2 * (second - first))  # two steps to come
    assert steps[-1].seconds_left == 0


@pytest.mark.parametrize("error", [RuntimeError("size\nmismatch"), MemoryError(), StopIteration(), KeyError(1)])
def test_any_exception_becomes_a_value(volume: Volume, error: Exception) -> None:
    backend = FakeBackend(fail_at=2, error=error)
    updates = play(start(backend, volume))
    assert [type(u) for u in updates] == [Step, Step, Failed]
    assert "You can run again" in updates[-1].message
    assert "\n" not in updates[-1].message
    assert backend.open_runs == 0


def test_bad_input_is_told_in_its_own_words(volume: Volume) -> None:
    backend = FakeBackend(fail_at=0, error=BadInput("roi lies outside the volume"))
    assert play(start(backend, volume)) == [Failed("roi lies outside the volume")]


def test_a_backend_or_volume_that_cannot_be_had(volume: Volume) -> None:
    def broken() -> Any:
        raise RuntimeError("CUDA error")

    no_backend: list[Any] = play(Run(broken, lambda: volume, Request()))
    no_volume: list[Any] = play(Run(lambda: FakeBackend(), broken, Request()))
    for updates in (no_backend, no_volume):
        assert [type(u) for u in updates] == [Failed]
        assert "CUDA error" in updates[0].message


def test_stop_takes_at_most_one_step(volume: Volume) -> None:
    backend = FakeBackend()
    run = start(backend, volume, steps=100)
    updates = run.updates()
    for _ in range(3):
        next(updates)
        run.shown()
    made = backend.frames_made
    run.stop()
    assert list(updates) == [Stopped(made + 1)]
    assert backend.frames_made == made + 1
    assert backend.open_runs == 0


def test_stop_before_the_start_never_asks_the_engine(volume: Volume) -> None:
    backend = FakeBackend()
    run = start(backend, volume)
    run.stop()
    assert play(run) == [Stopped(0)]
    assert backend.requests == []


def test_a_result_that_is_there_is_not_thrown_away_by_a_late_stop(volume: Volume) -> None:
    run = start(FakeBackend(), volume, steps=1)
    updates = run.updates()
    assert isinstance(next(updates), Step)
    run.stop()
    assert isinstance(next(updates), Done)


def test_a_viewer_that_is_slow_gets_the_first_and_the_last_step_only(volume: Volume) -> None:
    backend = FakeBackend()
    updates: list[Any] = list(start(backend, volume, steps=50).updates())  # nobody says shown()
    assert [u.frame.index for u in updates[:-1]] == [0, 49]
    assert backend.frames_made == 50


def test_steps_are_coalesced_to_the_interval(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 1 / 64)  # read once a frame; binary fractions add up exactly
    monkeypatch.setattr(_worker, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = play(start(FakeBackend(), volume, steps=40, interval_s=1 / 8))[:-1]
    assert [s.frame.index for s in steps] == [0, 8, 16, 24, 32, 39]


def test_closing_the_updates_closes_the_stream(volume: Volume) -> None:
    backend = FakeBackend()
    updates: Any = start(backend, volume).updates()
    next(updates)
    assert backend.open_runs == 1
    updates.close()
    assert backend.open_runs == 0


def test_a_stream_without_a_result_is_a_failure(volume: Volume) -> None:
    class Silent(FakeBackend):
        def stream(self, volume: Volume | None, request: Request) -> Any:
            yield next(super().stream(volume, request))

    backend: Backend = Silent()
    updates: list[Any] = play(Run(lambda: backend, lambda: volume, Request()))
    assert [type(u) for u in updates] == [Step, Failed]


def test_pause_holds_within_a_step_and_shows_the_step_it_holds_at(volume: Volume) -> None:
    backend = FakeBackend()
    run = start(backend, volume, steps=10, interval_s=1e9)  # so slow that only the pause makes it show a step
    updates = run.updates()
    assert isinstance(next(updates), Step)
    made = backend.frames_made
    run.pause()
    held: Any = next(updates)
    assert (type(held), held.frame.index) == (Step, made)
    assert next(updates) == Paused(made + 1)
    assert backend.frames_made == made + 1
    run.resume()
    assert next(updates) == Resumed()
    *_, done = updates
    assert isinstance(done, Done)
    assert backend.frames_made == 10


def test_stop_ends_a_run_that_holds_without_another_step(volume: Volume) -> None:
    backend = FakeBackend()
    run = start(backend, volume, steps=10)
    run.pause()
    updates = run.updates()
    assert isinstance(next(updates), Step)
    assert next(updates) == Paused(1)
    run.stop()
    assert list(updates) == [Stopped(1)]
    assert (backend.frames_made, backend.open_runs) == (1, 0)


def test_a_pause_counts_neither_as_pace_nor_as_time_of_the_run(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: every step takes 1 s, and 100 s pass while the run holds."""
    now = [0.0]

    def frames(volume: Any, request: Any) -> Any:
        for frame in FakeBackend().stream(volume, request):
            now[0] += 1
            metrics = replace(frame.metrics, seconds=now[0])
            result = frame.result and replace(frame.result, metrics=(metrics,))
            yield replace(frame, metrics=metrics, result=result)

    monkeypatch.setattr(_worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    backend: Any = SimpleNamespace(stream=frames)
    run = Run(lambda: backend, lambda: volume, Request(steps=4), 0.0)
    updates = run.updates()
    next(updates)
    run.shown()
    run.pause()
    held: Any = next(updates)
    assert held.pace_s == 1.0
    assert isinstance(next(updates), Paused)
    now[0] += 100  # the generator reads the clock before this and after it
    run.resume()
    rest: list[Any] = []
    for update in updates:
        run.shown()
        rest.append(update)
    assert [u.pace_s for u in rest if isinstance(u, Step)] == pytest.approx([1.0, 1.0])
    assert rest[-1].seconds == pytest.approx(4.0)
