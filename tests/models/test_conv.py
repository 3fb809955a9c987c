"""Convolutions by name and gradients in blocks: the same numbers as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from diffatlas.models import conv
from diffatlas.models.conv import BLOCK, Conv3d, weight_gradient


@pytest.mark.parametrize("shape", [(2 * BLOCK, 2 * BLOCK, 2 * BLOCK), (3 * BLOCK, 2 * BLOCK, 2 * BLOCK)])
def test_the_weights_gradient_is_a_sum_over_blocks(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(2, 3, *shape), torch.randn(2, 4, *shape)
    weight = torch.randn(4, 3, 3, 3, 3, requires_grad=True)
    F.conv3d(x, weight, padding=1).backward(gradient)
    assert weight.grad is not None
    torch.testing.assert_close(weight_gradient(x, gradient, weight.detach()), weight.grad, rtol=1e-3, atol=2e-3)


def test_a_layer_in_blocks_learns_as_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = Conv3d(3, 4, 3, padding=1), torch.randn(1, 3, 32, 32, 32)
    results = []
    for slow in (True, False):
        monkeypatch.setattr(conv, "_slow_gradient", lambda slow=slow: slow)
        own = x.clone().requires_grad_()
        layer.zero_grad()
        out = layer(own)
        out.square().sum().backward()
        gradients = [t.grad for t in (own, layer.weight, layer.bias) if t is not None]
        results.append([out.detach(), *(g.clone() for g in gradients if g is not None)])
    assert len(results[0]) == 4
    for blocked, plain in zip(*results, strict=True):
        torch.testing.assert_close(blocked, plain, rtol=1e-3, atol=1e-2)
