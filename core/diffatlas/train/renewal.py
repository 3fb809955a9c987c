"""Cases that are drawn while a run trains: with each update the oldest leave and others come in their place.

Drawn sources have no end, so a run need not see the same few hundred cases again and again. Which cases are there at
an update is a function of its number alone: a resumed run draws those that were there and goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import count, islice
from multiprocessing import get_context
from types import TracebackType
from typing import Self

import torch

from diffatlas.data import Case, Drawn, DrawnAnatomy, Outcome, PreparedCase, default_workers, prepare_case, quiet
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.train.config import DataConfig
from diffatlas.train.draws import torch_generator
from diffatlas.train.prepared import Prepared
from diffatlas.train.sources import collection_of

# Seeds of one place in the set are this far apart; a set is never so large.
APART = 1_000_003


class Renewal:
    """Puts new cases into ``data``, the first ``len(data)`` of the source, in a random order of their places.

    ``to`` brings the set to what an update sees. Use it as a context: it holds ``pool``, by default a process for each
    processor.
    """

    def __init__(
        self, config: DataConfig, space: ModelSpace, data: Prepared, seed: int, pool: Executor | None = None
    ) -> None:
        collection, self.plan = collection_of(config, space)
        if not all(isinstance(c.image, Drawn | DrawnAnatomy) for c in collection.cases):
            raise BadInput(f"data.renew: the source '{config.source}' has no more cases than it has; set it to 0")
        self.rate, self.data = config.renew, data
        self.cases = collection.cases[: len(data)]
        self.order = torch.randperm(len(data), generator=torch_generator(seed, "renewal"), device="cpu").tolist()
        self.done = 0  # cases that were put in place
        # A process that holds a GPU must not be forked.
        self.pool = pool or ProcessPoolExecutor(default_workers(), get_context("spawn"), initializer=quiet)
        self.ahead = 4 * default_workers()
        self.waiting: deque[tuple[int, Future[Outcome]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def to(self, update: int) -> None:
        """Bring the set to what ``update`` sees; waits where the processes have not drawn that far."""
        wanted = int(update * self.rate)
        if wanted - self.done > len(self.data):  # a resumed run: only the last case of each place is still there
            self.done = wanted - len(self.data)
            self.waiting.clear()  # what was drawn ahead has left again
        try:
            for number in range(self.done, wanted):
                place, future = self._next(number)
                self._put(place, future.result())
        except BrokenProcessPool as error:
            raise BadInput(
                "a process that draws cases was ended by the system, most likely for want of memory"
            ) from error
        self.done = wanted

    def case(self, number: int) -> tuple[int, Case]:
        """Which place the case ``number`` takes, and the case: the place's first with another seed."""
        size = len(self.cases)
        place = self.order[number % size]
        first = self.cases[place]
        assert isinstance(first.image, Drawn | DrawnAnatomy)
        image = replace(first.image, seed=first.image.seed + (number // size + 1) * APART)
        return place, replace(first, id=f"{first.id}-{number // size + 1}", image=image)

    def _next(self, number: int) -> tuple[int, Future[Outcome]]:
        if not self.waiting:
            self.coming: Iterator[int] = count(number)
        for following in islice(self.coming, self.ahead + 1 - len(self.waiting)):
            place, case = self.case(following)
            self.waiting.append((place, self.pool.submit(prepare_case, case, self.plan)))
        return self.waiting.popleft()

    def _put(self, place: int, drawn: Outcome) -> None:
        assert isinstance(drawn, PreparedCase)  # a drawn case has no file that could be wrong
        device = self.data.image.device
        self.data.image[place] = torch.from_numpy(drawn.image).to(device)
        self.data.sdf[place] = torch.from_numpy(drawn.sdf).to(device)
        if self.data.known is not None:
            self.data.known[place] = 1 if drawn.known is None else torch.from_numpy(drawn.known).to(device)
