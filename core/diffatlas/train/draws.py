"""Random numbers that belong to a sample, not to a process.

Every draw is a function of (seed, update, place in the global batch, name): a counter-based generator (Philox) is keyed
with them. So a batch is the same batch however many processes share it and into however many parts it is cut, and a
run that is resumed needs no generator's state. All are drawn on the CPU: a GPU sees the same numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("/".join(str(p) for p in parts).encode()).digest()


def torch_generator(*parts: object) -> torch.Generator:
    """A CPU generator that is a function of ``parts``."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(*parts)[:8], "little") >> 1)


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws of ``indices`` [B], places in a global batch of ``size`` samples, at one ``update``.

    What is drawn under one name is the same each time it is asked for; different draws have different names.
    """

    seed: int
    update: int
    size: int
    indices: tuple[int, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.indices)

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal float32 [B, *shape]."""
        rows = [self._generator(name, i).standard_normal(shape, dtype=np.float32) for i in self.indices]
        return self._stacked(rows, shape)

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in [0, 1), float32 [B, *shape]."""
        rows = [self._generator(name, i).random(shape, dtype=np.float32) for i in self.indices]
        return self._stacked(rows, shape)

    def between(self, name: str, width: float, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in +- ``width``, float32 [B, *shape]."""
        return (self.uniform(name, shape) * 2 - 1) * width

    def batch(self, name: str) -> torch.Generator:
        """One generator for what is drawn over the whole global batch; the same in every process. See `rows`."""
        return torch_generator(self.seed, self.update, name)

    def rows(self, whole: Tensor) -> Tensor:
        """Of a tensor [size, ...] over the global batch the rows of these samples [B, ...], on their device."""
        return whole[list(self.indices)].to(self.device)

    def select(self, chosen: Tensor) -> Draws:
        """The draws of some of these samples; ``chosen``: int64 [n], positions in `indices`."""
        return replace(self, indices=tuple(self.indices[int(i)] for i in chosen))

    def _generator(self, name: str, index: int) -> np.random.Generator:
        key = int.from_bytes(_digest(self.seed, self.update, index, name)[:16], "little")
        return np.random.Generator(np.random.Philox(key=key))

    def _stacked(self, rows: list[np.ndarray], shape: tuple[int, ...]) -> Tensor:
        stacked = np.stack(rows) if rows else np.empty((0, *shape), dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(stacked, dtype=np.float32)).to(self.device)
