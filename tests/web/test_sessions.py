"""Who is there, what they keep, and when it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffatlas import io, session
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, LabelMap, Volume
from diffatlas_app import limits
from diffatlas_app.visitors import source
from diffatlas_app.visitors.inbox import Inbox
from diffatlas_app.visitors.sessions import Visitor, Visitors
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example, fake_models


@pytest.fixture
def visitors() -> Iterator[Visitors]:
    made = Visitors()
    yield made
    made.close()


def test_a_press_starts_one_run(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, Inbox(tmp_path / "inbox"))
    assert not visitor.take_press()
    visitor.press()
    visitor.press()
    assert visitor.take_press()
    assert not visitor.take_press()


def test_a_press_can_be_called_off_before_the_run_begins(tmp_path: Path) -> None:
    visitor = Visitor(tmp_path, Inbox(tmp_path / "inbox"))
    visitor.press()
    assert visitor.halt()
    assert not visitor.take_press()
    visitor.press()
    assert visitor.take_press()
    assert not visitor.stop.is_set()  # the stop of the call before does not reach the next run
    assert not visitor.idle.is_set()
    assert not visitor.halt()
    assert visitor.stop.is_set()
    visitor.rest()
    assert visitor.idle.is_set()


def test_who_left_before_the_run_began_stops_it(visitors: Visitors) -> None:
    visitor = visitors.get("anna")
    visitor.press()
    visitors.leave("anna")
    visitor.press()  # a press that was under way
    assert visitor.take_press()
    assert visitor.stop.is_set()


def test_examples_are_made_once(monkeypatch: pytest.MonkeyPatch, visitors: Visitors) -> None:
    made: list[str] = []

    def example(name: str) -> tuple[Volume, LabelMap]:
        made.append(name)
        return fake_example(name)

    monkeypatch.setattr(session, "example", example)
    assert not visitors.has_example("heart-mr")
    first, again = visitors.example("heart-mr"), visitors.example("heart-mr")
    assert visitors.has_example("heart-mr")
    assert first.read() is again.read()
    assert first.name == "Phantom heart MR"
    assert first.true_labels is not None
    assert made == ["heart-mr"]
    assert set(source.EXAMPLES) == set(session.EXAMPLES)


def test_visitors_are_bounded_and_the_longest_unseen_goes(monkeypatch: pytest.MonkeyPatch, visitors: Visitors) -> None:
    monkeypatch.setattr(limits, "SESSIONS", 3)
    monkeypatch.setattr(limits, "YOUNG_S", -1.0)
    made = [visitors.get(f"visitor-{i}") for i in range(5)]
    assert len(visitors) == 3
    assert [v.folder.exists() for v in made] == [False, False, True, True, True]
    assert [v.stop.is_set() for v in made] == [True, True, False, False, False]
    assert visitors.get("visitor-4") is made[4]


def test_made_up_sessions_throw_out_nobody_who_runs_is_open_or_young(
    monkeypatch: pytest.MonkeyPatch, visitors: Visitors
) -> None:
    monkeypatch.setattr(limits, "SESSIONS", 4)
    runs, is_open, young = (visitors.get(name, f"192.0.2.{i}") for i, name in enumerate(("runs", "open", "young")))
    runs.press()
    runs.take_press()
    runs.seen = is_open.seen = time.monotonic() - limits.YOUNG_S - 1
    with visitors.presence.listening("open"):
        old = visitors.get("old", "192.0.2.9")
        old.seen = time.monotonic() - limits.YOUNG_S - 1
        visitors.get("made-up-0", "198.51.100.1")  # takes the place of the one who may go
        assert not old.folder.exists()
        for number in range(1, 102):
            with pytest.raises(BadInput, match="as many as this page takes"):
                visitors.get(f"made-up-{number}", "198.51.100.1")
        assert all(v.folder.exists() for v in (runs, is_open, young))
        assert not runs.stop.is_set()


def test_visitors_of_one_address_make_room_for_each_other(monkeypatch: pytest.MonkeyPatch, visitors: Visitors) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_ADDRESS", 3)
    other = visitors.get("other", "192.0.2.1")
    flood = [visitors.get(f"made-up-{i}", "198.51.100.1") for i in range(101)]
    assert other.folder.exists()
    assert sum(v.folder.exists() for v in flood) == 3
    assert len(visitors) == 4


def test_the_timer_forgets_who_is_not_seen_and_nobody_who_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEEP_S", 0.02)
    visitors = Visitors()
    try:
        idle, runs = visitors.get("idle"), visitors.get("runs")
        (idle.folder / "volume.nii").write_bytes(b"x")
        runs.press()
        runs.take_press()
        monkeypatch.setattr(limits, "SESSION_AGE_S", 0.1)
        idle.seen = runs.seen = time.monotonic() - 1
        end = time.monotonic() + 20
        while idle.folder.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not idle.folder.exists()
        assert runs.folder.exists()
        assert len(visitors) == 1
    finally:
        visitors.close()
    assert not runs.folder.exists()


def test_a_file_is_found_by_the_random_name_of_its_run_only(visitors: Visitors) -> None:
    anna, ben = visitors.get("anna"), visitors.get("ben")
    run, other = visitors.new_run(anna), visitors.new_run(ben)
    (anna.folder / run / "labels.nii.gz").write_bytes(b"anna's")
    assert visitors.file(run, "labels.nii.gz") == anna.folder / run / "labels.nii.gz"
    assert visitors.file(other, "labels.nii.gz") is None
    assert visitors.file("run-", "labels.nii.gz") is None
    assert len(run) >= 32
    visitors.leave("anna")
    assert visitors.file(run, "labels.nii.gz") is None


def test_a_label_map_comes_in_the_scheme_that_knows_its_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "available_models", fake_models)
    grid = Grid((4, 4, 4), np.eye(4))
    path = tmp_path / "volume.nii.gz"
    for ids, scheme in (((1, 2), "hippocampus"), ((500, 205), "mmwhs")):
        data = np.zeros(grid.shape, np.uint16)
        data[0, 0, :2] = ids
        io.write_array(data, grid, path)
        assert source.read_labels("mine.nii.gz", path).scheme.name == scheme
    data[0, 0, 0] = 999
    io.write_array(data, grid, path)
    with pytest.raises(BadInput, match=r"mine.nii.gz: holds the ids \[205, 999\]"):
        source.read_labels("mine.nii.gz", path)
    io.write_array(np.zeros(grid.shape, np.uint8), grid, path)
    with pytest.raises(BadInput, match=r"mine\.nii\.gz: is empty"):
        source.read_labels("mine.nii.gz", path)
    io.write_array(np.full(grid.shape, 7, np.uint8), grid, path)
    with pytest.raises(BadInput, match=r"mine\.nii\.gz"):
        source.read_labels("mine.nii.gz", path, HIPPOCAMPUS)


@pytest.mark.parametrize("fail_at", [None, 0])
def test_the_first_example_is_offered_once_the_model_has_answered_or_failed(
    monkeypatch: pytest.MonkeyPatch, fail_at: int | None
) -> None:
    loaded: list[str] = []
    offered: list[bool] = []
    made = Visitors()
    monkeypatch.setattr(session, "available_models", fake_models)
    monkeypatch.setattr(session, "load_model", loaded.append)
    monkeypatch.setattr(session, "example", fake_example)
    backend = FakeBackend(before=lambda: offered.append(made.has_example("heart-ct")), fail_at=fail_at)
    monkeypatch.setattr(session, "local_backend", lambda: backend)
    try:
        if fail_at is None:
            made.warm()
            assert made.has_example("heart-mr")
        else:
            with pytest.raises(RuntimeError):
                made.warm()
        assert loaded == ["heart-phantom", "hippocampus-mri"]
        assert offered == [False]
        assert made.has_example("heart-ct")
        assert backend.requests[0].roi == session.EXAMPLE_REGION  # no search
    finally:
        made.close()
