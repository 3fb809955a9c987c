"""A request on many cases: labels and a report for each, whatever becomes of the others.

Any number of threads, processes and machines may work on the same folder of results; `diffatlas.cohort.attempts` says
who does what. A cohort that was stopped, or killed, is continued by running it again.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diffatlas import session
from diffatlas.cohort.attempts import FOLDER, HEARTBEAT_S, STALE_S, Attempt, Attempts
from diffatlas.cohort.case import Case, Status
from diffatlas.cohort.done import Results
from diffatlas.cohort.work import CaseProcess, Ways, resident_mb, work
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.io import sweep
from diffatlas.session import Backend

# How a worker does a case: here, or in a process of its own.
Do = Callable[[Case, Request, Ways], Status]

log = logging.getLogger(__name__)

MAX_WORKERS = 64
# Between two looks at cases that other processes hold, seconds.
LOOK_S = (0.05, 5.0)


class Cohort:
    """A request on many cases. ``backend`` is called once, in the first worker; None takes the engine on this machine.
    ``weights_of`` gives the hash of a model's weights by its name, None looks into the model's card here.

    ``workers`` cases are on their way at a time, in threads: the network is in memory once, and no result depends on
    another case. ``redo`` runs also what is done. ``limit_s``: longest time for a case; ``memory_mb``: most memory of
    the process that does it. With either of them each worker hands its cases to a process, which is killed beyond the
    limit (`diffatlas.cohort.work.CaseProcess`); ``backend`` must then be picklable. ``retries``: how often a case is
    tried again in this run where the fault is the program's or the machine's.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        request: Request,
        *,
        backend: Callable[[], Backend] | None = None,
        weights_of: Callable[[str], str] | None = None,
        workers: int = 1,
        redo: bool = False,
        limit_s: float | None = None,
        memory_mb: float | None = None,
        retries: int = 0,
        heartbeat_s: float = HEARTBEAT_S,
        stale_s: float = STALE_S,
    ) -> None:
        if not 1 <= workers <= MAX_WORKERS:
            raise BadInput(f"workers must be between 1 and {MAX_WORKERS}, not {workers}")
        if not 0 <= retries <= 100:
            raise BadInput(f"retries must be between 0 and 100, not {retries}")
        if limit_s is not None and not limit_s > 0:
            raise BadInput(f"the time limit must be above 0 seconds, not {limit_s:g}")
        if memory_mb is not None and not memory_mb > 0:
            raise BadInput(f"the memory limit must be above 0 MB, not {memory_mb:g}")
        if memory_mb is not None and resident_mb("self") is None:
            raise BadInput("a limit of memory needs /proc, which this system does not have")
        if request.task != "segment" or request.edit is not None:
            raise BadInput("a folder is segmented: a request with another task, or with an edit, fits one image only")
        self.cases = tuple(cases)
        self.request = request
        self.statuses = {case.name: Status(case.name) for case in self.cases}
        self._backend = backend or session.local_backend
        self._workers, self._redo = workers, redo
        self._limit_s, self._memory_mb, self._retries = limit_s, memory_mb, retries
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._results = Results(weights_of)
        self._attempts: dict[Path, Attempts] = {}
        self._began_s: dict[Path, float] = {}
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to end, each case within one step; from any thread."""
        self._stop.set()

    def run(self) -> Iterator[Status]:
        """Work through the cases; yield a `Status` whenever one changes, a step being a change. Closing it stops.

        Raises `BadInput` where the output folder cannot be written. What goes wrong with a case is its status.
        """
        news: queue.Queue[Status | BaseException | None] = queue.Queue()
        with ExitStack() as stack:
            for folder in {records_of(case) for case in self.cases}:
                make_folder(folder.parent)
                make_folder(folder)
                self._attempts[folder] = stack.enter_context(
                    Attempts(folder, heartbeat_s=self._heartbeat_s, stale_s=self._stale_s)
                )
                self._began_s[folder] = self._attempts[folder].now_s()
            for folder in {case.output for case in self.cases}:
                sweep(folder)
            todo = _Turns(self.cases)
            threads = [
                threading.Thread(target=self._work, args=(todo, news.put), name=f"diffatlas-cohort-{i}", daemon=True)
                for i in range(min(self._workers, max(len(self.cases), 1)))
            ]
            for thread in threads:
                thread.start()
            left = len(threads)
            try:
                while left:
                    item = news.get()
                    if item is None:
                        left -= 1
                    elif isinstance(item, BaseException):
                        raise item  # nothing a case does raises here; a bug would
                    else:
                        self.statuses[item.name] = item
                        yield item
            finally:
                self._stop.set()
                for thread in threads:
                    thread.join()
                while not news.empty():  # what ended while nobody listened any more
                    late = news.get()
                    if isinstance(late, Status):
                        self.statuses[late.name] = late

    # -- in a worker's thread ----------------------------------------------------------------------------------------
    def _work(self, todo: _Turns, tell: Callable[[Status | BaseException | None], None]) -> None:
        process: CaseProcess | None = None
        try:
            wait_s = LOOK_S[0]
            do: Do = partial(_here, self._backend)
            if self._limit_s is not None or self._memory_mb is not None:
                process = CaseProcess(self._backend, self._limit_s, self._memory_mb)
                do = process.do
            while not self._stop.is_set():
                case = todo.take()
                if case is None:
                    if not todo.waiting:
                        break
                    # Others hold what is left: look again, ever more rarely, and not all at once.
                    self._stop.wait(wait_s * random.uniform(0.5, 1.0))
                    wait_s = min(wait_s * 1.5, LOOK_S[1])
                    todo.look_again()
                    continue
                if self._one(case, tell, do):
                    wait_s = LOOK_S[0]
                else:
                    todo.put_back(case)
        except BaseException as error:
            self._stop.set()
            tell(error)
        finally:
            if process is not None:
                process.close()
            tell(None)

    def _one(self, case: Case, tell: Callable[[Status], None], do: Do) -> bool:
        """Do a case, or find that it needs nothing; False while another process has it."""
        request = request_of(case, self.request)
        attempts = self._attempts[records_of(case)]
        status = Status(case.name, "running")
        if not self._redo and self._results.are_there(case, request):
            tell(status)
            tell(replace(status, state="done", reason="was done already"))
            return True
        seen = attempts.newest(case.key)
        if seen is not None:
            if seen.held:
                return False
            if seen.end is not None and seen.at_s > self._began_s[attempts.folder]:
                ended = self._ended_elsewhere(case, seen.end)
                if ended is not None:
                    tell(ended)
                    return True
        attempt = attempts.take(case.key)
        if attempt is None:
            return False
        # Its last holder may have finished between the two looks.
        if seen is None and attempt.number == 0 and not case.report.exists():
            done = False
        else:
            done = not self._redo and self._results.are_there(case, request)
        if done:
            attempts.end(attempt, {"state": "done", "reason": "was done already"})
            tell(status)
            tell(replace(status, state="done", reason="was done already"))
            return True
        tell(status)
        self._tried(case, request, attempts, attempt, tell, do)
        return True

    def _ended_elsewhere(self, case: Case, end: dict[str, Any]) -> Status | None:
        """What another process found since this one began; None where the case is to be tried here."""
        if end.get("state") == "failed":
            return Status(case.name, "failed", str(end.get("reason", "")), fault=bool(end.get("fault")))
        if end.get("state") == "done" and self._redo:  # what stands there is new
            return Status(case.name, "done", "was done by another process")
        return None

    def _tried(
        self,
        case: Case,
        request: Request,
        attempts: Attempts,
        attempt: Attempt,
        tell: Callable[[Status], None],
        do: Do,
    ) -> None:
        """Try a case until it is done, has failed for good, or the cohort was stopped."""
        for left in range(self._retries, -1, -1):
            ways = Ways(
                lambda step, total: tell(Status(case.name, "running", step=step, total=total)),
                self._stop.is_set,
                partial(attempts.holds, attempt),
            )
            last = do(case, request, ways)
            if last.state == "pending":
                attempts.end(attempt, {"state": "stopped"})
            else:
                said = {"state": last.state, "reason": last.reason, "fault": last.fault, "steps": last.total}
                attempts.end(attempt, {"name": case.name, **said})
            again = attempts.take(case.key) if last.fault and left and not self._stop.is_set() else None
            if again is None:
                tell(last)
                return
            attempt = again
            log.warning("case %s is tried again: %s", case.name, last.reason)


def _here(backend: Callable[[], Backend], case: Case, request: Request, ways: Ways) -> Status:
    return work(case, request, backend, ways)


class _Turns:
    """The cases in their order, for several threads; those that other processes hold are looked at again."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases, self._next = cases, 0
        self._again: list[Case] = []
        self._held: list[Case] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> bool:
        with self._lock:
            return bool(self._held or self._again)

    def take(self) -> Case | None:
        with self._lock:
            if self._next < len(self._cases):
                self._next += 1
                return self._cases[self._next - 1]
            return self._again.pop() if self._again else None

    def put_back(self, case: Case) -> None:
        with self._lock:
            self._held.append(case)

    def look_again(self) -> None:
        with self._lock:
            self._again, self._held = [*self._again, *reversed(self._held)], []


def request_of(case: Case, request: Request) -> Request:
    """``request`` with the region that is the case's own."""
    return request if case.roi is None else replace(request, roi=case.roi)


def records_of(case: Case) -> Path:
    """The folder of a case's attempts."""
    return case.output / FOLDER


def make_folder(folder: Path) -> None:
    """Make it where it is missing; `BadInput` where that cannot be, or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({(error.strerror or str(error)).lower()})") from error
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{folder}: no permission to write there; choose another folder")
