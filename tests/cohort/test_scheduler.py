"""A cohort by dask.distributed: the same files, and what became of every case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffatlas import session
from diffatlas.cohort import Cohort, Scheduled, find_cases, scheduler
from diffatlas.cohort.attempts import FOLDER
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from tests.cohort.test_limits import cases_called
from tests.fakes import SHA256, FakeBackend

distributed = pytest.importorskip("distributed")
REQUEST = Request(model="heart-phantom", steps=2)
NAMES = tuple("abcdefg")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "model_card", lambda name: SimpleNamespace(name=name, sha256=SHA256))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers of one thread, in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0", protocol="tcp"
    ) as cluster:
        yield cluster.scheduler_address


def test_its_workers_do_every_case_once(cluster: str, tmp_path: Path) -> None:
    cases = cases_called(NAMES, tmp_path)
    many = Scheduled(cluster, cases, REQUEST, 2, backend=FakeBackend)
    seen = [status.name for status in many.run()]
    assert sorted(seen) == list(NAMES)
    assert {status.state for status in many.statuses.values()} == {"done"}
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / FOLDER).glob("*.jsonl")) == [f"{name}.0.jsonl" for name in NAMES]
    labels = {name: (out / f"{name}_labels.nii.gz").read_bytes() for name in NAMES}
    again = Scheduled(cluster, cases, REQUEST, 2, backend=FakeBackend)
    assert {status.reason for status in again.run()} == {"was done already"}
    alone = find_cases([tmp_path / "in"], tmp_path / "alone")[0]
    list(Cohort(alone, REQUEST, backend=FakeBackend).run())
    assert labels == {name: (tmp_path / "alone" / f"{name}_labels.nii.gz").read_bytes() for name in NAMES}


def test_what_goes_wrong_there_is_told_here(cluster: str, tmp_path: Path) -> None:
    cases = cases_called("ab", tmp_path)
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"not an image")
    many = Scheduled(cluster, cases, REQUEST, backend=FakeBackend)
    list(many.run())
    assert [many.statuses[name].state for name in "ab"] == ["failed", "done"]
    assert not many.statuses["a"].fault
    assert "a.nii.gz" in many.statuses["a"].reason


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CONNECT_S", 0.5)
    cases = cases_called("a", tmp_path)
    for address in ("tcp://127.0.0.1:9", "no address"):
        with pytest.raises(BadInput, match="no scheduler of dask answers"):
            list(Scheduled(address, cases, REQUEST).run())
    with pytest.raises(BadInput, match="must be"):
        Scheduled("tcp://127.0.0.1:9", cases, REQUEST, retries=-1)
    with pytest.raises(BadInput, match="1 or more"):
        Scheduled("tcp://127.0.0.1:9", cases, REQUEST, 0)
