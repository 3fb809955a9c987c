"""Many volumes, one request: labels and a report for each, whatever becomes of the others.

A case is done when its report stands beside its labels, and the report is written last. Running the same cohort again
leaves out what is done with the same request, weights and voxels, tries again what failed, and goes on with the rest:
a cohort that was stopped, or killed, is continued by running it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from diffatlas import session
from diffatlas.engine.frame import Frame, Result
from diffatlas.engine.request import Request
from diffatlas.engine.run_record import read_report, report_of, to_json
from diffatlas.engine.seam import Backend
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import atomic_path, atomic_write_bytes, is_dicom_folder, named_as_labels, read_volume, write_label_map

log = logging.getLogger(__name__)

READABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
STATUS_FILE = "cohort.json"
MAX_WORKERS = 64

State = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class Case:
    """One volume and the files it leaves: ``labels`` (.nii.gz) and ``report`` (.json)."""

    name: str
    path: Path
    labels: Path
    report: Path


@dataclass(frozen=True)
class Status:
    """How far a case is. ``reason``: one line, why it failed or that it was left out as done; ``fault``: the failure is
    the program's and not the file's. ``step`` of ``total`` steps are made; ``seconds`` it took, once it is done.
    """

    name: str
    state: State = "pending"
    reason: str = ""
    fault: bool = False
    step: int = 0
    total: int = 0
    seconds: float | None = None


def find_cases(inputs: Sequence[Path], output: Path) -> tuple[list[Case], list[str]]:
    """The cases in files, DICOM folders and folders of these, in the order of their names, and what was left out.

    Of a folder its own files are taken, not those of folders below, except that such a folder may hold a DICOM series.
    Files that are named as label maps (``_label``, ``_seg``, ``_mask``) are left out. Raises `BadInput` where there is
    no case, two have one name, or the output folder is one of the inputs.
    """
    paths: list[Path] = []
    notes: list[str] = []
    for path in inputs:
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder")
        if path.is_file() or is_dicom_folder(path):
            paths.append(path)
            continue
        if path.resolve() == output.resolve():
            raise BadInput(f"{output}: is the input folder; give the results a folder of their own")
        inside = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
        volumes = [p for p in inside if (p.is_file() and _stem(p) != p.name) or (p.is_dir() and is_dicom_folder(p))]
        labels = [p for p in volumes if named_as_labels(p)]
        if labels:
            count = "1 file" if len(labels) == 1 else f"{len(labels)} files"
            notes.append(f"{path}: {count} named as label maps left out ({labels[0].name} ...)")
        paths += [p for p in volumes if p not in labels]
    if not paths:
        raise BadInput(f"{', '.join(map(str, inputs))}: no volume there; give {', '.join(READABLE)} or DICOM folders")
    cases: dict[str, Case] = {}
    for path in paths:
        name = _stem(path)
        if name in cases:
            raise BadInput(f"{path} and {cases[name].path}: both would be called {name}; rename one or run it apart")
        cases[name] = Case(name, path, output / f"{name}_labels.nii.gz", output / f"{name}.json")
    for case in cases.values():
        for written in (case.labels, case.report):
            if written.resolve() in {p.resolve() for p in paths}:
                raise BadInput(f"{written}: is also an input; give the results a folder of their own")
    return list(cases.values()), notes


class Cohort:
    """A request on many cases. ``backend`` is called once, in the first worker; None takes the engine on this machine.

    ``workers`` cases are on their way at a time, in threads: the network is in memory once, and no result depends on
    another case. ``redo`` runs also what is done.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        request: Request,
        *,
        backend: Callable[[], Backend] | None = None,
        workers: int = 1,
        redo: bool = False,
    ) -> None:
        if not 1 <= workers <= MAX_WORKERS:
            raise BadInput(f"workers must be between 1 and {MAX_WORKERS}, not {workers}")
        if request.task != "segment" or request.edit is not None:
            raise BadInput("a folder is segmented: a request with another task, or with an edit, fits one image only")
        self.cases = tuple(cases)
        self.request = request
        self.statuses = {case.name: Status(case.name) for case in self.cases}
        self._backend = backend or session.local_backend
        self._workers = workers
        self._redo = redo
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to end, each case within one step; from any thread."""
        self._stop.set()

    def run(self) -> Iterator[Status]:
        """Work through the cases; yield a `Status` whenever one changes, a step being a change. Closing it stops.

        Raises `BadInput` where the output folder cannot be written. What goes wrong with a case is its status.
        """
        for folder in {case.labels.parent for case in self.cases}:
            _make_folder(folder)
        news: queue.Queue[Status | None] = queue.Queue()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="diffatlas-cohort")
        try:
            self._save()
            ahead = [pool.submit(self._one, case, news.put) for case in self.cases]
            for future in ahead:
                future.add_done_callback(lambda _: news.put(None))
            left = len(ahead)
            while left:
                status = news.get()
                if status is None:
                    left -= 1
                    continue
                changed = status.state != self.statuses[status.name].state
                self.statuses[status.name] = status
                if changed:
                    self._save()
                yield status
            for future in ahead:
                future.result()  # nothing a case does raises here; a bug would
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            while not news.empty():  # what ended while nobody listened any more
                late = news.get()
                if late is not None:
                    self.statuses[late.name] = late
            self._save()

    # -- one case, in a thread of the pool ---------------------------------------------------------------------------
    def _one(self, case: Case, tell: Callable[[Status], None]) -> None:
        if self._stop.is_set():
            return
        status = Status(case.name, "running")
        tell(status)
        begin = time.monotonic()
        try:
            volume = read_volume(case.path)
            if not self._redo and self._is_done(case, volume):
                tell(replace(status, state="done", reason="was done already"))
                return
            result = self._segment(case, volume, lambda step, total: tell(replace(status, step=step, total=total)))
            if result is None:
                tell(Status(case.name, "pending", "stopped"))
                return
            self._write(case, volume, result)
            steps = len(result.metrics)
            seconds = time.monotonic() - begin
            tell(replace(status, state="done", step=steps, total=steps, seconds=seconds))
        except BadInput as error:
            tell(replace(status, state="failed", reason=" ".join(str(error).split())))
        except Exception as error:
            log.error("case %s failed", case.name, exc_info=True)
            line = " ".join(str(error).split())[:200]
            tell(replace(status, state="failed", reason=f"{type(error).__name__}: {line}", fault=True))

    def _segment(self, case: Case, volume: Volume, tell: Callable[[int, int], None]) -> Result | None:
        """The result, or None where the cohort was stopped before it was there."""
        result: Result | None = None
        stream = cast(Generator[Frame, None, None], self._backend().stream(volume, self.request))
        with closing(stream):
            for frame in stream:
                result = frame.result
                if result is None and self._stop.is_set():
                    return None
                tell(frame.index + 1, frame.total)
        if result is None:
            raise RuntimeError("the engine ended without a result")
        return result

    def _is_done(self, case: Case, volume: Volume) -> bool:
        """Whether what stands there is what this request would give: same voxels, place, weights and options."""
        try:
            record = read_report(case.report)
            provenance, mark = record["provenance"], record["cohort"]
            source, model = provenance["source"], provenance["model"]
            return bool(
                mark["request"] == _plain_request(self.request)
                and source["sha256"] == volume.sha256()
                and mark["affine"] == volume.grid.affine.tolist()
                and model["sha256"] == session.model_card(str(model["name"])).sha256
                and mark["labels_sha256"] == _file_sha256(case.labels)
            )
        except (BadInput, OSError, KeyError, TypeError):
            return False

    def _write(self, case: Case, volume: Volume, result: Result) -> None:
        """The labels, and then the report that vouches for them; an older report does not outlive its labels."""
        case.report.unlink(missing_ok=True)
        write_label_map(result.labels, case.labels, header=volume.header)
        mark = {
            "request": _plain_request(self.request),
            "affine": volume.grid.affine.tolist(),
            "labels_sha256": _file_sha256(case.labels),
        }
        report = {**report_of(result, case.path), "cohort": mark}
        with atomic_path(case.report) as temporary:
            temporary.write_text(to_json(report) + "\n", encoding="utf-8")

    def _save(self) -> None:
        """``cohort.json`` in each output folder: the state of every case, for people and scripts that look in."""
        for folder in {case.labels.parent for case in self.cases}:
            inputs = {case.name: str(case.path.absolute()) for case in self.cases if case.labels.parent == folder}
            rows = [{**asdict(self.statuses[name]), "input": path} for name, path in inputs.items()]
            with suppress(BadInput):  # the cases themselves say so when the disk is full
                table = {"request": _plain_request(self.request), "cases": rows}
                atomic_write_bytes(folder / STATUS_FILE, (to_json(table) + "\n").encode())


def _plain_request(request: Request) -> Any:
    """The request as JSON gives it back."""
    return json.loads(json.dumps(request.to_json()))


def _stem(path: Path) -> str:
    """The name without the suffix of a volume; the whole name where it has none."""
    lower = path.name.lower()
    return next((path.name[: -len(suffix)] for suffix in READABLE if lower.endswith(suffix)), path.name)


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({(error.strerror or str(error)).lower()})") from error
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{folder}: no permission to write there; choose another folder")
