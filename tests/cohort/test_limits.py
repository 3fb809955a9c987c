"""Limits of time and memory that hold whatever a case is doing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffatlas import session
from diffatlas.cohort import Case, Cohort, find_cases
from diffatlas.cohort.attempts import FOLDER
from diffatlas.cohort.work import Ways, resident_mb, work
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.io import write_volume
from tests.fakes import SHA256, FakeBackend, Troubled

REQUEST = Request(model="heart-phantom", steps=2)
pytestmark = pytest.mark.skipif(resident_mb("self") is None, reason="needs /proc")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "model_card", lambda name: SimpleNamespace(name=name, sha256=SHA256))


def cases_called(names: Iterable[str], folder: Path) -> list[Case]:
    (folder / "in").mkdir()
    data = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    for name in names:
        write_volume(Volume(data, Grid((6, 5, 4), np.eye(4)), "mr"), folder / "in" / f"{name}.nii.gz")
    return find_cases([folder / "in"], folder / "out")[0]


def test_a_case_that_hangs_and_one_whose_process_dies_stop_no_other(tmp_path: Path) -> None:
    cases = cases_called(("a-hangs", "b-dies", "c"), tmp_path)
    cohort = Cohort(cases, REQUEST, backend=Troubled, limit_s=8)
    begin = time.monotonic()
    list(cohort.run())
    assert time.monotonic() - begin < 200
    hung, died, fine = (cohort.statuses[case.name] for case in cases)
    assert (hung.state, hung.fault) == ("failed", False)
    assert hung.reason.startswith("took longer than 8 s (no step was done)")
    assert (died.state, died.fault) == ("failed", True)
    assert "SIGKILL" in died.reason
    assert (fine.state, fine.total) == ("done", 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FOLDER, "c.json", "c_labels.nii.gz"}
    last = (tmp_path / "out" / FOLDER / "a-hangs.0.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["state"] == "failed"


def test_a_case_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    cases = cases_called(("a-grows", "b"), tmp_path)
    own = resident_mb("self")
    cohort = Cohort(cases, REQUEST, backend=Troubled, memory_mb=800)
    list(cohort.run())
    grown, fine = (cohort.statuses[case.name] for case in cases)
    assert (grown.state, grown.fault) == ("failed", False)
    assert grown.reason.startswith("needed more than 800 MB of memory")
    assert fine.state == "done"
    assert own is not None
    assert (resident_mb("self") or 0) < own + 500  # it grew in a process of its own


def test_a_case_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    (case,) = cases_called(("a-hangs",), tmp_path)
    cohort = Cohort([case], REQUEST, backend=Troubled, limit_s=3000)
    threading.Timer(3.0, cohort.stop).start()
    begin = time.monotonic()
    list(cohort.run())
    assert time.monotonic() - begin < 100
    assert cohort.statuses[case.name].state == "pending"
    (attempt,) = (tmp_path / "out" / FOLDER).glob("*.jsonl")
    assert json.loads(attempt.read_text().splitlines()[-1])["state"] == "stopped"


def test_who_may_not_write_any_more_writes_nothing(tmp_path: Path) -> None:
    (case,) = cases_called(("a",), tmp_path)
    case.output.mkdir()
    status = work(case, REQUEST, FakeBackend, Ways(lambda step, total: None, lambda: False, lambda: False))
    assert (status.state, status.reason) == ("pending", "another process took it over")
    assert not list(case.output.iterdir())
