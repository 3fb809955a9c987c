"""MONAI's schedulers, a second implementation of our samplers: whole trajectories, same noise, closed-form denoiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffatlas.diffusion.sample import ddim, ddpm
from diffatlas.diffusion.schedule import DiscreteCosine, published_alphas_cumprod

schedulers = pytest.importorskip("monai.networks.schedulers")

LEVELS = 40
SCHEDULE = DiscreteCosine(LEVELS)
VARIANCE = 0.3
SHAPE = (2, 3, 4, 4, 4)


def denoiser(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
    """E[x0 | x_t] where the data are normal with mean 0.2 and variance `VARIANCE`."""
    alpha, sigma = (a[:, None, None, None, None] for a in SCHEDULE(t_image))
    return 0.2 + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - 0.2 * alpha)


def theirs(kind: str, **options: Any) -> Any:
    """A MONAI scheduler on the published schedule that is given x0."""
    made = getattr(schedulers, kind)(LEVELS, clip_sample=False, prediction_type="sample", **options)
    made.alphas_cumprod = published_alphas_cumprod(LEVELS)
    made.alphas = made.alphas_cumprod / torch.cat([torch.ones(1), made.alphas_cumprod[:-1]])
    made.betas = 1 - made.alphas
    return made


def started(seed: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, dtype=torch.float64, generator=generator), generator


def walked(scheduler: Any, x: Tensor, **options: Any) -> tuple[list[Tensor], list[float]]:
    """MONAI's states after every step, and our noise levels of the same walk."""
    states, levels = [], [(int(step) + 1) / LEVELS for step in scheduler.timesteps]
    for step, t in zip(scheduler.timesteps, levels, strict=True):
        level = torch.full((len(x),), t, dtype=x.dtype)
        x = scheduler.step(denoiser(x, level, level), int(step), x, **options)[0]
        states.append(x)
    return states, [*levels, 0.0]


@pytest.mark.parametrize("steps", [40, 8, 4])
def test_ddim_takes_the_same_steps(steps: int) -> None:
    scheduler = theirs("DDIMScheduler")
    scheduler.set_timesteps(steps)
    # MONAI spreads its timesteps from the last level to the first, but a step goes down by LEVELS / steps whatever the
    # next timestep is (39, 26, 13, 0 in steps of 10): take the timesteps that its steps lead to.
    stride = LEVELS // steps
    scheduler.timesteps = torch.arange(LEVELS - stride, -1, -stride)
    x, _ = started(1)
    states, times = walked(scheduler, x, eta=0.0)
    ours = [step.x for step in ddim(denoiser, SCHEDULE, x, times, torch.zeros)]
    torch.testing.assert_close(torch.stack(ours), torch.stack(states), rtol=1e-5, atol=1e-6)


def test_ddpm_takes_the_same_steps_with_the_same_noise() -> None:
    scheduler = theirs("DDPMScheduler", variance_type="fixed_small")
    x, generator = started(2)
    states, times = walked(scheduler, x, generator=generator)
    x, generator = started(2)
    noise = lambda shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    ours = [step.x for step in ddpm(denoiser, SCHEDULE, x, times, noise)]
    torch.testing.assert_close(torch.stack(ours), torch.stack(states), rtol=1e-5, atol=1e-6)
