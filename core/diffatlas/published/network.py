"""The network of the published checkpoints: a U-Net over slices, made three-dimensional by attention along one axis.

    network(x, t) -> eps        x: float32 [B, C, D, H, W], t: int64 [B] in 0 .. T - 1, eps: as x

Convolutions act inside each slice [H, W]; D is never downsampled and only attention along it (rotary embedding plus a
learned bias by relative position) joins the slices. Every level of the way down and up is two residual blocks modulated
by t, linear attention inside a slice, and attention along D. C is the image and one signed distance a structure.

Which attribute holds which layer follows the names in the authors' files, so that their tensors load as they are; the
arithmetic is written anew (fused attention in place of explicit products). It agrees with recorded outputs of the
published code to 1e-4 in float32, see ``tests/test_reference.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffatlas.models.card import ModelCard
from diffatlas.published.cpu_path import answer
from diffatlas.published.paper import check_orientation


class PublishedUNet(nn.Module):
    """[B, C, D, H, W] and integer steps [B] -> eps of the same shape.

    ``channels``: C. ``dim``: width of the stem, a multiple of ``groups``; level i is ``dim * multipliers[i]`` wide. H
    and W must divide by 2^(levels - 1), D may be anything. ``condition``: size of the vector beside the time embedding;
    inference always uses (0, ..., 0, 1). The defaults are the sizes of the published model (35.85 M parameters).
    """

    def __init__(
        self,
        channels: int = 6,
        dim: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        heads: int = 8,
        head_size: int = 32,
        groups: int = 8,
        condition: int = 16,
        stem: int = 7,
        buckets: int = 32,
    ) -> None:
        super().__init__()
        widths = [dim * m for m in multipliers]
        embedding = 4 * dim + condition
        self.divisor = 2 ** (len(widths) - 1)

        def block(channels_in: int, width: int, modulated: bool = True) -> ResidualBlock:
            return ResidualBlock(channels_in, width, groups, embedding if modulated else None)

        def along_depth(width: int) -> Residual:
            return Residual(width, AlongDepth(TokenAttention(width, heads, head_size, rotary=True)))

        self.null_cond_emb = nn.Parameter(torch.randn(1, condition))
        self.time_rel_pos_bias = RelativeBias(heads, buckets)
        self.init_conv = nn.Conv3d(channels, dim, (1, stem, stem), padding=(0, stem // 2, stem // 2))
        self.init_temporal_attn = along_depth(dim)
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim)
        )
        self.downs = nn.ModuleList()
        width = dim
        for level, target in enumerate(widths):
            smaller = _halve(target) if level < len(widths) - 1 else nn.Identity()
            stage = [block(width, target), block(target, target), _within_slices(target, heads, head_size)]
            self.downs.append(nn.ModuleList([*stage, along_depth(target), smaller]))
            width = target
        self.mid_block1 = block(width, width)
        self.mid_spatial_attn = Residual(width, WithinSlices(TokenAttention(width, heads, head_size, rotary=False)))
        self.mid_temporal_attn = along_depth(width)
        self.mid_block2 = block(width, width)
        self.ups = nn.ModuleList()
        for level in reversed(range(len(widths))):
            target = widths[max(level - 1, 0)] if level else dim
            larger = _double(target) if level else nn.Identity()
            stage = [block(2 * widths[level], target), block(target, target), _within_slices(target, heads, head_size)]
            self.ups.append(nn.ModuleList([*stage, along_depth(target), larger]))
        self.final_conv = nn.Sequential(block(2 * dim, dim, modulated=False), nn.Conv3d(dim, channels, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if any(n % self.divisor for n in x.shape[3:]):
            raise ValueError(f"slices of {tuple(x.shape[3:])} do not divide by {self.divisor}")
        bias = self.time_rel_pos_bias(x.shape[2])
        time = self.time_mlp(t)
        unconditional = F.one_hot(
            torch.full_like(t, self.null_cond_emb.shape[1] - 1, dtype=torch.int64), self.null_cond_emb.shape[1]
        )
        embedding = torch.cat([time, unconditional.to(time.dtype)], dim=1)
        if self._slicewise(x):
            with torch.no_grad():
                samples = [answer(self, x[i], embedding[i : i + 1], bias) for i in range(len(x))]
            return torch.stack(samples)
        first = self.init_conv(x)
        h = self.init_temporal_attn(first, bias)
        kept: list[Tensor] = []
        for block1, block2, slices, depth, smaller in cast("Iterable[Any]", self.downs):
            h = depth(slices(block2(block1(h, embedding), embedding)), bias)
            kept.append(h)
            h = smaller(h)
        h = self.mid_block1(h, embedding)
        h = self.mid_temporal_attn(self.mid_spatial_attn(h), bias)
        h = self.mid_block2(h, embedding)
        for block1, block2, slices, depth, larger in cast("Iterable[Any]", self.ups):
            h = torch.cat([h, kept.pop()], dim=1)
            h = larger(depth(slices(block2(block1(h, embedding), embedding)), bias))
        eps: Tensor = self.final_conv(torch.cat([h, first], dim=1))
        return eps.to(x.dtype)

    def _slicewise(self, x: Tensor) -> bool:
        """True if the fast path (`diffatlas.published.cpu_path`) applies: no gradients, float32, CPU."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        learning = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        return plain and not learning


