"""MONAI's `DiffusionModelUNet` as a network of ours. It needs MONAI (extra ``train``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffatlas.models.unet import channels_last, depth_to_space, space_to_depth, with_evidence

if TYPE_CHECKING:
    from diffatlas.models.card import ModelCard

MAX_TIMESTEP = 1000  # MONAI's embedding expects integer steps of about this range


class MonaiUNet(nn.Module):
    """[B, 1 + K, X, Y, Z] and noise levels [B], [B] -> prediction of the same shape, as `AtlasUNet`.

    MONAI's network has one time step: it gets the mask's level. The image's level is one more channel, constant over
    the volume; ``evidence`` adds the channel ``unknown`` (see `AtlasUNet`). ``widths``: channels of each level, fine to
    coarse; ``attention``: levels with self-attention; ``groups``: of the normalisation, they divide every width.
    X, Y, Z must divide by patch * 2^(levels - 1).
    """

    def __init__(
        self,
        structures: int,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        patch: int = 2,
        attention: Sequence[bool] = (False, False, True),
        groups: int = 8,
        evidence: bool = False,
    ) -> None:
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        super().__init__()
        channels = 1 + structures
        self.patch, self.evidence = patch, evidence
        self.divisor = patch * 2 ** (len(widths) - 1)
        self.net: nn.Module = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=(channels + 1 + evidence) * patch**3,
            out_channels=channels * patch**3,
            num_res_blocks=blocks,
            channels=tuple(widths),
            attention_levels=tuple(attention),
            norm_num_groups=groups,
            num_head_channels=[math.gcd(32, width) for width in widths],
        )

    def forward(self, x: Tensor, t_image: Tensor, t_mask: Tensor, unknown: Tensor | None = None) -> Tensor:
        if any(n % self.divisor for n in x.shape[2:]):
            raise ValueError(f"volume {tuple(x.shape[2:])} does not divide by {self.divisor}")
        level = t_image.to(x.dtype)[:, None, None, None, None].expand(len(x), 1, *x.shape[2:])
        if self.evidence:
            x = with_evidence(x, unknown)
            x = torch.cat([x[:, :-1], level, x[:, -1:]], dim=1)
        else:
            x = torch.cat([x, level], dim=1)
        out: Tensor = self.net(space_to_depth(x, self.patch), MAX_TIMESTEP * t_mask)
        return depth_to_space(out.float(), self.patch)


def build(card: ModelCard, **arguments: Any) -> MonaiUNet:
    """The network of a card of kind "monai-unet"."""
    return channels_last(MonaiUNet(len(card.scheme), **arguments))
