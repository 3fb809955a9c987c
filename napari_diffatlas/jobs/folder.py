"""A cohort as a job of the widget's runner: updates at a rate that a viewer can draw; knows no Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from diffatlas.cohort import Cohort, Status, find_cases
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Modality
from diffatlas.session import Backend
from napari_diffatlas.jobs.worker import INTERVAL_S, Failed, Stopped, guarded


@dataclass(frozen=True)
class Listed:
    """The cases found in the folder, with their files, and lines on files that were left out."""

    cases: tuple[tuple[str, Path, Path], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """Every case was run."""

    statuses: tuple[Status, ...]


FolderUpdate = Listed | Status | Finished | Stopped | Failed


class FolderRun:
    """One pass over a folder: iterate `updates` in a worker; call `stop` from any thread.

    It cannot be paused, but a stopped run continues when it is started again. ``modality``: of the volumes; None:
    decided for each.
    """

    endings = (Finished,)

    def __init__(
        self,
        folder: Path,
        output: Path,
        request: Request,
        backend: Callable[[], Backend],
        *,
        modality: Modality | None = None,
        workers: int = 1,
        redo: bool = False,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._folder, self._output, self._request, self._backend = folder, output, request, backend
        self._modality, self._workers, self._redo, self._interval_s = modality, workers, redo, interval_s
        self._cohort: Cohort | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ask the run to end; every running case ends within one step."""
        self._stopped = True
        if self._cohort is not None:
            self._cohort.stop()

    def pause(self) -> None:
        """Not of use here."""

    def resume(self) -> None:
        """Not of use here."""

    def shown(self) -> None:
        """Not of use here: rows of a table are drawn at once."""

    def updates(self) -> Iterator[FolderUpdate]:
        """`Listed`, a `Status` for every change, then exactly one of `Finished`, `Stopped`, `Failed`."""
        yield from guarded(self._updates())

    def _updates(self) -> Iterator[FolderUpdate]:
        found, notes = find_cases([self._folder], self._output)
        cases = [replace(case, modality=self._modality) for case in found]
        yield Listed(tuple((case.name, case.path, case.labels) for case in cases), tuple(notes))
        self._cohort = cohort = Cohort(
            cases, self._request, backend=self._backend, workers=self._workers, redo=self._redo
        )
        if self._stopped:  # before there was a cohort to stop
            cohort.stop()
        last_s = -float("inf")
        with closing(cast(Generator[Status, None, None], cohort.run())) as news:
            for status in news:
                now = time.monotonic()
                if status.state == "running" and status.step and now - last_s < self._interval_s:
                    continue
                last_s = now
                yield status
        if self._stopped:
            yield Stopped(sum(status.state == "done" for status in cohort.statuses.values()))
        else:
            yield Finished(tuple(cohort.statuses.values()))
