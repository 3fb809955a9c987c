"""Visitors, files and runs, without a browser."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.request import Request
from diffatlas.volume import LabelMap, Volume
from diffatlas_app import limits, markup, runs
from tests import fakes
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    made = FakeBackend()
    monkeypatch.setattr(session, "local_backend", lambda: made)
    return made


@pytest.fixture
def visitor(tmp_path: Path) -> runs.Visitor:
    return runs.Visitor(tmp_path, runs.Source("Phantom heart CT", fake_example("heart-ct")[0]))


def test_a_run_ends_with_result_and_files(backend: FakeBackend, visitor: runs.Visitor) -> None:
    updates = list(runs.run(visitor, Request(seed=2)))
    assert [u.result is not None for u in updates[:-1]] == [False] * (len(updates) - 1)
    last = updates[-1]
    assert last.index == last.total - 1
    assert last.result is not None
    assert last.files is not None
    assert last.files.stem == "heart-ct"
    assert last.volumes_ml == last.result.volumes_ml
    assert list(visitor.folder.iterdir()) == []


def test_quick_steps_are_coalesced_and_none_is_lost_from_the_curves(
    backend: FakeBackend, visitor: runs.Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 60)
    start = time.monotonic()
    updates = list(runs.run(visitor, Request()))
    assert len(updates) <= 2 + (time.monotonic() - start) * limits.FRAMES_PER_S
    assert updates[0].index == 0
    assert updates[-1].index == 59
    figures: dict[int, list[float]] = {}
    for update in updates:
        sent = json.loads(update.message)
        figures |= dict(enumerate(sent["metrics"]["rows"], sent["metrics"]["from"]))
        assert max(figures) == sent["index"] == update.index
    assert sorted(figures) == list(range(60))


def test_time_left_follows_the_pace(backend: FakeBackend, visitor: runs.Visitor) -> None:
    backend.delay_s = 0.12
    updates = list(runs.run(visitor, Request(steps=6)))
    assert updates[0].seconds_left is None
    assert updates[2].seconds_left is not None
    assert 3 * 0.12 <= updates[2].seconds_left <= 3 / 2 * updates[2].seconds  # three steps at the pace of two
    assert updates[-1].seconds_left == 0.0


def test_closing_a_run_closes_the_engine(backend: FakeBackend, visitor: runs.Visitor) -> None:
    stream = runs.run(visitor, Request(steps=50))
    next(stream)
    assert backend.open_runs == 1
    stream.close()  # type: ignore[attr-defined]
    assert backend.open_runs == 0


def test_stop_flag_ends_a_run_without_a_result(backend: FakeBackend, visitor: runs.Visitor) -> None:
    backend.delay_s = 0.11
    seen = []
    for update in runs.run(visitor, Request(steps=50)):
        seen.append(update)
        visitor.stop.set()
    assert len(seen) == 1
    assert backend.open_runs == 0


def test_a_press_starts_one_run(visitor: runs.Visitor) -> None:
    assert not visitor.take_press()
    visitor.press()
    visitor.press()
    assert visitor.take_press()
    assert not visitor.take_press()


def test_a_press_can_be_called_off_before_the_run_begins(visitor: runs.Visitor) -> None:
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


def test_a_run_beyond_the_time_limit_says_so(
    backend: FakeBackend, visitor: runs.Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RUN_TIME_S", -1.0)
    with pytest.raises(BadInput, match="faster preset"):
        list(runs.run(visitor, Request()))
    assert backend.open_runs == 0


def test_examples_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def example(name: str) -> tuple[Volume, LabelMap]:
        made.append(name)
        return fake_example(name)

    monkeypatch.setattr(session, "example", example)
    visitors = runs.Visitors()
    first, again = visitors.example("heart-mr"), visitors.example("heart-mr")
    assert first.read() is again.read()
    assert first.name == "Phantom heart MR"
    assert made == ["heart-mr"]
    assert set(runs.EXAMPLES) == set(session.EXAMPLES)
    visitors.close()


def test_nothing_chosen_yet(backend: FakeBackend, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="choose an example or drop a file"):
        list(runs.run(runs.Visitor(tmp_path), Request()))


def test_uploads_move_out_of_reach_and_replace_each_other(tmp_path: Path) -> None:
    visitor = runs.Visitor(tmp_path / "visitor")
    visitor.folder.mkdir()
    for name in ("one.nii.gz", "two.NRRD"):
        upload = tmp_path / name
        upload.write_bytes(b"x")
        source = visitor.take_upload(upload)
        assert not upload.exists()
        assert source.name == name
    assert [p.name for p in visitor.folder.iterdir()] == ["volume.nrrd"]


def test_visitors_are_bounded_in_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSIONS", 3)
    visitors = runs.Visitors()
    made = [visitors.get(f"visitor-{i}") for i in range(5)]
    assert len(visitors) == 3
    assert [v.folder.exists() for v in made] == [False, False, True, True, True]
    assert [v.stop.is_set() for v in made] == [True, True, False, False, False]
    assert visitors.get("visitor-4") is made[4]
    monkeypatch.setattr(limits, "SESSION_AGE_S", -1.0)
    visitors.get("another")
    assert len(visitors) == 1
    visitors.close()
    assert len(visitors) == 0


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("brain.nii.gz", "brain.nii.gz"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\knee.mha", "knee.mha"),
        ("Herz größe.nii", "Herz größe.nii"),
        ("${a}<b>.nii", "__a__b_.nii"),
        ("...", "volume"),
    ],
)
def test_display_names_carry_no_folder_and_no_markup(given: str, shown: str) -> None:
    assert runs.display_name(given) == shown


def test_long_display_names_keep_their_suffix() -> None:
    shown = runs.display_name("x" * 300 + ".nii.gz")
    assert len(shown) == 60
    assert shown.endswith("….nii.gz")


def test_text_is_inert_in_html_and_in_both_template_languages() -> None:
    assert not set("<>{}$`\\\"'") & set(markup.text("<b>${x}{{y}}`\\\"'"))


@pytest.mark.parametrize(("value", "said"), [(0.84, "0.8 s"), (9.96, "10 s"), (59.4, "59 s"), (200.0, "3 min 20 s")])
def test_durations_as_one_says_them(value: float, said: str) -> None:
    assert markup.seconds(value) == said
