"""Noise schedules: variance preserving, ordered, and the published one to the digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas.diffusion.schedule import DiscreteCosine, cosine, published_alphas_cumprod


@pytest.mark.parametrize("schedule", [cosine, DiscreteCosine(300), DiscreteCosine(30)])
def test_variance_is_preserved_and_noise_grows(schedule: object) -> None:
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    alpha, sigma = schedule(t)  # type: ignore[operator]
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert (sigma.diff() >= 0).all()
    assert sigma[0] == 0


def test_pure_noise_holds_no_image() -> None:
    alpha, sigma = cosine(torch.ones(1))
    assert alpha.item() == 0.0
    assert sigma.item() == 1.0


@pytest.mark.parametrize(("steps", "name"), [(30, "schedule_alphas_cumprod"), (300, "schedule300_alphas_cumprod")])
def test_published_schedule_is_the_recorded_one(shared: Path, steps: int, name: str) -> None:
    # recorded from the published code
    recorded = np.load(shared / "golden" / "forward.npz")[name]
    np.testing.assert_allclose(published_alphas_cumprod(steps).numpy(), recorded, atol=1e-7)
    schedule = DiscreteCosine(steps)
    index = torch.arange(steps)
    t = (index + 1) / steps
    torch.testing.assert_close(schedule.index(t), index)
    np.testing.assert_allclose((schedule(t)[0] ** 2).numpy(), recorded, atol=1e-6)