class SinusoidalEmbedding(nn.Module):
    """Integer steps [B] -> [B, dim]: sines, then cosines, of dim / 2 frequencies from 1 down to 1 / 10000."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pairs = dim // 2

    def forward(self, t: Tensor) -> Tensor:
        exponent = torch.arange(self.pairs, device=t.device) * (-math.log(10000) / (self.pairs - 1))
        angle = t[:, None] * exponent.exp()
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class RelativeBias(nn.Module):
    """Bias of attention by signed distance between slices: size n -> [heads, n, n], row the query, column the key.

    Distances share ``buckets`` learned values a head, half for each sign; near ones singly, far ones on a logarithmic
    scale up to ``reach`` (Raffel et al. 2020, arXiv 1910.10683, section 2.1).
    """

    def __init__(self, heads: int, buckets: int = 32, reach: int = 32) -> None:
        super().__init__()
        self.buckets, self.reach = buckets, reach
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, size: int) -> Tensor:
        at = torch.arange(size, device=self.relative_attention_bias.weight.device)
        bias: Tensor = self.relative_attention_bias(self.bucket(at[None, :] - at[:, None]))
        return bias.permute(2, 0, 1)

    def bucket(self, key_minus_query: Tensor) -> Tensor:
        """Bucket of each signed distance, int64."""
        half = self.buckets // 2
        near = half // 2
        distance = key_minus_query.abs()
        scale = (half - near) / math.log(self.reach / near)
        far = near + (torch.log(distance.clamp_min(1).float() / near) * scale).long()
        return half * (key_minus_query > 0) + torch.where(distance < near, distance, far.clamp_max(half - 1))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, D, H, W] with a gain and no bias, eps 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.gamma


class Normed(nn.Module):
    """``fn`` of the normed input."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = self.fn(self.norm(x), bias)
        return out


class Residual(nn.Module):
    """x + fn(norm(x)); the nesting is that of the names in the published files."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = Normed(width, fn)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        change: Tensor = self.fn(x, bias)
        return x + change


class AlongDepth(nn.Module):
    """Each in-slice position's D values as one sequence of tokens: [B, C, D, H, W] there and back."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        b, c, d, h, w = x.shape
        tokens: Tensor = self.fn(x.permute(0, 3, 4, 2, 1).reshape(b * h * w, d, c), bias)
        return tokens.reshape(b, h, w, d, c).permute(0, 4, 3, 1, 2)


