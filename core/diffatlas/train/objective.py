"""What is learnt: image-mask pairs at two noise levels, and an answer that survives its own walk.

Every sample of a batch gets one of five ways of noising (shares in `ObjectiveConfig`). Four are the tasks of one joint
and conditional model: one step from pure noise, the walk with the image at rho * t, the pair at one level, an image
onto a mask. The fifth closes the gap between training and sampling: in the walk the noisy mask is made of the
network's own earlier answer, not of the truth, and errors in it would be believed. ("Recycling": Fu et al. 2023, arXiv
2303.06040.) So a share of the batch is noised from such an answer while the target stays the truth; the network learns
to trust the image over it.

On the two ways without evidence, "shared" and "paint", levels crowd towards pure noise: an anatomy is
smooth, so its shape is visible, and therefore decided, while the noise is still nearly all there is. In "shared" the
image trails the mask (`diffatlas.diffusion.schedule.trailing`), which also tells the network which case it is in: an
image ahead of the mask is evidence about a mask that may be wrong, an image behind it belongs to a mask to be believed.

Both halves predict x0: masks under squared error, a little absolute error, and soft Dice where an image says what is
right; the image under squared error over sigma^2 + 0.1, between an even weight and that of v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser, Network, per_channel
from diffatlas.diffusion.schedule import cosine, trailing
from diffatlas.train.config import ObjectiveConfig
from diffatlas.train.draws import Draws

MODES = ("one_step", "recycled", "conditional", "shared", "paint")


@dataclass(frozen=True)
class Levels:
    """Noise levels of a batch: ``mode`` [B] index into MODES, ``rho``, ``image``, ``mask`` [B] in [0, 1]."""

    mode: Tensor
    rho: Tensor
    image: Tensor
    mask: Tensor


def draw_levels(n: int, config: ObjectiveConfig, generator: torch.Generator) -> Levels:
    """Stratified over the batch: shares hold as closely as n allows, and t spreads evenly."""
    shares = torch.tensor([getattr(config, m) for m in MODES], dtype=torch.float64)
    edges = torch.cumsum(shares / shares.sum(), 0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    place = (torch.arange(n, dtype=torch.float64) + start) / n
    mode = torch.searchsorted(edges, place.clamp(max=1 - 1e-9)).clamp(max=len(MODES) - 1)
    t = ((torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n).float()
    kind = torch.rand(n, generator=generator)
    # A third hands over the clean image, a third is the published guidance, a third lies between.
    rho = torch.where(kind < 1 / 3, 0.0, torch.where(kind < 2 / 3, 1.0, torch.rand(n, generator=generator)))
    image, mask = torch.zeros(n), torch.ones(n)
    walking = (mode == 1) | (mode == 2)
    image = torch.where(walking, rho * t, image)
    mask = torch.where(walking, t, mask)
    high = trailing(t)
    image = torch.where(mode == 3, trailing(high), torch.where(mode == 4, high, image))
    mask = torch.where(mode == 3, high, torch.where(mode == 4, torch.zeros(n), mask))
    return Levels(mode, rho, image, mask)


def noised(x0: Tensor, noise: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
    """``x0`` [B, 1 + K, ...] taken to the two levels."""
    alpha, sigma = per_channel(cosine, t_image, t_mask, x0.shape[1])
    return alpha * x0 + sigma * noise


def soft_dice_loss(sdf: Tensor, target: Tensor, width: float) -> Tensor:
    """1 - soft Dice over structures present, [B]; occupancy is sigmoid(-sdf / width)."""
    p, q = torch.sigmoid(-sdf / width).flatten(2), (target < 0).to(sdf.dtype).flatten(2)
    present = q.sum(2) > 0
    dice = (2 * (p * q).sum(2) + 1) / (p.sum(2) + q.sum(2) + 1)
    return 1 - torch.where(present, dice, 1.0).mean(1)


def losses(
    network: Network,
    denoiser: Denoiser,
    x0: Tensor,
    config: ObjectiveConfig,
    draws: Draws,
    edge: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of each of the samples ``x0`` [B, 1 + K, X, Y, Z], [B], and by way of noising (`MODES`), NaN for the others.

    ``draws``: their random numbers; ``edge``: soft width of a border, clip units.
    """
    whole = draw_levels(draws.size, config, draws.batch("levels"))
    levels = Levels(*(draws.rows(level) for level in (whole.mode, whole.rho, whole.image, whole.mask)))
    noise = draws.normal("noise", tuple(x0.shape[1:]))
    start = x0
    # Looked up where they were drawn: asking a GPU would make the processor wait for it.
    chosen = torch.nonzero(whole.mode[list(draws.indices)] == 1)[:, 0]
    if len(chosen):
        own = chosen.to(x0.device)
        t, rho = levels.mask[own], levels.rho[own]
        some = draws.select(chosen)
        jump = some.uniform("jump")
        # Half of the answers come from pure noise, the way every walk begins; half from a level a little above.
        earlier = torch.where(jump < 0.5, torch.ones_like(t), t + (1 - t) * (2 * jump - 1))
        with torch.no_grad():
            fresh = some.normal("fresh", tuple(x0.shape[1:]))
            answer = denoiser(noised(x0[own], fresh, rho * earlier, earlier), rho * earlier, earlier)
        start = x0.clone()
        start[own, 1:] = answer[:, 1:]
    x_t = noised(start, noise, levels.image, levels.mask)
    out = network(x_t, levels.image, levels.mask)

    mask, target = out[:, 1:], x0[:, 1:]
    error = mask - target
    mask_loss = error.square().flatten(1).mean(1) + config.mask_l1 * error.abs().flatten(1).mean(1)
    _, sigma = cosine(levels.image)
    image_loss = (out[:, 0] - x0[:, 0]).square().flatten(1).mean(1) / (sigma.square() + 0.1)
    # A clean image needs no denoising, a clean mask neither.
    mask_loss = mask_loss * (levels.mode != 4)
    image_loss = image_loss * (levels.image > 0) * config.image_weight
    dice = soft_dice_loss(mask, target, edge) * (levels.mode <= 2) * (levels.image < 0.7) * config.dice_weight
    parts = {}
    for index, mode in enumerate(MODES):
        which = image_loss if mode == "paint" else mask_loss
        parts[mode] = torch.where(levels.mode == index, which.detach(), torch.nan)
    return mask_loss + image_loss + dice, parts
