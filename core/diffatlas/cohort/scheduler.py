"""A cohort on a cluster of `dask.distributed <https://distributed.dask.org>`_ that somebody has started.

Each task is a few cases, done by a `Cohort` on a worker: the worker has this program, and sees inputs, models and
results under the same paths. What is done and what is held is said by the files, as ever, so that dask may do a task
again whose worker was lost, and other processes may work on the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from diffatlas.cohort.case import Case, Status
from diffatlas.cohort.run import Cohort
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput

CONNECT_S = 30.0


class Scheduled:
    """``cases`` in tasks of ``per_task`` on the scheduler at ``address`` (``tcp://host:8786``).

    ``options``: those of `Cohort`; they are pickled. `run` as `Cohort`'s, but a status comes when its task has ended.
    """

    def __init__(
        self, address: str, cases: Sequence[Case], request: Request, per_task: int = 1, **options: Any
    ) -> None:
        if per_task < 1:
            raise BadInput(f"cases of a task must be 1 or more, not {per_task}")
        self.cases = tuple(cases)
        self.statuses = {case.name: Status(case.name) for case in self.cases}
        Cohort(self.cases, request, **options)  # raises what is wrong with the options here, not on a worker
        self._address, self._request, self._per_task, self._options = address, request, per_task, options

    def run(self) -> Iterator[Status]:
        """Work through the cases; closing it cancels tasks that have not begun, and ends without waiting for others."""
        try:
            distributed: Any = import_module("distributed")
        except ImportError as error:
            raise BadInput("a scheduler needs dask.distributed: pip install 'napari-diffatlas[cluster]'") from error
        try:
            client = distributed.Client(self._address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"{self._address}: no scheduler of dask answers ({' '.join(str(error).split())})") from error
        try:
            size = self._per_task
            tasks = [self.cases[begin : begin + size] for begin in range(0, len(self.cases), size)]
            futures = client.map(_do, tasks, request=self._request, options=self._options, pure=False)
            task_of = dict(zip((future.key for future in futures), tasks, strict=True))
            try:
                for future in distributed.as_completed(futures, loop=client.loop):
                    for status in self._statuses(future, task_of[future.key]):
                        self.statuses[status.name] = status
                        yield status
            finally:
                client.cancel(futures)
        finally:
            client.close()

    def _statuses(self, future: Any, cases: Sequence[Case]) -> list[Status]:
        """What became of a task's cases; those of a task that dask gave up have failed by a fault of the machine."""
        if future.status == "finished":
            ended: list[Status] = future.result()
            return ended
        error = future.exception() if future.status == "error" else None
        if isinstance(error, BadInput):
            raise error
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200] if error else f"its task was {future.status}"
        return [Status(case.name, "failed", line, fault=True) for case in cases]


def _do(cases: Sequence[Case], request: Request, options: dict[str, Any]) -> list[Status]:
    """What a worker does."""
    cohort = Cohort(cases, request, **options)
    for _ in cohort.run():
        pass
    return list(cohort.statuses.values())
