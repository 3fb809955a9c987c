"""Samplers: plain generators that read like the algorithms, from x_t at ``times[0]`` down to ``times[-1]``.

Each takes an x0-denoiser and a schedule and yields a `Step` after every move; the caller decides what to show and when
to stop. ``t`` is shared by all samples of the batch.

``torch.no_grad()`` ends before each ``yield``, or it would leak to the consumer. It is no decorator: that would keep
the first state and the last step alive for as long as a sample waits for its next step, and many may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser
from diffatlas.diffusion.guidance import NoiseSource
from diffatlas.diffusion.schedule import Schedule, trailing


@dataclass(frozen=True, eq=False)
class Step:
    """State after move ``index`` of ``total``: noise level ``t``, ``x`` at t, and the denoiser's ``x0``."""

    index: int
    total: int
    t: float
    x: Tensor
    x0: Tensor


Sampler = Callable[[Denoiser, Schedule, Tensor, Sequence[float], NoiseSource], Iterator[Step]]


def uniform_times(steps: int, start: float = 1.0) -> list[float]:
    """steps + 1 noise levels from ``start`` down to 0."""
    return [start * (steps - i) / steps for i in range(steps + 1)]


def crowded_times(steps: int, start: float = 1.0) -> list[float]:
    """steps + 1 levels from ``start`` down to 0, closer together towards 1: t = 1 - u^2 with u evenly spaced.

    A smooth field is visible in much stronger noise, so the shape of a generated pair is decided at levels close to 1.
    With evenly spaced levels it would be decided in one step, and be the mean shape.
    """
    first = (1 - start) ** 0.5
    return [1 - (first + (1 - first) * i / steps) ** 2 for i in range(steps + 1)]


def discrete_times(steps: int, start: float, levels: int) -> list[float]:
    """Like `uniform_times`, on the grid of a schedule that knows ``levels`` levels: none twice, only the last is 0.

    ``start`` moves to the nearest level; there are never more steps than levels below it.
    """
    first = max(1, round(start * levels))
    steps = min(steps, first)
    return [round(first * (steps - i) / steps) / levels for i in range(steps + 1)]


def mask_first(denoiser: Denoiser, schedule: Schedule, structures: int) -> tuple[Denoiser, Schedule]:
    """Denoiser and schedule for a sampler whose t is the mask's level; the image is at the higher level `trailing`."""

    def both(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        return denoiser(x, trailing(t_image), t_mask)

    def levels(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(torch.stack([trailing(t)] + [t] * structures))
        return alpha[:, None, None, None], sigma[:, None, None, None]

    return both, levels


def _ask(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    level = torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)
    return denoiser(x, level, level)


def _levels(schedule: Schedule, t: float, like: Tensor) -> tuple[Tensor, Tensor]:
    return schedule(torch.tensor(t, dtype=torch.float64, device=like.device))


def ddim(
    denoiser: Denoiser, schedule: Schedule, x: Tensor, times: Sequence[float], noise: NoiseSource, eta: float = 0.0
) -> Iterator[Step]:
    """Song et al. 2021 (arXiv 2010.02502), eq. 12; ``eta`` 0 is deterministic, 1 is ancestral sampling."""
    total = len(times) - 1
    for index, (t, s) in enumerate(pairwise(times)):
        with torch.no_grad():
            x0 = _ask(denoiser, x, t)
            alpha_t, sigma_t = _levels(schedule, t, x)
            alpha_s, sigma_s = _levels(schedule, s, x)
            variance = eta**2 * _posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s)
            eps = (x - alpha_t.to(x.dtype) * x0) / sigma_t.to(x.dtype)
            x = alpha_s.to(x.dtype) * x0 + (sigma_s**2 - variance).clamp_min(0).sqrt().to(x.dtype) * eps
            del eps
            if eta > 0 and s > 0:
                x = x + variance.sqrt().to(x.dtype) * noise(tuple(x.shape)).to(x)
        yield Step(index, total, s, x, x0)


def ancestral(x: Tensor, x0: Tensor, at_t: tuple[Tensor, Tensor], at_s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(x_s | x_t, x0), given (alpha, sigma) at t and at s < t; ``x`` is x_t."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    # alpha_ts and sigma_ts belong to the one step from s to t
    alpha_ts = alpha_t / alpha_s
    variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
    mean = (alpha_ts * sigma_s**2 / sigma_t**2).to(x.dtype) * x + (alpha_s * variance_ts / sigma_t**2).to(x.dtype) * x0
    return mean, _posterior_variance(alpha_t, sigma_t, alpha_s, sigma_s).sqrt()


def ddpm(
    denoiser: Denoiser, schedule: Schedule, x: Tensor, times: Sequence[float], noise: NoiseSource
) -> Iterator[Step]:
    """Ancestral sampling, Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7, for any two levels; the published sampler."""
    total = len(times) - 1
    for index, (t, s) in enumerate(pairwise(times)):
        with torch.no_grad():
            x0 = _ask(denoiser, x, t)
            alpha_t, sigma_t = _levels(schedule, t, x)
            alpha_s, sigma_s = _levels(schedule, s, x)
            x, deviation = ancestral(x, x0, (alpha_t, sigma_t), (alpha_s, sigma_s))
            if s > 0:
                x = x + deviation.to(x.dtype) * noise(tuple(x.shape)).to(x)
        yield Step(index, total, s, x, x0)


def dpmpp_2m(
    denoiser: Denoiser, schedule: Schedule, x: Tensor, times: Sequence[float], noise: NoiseSource
) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2; first order where log-SNR is infinite."""
    total = len(times) - 1
    before: tuple[Tensor, Tensor] | None = None  # x0 and log-SNR of the last step
    for index, (t, s) in enumerate(pairwise(times)):
        with torch.no_grad():
            x0 = _ask(denoiser, x, t)
            alpha_t, sigma_t = _levels(schedule, t, x)
            alpha_s, sigma_s = _levels(schedule, s, x)
            snr_t = (alpha_t / sigma_t).log()
            estimate = x0
            if before is not None and s > 0 and bool(torch.isfinite(before[1]).all()):
                r = (snr_t - before[1]) / ((alpha_s / sigma_s).log() - snr_t)
                estimate = x0 + (x0 - before[0]) / (2 * r).to(x.dtype)
            shrink = (sigma_s / sigma_t).to(x.dtype)
            # alpha_s (1 - exp(-h)), with exp(-h) written so that it stays finite
            weight = (alpha_s - alpha_t * sigma_s / sigma_t).to(x.dtype)
            x = shrink * x + weight * estimate
            before = (x0, snr_t)
        yield Step(index, total, s, x, x0)


def _posterior_variance(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    return (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2) * sigma_s**2 / sigma_t**2


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp-2m": dpmpp_2m}