class WithinSlices(nn.Module):
    """Each slice's H * W values as one sequence of tokens: [B, C, D, H, W] there and back."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        b, c, d, h, w = x.shape
        tokens: Tensor = self.fn(x.permute(0, 2, 3, 4, 1).reshape(b * d, h * w, c), bias)
        return tokens.reshape(b, d, h, w, c).permute(0, 4, 1, 2, 3)


class Rotary(nn.Module):
    """Rotation of neighbouring feature pairs by position times frequency (Su et al. 2021, arXiv 2104.09864, eq. 34)."""

    def __init__(self, size: int, theta: float = 1e4) -> None:
        super().__init__()
        # A parameter, because the published files carry it; it was never trained.
        self.freqs = nn.Parameter(theta ** (-torch.arange(0, size, 2)[: size // 2] / size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, heads, n, size]: features 2i and 2i + 1 turn together; those beyond 2 * len(freqs) stay."""
        turned = 2 * len(self.freqs)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * self.freqs
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
        pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(3)
        return torch.cat([pairs, x[..., turned:]], dim=-1)


class TokenAttention(nn.Module):
    """Multi-head attention of tokens [B, n, C], linear layers without bias; ``bias`` [heads, n, n] joins the scores."""

    def __init__(self, width: int, heads: int, head_size: int, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.rotary_emb = Rotary(min(32, head_size)) if rotary else None
        self.to_qkv = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.to_out = nn.Linear(heads * head_size, width, bias=False)

    def forward(self, tokens: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(tokens).chunk(3, dim=2))
        if self.rotary_emb is not None:  # a rotation commutes with the scaling of q, which the fused call does
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        mask = None if bias is None else bias[None].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class SliceLinearAttention(nn.Module):
    """Linear attention inside each slice (Shen et al. 2021, arXiv 1812.01243).

    Softmax of q over its features, of k over the positions.
    """

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(width, 3 * heads * head_size, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_size, width, 1)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        b, c, d, h, w = x.shape
        slices = x.transpose(1, 2).reshape(b * d, c, h, w)
        q, k, v = (part.flatten(2).unflatten(1, (self.heads, -1)) for part in self.to_qkv(slices).chunk(3, dim=1))
        context = k.softmax(dim=3) @ v.transpose(2, 3)  # [slices, heads, features of k, features of v]
        mixed = context.transpose(2, 3) @ (q.softmax(dim=2) * q.shape[2] ** -0.5)
        out: Tensor = self.to_out(mixed.reshape(b * d, -1, h, w))
        return out.reshape(b, d, c, h, w).transpose(1, 2)


def _within_slices(width: int, heads: int, head_size: int) -> Residual:
    return Residual(width, SliceLinearAttention(width, heads, head_size))


class ConvBlock(nn.Module):
    """In-slice 3 x 3 convolution, group norm, modulation, SiLU."""

    def __init__(self, channels_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels_in, width, (1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, x: Tensor, modulation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        h = self.norm(self.proj(x))
        if modulation is not None:
            scale, shift = modulation
            h = torch.addcmul(shift, h, scale + 1)
        return F.silu(h)


class ResidualBlock(nn.Module):
    """Two `ConvBlock`s, the first modulated by the embedding, and a 1 x 1 x 1 skip where the width changes."""

    def __init__(self, channels_in: int, width: int, groups: int, embedding: int | None) -> None:
        super().__init__()
        self.mlp = None if embedding is None else nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * width))
        self.block1 = ConvBlock(channels_in, width, groups)
        self.block2 = ConvBlock(width, width, groups)
        self.res_conv = nn.Conv3d(channels_in, width, 1) if channels_in != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        modulation = None
        if self.mlp is not None and embedding is not None:
            scale, shift = self.mlp(embedding)[:, :, None, None, None].chunk(2, dim=1)
            modulation = (scale, shift)
        h: Tensor = self.block2(self.block1(x, modulation))
        return h + self.res_conv(x)  # type: ignore[no-any-return]


def _halve(width: int) -> nn.Module:
    return nn.Conv3d(width, width, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))


def _double(width: int) -> nn.Module:
    return nn.ConvTranspose3d(width, width, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))


def build(card: ModelCard, **arguments: Any) -> PublishedUNet:
    """The network of a card of kind "published-unet"; ValueError where the card's grid or orientation does not fit."""
    check_orientation(card.orientation)
    network = PublishedUNet(1 + len(card.scheme), **arguments)
    if any(n % network.divisor for n in card.space.shape):
        raise ValueError(f"space.shape does not divide by {network.divisor}")
    return network
