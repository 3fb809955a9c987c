"""Many cases at once, each in a process of its own share, in a fixed order."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from diffatlas.data.case import Case, Refused
from diffatlas.data.resample import Plan, PreparedCase, prepare_case
from diffatlas.errors import BadInput

Outcome = PreparedCase | Refused


def default_workers() -> int:
    """The processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def prepare_all(cases: Sequence[Case], plan: Plan, workers: int | None = None) -> Generator[Outcome]:
    """Every case in model space, or refused with a reason, in the order of ``cases``.

    The pool starts when this is called, not with the first result: a process that already runs other threads (a
    progress bar) should not be forked. One worker is this process itself. Closing the iterator drops what has not
    begun.
    """
    count = min(default_workers() if workers is None else workers, len(cases))
    if count < 1 and cases:
        raise BadInput(f"{count} workers cannot prepare anything; give at least one")
    if count <= 1:
        return (prepare_case(case, plan) for case in cases)
    pool = ProcessPoolExecutor(count, initializer=quiet)
    waiting = iter(cases)
    # A few ahead for each worker: a thousand finished cases should not wait in memory for a slow one.
    first = [pool.submit(prepare_case, case, plan) for case in islice(waiting, 4 * count)]
    return _drain(pool, first, waiting, plan)


def _drain(
    pool: ProcessPoolExecutor, futures: list[Future[Outcome]], waiting: Iterator[Case], plan: Plan
) -> Generator[Outcome]:
    try:
        while futures:
            outcome = futures.pop(0).result()
            futures += [pool.submit(prepare_case, case, plan) for case in islice(waiting, 1)]
            yield outcome
    except BrokenProcessPool as error:
        raise BadInput("a worker was ended by the system, most likely for want of memory; use fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def quiet() -> None:
    """Ctrl-C reaches the whole process group; the parent alone answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
