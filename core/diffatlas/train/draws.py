"""Random numbers per sample: independent of the number of processes and of earlier draws.

Every draw is a function of (seed, update, place in the global batch, name): a counter-based generator (Philox) is keyed
with them. So a batch is the same batch however many processes share it and into however many parts it is cut, and a
run that is resumed needs no generator's state. Where the samples are on a CUDA device, large draws (noise) are made
there, by the same key but with other numbers than on a CPU; the small ones, which decide anatomy and levels, are the
same everywhere.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
# Draws of more numbers than this are worth sharing among processors, or making on the device.
SHARED = 100_000


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
        if self._on_device(shape):
            return self._device(name, shape, torch.Tensor.normal_)
        return self._each(name, shape, lambda g, out: g.standard_normal(out=out, dtype=np.float32))

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform in [0, 1), float32 [B, *shape]."""
        if self._on_device(shape):
            return self._device(name, shape, torch.Tensor.uniform_)
        return self._each(name, shape, lambda g, out: g.random(out=out, dtype=np.float32))

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

    @property
    def at_hand(self) -> Draws:
        """The same draws on the CPU, for decisions: asking a GPU for a number would make the processor wait."""
        return replace(self, device=torch.device("cpu"))

    def _generator(self, name: str, index: int) -> np.random.Generator:
        key = int.from_bytes(_digest(self.seed, self.update, index, name)[:16], "little")
        return np.random.Generator(np.random.Philox(key=key))

    def _on_device(self, shape: tuple[int, ...]) -> bool:
        return self.device.type == "cuda" and math.prod(shape) > SHARED

    def _device(self, name: str, shape: tuple[int, ...], fill: Callable[..., object]) -> Tensor:
        out = torch.empty((len(self), *shape), device=self.device)
        for row, index in zip(out, self.indices, strict=True):
            key = int.from_bytes(_digest(self.seed, self.update, index, name)[:8], "little") >> 1
            fill(row, generator=torch.Generator(self.device).manual_seed(key))
        return out

    def _each(self, name: str, shape: tuple[int, ...], fill: Callable[[np.random.Generator, Floats], object]) -> Tensor:
        out = np.empty((len(self), *shape), dtype=np.float32)

        def one(row: int) -> None:
            fill(self._generator(name, self.indices[row]), out[row, ...] if shape else out[row : row + 1])

        # Each row is its own, so who draws it changes nothing; a network on a GPU would wait for a single processor.
        if out.size > SHARED and len(self) > 1 and (threads := _threads(self.device)) > 1:
            list(_pool(threads).map(one, range(len(self))))
        else:
            for row in range(len(self)):
                one(row)
        return torch.from_numpy(out).to(self.device)


def _threads(device: torch.device) -> int:
    """Processors that this process may draw with."""
    if device.type == "cpu":  # those that the network has to itself
        return torch.get_num_threads()
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", "1"))))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
