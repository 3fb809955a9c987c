"""The published network's forward pass on a CPU: the same layers and weights, computed slice by slice, in place.

At full size (dim 64, 64^3) a single activation of the finest level takes 64 MB and the queries, keys and values of one
attention 0.8 GB. Written layer by layer (`diffatlas.published.network`), most of a pass is memory: fetching what has
left the caches, and asking the system for pages, which costs more than normalising or activating what stands on them.
But convolutions act inside a slice, linear attention too, and attention along D inside a column of positions; so each
level is one buffer [D, H, W, C], and a few slices or columns at a time go through *all* operations of a layer while
they are in the cache. Only a group norm looks at all slices: its moments are collected on the way through the
convolution before it, and applied on the way into what follows.

Where it pays, 3 x 3 convolutions take a quarter of the multiplications (`diffatlas.published.winograd`). Two products
are rearranged. In linear attention softmax(k) meets the normed input itself instead of v, so that v is
never formed, and what is left of v and of the output layer becomes one small matrix a slice:

    W_out v softmax(k)^T softmax(q) = [W_out W_v (x softmax(k)^T)] softmax(q)

And a rotation by position is a product of complex numbers, in place.

Nothing here is differentiable, and it is float32 only; `PublishedUNet.forward` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffatlas.published import winograd

if TYPE_CHECKING:
    from diffatlas.published.network import PublishedUNet

# Numbers of an activation [slices, H, W, C] that go through a layer together: 4 MB, of which an L3 cache holds a few.
CHUNK = 1 << 20
# Tokens that attend along D together: their queries, keys and values are 1.5 MB at the published heads.
TOKENS = 512


def answer(network: PublishedUNet, x: Tensor, embedding: Tensor, bias: Tensor) -> Tensor:
    """eps [C, D, H, W] of one sample ``x`` [C, D, H, W], given its ``embedding`` [1, E] of time and condition, and
    the ``bias`` [heads, D, D] of attention along D."""
    room = winograd.room_for(p for p in network.parameters() if p.ndim == 5)
    first = _conv(network.init_conv, x.permute(1, 2, 3, 0), room)
    h = first.clone()
    _along_depth(h, network.init_temporal_attn, bias)
    kept: list[Tensor] = []
    for block1, block2, slices, depth, smaller in cast("Iterable[Any]", network.downs):
        h = _residual(block2, [_residual(block1, [h], embedding, room)], embedding, room)
        _linear_attention(h, slices)
        _along_depth(h, depth, bias)
        kept.append(h)
        h = h if isinstance(smaller, nn.Identity) else _conv(smaller, h, room)
    h = _residual(network.mid_block1, [h], embedding, room)
    _within_slices(h, network.mid_spatial_attn)
    _along_depth(h, network.mid_temporal_attn, bias)
    h = _residual(network.mid_block2, [h], embedding, room)
    for block1, block2, slices, depth, larger in cast("Iterable[Any]", network.ups):
        h = _residual(block2, [_residual(block1, [h, kept.pop()], embedding, room)], embedding, room)
        _linear_attention(h, slices)
        _along_depth(h, depth, bias)
        h = h if isinstance(larger, nn.Identity) else _conv(larger, h, room)
    block, last = cast("Iterable[Any]", network.final_conv)
    return _conv(last, _residual(block, [h, first], None, room), room).permute(3, 0, 1, 2)


def _few(x: Tensor, numbers: int = CHUNK) -> Iterator[slice]:
    """Ranges of the first axis that hold about ``numbers`` numbers each."""
    step = max(1, numbers // x[0].numel())
    return (slice(i, min(i + step, len(x))) for i in range(0, len(x), step))


def _joined(parts: Sequence[Tensor], rows: slice) -> Tensor:
    """The same slices of tensors [D, H, W, C_i], channels side by side."""
    return parts[0][rows] if len(parts) == 1 else torch.cat([part[rows] for part in parts], dim=3)


def _convolution(layer: nn.Module, x: Tensor, room: Tensor) -> Callable[[Tensor], Tensor]:
    """What a convolution of kernel (1, n, n), or a transposed one, does to slices [d, H, W, C] like those of ``x``.

    ``room``: `winograd.room_for` all layers; it serves one convolution at a time.
    """
    assert isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d))
    weight, bias = layer.weight.squeeze(2), layer.bias
    if isinstance(layer, nn.Conv3d) and weight.shape[2:] == (1, 1):
        return lambda some: F.linear(some, weight.flatten(1), bias)
    if isinstance(layer, nn.Conv3d) and winograd.applies(weight, *x.shape[1:3]):
        kernel = winograd.transformed(weight, room)
        return lambda some: winograd.convolve(some, kernel, bias)
    call = F.conv2d if isinstance(layer, nn.Conv3d) else F.conv_transpose2d
    stride, padding = layer.stride[1:], cast("tuple[int, ...]", layer.padding)[1:]
    return lambda some: call(some.permute(0, 3, 1, 2), weight, bias, stride, padding).permute(0, 2, 3, 1)


def _conv(layer: nn.Module, x: Tensor, room: Tensor) -> Tensor:
    convolve = _convolution(layer, x, room)
    first, *others = _few(x)
    some = convolve(x[first])
    out = some.new_empty(len(x), *some.shape[1:])
    out[first] = some
    for rows in others:
        out[rows] = convolve(x[rows])
    return out


class _Moments:
    """Mean and variance of each group of channels, gathered from chunks."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, Tensor, Tensor]] = []

    def add(self, x: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        mean = flat.mean(0)
        self.chunks.append((len(flat), mean.double(), (flat - mean).square_().sum(0).double()))

    def affine(self, norm: nn.GroupNorm, modulation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Gain and offset [C] that do what ``norm``, then scale and shift, would do."""
        n = torch.tensor([float(count) for count, _, _ in self.chunks], dtype=torch.float64)[:, None, None]
        means, squares = (
            torch.stack(parts).view(len(parts), norm.num_groups, -1)  # [chunks, groups, channels of one]
            for parts in ([m for _, m, _ in self.chunks], [s for _, _, s in self.chunks])
        )
        total = n.sum() * means.shape[2]
        mean = (n * means).sum((0, 2)) / total
        variance = (squares + n * (means - mean[None, :, None]).square()).sum((0, 2)) / total
        each = means.shape[2]
        gain = (variance + norm.eps).rsqrt().repeat_interleave(each) * norm.weight
        offset = norm.bias - mean.repeat_interleave(each) * gain
        if modulation is not None:
            scale, shift = modulation
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return gain.float(), offset.float()


def _residual(block: Any, parts: Sequence[Tensor], embedding: Tensor | None, room: Tensor) -> Tensor:
    """A `ResidualBlock` of the channels of ``parts`` [D, H, W, C_i] side by side: a new [D, H, W, C]."""
    modulation = None
    if embedding is not None:
        scale, shift = block.mlp(embedding)[0].chunk(2)
        modulation = (scale, shift)
    first, second = block.block1, block.block2
    out = parts[0].new_empty(*parts[0].shape[:3], first.proj.out_channels)
    moments = _Moments()
    convolve = _convolution(first.proj, out, room)
    for rows in _few(out):
        some = convolve(_joined(parts, rows))
        moments.add(some)
        out[rows] = some
    gain, offset = moments.affine(first.norm, modulation)
    moments = _Moments()
    convolve = _convolution(second.proj, out, room)
    for rows in _few(out):
        some = convolve(F.silu(out[rows].mul_(gain).add_(offset), inplace=True))
        moments.add(some)
        out[rows] = some
    gain, offset = moments.affine(second.norm, None)
    skip: nn.Module | Callable[[Tensor], Tensor] = block.res_conv
    if isinstance(skip, nn.Conv3d):
        skip = _convolution(skip, out, room)
    for rows in _few(out):
        some = F.silu(out[rows].mul_(gain).add_(offset), inplace=True)
        some += skip(_joined(parts, rows))
    return out


def _normed(x: Tensor, residual: Any) -> Tensor:
    """The channel norm before an attention, of tokens [..., C]."""
    gain = residual.fn.norm.gamma.flatten()
    return F.layer_norm(x, gain.shape, gain, eps=1e-5)


def _linear_attention(x: Tensor, residual: Any) -> None:
    """Add to ``x`` [D, H, W, C] what its slices' linear attention says."""
    attention = residual.fn.fn
    heads, width = attention.heads, x.shape[3]
    query, key, value = (w.flatten(1) for w in attention.to_qkv.weight.chunk(3))
    size = len(query) // heads
    value = value.reshape(heads, size, width).transpose(1, 2) * size**-0.5  # [heads, C, size]
    output = attention.to_out.weight.flatten(1).T.reshape(heads, size, width)  # [heads, size, C]
    for tokens in x.flatten(1, 2):  # [H * W, C]
        normed = _normed(tokens, residual)
        focus = (key @ normed.T).softmax(dim=1)  # [heads * size, H * W]
        seen = (focus @ normed).view(heads, size, width)
        answers = (seen @ value @ output).reshape(-1, width)
        asked = F.linear(normed, query).view(-1, heads, size).softmax(dim=2)
        tokens += torch.addmm(attention.to_out.bias, asked.flatten(1), answers)


def _along_depth(x: Tensor, residual: Any, bias: Tensor) -> None:
    """Add to ``x`` [D, H, W, C] what attention along D says."""
    attention = residual.fn.fn.fn
    columns = x.flatten(1, 2).transpose(0, 1)  # [H * W, D, C], a view
    angle = torch.arange(len(x))[:, None] * attention.rotary_emb.freqs
    turn = torch.polar(torch.ones_like(angle), angle)[:, None, None]  # [D, 1, 1, pairs]
    for rows in _few(columns, TOKENS * x.shape[3]):
        some = columns[rows]
        some += _attention(_normed(some, residual), attention, bias[None], turn)


def _within_slices(x: Tensor, residual: Any) -> None:
    """Add to ``x`` [D, H, W, C] what full attention inside each slice says."""
    slices = x.flatten(1, 2)
    for rows in _few(slices):
        slices[rows] += _attention(_normed(slices[rows], residual), residual.fn.fn.fn, None, None)


def _attention(tokens: Tensor, attention: Any, bias: Tensor | None, turn: Tensor | None) -> Tensor:
    """`TokenAttention` of [b, n, C]; ``turn``: complex [n, 1, 1, pairs], the rotation of each position."""
    qkv = F.linear(tokens, attention.to_qkv.weight).view(*tokens.shape[:2], 3, attention.heads, -1)
    if turn is not None:
        pairs = turn.shape[-1]
        turned = qkv[:, :, :2, :, : 2 * pairs]
        torch.view_as_complex(turned.view(*turned.shape[:4], pairs, 2)).mul_(turn)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return F.linear(mixed.transpose(1, 2).flatten(2), attention.to_out.weight)
