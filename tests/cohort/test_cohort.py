"""Many volumes: what is found, left out, tried again, stopped, and what a case leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from diffatlas import session
from diffatlas.cohort import Case, Cohort, Status, done, find_cases
from diffatlas.cohort.attempts import FOLDER, STALE_S, Attempts
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.engine.run_record import read_run
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, Volume
from diffatlas.io import read_label_map, read_volume, write_volume
from diffatlas.session import Frame
from tests.fakes import SHA256, FakeBackend

REQUEST = Request(model="heart-phantom", steps=3)


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The one model there is; change its ``sha256`` to install other weights."""
    card = SimpleNamespace(name="heart-phantom", sha256=SHA256)
    monkeypatch.setattr(session, "model_card", lambda name: card)
    return card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three volumes of one grid and other voxels."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.nii.gz", "b.nrrd", "c.nii")):
        data = np.random.default_rng(seed).normal(100, 30, (12, 10, 8)).astype(np.float32)
        write_volume(Volume(data, Grid((12, 10, 8), np.diag([-2.0, -2.0, 3.0, 1.0])), "mr"), folder / name)
    return folder


def play(cases: list[Case], backend: FakeBackend, request: Request = REQUEST, **options: Any) -> dict[str, Status]:
    """Run to the end; the last status of every case."""
    many = Cohort(cases, request, backend=lambda: backend, **options)
    last = {status.name: status for status in many.run()}
    assert last == many.statuses
    return last


def states(statuses: dict[str, Status]) -> dict[str, tuple[str, str]]:
    return {name: (status.state, status.reason) for name, status in statuses.items()}


ALREADY = ("done", "was done already")
DONE = ("done", "")


def test_every_case_leaves_labels_on_its_voxels_and_a_report_that_replays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    cases, notes = find_cases([folder], out)
    assert ([case.name for case in cases], notes) == (["a", "b", "c"], [])
    backend = FakeBackend()
    assert states(play(cases, backend)) == dict.fromkeys("abc", DONE)
    assert {p.name for p in out.iterdir()} == {
        FOLDER,
        *(f"{n}{s}" for n in "abc" for s in ("_labels.nii.gz", ".json")),
    }
    for case, volume in zip(cases, backend.volumes, strict=True):
        assert volume is not None
        labels = read_label_map(case.labels, MMWHS)
        assert np.array_equal(labels.data, backend.labels_at(volume.grid, 1.0).data)
        assert np.array_equal(labels.grid.affine, volume.grid.affine)
        run = read_run(case.report)
        assert (run.source.path, run.other_image(volume, "it")) == (case.path, None)
        assert run.request == REQUEST
    for case in cases:
        lines = [json.loads(line) for line in (out / FOLDER / f"{case.name}.0.jsonl").read_text().splitlines()]
        assert [line.get("state") for line in lines] == [None, "done"]


