"""3-D convolutions on a CPU: oneDNN's kernels by name, and the weights' gradient block by block.

The gradient of the weights of a 3x3x3 convolution is a sum over places, so it can be taken of blocks of the volume that
lie side by side in the batch. oneDNN's AVX2 kernel needs 8 times as long for 32 channels of 32^3 voxels as for the
same values in blocks of 16^3 (2.4 s against 0.28 s on two cores, batch 4).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16
ONE, NONE = [1, 1, 1], [0, 0, 0]


class Conv3d(nn.Conv3d):
    """The same convolution, by oneDNN's kernel on a CPU.

    At batch 1 PyTorch hands inputs of at most 20 480 values in their first three axes, such as 160 channels of 8^3
    voxels, to a kernel of its own that takes two to three times as long (`use_mkldnn` in ATen's Convolution.cpp).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not onednn(x):
            return super().forward(x)
        if torch.is_grad_enabled() and self.weight.requires_grad and self._in_blocks(x):
            return _Blocked.apply(x, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.mkldnn_convolution(x, self.weight, self.bias, *geometry)  # type: ignore[arg-type]

    def _in_blocks(self, x: Tensor) -> bool:
        plain = (self.kernel_size, self.padding, self.stride, self.dilation) == ((3,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)
        large = all(n > BLOCK and n % BLOCK == 0 for n in x.shape[2:])
        return plain and large and self.groups == 1 and self.in_channels <= 64 and _slow_gradient()


@lru_cache(maxsize=1)
def _slow_gradient() -> bool:
    """Whether this processor is one whose kernel the blocks were measured against."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def onednn(x: Tensor) -> bool:
    """Whether oneDNN's float32 kernels may be called by name."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        # exporters know the general convolution only
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
    )


class _Blocked(torch.autograd.Function):
    """A 3x3x3 convolution, padded by one, whose weights get their gradient in blocks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return torch.mkldnn_convolution(x, weight, bias, ONE, ONE, ONE, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        inner = None
        if ctx.needs_input_grad[0]:
            inner = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ONE, ONE, ONE, False, NONE, 1, [True, False, False]
            )[0]
        bias = gradient.sum(dim=(0, 2, 3, 4)) if ctx.biased else None
        return inner, weight_gradient(x, gradient, weight), bias


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """d loss / d ``weight`` [O, C, 3, 3, 3] of a convolution padded by one, from its input [B, C, ...] and the gradient
    [B, O, ...] of its output, both of edges that `BLOCK` divides."""
    wide = _blocks(F.pad(x, (1, 1) * 3), BLOCK + 2)
    narrow = _blocks(gradient, BLOCK)
    out: Tensor = torch.ops.aten.convolution_backward(
        narrow, wide, weight, None, ONE, NONE, ONE, False, NONE, 1, [False, True, False]
    )[1]
    return out


def _blocks(x: Tensor, size: int) -> Tensor:
    """[B, C, X, Y, Z] to [B * blocks, C, size, size, size], `BLOCK` apart, channels last in memory."""
    for axis in (2, 3, 4):
        x = x.unfold(axis, size, BLOCK)
    x = x.permute(0, 2, 3, 4, 5, 6, 7, 1)
    return x.reshape(-1, size, size, size, x.shape[-1]).permute(0, 4, 1, 2, 3)
