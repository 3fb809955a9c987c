"""Samplers against closed forms: a Gaussian is denoised exactly, ddim(eta = 1) is ddpm, a batch is its samples."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser, as_denoiser
from diffatlas.diffusion.guidance import GradientGuidance, ImageGuidance, MaskGiven, MaskPinned
from diffatlas.diffusion.sample import SAMPLERS, crowded_times, ddim, ddpm, dpmpp_2m, mask_first, uniform_times
from diffatlas.diffusion.schedule import DiscreteCosine, Schedule, cosine, trailing
from diffatlas.published.paper import GradientPull

MEAN, DEVIATION = 0.3, 0.2
SHAPE = (1, 3, 8, 8, 8)


def gaussian_denoiser(schedule: Schedule) -> Denoiser:
    """E[x0 | x_t] for data N(MEAN, DEVIATION^2), voxel by voxel: the one denoiser known in closed form."""

    def denoise(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        alpha, sigma = schedule(t_mask.double())
        alpha, sigma = (a[:, None, None, None, None] for a in (alpha, sigma))
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return (MEAN + gain * (x.double() - alpha * MEAN)).to(x.dtype)

    return denoise


@pytest.mark.parametrize("name", [*SAMPLERS, "pull"])
def test_a_walk_that_waits_does_not_keep_where_it_began(name: str) -> None:
    """Many samples may wait for their next step: each has one state, not two."""
    levels = DiscreteCosine(30)
    pull = GradientPull(torch.zeros(1, 1, 8, 8, 8), levels, Draws(1), below=0)
    sampler = pull if name == "pull" else SAMPLERS[name]
    x = torch.randn(SHAPE)
    first = weakref.ref(x)
    walk = sampler(gaussian_denoiser(levels), levels, x, uniform_times(30), Draws(0))
    del x
    next(walk)
    assert first() is None


class Draws:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def run(sampler: object, schedule: Schedule, x: Tensor, steps: int, seed: int = 1) -> Tensor:
    *_, last = sampler(gaussian_denoiser(schedule), schedule, x, uniform_times(steps), Draws(seed))  # type: ignore[operator]
    return last.x


@pytest.mark.parametrize("schedule", [cosine, DiscreteCosine(300)], ids=["continuous", "published"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_gaussian_is_sampled(name: str, schedule: Schedule) -> None:
    x = Draws(0)((4, 3, 12, 12, 12))
    out = run(SAMPLERS[name], schedule, x, 300)
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(DEVIATION, rel=0.05)


def two_level_gaussian(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
    """`gaussian_denoiser` for channels at levels of their own; wrong by far where a level is not what it is told."""
    t = torch.stack([t_image] + [t_mask] * (x.shape[1] - 1), dim=1).double()[:, :, None, None, None]
    alpha, sigma = cosine(t)
    gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    return (MEAN + gain * (x.double() - alpha * MEAN)).to(x.dtype)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_gaussian_is_sampled_with_the_image_trailing_the_mask(name: str) -> None:
    denoiser, schedule = mask_first(two_level_gaussian, cosine, 2)
    x = Draws(0)((4, 3, 12, 12, 12))
    steps = list(SAMPLERS[name](denoiser, schedule, x, crowded_times(300), Draws(1)))
    for channels in (steps[-1].x[:, :1], steps[-1].x[:, 1:]):
        assert channels.mean().item() == pytest.approx(MEAN, abs=0.01)
        # Ancestral steps are longest where these levels are sparse, near data, and lose a little spread there.
        assert channels.std().item() == pytest.approx(DEVIATION, rel=0.1 if name == "ddpm" else 0.05)
    halfway = steps[150]  # the mask is nearly there while the image is not
    assert halfway.x[:, 1:].std() < 0.95 < 0.97 < halfway.x[:, :1].std()


def test_crowded_times_end_at_data_and_resume_where_told() -> None:
    for start in (1.0, 0.6):
        times = crowded_times(10, start)
        assert times[0] == pytest.approx(start)
        assert times[-1] == 0
        steps = [a - b for a, b in pairwise(times)]
        assert steps == sorted(steps)
        assert steps[0] > 0
    assert trailing(torch.tensor(0.5)) == 0.75


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_deterministic_samplers_converge_to_the_exact_flow(sampler: object) -> None:
    # For Gaussian data the probability-flow ODE from noise x is x -> MEAN + DEVIATION * x.
    x = Draws(0)(SHAPE)
    exact = MEAN + DEVIATION * x
    coarse, fine = (float((run(sampler, cosine, x, n) - exact).abs().mean()) for n in (20, 80))
    assert fine < 0.02
    assert fine < coarse / 2


def test_second_order_beats_first() -> None:
    x = Draws(0)(SHAPE)
    exact = MEAN + DEVIATION * x
    first, second = (float((run(s, cosine, x, 20) - exact).abs().mean()) for s in (ddim, dpmpp_2m))
    assert second < first / 2


def test_ddim_with_full_noise_is_ddpm() -> None:
    x = Draws(0)(SHAPE)
    stochastic = partial(ddim, eta=1.0)
    torch.testing.assert_close(run(stochastic, cosine, x, 25), run(ddpm, cosine, x, 25), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_steps_count_down_and_every_state_is_finite(name: str) -> None:
    steps = list(SAMPLERS[name](gaussian_denoiser(cosine), cosine, Draws(0)(SHAPE), uniform_times(7), Draws(1)))
    assert [s.index for s in steps] == list(range(7))
    assert [s.t for s in steps] == pytest.approx([i / 7 for i in reversed(range(7))])
    assert all(torch.isfinite(s.x).all() and torch.isfinite(s.x0).all() for s in steps)
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)  # nothing of the noise is left at t = 0


def test_one_step_is_the_denoiser() -> None:
    x = Draws(0)(SHAPE)
    expected = gaussian_denoiser(cosine)(x, torch.ones(1), torch.ones(1))
    for name, sampler in SAMPLERS.items():
        *_, last = sampler(gaussian_denoiser(cosine), cosine, x, uniform_times(1), Draws(1))
        torch.testing.assert_close(last.x, expected, msg=name)


def test_closing_a_sampler_leaves_gradients_on() -> None:
    walk = ddim(gaussian_denoiser(cosine), cosine, Draws(0)(SHAPE), uniform_times(5), Draws(1))
    next(walk)
    assert torch.is_grad_enabled()
    walk.close()  # type: ignore[attr-defined]
    assert next(walk, None) is None


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_predictions_are_one_convention(prediction: str) -> None:
    x0 = torch.rand(2, 3, 4, 4, 4, dtype=torch.float64) * 1.6 - 0.8
    noise = torch.randn_like(x0)
    t_image, t_mask = torch.tensor([0.2, 0.7]).double(), torch.tensor([0.9, 0.4]).double()
    from diffatlas.diffusion.denoise import per_channel

    alpha, sigma = per_channel(cosine, t_image, t_mask, 3)
    assert alpha[0, 0].item() == pytest.approx(float(cosine(t_image)[0][0]))
    assert alpha[0, 2].item() == pytest.approx(float(cosine(t_mask)[0][0]))
    out = {"eps": noise, "v": alpha * noise - sigma * x0, "x0": x0}[prediction]
    denoise = as_denoiser(lambda *_: out, cosine, prediction, prediction)  # type: ignore[arg-type]
    torch.testing.assert_close(denoise(alpha * x0 + sigma * noise, t_image, t_mask), x0)


def test_answers_stay_in_range() -> None:
    denoise = as_denoiser(lambda x, *_: x * 100, cosine, "x0", "x0", mask_range=0.2)
    out = denoise(torch.ones(1, 3, 2, 2, 2), torch.ones(1), torch.ones(1))
    assert out[:, 0].max() == 1.0
    assert out[:, 1:].max() == pytest.approx(0.2)


class Recorder:
    """A denoiser that remembers what it was shown and answers half of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, float, float]] = []

    def __call__(self, x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        self.calls.append((x.detach().clone(), t_image.item(), t_mask.item()))
        return x * 0.5


@pytest.mark.parametrize("rho", [0.0, 0.25, 1.0])
def test_image_guidance_shows_the_image_at_rho_t(rho: float) -> None:
    image = torch.rand(1, 1, 8, 8, 8, dtype=torch.float64)
    inner = Recorder()
    guided = ImageGuidance(image, rho, cosine, Draws(3))(inner)
    x = Draws(0)(SHAPE)
    level = torch.tensor([0.6], dtype=torch.float64)
    guided(x, level, level)
    seen, t_image, t_mask = inner.calls[0]
    assert t_image == pytest.approx(0.6 * rho)
    assert t_mask == pytest.approx(0.6)
    alpha, sigma = cosine(level * rho)
    torch.testing.assert_close(seen[:, :1], alpha * image + sigma * Draws(3)((1, 1, 8, 8, 8)))
    torch.testing.assert_close(seen[:, 1:], x[:, 1:])


def test_one_draw_or_a_fresh_one() -> None:
    image = torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64)
    level = torch.tensor([0.5], dtype=torch.float64)
    for fresh in (False, True):
        inner = Recorder()
        guided = ImageGuidance(image, 1.0, cosine, Draws(3), fresh=fresh)(inner)
        guided(Draws(0)(SHAPE), level, level)
        guided(Draws(0)(SHAPE), level, level)
        assert torch.equal(inner.calls[0][0], inner.calls[1][0]) is not fresh


