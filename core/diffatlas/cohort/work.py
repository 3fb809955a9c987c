"""One case: read, segment, write; and the same in a process of its own, which can be ended amid anything.

A thread cannot be ended while it waits for a file system that does not answer, and its memory is that of all threads.
So a cohort with a limit of time or memory hands its cases to processes, which keep their model between
cases: one that goes beyond a limit is killed, and the next case gets a new one.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from diffatlas.cohort.case import Case, Status
from diffatlas.cohort.done import Results, stamp_of
from diffatlas.engine.frame import Frame, Result
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_volume, sweep
from diffatlas.session import Backend

log = logging.getLogger(__name__)

# Between two looks at a process: how much memory it has, whether it should stop.
LOOK_S = 0.05
# To import the engine, from a file system that others may be using.
START_S = 600.0
END_S = 5.0
STOPPED = "stopped"
TAKEN_OVER = "another process took it over"


@dataclass(frozen=True)
class Ways:
    """How a case's work reaches its cohort.

    ``tell``: steps done, of how many. ``stopped``: whether to give up before the next step; ``may_write``: asked once,
    when the labels are there.
    """

    tell: Callable[[int, int], None]
    stopped: Callable[[], bool]
    may_write: Callable[[], bool]


def work(case: Case, request: Request, backend: Callable[[], Backend], ways: Ways) -> Status:
    """Do a case; whatever goes wrong with it is its status. "pending" where it was stopped, or is another's now."""
    status = Status(case.name, "running")
    begin = time.monotonic()
    try:
        if case.problem:
            raise BadInput(case.problem)
        stamp = stamp_of(case.path)
        volume = read_volume(case.path)
        if case.modality is not None:
            volume = volume.named(case.modality)
        result = _segment(volume, request, backend(), ways)
        if result is None:
            return Status(case.name, "pending", STOPPED)
        if not ways.may_write():
            return Status(case.name, "pending", TAKEN_OVER)
        Results().write(case, volume, request, result, stamp)
        steps = len(result.metrics)
        return replace(status, state="done", step=steps, total=steps, seconds=time.monotonic() - begin)
    except BadInput as error:
        return replace(status, state="failed", reason=" ".join(str(error).split()))
    except Exception as error:
        log.error("case %s failed", case.name, exc_info=True)
        line = " ".join(str(error).split())[:200]
        return replace(status, state="failed", reason=f"{type(error).__name__}: {line}", fault=True)


def _segment(volume: Volume, request: Request, backend: Backend, ways: Ways) -> Result | None:
    """The result, or None where the cohort was stopped before it was there."""
    result: Result | None = None
    with closing(cast(Generator[Frame, None, None], backend.stream(volume, request))) as stream:
        for frame in stream:
            result = frame.result
            if result is None and ways.stopped():
                return None
            ways.tell(frame.index + 1, frame.total)
    if result is None:
        raise RuntimeError("the engine ended without a result")
    return result


class CaseProcess:
    """A process that does one case after another. ``backend`` is called there, so it must be picklable: a function or
    class of a module, or a `functools.partial` of one.

    ``limit_s``: longest time for a case; ``memory_mb``: most resident memory of the process (libraries and model
    included), looked at every `LOOK_S`.
    """

    def __init__(self, backend: Callable[[], Backend], limit_s: float | None, memory_mb: float | None) -> None:
        self._backend, self._limit_s, self._memory_mb = backend, limit_s, memory_mb
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def do(self, case: Case, request: Request, ways: Ways) -> Status:
        """`work`, over there. A process that goes beyond a limit is ended, and so is one whose cohort was stopped."""
        step = Status(case.name, "running")
        try:
            pipe = self._started(ways.stopped)
            if pipe is None:
                return Status(case.name, "pending", STOPPED)
            pipe.send((case, request))
            begin = time.monotonic()
            while True:
                if pipe.poll(LOOK_S):
                    said = pipe.recv()
                    if isinstance(said, Status):
                        return said
                    if said is None:
                        pipe.send(ways.may_write())
                    else:
                        step = replace(step, step=said[0], total=said[1])
                        ways.tell(*said)
                    continue
                if ways.stopped():
                    return self._killed(case, Status(case.name, "pending", STOPPED))
                if reason := self._beyond(time.monotonic() - begin, step):
                    return self._killed(case, replace(step, state="failed", reason=reason))
        except (EOFError, OSError):
            reason = f"its process ended by itself ({self._how_it_ended()})"
            return self._killed(case, replace(step, state="failed", reason=reason, fault=True))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is not None:
            process.kill()
            process.join(END_S)  # one that the system itself cannot wake is left behind

    def _started(self, stopped: Callable[[], bool]) -> Connection | None:
        if self._pipe is not None:
            return self._pipe
        if multiprocessing.current_process().daemon:
            raise BadInput(
                "limits need a process for each case, which a daemon may not start; start workers of dask with "
                "DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )
        # A fork of a process with threads may stand still in a lock that one of them held.
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(there, self._backend), name="diffatlas-case", daemon=True)
        self._process.start()
        there.close()
        self._pipe = here
        begin = time.monotonic()
        while not here.poll(LOOK_S):
            if stopped():
                self.close()
                return None
            if time.monotonic() - begin > START_S:
                raise EOFError
        here.recv()
        return here

    def _beyond(self, seconds: float, step: Status) -> str:
        """Which limit the process is beyond, in words; empty where none."""
        if self._limit_s is not None and seconds > self._limit_s:
            where = f"step {step.step} of {step.total} was done" if step.total else "no step was done"
            return f"took longer than {self._limit_s:g} s ({where}); raise the time limit or ask for fewer steps"
        if self._memory_mb is not None and self._process is not None:
            used = resident_mb(str(self._process.pid))
            if used is not None and used > self._memory_mb:
                return f"needed more than {self._memory_mb:g} MB of memory; raise the memory limit"
        return ""

    def _killed(self, case: Case, status: Status) -> Status:
        self.close()
        with suppress(OSError):
            sweep(case.output)  # it may have been writing
        return status

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "it could not be started"
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            return f"not ready after {START_S:g} s"
        if code < 0:
            with suppress(ValueError):
                return f"{signal.Signals(-code).name}; perhaps there was too little memory"
        return f"exit code {code}"


def _serve(pipe: Connection, backend: Callable[[], Backend]) -> None:
    """What the process does: cases that come through ``pipe``, until nobody is at its other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches both; the cohort ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def may_write() -> bool:
        pipe.send(None)
        return bool(pipe.recv())

    ways = Ways(lambda step, total: pipe.send((step, total)), lambda: False, may_write)
    with suppress(EOFError, OSError):
        with suppress(Exception):  # what keeps it from starting is told of the first case
            backend()
        pipe.send(None)
        while True:
            case, request = pipe.recv()
            pipe.send(work(case, request, backend, ways))


def resident_mb(pid: str) -> float | None:
    """Resident memory of a process, MB; None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        return None
