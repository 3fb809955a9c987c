"""Training loss: pairs at two noise levels, and samples noised again from the network's own prediction.

Each sample of a batch is noised in one of five ways (shares in `ObjectiveConfig`). Four are tasks of the model: one
step from pure noise, sampling with the image at rho * t, image and mask generated together, an image from a mask.
The fifth ("recycled"; Fu et al. 2023, arXiv 2303.06040) trains on the network's own errors: while sampling, the noisy
mask comes from the network's previous prediction, not from the truth. So the mask of a share of the samples is noised
from such a prediction, and the target stays the truth. The network learns to trust the image more than the mask.

In "shared" and "paint", where no image is given, levels are drawn closer to pure noise: a smooth shape is visible, and
so decided, in very strong noise. In "shared" the image is at a higher level than the mask (`trailing`). By the levels
the network knows the task: with less noise in the image the mask may be wrong, with more noise in it the mask is right.

Both halves predict x0: masks under squared error, a little absolute error, and soft Dice where an image says what is
right; the image under squared error over sigma^2 + 0.1, between an even weight and that of v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffatlas.diffusion.denoise import Network, per_channel
from diffatlas.diffusion.schedule import cosine, trailing
from diffatlas.train.config import ObjectiveConfig
from diffatlas.train.draws import Draws
from diffatlas.train.hide import hidden

MODES = ("one_step", "recycled", "conditional", "shared", "paint")


@dataclass(frozen=True)
class Levels:
    """Noise levels of a batch: ``mode`` [B] index into MODES, ``rho``, ``image``, ``mask`` [B] in [0, 1]."""

    mode: Tensor
    rho: Tensor
    image: Tensor
    mask: Tensor


def draw_levels(n: int, config: ObjectiveConfig, generator: torch.Generator) -> Levels:
    """Ways and levels of ``n`` samples, stratified: shares are as exact as n allows, t is spread evenly."""
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
    """``x0`` [B, 1 + K, ...] with noise of the two levels."""
    alpha, sigma = per_channel(cosine, t_image, t_mask, x0.shape[1])
    return alpha * x0 + sigma * noise


def soft_dice_loss(sdf: Tensor, target: Tensor, width: float, weight: Tensor | None = None) -> Tensor:
    """1 - soft Dice, [B]: the mean over structures, absent ones counting as right.

    A voxel's share in a structure is sigmoid(-sdf / width); it counts ``weight`` [B, 1, X, Y, Z].
    """
    p, q = torch.sigmoid(-sdf / width), (target < 0).to(sdf.dtype)
    counts = torch.ones_like(p[:, :1]) if weight is None else weight
    both, either = ((x * counts).flatten(2).sum(2) for x in (p * q, p + q))
    present = (q * counts).flatten(2).sum(2) > 0
    dice = (2 * both + 1) / (either + 1)
    return 1 - torch.where(present, dice, 1.0).mean(1)


def misplaced(answer: Tensor, draws: Draws, config: ObjectiveConfig, spacing_mm: float) -> Tensor:
    """Predicted masks [B, K, X, Y, Z], a share of them moved by whole voxels."""
    draws = draws.at_hand
    far = draws.between("misplaced by", config.misplaced_mm / spacing_mm, (3,)).round().int()
    moved = []
    for one, steps, chance in zip(answer, far.tolist(), draws.uniform("misplaced").tolist(), strict=True):
        if chance >= config.misplaced:
            moved.append(one)
            continue
        pad = [n for step in reversed(steps) for n in (max(step, 0), max(-step, 0))]
        wide = F.pad(one, pad, value=1.0)
        window = tuple(slice(max(-s, 0), max(-s, 0) + n) for s, n in zip(steps, one.shape[1:], strict=True))
        moved.append(wide[(slice(None), *window)])
    return torch.stack(moved)


def losses(
    network: Network,
    denoiser: Callable[..., Tensor],
    x0: Tensor,
    config: ObjectiveConfig,
    draws: Draws,
    edge: float = 0.1,
    acquired: Tensor | None = None,
    spacing_mm: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of each of the samples ``x0`` [B, 1 + K, X, Y, Z], [B], and by way of noising (`MODES`), NaN for the others.

    ``draws``: their random numbers; ``edge``: soft width of a border, clip units. ``acquired`` (bool [B, 1, X, Y, Z]),
    for a network with evidence: where there is an image; what is hidden of it is drawn here.
    """
    whole = draw_levels(draws.size, config, draws.batch("levels"))
    levels = Levels(*(draws.rows(level) for level in (whole.mode, whole.rho, whole.image, whole.mask)))
    noise = draws.normal("noise", tuple(x0.shape[1:]))
    segmenting = (levels.mode <= 2)[:, None, None, None, None]
    gone = torch.zeros_like(x0[:, :1], dtype=torch.bool)
    evidence: tuple[Tensor, ...] = ()
    if acquired is not None:
        gone = hidden(draws, _shape(x0), config.hidden) & segmenting & acquired
        evidence = ((~acquired | gone).to(x0.dtype),)
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
            before = noised(x0[own], fresh, rho * earlier, earlier)
            answer = denoiser(before, rho * earlier, earlier, *(e[own] for e in evidence))[:, 1:]
        if acquired is not None:
            answer = misplaced(answer, some, config, spacing_mm)
        start = x0.clone()
        start[own, 1:] = answer
    x_t = noised(start, noise, levels.image, levels.mask)
    out = network(x_t, levels.image, levels.mask, *evidence)

    mask, target = out[:, 1:], x0[:, 1:]
    error = mask - target
    each = error.square() + config.mask_l1 * error.abs()
    _, sigma = cosine(levels.image)
    weight: Tensor | None = None
    wrong = (out[:, :1] - x0[:, :1]).square()
    if acquired is None:
        mask_loss = each.flatten(1).mean(1)
        # A clean image needs no denoising, a clean mask neither.
        image_loss = wrong.flatten(1).mean(1) / (sigma.square() + 0.1) * (levels.image > 0)
    else:
        weight = torch.where(acquired, 1.0, config.unseen_weight)
        weight = weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)
        mask_loss = (each * weight).flatten(1).mean(1)
        at = torch.where(gone, 1.0, levels.image[:, None, None, None, None])
        level = torch.where(gone, 1.0, sigma[:, None, None, None, None])
        asked = acquired & (at > 0)
        image_loss = (wrong * asked / (level.square() + 0.1)).flatten(1).mean(1)
    mask_loss = mask_loss * (levels.mode != 4)
    image_loss = image_loss * config.image_weight
    dice = soft_dice_loss(mask, target, edge, weight) * (levels.mode <= 2) * (levels.image < 0.7) * config.dice_weight
    parts = {}
    for index, mode in enumerate(MODES):
        which = image_loss if mode == "paint" else mask_loss
        parts[mode] = torch.where(levels.mode == index, which.detach(), torch.nan)
    return mask_loss + image_loss + dice, parts


def _shape(x: Tensor) -> tuple[int, int, int]:
    return x.shape[2], x.shape[3], x.shape[4]