def test_replacement_in_the_denoiser_is_replacement_in_the_loop() -> None:
    # The published loop overwrites the image channel of x_t before every step; ours only what the network sees.
    image = torch.rand(1, 1, 8, 8, 8, dtype=torch.float64)
    base = gaussian_denoiser(cosine)

    def coupled(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:  # masks depend on the image channel
        x0 = base(x, t_image, t_mask)
        return torch.cat([x0[:, :1], x0[:, 1:] + 0.1 * x[:, :1]], dim=1)

    guided = ImageGuidance(image, 1.0, cosine, Draws(3))(coupled)
    times = uniform_times(6)
    *_, ours = ddim(guided, cosine, Draws(0)(SHAPE), times, Draws(1))
    x, noise = Draws(0)(SHAPE), Draws(3)((1, 1, 8, 8, 8))
    for t, s in pairwise(times):
        alpha, sigma = cosine(torch.tensor(t).double())
        x = torch.cat([alpha * image + sigma * noise, x[:, 1:]], dim=1)
        *_, step = ddim(coupled, cosine, x, [t, s], Draws(1))
        x = step.x
    torch.testing.assert_close(ours.x[:, 1:], x[:, 1:])


def test_gradient_guidance_pulls_towards_the_image() -> None:
    image = torch.ones(1, 1, 8, 8, 8, dtype=torch.float64)
    guided = GradientGuidance(image, strength=0.5)(Recorder())
    level = torch.tensor([0.5], dtype=torch.float64)
    x = Draws(0)(SHAPE)
    with torch.no_grad():
        pulled = guided(x, level, level)
    assert (pulled[:, :1] - 1).abs().mean() < (x[:, :1] * 0.5 - 1).abs().mean()
    torch.testing.assert_close(pulled[:, 1:], x[:, 1:] * 0.5)


def test_a_given_mask_is_shown_clean_and_returned() -> None:
    mask = torch.rand(1, 2, 8, 8, 8, dtype=torch.float64)
    inner = Recorder()
    level = torch.tensor([0.5], dtype=torch.float64)
    out = MaskGiven(mask)(inner)(Draws(0)(SHAPE), level, level)
    torch.testing.assert_close(inner.calls[0][0][:, 1:], mask)
    assert inner.calls[0][1:] == (0.5, 0.0)
    torch.testing.assert_close(out[:, 1:], mask)


def test_pinned_voxels_are_held_and_the_rest_is_free() -> None:
    mask = torch.full((1, 2, 8, 8, 8), -1.0, dtype=torch.float64)
    pinned = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    pinned[..., :2] = True
    guided = MaskPinned(mask, pinned, cosine, Draws(3))(gaussian_denoiser(cosine))
    *_, last = ddim(guided, cosine, Draws(0)(SHAPE), uniform_times(5), Draws(1))
    assert (last.x[:, 1:, ..., :2] == -1).all()
    assert (last.x[:, 1:, ..., 2:] > -1).all()
