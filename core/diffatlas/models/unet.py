"""`AtlasUNet`: a residual 3-D U-Net with patches, conditioned on two noise levels.

Space-to-depth by ``patch`` leaves a grid with patch^3 times fewer voxels for the convolutions. An embedding of the
image's and the mask's noise level gives scale and shift of every residual block. The coarsest level has
self-attention over all positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffatlas.models.conv import Conv3d

if TYPE_CHECKING:
    from diffatlas.models.card import ModelCard


def space_to_depth(x: Tensor, patch: int) -> Tensor:
    """[B, C, X, Y, Z] -> [B, C * patch^3, X / patch, Y / patch, Z / patch], channels last in memory: one copy."""
    b, c, *shape = x.shape
    nx, ny, nz = (n // patch for n in shape)
    x = x.reshape(b, c, nx, patch, ny, patch, nz, patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, nx, ny, nz, c * patch**3).permute(0, 4, 1, 2, 3)


def depth_to_space(x: Tensor, patch: int) -> Tensor:
    """Inverse of `space_to_depth`."""
    b, c, nx, ny, nz = x.shape
    x = x.reshape(b, c // patch**3, patch, patch, patch, nx, ny, nz)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // patch**3, nx * patch, ny * patch, nz * patch)


N = TypeVar("N", bound=nn.Module)


def channels_last(network: N) -> N:
    """The memory layout in which 3-D convolutions run fastest; the numbers stay the same."""
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


class LevelEmbedding(nn.Module):
    """Two noise levels in [0, 1] -> a vector: fixed Fourier features of each, then a two-layer perceptron."""

    def __init__(self, width: int, features: int = 16) -> None:
        super().__init__()
        # Periods from 2 down to 1/32: smooth over the whole range, sharp enough near the ends.
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi * 2 ** torch.linspace(0, 5, features), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(4 * features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_image: Tensor, t_mask: Tensor) -> Tensor:
        angles = torch.cat([t[:, None].float() * self.frequencies for t in (t_image, t_mask)], dim=1)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm modulated by the noise levels, SiLU, conv; the last conv starts at zero."""

    def __init__(self, channels_in: int, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = Conv3d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.dropout = nn.Dropout3d(dropout)
        self.conv2 = Conv3d(channels, channels, 3, padding=1)
        self.skip = Conv3d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None, None].to(h.dtype).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.skip(x) + h  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Residual self-attention over all positions of a (coarse) volume."""

    def __init__(self, channels: int, head_size: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_size)
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, *shape = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        change: Tensor = self.out(mixed).transpose(1, 2)
        return x + change.reshape(b, c, *shape)


# The image channel where nothing is known. (Noise of level 1 would have to be told from an image.)
UNSEEN = -1.0


def with_evidence(x: Tensor, unknown: Tensor | None) -> Tensor:
    """``x`` [B, C, ...] with `UNSEEN` in the image channel where ``unknown`` [1 or B, 1, ...], which becomes the last
    channel."""
    field = torch.zeros_like(x[:, :1]) if unknown is None else unknown.to(x.dtype).expand(len(x), 1, *x.shape[2:])
    return torch.cat([torch.where(field > 0.5, UNSEEN, x[:, :1]), x[:, 1:], field], dim=1)


class AtlasUNet(nn.Module):
    """[B, 1 + K, X, Y, Z] and noise levels [B], [B] -> prediction of the same shape (what it means: the model's card).

    ``structures``: K. ``widths``: channels of each level, fine to coarse; X, Y, Z must divide by
    patch * 2^(levels - 1). ``blocks``: residual blocks a level and side. ``evidence``: the network has one more input,
    ``unknown`` [B, 1, X, Y, Z], 1 where the image is not to be believed and 0 elsewhere (None: believed everywhere).
    There the image's noise level is 1 whatever ``t_image`` says: its values are replaced by `UNSEEN`.
    """

    def __init__(
        self,
        structures: int,
        widths: Sequence[int] = (64, 128, 192),
        blocks: int = 2,
        patch: int = 2,
        embedding: int = 256,
        attention: bool = True,
        dropout: float = 0.0,
        evidence: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.evidence = evidence
        self.divisor = patch * 2 ** (len(widths) - 1)
        channels = (1 + structures) * patch**3
        self.levels = LevelEmbedding(embedding)
        self.stem = Conv3d(channels + evidence * patch**3, widths[0], 3, padding=1)

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        skips: list[int] = []
        width = widths[0]
        for level, target in enumerate(widths):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(ResidualBlock(width, target, embedding, dropout))
                width = target
                skips.append(width)
            self.down.append(stage)
            if level < len(widths) - 1:
                self.shrink.append(Conv3d(width, width, 2, stride=2))
        self.middle = nn.ModuleList([ResidualBlock(width, width, embedding, dropout) for _ in range(2)])
        self.attention = Attention(width) if attention else nn.Identity()

        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        self.grow = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            # A 1x1x1 convolution takes each skip in: a 3x3x3 one on both would cost half of the whole pass.
            self.merge.append(nn.ModuleList(Conv3d(width + skips.pop(), width, 1) for _ in range(blocks)))
            self.up.append(nn.ModuleList(ResidualBlock(width, width, embedding, dropout) for _ in range(blocks)))
            if level > 0:
                self.grow.append(nn.ConvTranspose3d(width, widths[level - 1], 2, stride=2))
                width = widths[level - 1]
        self.norm = nn.GroupNorm(8, width)
        self.head = Conv3d(width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t_image: Tensor, t_mask: Tensor, unknown: Tensor | None = None) -> Tensor:
        if self.evidence:
            x = with_evidence(x, unknown)
        if any(n % self.divisor for n in x.shape[2:]):
            raise ValueError(f"volume {tuple(x.shape[2:])} does not divide by {self.divisor}")
        embedding = F.silu(self.levels(t_image, t_mask))
        h = self.stem(space_to_depth(x, self.patch))
        kept: list[Tensor] = []
        for level, stage in enumerate(self.down):
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, embedding)
                kept.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        h = self.middle[0](h, embedding)
        h = self.attention(h)
        h = self.middle[1](h, embedding)
        for level, (merges, stage) in enumerate(zip(self.merge, self.up, strict=True)):
            for merge, block in zip(merges, stage, strict=True):  # type: ignore[call-overload]
                h = block(merge(torch.cat([h, kept.pop()], dim=1)), embedding)
            if level < len(self.grow):
                h = self.grow[level](h)
        h = self.head(F.silu(self.norm(h)))
        return depth_to_space(h.float(), self.patch)


def build(card: ModelCard, **arguments: Any) -> AtlasUNet:
    """The network of a card of kind "atlas-unet"."""
    return channels_last(AtlasUNet(len(card.scheme), **arguments))
