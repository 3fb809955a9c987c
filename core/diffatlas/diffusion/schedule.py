"""Noise schedules: t -> (alpha, sigma), variance preserving, alpha^2 + sigma^2 = 1; t in [0, 1], 0 is data and 1 noise.

``x_t = alpha(t) x_0 + sigma(t) eps``.

- `cosine`: alpha = cos(pi t / 2), the continuous form our models are trained with.
- `DiscreteCosine(T)`: the published one (Nichol and Dhariwal 2021, s = 0.008), known at T discrete steps; step i of the
  published code is t = (i + 1) / T here, and t = 0 is data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]


def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    """Continuous cosine schedule: (cos, sin) of pi t / 2, same shape as ``t``."""
    angle = t * (math.pi / 2)
    # cos(pi / 2) is 6e-17 in floating point; the network was trained with alpha = 0 there.
    return torch.where(t >= 1, torch.zeros_like(t), angle.cos()), angle.sin()


def trailing(t: Tensor) -> Tensor:
    """The level 1 - (1 - t)^2 >= t of an image (or mask) that trails a mask (or image) at ``t``."""
    return 1 - (1 - t).square()


@lru_cache(maxsize=8)
def published_alphas_cumprod(steps: int, s: float = 0.008) -> Tensor:
    """Cumulative product of (1 - beta), float64 [steps], of the published discrete cosine schedule."""
    u = torch.linspace(0, steps, steps + 1, dtype=torch.float64)
    f = torch.cos(((u / steps) + s) / (1 + s) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(0, 0.9999)
    return torch.cumprod(1 - betas, dim=0)


@dataclass(frozen=True)
class DiscreteCosine:
    """The published schedule of ``steps`` discrete levels as a function of t in [0, 1], nearest level."""

    steps: int = 300

    def index(self, t: Tensor) -> Tensor:
        """The published code's integer step, -1 where t is 0 (data); int64, shape of ``t``."""
        return torch.round(t * self.steps).long() - 1

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = published_alphas_cumprod(self.steps).to(t.device)
        acp = torch.cat([table.new_ones(1), table])[self.index(t).clamp(-1, self.steps - 1) + 1]
        return acp.sqrt().to(t.dtype), (1 - acp).sqrt().to(t.dtype)