def test_what_is_done_is_left_out_and_the_rest_is_done(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    backend = FakeBackend()
    play(cases[:2], backend)
    assert states(play(cases, backend)) == {"a": ALREADY, "b": ALREADY, "c": DONE}
    assert len(backend.requests) == 3
    assert states(play(cases, backend, redo=True)) == dict.fromkeys("abc", DONE)


def test_another_request_image_place_weights_or_label_file_is_done_again(
    folder: Path, tmp_path: Path, weights: SimpleNamespace
) -> None:
    cases, _ = find_cases([folder / "a.nii.gz"], tmp_path / "out")
    backend = FakeBackend()
    play(cases, backend)
    volume = cast(Volume, backend.volumes[0])
    assert states(play(cases, backend))["a"] == ALREADY
    assert states(play(cases, backend, replace(REQUEST, seed=1)))["a"] == DONE
    assert states(play(cases, backend))["a"] == DONE  # what stands there is of the other request now
    write_volume(replace(volume, data=volume.data + np.float32(1)), cases[0].path)
    assert states(play(cases, backend))["a"] == DONE
    moved = volume.grid.affine.copy()
    moved[0, 3] += 1
    elsewhere = Grid(volume.grid.shape, moved)
    write_volume(Volume(volume.data + np.float32(1), elsewhere, "mr"), cases[0].path)
    assert states(play(cases, backend))["a"] == DONE
    weights.sha256 = "1" * 64
    assert states(play(cases, backend))["a"] == DONE
    weights.sha256 = SHA256
    assert states(play(cases, backend))["a"] == ALREADY
    cases[0].labels.write_bytes(cases[0].labels.read_bytes()[:-1])
    assert states(play(cases, backend))["a"] == DONE
    cases[0].labels.unlink()
    assert states(play(cases, backend))["a"] == DONE
    cases[0].report.write_text("{}")
    assert states(play(cases, backend))["a"] == DONE
    assert states(play(cases, backend))["a"] == ALREADY


def test_a_case_that_fails_is_told_in_one_line_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    (folder / "b.nrrd").write_text("not a volume")
    cases, _ = find_cases([folder], tmp_path / "out")
    result = play(cases, FakeBackend())
    assert (result["a"].state, result["c"].state) == ("done", "done")
    assert (result["b"].state, result["b"].fault) == ("failed", False)
    assert "b.nrrd" in result["b"].reason
    assert not cases[1].labels.exists()
    broken = FakeBackend(fail_at=1, error=RuntimeError("out of\nmemory"))
    result = play(cases[:1], broken, redo=True)
    assert (result["a"].state, result["a"].fault, result["a"].reason) == ("failed", True, "RuntimeError: out of memory")
    assert broken.open_runs == 0
    assert states(play(cases[:1], FakeBackend()))["a"] == ALREADY  # what was there before is as it was


def test_labels_of_a_killed_write_are_not_taken_for_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels and report take their names together; a run that was stopped before has changed nothing."""
    cases, _ = find_cases([folder / "a.nii.gz"], tmp_path / "out")
    play(cases, FakeBackend())

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(done, "report_of", killed)
        with pytest.raises(KeyboardInterrupt):
            play(cases, FakeBackend(), redo=True)
    assert states(play(cases, FakeBackend(), replace(REQUEST, seed=1)))["a"] == DONE


class Gate(FakeBackend):
    """Holds after its second step until ``go``; says when it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.go = threading.Semaphore(0), threading.Event()

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        for frame in super().stream(volume, request):
            yield frame
            if frame.index == 1:
                self.there.release()
                assert self.go.wait(60)


@pytest.mark.timeout(120)
def test_stop_ends_within_a_step_and_running_again_goes_on(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    backend = Gate()
    many = Cohort(cases, replace(REQUEST, steps=1000), backend=lambda: backend)
    news = many.run()
    assert next(news).state == "running"
    assert backend.there.acquire(timeout=60)
    many.stop()
    backend.go.set()
    list(news)
    assert backend.frames_made == 3  # the step that was on its way
    assert backend.open_runs == 0
    assert states(many.statuses) == {"a": ("pending", "stopped"), "b": ("pending", ""), "c": ("pending", "")}
    assert not any(case.labels.exists() for case in cases)
    assert states(play(cases, FakeBackend())) == dict.fromkeys("abc", DONE)


@pytest.mark.timeout(120)
def test_closing_the_news_stops_the_run(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    backend = Gate()
    news = cast(Generator[Status], Cohort(cases, replace(REQUEST, steps=1000), backend=lambda: backend).run())
    next(news)
    assert backend.there.acquire(timeout=60)
    backend.go.set()
    news.close()
    assert backend.open_runs == 0
    assert backend.frames_made < 1000


@pytest.mark.timeout(120)
def test_workers_run_beside_each_other_and_change_no_result(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "one")
    play(cases, FakeBackend())
    beside, _ = find_cases([folder], tmp_path / "three")
    backend = Gate()
    many = Cohort(beside, REQUEST, backend=lambda: backend, workers=3)
    news = many.run()
    next(news)
    for _ in range(3):  # all three are at their second step at once
        assert backend.there.acquire(timeout=60)
    backend.go.set()
    list(news)
    for first, second in zip(cases, beside, strict=True):
        assert first.labels.read_bytes() == second.labels.read_bytes()


def test_label_files_hidden_files_and_folders_below_are_left_out(folder: Path, tmp_path: Path) -> None:
    for name in ("a_label.nii.gz", ".hidden.nii.gz", "notes.txt"):
        (folder / name).write_bytes((folder / "a.nii.gz").read_bytes())
    (folder / "below").mkdir()
    (folder / "below" / "d.nii.gz").write_bytes(b"")
    cases, notes = find_cases([folder], tmp_path / "out")
    assert [case.name for case in cases] == ["a", "b", "c"]
    assert len(notes) == 1
    assert "1 file named as label maps" in notes[0]
    named, _ = find_cases([folder / "a_label.nii.gz"], tmp_path / "out")  # who names a file means it
    assert [case.name for case in named] == ["a_label"]


def test_a_folder_of_dicom_slices_is_a_case(tmp_path: Path) -> None:
    patients = tmp_path / "patients"
    for name in ("p1", "p2"):
        (patients / name).mkdir(parents=True)
        (patients / name / "slice").write_bytes(bytes(128) + b"DICM")
    assert [case.name for case in find_cases([patients], tmp_path / "out")[0]] == ["p1", "p2"]
    assert [case.path for case in find_cases([patients / "p1"], tmp_path / "out")[0]] == [patients / "p1"]


def test_inputs_that_cannot_be_used_are_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    taken = folder / "a_labels.nii.gz"
    taken.write_bytes(b"")
    for inputs, output, words in (
        ([tmp_path / "gone"], tmp_path / "out", "no such file"),
        ([tmp_path / "empty"], tmp_path / "out", "no volume there"),
        ([folder], folder, "is the input folder"),
        ([folder / "a.nii.gz", taken], folder, "is also an input"),
    ):
        with pytest.raises(BadInput, match=words):
            find_cases(inputs, output)


def test_requests_and_workers_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    edit = MaskEdit(np.zeros((12, 10, 8), np.uint8))
    for request in (Request(task="generate"), Request(edit=edit)):
        with pytest.raises(BadInput, match="a folder is segmented"):
            Cohort(cases, request)
    for workers in (0, 65):
        with pytest.raises(BadInput, match="workers must be"):
            Cohort(cases, REQUEST, workers=workers)
    (tmp_path / "file").write_text("")
    blocked, _ = find_cases([folder], tmp_path / "file" / "out")
    for options in ({"retries": -1}, {"limit_s": 0.0}, {"memory_mb": 0.0}):
        with pytest.raises(BadInput, match="must be"):
            Cohort(cases, REQUEST, **options)
    with pytest.raises(BadInput, match="cannot be made"):
        list(Cohort(blocked, REQUEST, backend=FakeBackend).run())


# -- odd names and odd files ------------------------------------------------------------------------------------------


def test_a_link_that_leads_nowhere_is_a_case_that_fails(folder: Path, tmp_path: Path) -> None:
    (folder / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (folder / "gone-folder").symlink_to(tmp_path / "no-folder")
    cases, _ = find_cases([folder], tmp_path / "out")
    result = play(cases, FakeBackend())
    assert {name: status.state for name, status in result.items()} == {
        **dict.fromkeys("abc", "done"),
        **dict.fromkeys(("gone", "gone-folder"), "failed"),
    }
    assert "leads nowhere" in result["gone"].reason
    assert not result["gone"].fault
    named, _ = find_cases([folder / "gone.nii.gz"], tmp_path / "out")
    assert [case.name for case in named] == ["gone"]


ODD = (
    "cohort",
    "batch",
    ".cohort",
    "dseg",
    "a b",
    "ü",
    "x" * 230,
    "[red]",
    "a:b",
    "-o",
    "line\nbreak",
    "tab\t",
    "%s",
    "=1+1",
)


def test_one_odd_name_stops_nothing_and_every_case_keeps_its_report(folder: Path, tmp_path: Path) -> None:
    volume = (folder / "a.nii.gz").read_bytes()
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in (*ODD, "ok"):
        if not name.startswith("."):
            (odd / f"{name}.nii.gz").write_bytes(volume)
    cases, _ = find_cases([odd], tmp_path / "out")
    assert {case.name for case in cases} == {*ODD, "ok"} - {".cohort"}
    result = play(cases, FakeBackend())
    assert {name for name, status in result.items() if status.state != "done"} <= {"x" * 230}
    for case in cases:
        if result[case.name].state == "done":
            assert read_run(case.report).source.path == case.path
            assert case.labels.is_file()
    assert states(play(cases, FakeBackend()))["cohort"] == ALREADY


def test_names_that_clash_are_told_apart(folder: Path, tmp_path: Path) -> None:
    volume = (folder / "a.nii.gz").read_bytes()
    for patient in ("p1", "p2"):
        (tmp_path / "scans" / patient).mkdir(parents=True)
        (tmp_path / "scans" / patient / "T1.nii.gz").write_bytes(volume)
    found, _ = find_cases([tmp_path / "scans" / "*" / "T1.nii.gz"], tmp_path / "out")
    assert [case.name for case in found] == ["p1_T1", "p2_T1"]
    with pytest.raises(BadInput, match="no file matches"):
        find_cases([tmp_path / "scans" / "*" / "T2.nii.gz"], tmp_path / "out")
    (folder / "a.nii").write_bytes(b"")
    both, _ = find_cases([folder], tmp_path / "out")
    assert [case.name for case in both] == ["a.nii", "a.nii.gz", "b", "c"]


# -- several processes ------------------------------------------------------------------------------------------------


def test_what_is_done_is_seen_from_sizes_and_times_and_read_only_where_these_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    play(cases, FakeBackend())
    reads: list[Path] = []

    def read(path: Path) -> Volume:
        reads.append(path)
        return read_volume(path)

    monkeypatch.setattr(done, "read_volume", read)
    assert states(play(cases, FakeBackend())) == dict.fromkeys("abc", ALREADY)
    assert reads == []
    os.utime(cases[0].path, (1, 1))
    for expected in (1, 0):  # read once, and the new time is kept
        reads.clear()
        assert states(play(cases, FakeBackend())) == dict.fromkeys("abc", ALREADY)
        assert len(reads) == expected


def test_a_case_that_another_process_holds_is_waited_for(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    with Attempts(cases[0].output / FOLDER) as other:
        held = other.take("a")
        assert held is not None
        many = Cohort(cases, REQUEST, backend=lambda: FakeBackend())
        seen: list[Status] = []
        for status in many.run():
            seen.append(status)
            if status.name == "c" and status.state == "done":  # only a is left
                other.end(held, {"state": "failed", "reason": "no luck", "fault": True})
    assert states(many.statuses) == {"a": ("failed", "no luck"), "b": DONE, "c": DONE}
    assert states(play(cases, FakeBackend()))["a"] == DONE  # a later run tries it again


def test_a_case_whose_process_died_is_taken_again(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    records = tmp_path / "out" / FOLDER
    code = (
        "import os, sys; from pathlib import Path; from diffatlas.cohort.attempts import Attempts\n"
        "attempts = Attempts(Path(sys.argv[1])); attempts.folder.mkdir(parents=True); attempts.take('a')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(records)], check=False)
    assert (records / "a.0.jsonl").is_file()
    assert states(play(cases, FakeBackend())) == dict.fromkeys("abc", DONE)


def test_an_attempt_of_another_machine_counts_while_it_is_touched(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder], tmp_path / "out")
    records = tmp_path / "out" / FOLDER
    records.mkdir(parents=True)
    theirs = records / "a.0.jsonl"
    theirs.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "started": "5"}) + "\n")
    with Attempts(records) as attempts:
        assert attempts.take("a") is None
        old = theirs.stat().st_mtime - STALE_S - 1
        os.utime(theirs, (old, old))
        taken = attempts.take("a")
        assert taken is not None
        assert taken.number == 1
        assert attempts.take("a") is None  # ours now
    assert states(play(cases, FakeBackend())) == dict.fromkeys("abc", DONE)


def test_a_process_that_was_asleep_too_long_writes_nothing(folder: Path, tmp_path: Path) -> None:
    """Its case was taken over meanwhile: what the other one wrote stays."""
    cases, _ = find_cases([folder / "a.nii.gz"], tmp_path / "out")
    records = tmp_path / "out" / FOLDER

    def taken_over() -> None:
        (records / "a.1.jsonl").write_text("{}\n")

    many = Cohort(cases, REQUEST, backend=lambda: FakeBackend(before=taken_over))
    list(many.run())
    assert many.statuses["a"].state == "pending"
    assert "took it over" in many.statuses["a"].reason
    assert not cases[0].labels.exists()


def test_faults_are_tried_again_and_bad_files_are_not(folder: Path, tmp_path: Path) -> None:
    (folder / "b.nrrd").write_text("not a volume")
    cases, _ = find_cases([folder], tmp_path / "out")
    failing = [FakeBackend(fail_at=1), FakeBackend()]
    used: list[FakeBackend] = []

    def backend() -> FakeBackend:
        used.append(failing.pop(0) if failing else FakeBackend())
        return used[-1]

    many = Cohort(cases, REQUEST, backend=backend, retries=2)
    list(many.run())
    assert {name: status.state for name, status in many.statuses.items()} == {"a": "done", "b": "failed", "c": "done"}
    attempts = sorted(path.name for path in (tmp_path / "out" / FOLDER).glob("*.jsonl"))
    assert attempts == ["a.0.jsonl", "a.1.jsonl", "b.0.jsonl", "c.0.jsonl"]


def test_a_case_that_takes_too_long_fails_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    cases, _ = find_cases([folder / "a.nii.gz"], tmp_path / "out")
    backend = partial(FakeBackend, delay_s=0.1)  # for another process
    slow = Cohort(cases, replace(REQUEST, steps=1000), backend=backend, limit_s=4)
    list(slow.run())
    assert slow.statuses["a"].state == "failed"
    assert re.search(r"took longer than 4 s \(step \d+ of 1000 was done\)", slow.statuses["a"].reason)
