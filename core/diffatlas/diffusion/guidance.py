"""Guidance: conditions a denoiser on an image or a mask by editing the channels of its input.

Each guidance takes a denoiser and returns one. The sampler asks that for x0 at one level t:

- `ImageGuidance`: the image channel is the patient's image at noise level rho * t (rho = 1 is the published guidance,
  rho = 0 the clean image); the mask channels are the sampler's.
- `GradientGuidance`: the image channel moves down the gradient of the squared difference between the denoised image
  channel and the patient's image. The published variant, which moves the sampler's state instead, is
  `diffatlas.published.paper.GradientPull`.
- `MaskGiven`: clean, fixed mask channels; the image is generated.
- `MaskNoised`: the same for a network with one noise level: the mask at the image's level.
- `MaskPinned`: the edited voxels of the mask are fixed, the others are generated.

Replacing a channel in the denoiser's input equals replacing it inside the sampler's loop, exactly, if the sampler is
element-wise in (x_t, x0). Multistep and deterministic samplers need one noise draw for the whole run (``fresh=False``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser
from diffatlas.diffusion.schedule import Schedule

Guidance = Callable[[Denoiser], Denoiser]
# shape -> standard normal noise; the caller owns the generators, one per sample
NoiseSource = Callable[[tuple[int, ...]], Tensor]


class Watched(Protocol):
    """A guidance that keeps the image channel of its last call: ``seen`` [B, 1, X, Y, Z]."""

    seen: Tensor | None


def _at(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule(t)
    return alpha[:, None, None, None, None], sigma[:, None, None, None, None]


def no_guidance(denoiser: Denoiser) -> Denoiser:
    """The atlas alone."""
    return denoiser


@dataclass
class ImageGuidance:
    """The image channel is ``image`` [1 or B, 1, X, Y, Z] at noise level rho * t.

    ``seen``: the image channel of the last call.
    """

    image: Tensor
    rho: float
    schedule: Schedule
    noise: NoiseSource
    fresh: bool = False
    seen: Tensor | None = field(default=None, init=False)
    _draw: Tensor | None = field(default=None, init=False)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def guided(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            level = t_image * self.rho
            self.seen = self.noised(level, x)
            return denoiser(torch.cat([self.seen, x[:, 1:]], dim=1), level, t_mask)

        return guided

    def noised(self, level: Tensor, like: Tensor) -> Tensor:
        """The image at ``level`` [B], with this run's noise (a new draw a call if ``fresh``)."""
        if self._draw is None or self.fresh:
            self._draw = self.noise((like.shape[0], 1, *like.shape[2:])).to(like)
        alpha, sigma = _at(self.schedule, level)
        return alpha * self.image + sigma * self._draw


@dataclass
class GradientGuidance:
    """Move the image channel towards agreement with ``image`` before every call.

    ``strength``: multiplies the gradient of the *summed* squared difference over two (published: 1e4 on a mean over
    64^3 voxels, that is 0.076); the pull is clamped to +- ``limit``.
    """

    image: Tensor
    strength: float = 2e4 / 64**3
    limit: float = 1.5
    seen: Tensor | None = field(default=None, init=False)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def guided(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            with torch.enable_grad():
                channel = x[:, :1].detach().requires_grad_()
                x0 = denoiser(torch.cat([channel, x[:, 1:].detach()], dim=1), t_image, t_mask)
                misfit = (x0[:, :1] - self.image).square().sum() / 2
                (gradient,) = torch.autograd.grad(misfit, channel)
            pulled = channel.detach() - (self.strength * gradient).clamp(-self.limit, self.limit)
            self.seen = pulled
            return denoiser(torch.cat([pulled, x[:, 1:]], dim=1), t_image, t_mask)

        return guided


@dataclass
class MaskGiven:
    """Mask channels are ``mask`` [1 or B, K, X, Y, Z] at noise level 0; only the image is generated."""

    mask: Tensor

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def guided(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            mask = self.mask.expand(x.shape[0], *self.mask.shape[1:])
            x0 = denoiser(torch.cat([x[:, :1], mask], dim=1), t_image, torch.zeros_like(t_mask))
            return torch.cat([x0[:, :1], mask], dim=1)

        return guided


@dataclass
class MaskNoised:
    """Mask channels are ``mask`` [1 or B, K, X, Y, Z] at the sampler's level: published guidance in reverse."""

    mask: Tensor
    schedule: Schedule
    noise: NoiseSource
    fresh: bool = False
    _draw: Tensor | None = field(default=None, init=False)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def guided(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            if self._draw is None or self.fresh:
                self._draw = self.noise(tuple(x[:, 1:].shape)).to(x)
            alpha, sigma = _at(self.schedule, t_mask)
            held = alpha * self.mask + sigma * self._draw
            x0 = denoiser(torch.cat([x[:, :1], held], dim=1), t_image, t_mask)
            return torch.cat([x0[:, :1], self.mask.expand(x.shape[0], *self.mask.shape[1:])], dim=1)

        return guided


@dataclass
class MaskPinned:
    """Where ``pinned`` (bool [1, 1, X, Y, Z]), input and output have the mask channels ``mask`` [1, K, X, Y, Z]."""

    mask: Tensor
    pinned: Tensor
    schedule: Schedule
    noise: NoiseSource
    _draw: Tensor | None = field(default=None, init=False)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        def guided(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            if self._draw is None:
                self._draw = self.noise(tuple(x[:, 1:].shape)).to(x)
            alpha, sigma = _at(self.schedule, t_mask)
            held = torch.where(self.pinned, alpha * self.mask + sigma * self._draw, x[:, 1:])
            x0 = denoiser(torch.cat([x[:, :1], held], dim=1), t_image, t_mask)
            return torch.cat([x0[:, :1], torch.where(self.pinned, self.mask, x0[:, 1:])], dim=1)

        return guided
