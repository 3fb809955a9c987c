"""Network output -> x0-denoiser. Samplers only see x0, whatever the network predicts.

    eps: x0 = (x_t - sigma eps) / alpha        v: x0 = alpha x_t - sigma v        x0: as it is

Image and mask channels may use different ones; channel 0 is the image. The denoiser knows two noise levels, one for
the image channel and one for the mask channels (`Levels`), and clamps x0 to the range of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffatlas.diffusion.schedule import Schedule

Prediction = Literal["eps", "v", "x0"]
Network = Callable[..., Tensor]
# (x_t [B, 1 + K, X, Y, Z], t_image [B], t_mask [B]) -> x0, same shape
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


def per_channel(schedule: Schedule, t_image: Tensor, t_mask: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """alpha and sigma, each [B, C, 1, 1, 1]: the image's level for channel 0, the mask's for the others."""
    alpha_image, sigma_image = schedule(t_image)
    alpha_mask, sigma_mask = schedule(t_mask)
    alpha = torch.stack([alpha_image] + [alpha_mask] * (channels - 1), dim=1)
    sigma = torch.stack([sigma_image] + [sigma_mask] * (channels - 1), dim=1)
    return alpha[:, :, None, None, None], sigma[:, :, None, None, None]


def to_x0(prediction: Prediction, out: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x0 that an output stands for."""
    if prediction == "eps":
        # At pure noise alpha is 0 and eps says nothing of x0; the floor only keeps it finite before the clamp. It lies
        # below the alpha of every published level (5e-5 at the last of 300).
        return (x - sigma * out) / alpha.clamp_min(1e-6)
    if prediction == "v":
        return alpha * x - sigma * out
    return out


def as_denoiser(
    network: Network,
    schedule: Schedule,
    image_prediction: Prediction = "v",
    mask_prediction: Prediction = "x0",
    mask_range: float = 1.0,
) -> Denoiser:
    """The x0-denoiser of ``network``; arguments after the levels are passed on.

    The image's x0 is clamped to [-1, 1], the masks' to +- ``mask_range``.
    """

    def denoise(x: Tensor, t_image: Tensor, t_mask: Tensor, *evidence: Tensor) -> Tensor:
        alpha, sigma = per_channel(schedule, t_image, t_mask, x.shape[1])
        out = network(x, t_image, t_mask, *evidence).to(x.dtype)
        image = to_x0(image_prediction, out[:, :1], x[:, :1], alpha[:, :1], sigma[:, :1]).clamp(-1, 1)
        mask = to_x0(mask_prediction, out[:, 1:], x[:, 1:], alpha[:, 1:], sigma[:, 1:])
        return torch.cat([image, mask.clamp(-mask_range, mask_range)], dim=1)

    return denoise
