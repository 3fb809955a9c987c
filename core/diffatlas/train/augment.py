"""Random anatomy and appearance, in torch, one draw a sample.

Geometry is one resampling: rotation, isotropic scale, shift, a smooth displacement, and a left-right flip where the
anatomy allows it. Under rotation, shift and isotropic scale a signed distance transforms exactly (values times the
scale); under the small displacement nearly. Appearance: gamma, contrast, a smooth bias field, noise, blur.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from diffatlas.space import FILL
from diffatlas.train.config import AugmentConfig


def _uniform(n: int, width: float, generator: torch.Generator, *more: int) -> Tensor:
    return (torch.rand(n, *more, generator=generator) * 2 - 1) * width


def _rotations(n: int, degrees: float, generator: torch.Generator) -> Tensor:
    """Random rotations [n, 3, 3]: a random axis, an angle uniform in +- ``degrees``."""
    axis = F.normalize(torch.randn(n, 3, generator=generator), dim=1)
    angle = _uniform(n, math.radians(degrees), generator)
    cross = torch.zeros(n, 3, 3)
    cross[:, 0, 1], cross[:, 0, 2] = -axis[:, 2], axis[:, 1]
    cross[:, 1, 0], cross[:, 1, 2] = axis[:, 2], -axis[:, 0]
    cross[:, 2, 0], cross[:, 2, 1] = -axis[:, 1], axis[:, 0]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3) + sin * cross + (1 - cos) * (cross @ cross)


def geometry(
    image: Tensor,
    sdf: Tensor,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Move ``image`` [B, 1, ...] and ``sdf`` [B, K, ...] (units of the clip) and cut ``shape`` from their middle."""
    n, wide = len(image), torch.tensor(image.shape[2:], dtype=torch.float32)
    spacing = torch.tensor(spacing_mm)
    scale = torch.exp(_uniform(n, config.scale, generator))
    shift = _uniform(n, config.shift_mm, generator, 3)
    rotation = _rotations(n, config.rotate_degrees, generator) / scale[:, None, None]
    if config.flip:
        side = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
        rotation = rotation * torch.stack([side, torch.ones(n), torch.ones(n)], dim=1)[:, None, :]
    axes = [(torch.arange(s) - (s - 1) / 2) * d for s, d in zip(shape, spacing_mm, strict=True)]
    target = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # mm from the middle
    source = torch.einsum("nij,xyzj->nxyzi", rotation, target) + shift[:, None, None, None, :]
    if config.elastic_mm > 0:
        coarse = (
            torch.randn(n, 3, 5, 5, 5, generator=generator)
            * config.elastic_mm
            * torch.rand(n, 1, 1, 1, 1, generator=generator)
        )
        smooth = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
        source = source + smooth.permute(0, 2, 3, 4, 1)
    at = source / (spacing * (wide - 1) / 2)
    at = at.flip(-1)  # grid_sample wants the last array axis first
    moved_image = F.grid_sample(image - FILL, at, mode="bilinear", padding_mode="zeros", align_corners=True) + FILL
    moved_sdf = F.grid_sample(sdf, at, mode="bilinear", padding_mode="border", align_corners=True)
    return moved_image, moved_sdf * scale[:, None, None, None, None]


def appearance(image: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Change the looks of ``image`` [B, 1, ...] within [-1, 1]; what is at the bottom of the window stays there."""
    n = len(image)
    shape = image.shape[2:]

    def per_case(width: float) -> Tensor:
        return _uniform(n, width, generator, 1, 1, 1, 1)

    unit = ((image + 1) / 2).clamp(0, 1)
    background = unit <= 1e-4
    unit = unit ** torch.exp(per_case(2 * config.gamma))
    if config.bias > 0:
        field = F.interpolate(
            torch.randn(n, 1, 3, 3, 3, generator=generator), size=shape, mode="trilinear", align_corners=True
        )
        unit = unit * torch.exp(field * config.bias * torch.rand(n, 1, 1, 1, 1, generator=generator))
    unit = (unit - 0.5) * torch.exp(per_case(2 * config.brightness)) + 0.5 + per_case(config.brightness)
    if config.blur > 0:
        chosen = (torch.rand(n, generator=generator) < config.blur)[:, None, None, None, None]
        unit = torch.where(chosen, F.avg_pool3d(unit, 3, 1, 1, count_include_pad=False), unit)
    if config.noise > 0:
        level = config.noise * torch.rand(n, 1, 1, 1, 1, generator=generator)
        unit = unit + torch.randn(unit.shape, generator=generator) * level
    return torch.where(background, image, (unit * 2 - 1).clamp(-1, 1))
