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

from diffatlas.geometry.space import FILL
from diffatlas.train.config import AugmentConfig
from diffatlas.train.draws import Draws


def _rotations(draws: Draws, degrees: float) -> Tensor:
    """Random rotations [B, 3, 3]: a random axis, an angle uniform in +- ``degrees``."""
    axis = F.normalize(draws.normal("rotation axis", (3,)), dim=1)
    angle = draws.between("rotation angle", math.radians(degrees))
    cross = axis.new_zeros(len(axis), 3, 3)
    cross[:, 0, 1], cross[:, 0, 2] = -axis[:, 2], axis[:, 1]
    cross[:, 1, 0], cross[:, 1, 2] = axis[:, 2], -axis[:, 0]
    cross[:, 2, 0], cross[:, 2, 1] = -axis[:, 1], axis[:, 0]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * (cross @ cross)


def geometry(
    image: Tensor,
    sdf: Tensor,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    config: AugmentConfig,
    draws: Draws,
    fill: float = FILL,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Move ``image`` [B, 1, ...] and ``sdf`` [B, K, ...] (units of the clip) and cut ``shape`` from their middle.

    Both on the device of ``draws``. ``fill``: what the image is outside of what is given. ``known`` [B, 1, ...], 1
    where the image was acquired, moves along: a voxel stays known where all that it is made of was.
    """
    device = image.device
    wide = torch.tensor(image.shape[2:], dtype=torch.float32, device=device)
    spacing = torch.tensor(spacing_mm, device=device)
    scale = torch.exp(draws.between("scale", config.scale))
    shift = draws.between("shift", config.shift_mm, (3,))
    rotation = _rotations(draws, config.rotate_degrees) / scale[:, None, None]
    if config.flip:
        side = torch.where(draws.uniform("flip") < 0.5, -1.0, 1.0)
        rotation = rotation * torch.stack([side, torch.ones_like(side), torch.ones_like(side)], dim=1)[:, None, :]
    axes = [(torch.arange(s, device=device) - (s - 1) / 2) * d for s, d in zip(shape, spacing_mm, strict=True)]
    target = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # mm from the middle
    source = torch.einsum("nij,xyzj->nxyzi", rotation, target) + shift[:, None, None, None, :]
    if config.elastic_mm > 0:
        coarse = draws.normal("elastic", (3, 5, 5, 5)) * config.elastic_mm * draws.uniform("elasticity", (1, 1, 1, 1))
        smooth = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
        source = source + smooth.permute(0, 2, 3, 4, 1)
    at = source / (spacing * (wide - 1) / 2)
    at = at.flip(-1)  # grid_sample wants the last array axis first
    moved_image = F.grid_sample(image - fill, at, mode="bilinear", padding_mode="zeros", align_corners=True) + fill
    moved_sdf = F.grid_sample(sdf, at, mode="bilinear", padding_mode="border", align_corners=True)
    moved_known = None
    if known is not None:
        moved_known = F.grid_sample(known, at, mode="bilinear", padding_mode="zeros", align_corners=True) > 0.95
        moved_image = torch.where(moved_known, moved_image, fill)
    return moved_image, moved_sdf * scale[:, None, None, None, None], moved_known


def appearance(image: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    """Change the looks of ``image`` [B, 1, ...] within [-1, 1]; what is at the bottom of the window stays there."""
    shape = image.shape[2:]
    one = (1, 1, 1, 1)
    unit = ((image + 1) / 2).clamp(0, 1)
    background = unit <= 1e-4
    unit = unit ** torch.exp(draws.between("gamma", 2 * config.gamma, one))
    if config.bias > 0:
        field = F.interpolate(draws.normal("bias", (1, 3, 3, 3)), size=shape, mode="trilinear", align_corners=True)
        unit = unit * torch.exp(field * config.bias * draws.uniform("bias size", one))
    contrast = torch.exp(draws.between("contrast", 2 * config.brightness, one))
    unit = (unit - 0.5) * contrast + 0.5 + draws.between("brightness", config.brightness, one)
    if config.blur > 0:
        chosen = draws.uniform("blur", one) < config.blur
        unit = torch.where(chosen, F.avg_pool3d(unit, 3, 1, 1, count_include_pad=False), unit)
    if config.noise > 0:
        unit = unit + draws.normal("grain", tuple(unit.shape[1:])) * config.noise * draws.uniform("grain size", one)
    return torch.where(background, image, (unit * 2 - 1).clamp(-1, 1))
