"""The published network: recorded outputs to 1e-4, its parts by hand, its sizes as parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffatlas.published import cpu_path, winograd
from diffatlas.published.network import PublishedUNet, RelativeBias, Rotary
from tests.published_files import PREFIX, network


@pytest.fixture(scope="session")
def golden(shared: Path) -> PublishedUNet:
    """The network of the recorded checkpoint (dim 8, random weights, T = 30)."""
    state = torch.load(shared / "golden" / "model-golden.pt", weights_only=True)["model"]
    net = PublishedUNet(channels=6, dim=8)
    net.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)})
    return net.eval().requires_grad_(False)


# Recorded from the published code; the mixed batch has the steps 1 and 29.
@pytest.mark.parametrize(
    ("name", "steps"), [("t0", (0, 0)), ("t1", (1, 1)), ("t15", (15, 15)), ("t29", (29, 29)), ("tmix", (1, 29))]
)
def test_outputs_are_the_recorded_ones(golden: PublishedUNet, shared: Path, name: str, steps: tuple[int, int]) -> None:
    recorded = np.load(shared / "golden" / "forward.npz")
    out = golden(torch.from_numpy(recorded["forward_x"]), torch.tensor(steps))
    np.testing.assert_allclose(out.numpy(), recorded[f"forward_{name}"], rtol=0, atol=1e-4)


def plainly(net: PublishedUNet, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Layer by layer, as training does it."""
    net.requires_grad_(True)
    out = net(x, t)
    assert out.requires_grad
    net.requires_grad_(False)
    return out.detach()


# Widths from 128 on, and slices that divide by 4, take the other convolution; the last level of the third does not.
@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 3, 5, 8, 8)),
        ({"dim": 16, "multipliers": (1, 2, 4), "heads": 3, "head_size": 4}, (1, 3, 3, 8, 12)),
        ({"dim": 64, "multipliers": (1, 2, 4), "heads": 2, "head_size": 40}, (1, 3, 3, 8, 16)),
    ],
)
def test_slice_by_slice_as_layer_by_layer(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    net = network(channels=3, **changes)
    for parameter in net.parameters():  # gains and biases that are not 1 and 0
        if parameter.numel() == max(parameter.shape):
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, t = torch.randn(shape), torch.arange(shape[0]) * 3
    kept = x.clone()
    torch.testing.assert_close(net(x, t), plainly(net, x, t), rtol=0, atol=1e-4)
    torch.testing.assert_close(x, kept)


def test_many_chunks_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, t = network(channels=3), torch.randn(1, 3, 6, 8, 8), torch.tensor([4])
    whole = net(x, t)
    monkeypatch.setattr(cpu_path, "CHUNK", 1)
    monkeypatch.setattr(cpu_path, "TOKENS", 1)
    torch.testing.assert_close(net(x, t), whole, rtol=1e-4, atol=1e-5)


def test_in_half_precision_close_to_single() -> None:
    net, x, t = network(channels=3), torch.randn(1, 3, 4, 8, 8), torch.tensor([4])
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t)
    assert half.dtype == torch.float32
    single = net(x, t)
    assert 0 < (half - single).abs().mean() < 0.03 * single.std()


def test_a_gradient_reaches_input_and_weights() -> None:
    net, x = network(channels=3), torch.randn(1, 3, 3, 8, 8, requires_grad=True)
    net(x, torch.tensor([4])).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    net.requires_grad_(True)
    net(x.detach(), torch.tensor([4])).square().sum().backward()
    assert net.init_conv.weight.grad is not None


@pytest.mark.parametrize("edge", [4, 8, 12])
def test_a_convolution_with_fewer_products_is_a_convolution(edge: int) -> None:
    weight, bias = torch.randn(130, 128, 3, 3) / 30, torch.randn(130)
    x = torch.randn(2, edge, edge + 4, 128)
    assert winograd.applies(weight, edge, edge + 4)
    assert not winograd.applies(weight, edge + 2, edge)
    expected = torch.nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), padding=1)
    out = winograd.convolve(x, winograd.transformed(weight, winograd.room_for([weight.unsqueeze(2)])), bias)
    torch.testing.assert_close(out.double(), expected.permute(0, 2, 3, 1), rtol=0, atol=5e-5)


def test_the_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in PublishedUNet().parameters()) == 35_851_062  # the paper's 35.85 M


def test_sizes_are_parameters() -> None:
    small = network(channels=2, dim=16, multipliers=(1, 2, 4), heads=3, head_size=4)
    x = torch.randn(2, 2, 3, 8, 12)  # D may be anything, H and W divide by 4
    out = small(x, torch.tensor([0, 7]))
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[1:], small(x[1:], torch.tensor([7])), rtol=1e-4, atol=1e-5)  # a batch is its samples
    with pytest.raises(ValueError, match="do not divide by 4"):
        small(torch.randn(1, 2, 4, 8, 10), torch.zeros(1, dtype=torch.long))


def test_slices_meet_only_in_attention_along_depth() -> None:
    net = network()
    for name, parameter in net.named_parameters():
        if "temporal_attn" in name and name.endswith("to_out.weight"):
            parameter.zero_()
        if name.split(".")[0] in ("downs", "ups") and name.split(".")[2] == "3" and name.endswith("to_out.weight"):
            parameter.zero_()
    x, t, order = torch.randn(1, 3, 4, 8, 8), torch.tensor([3]), [2, 0, 3, 1]
    # Without it, and group norm does not mind the order, slices that change places change nothing but their places.
    torch.testing.assert_close(net(x[:, :, order], t), net(x, t)[:, :, order], rtol=1e-4, atol=1e-5)
    whole = network()
    assert (whole(x[:, :, order], t) - whole(x, t)[:, :, order]).abs().max() > 1e-2


def test_near_distances_have_buckets_of_their_own_and_far_ones_share() -> None:
    bias = RelativeBias(heads=1, buckets=32, reach=32)
    distance = torch.tensor([0, -1, -7, -8, -31, -32, -500, 1, 7, 8, 500])
    # 16 buckets a sign: 8 single ones, then 8 + floor(8 ln(d / 8) / ln 4), at most 15; later keys begin at 16.
    assert bias.bucket(distance).tolist() == [0, 1, 7, 8, 15, 15, 15, 17, 23, 24, 31]


def test_rotated_products_depend_on_the_distance_only() -> None:
    rotary = Rotary(8)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotary(v.expand(1, 1, 6, 8))[0, 0] for v in (q, k))
    products = turned_q @ turned_k.T
    for offset in range(-4, 5):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned_q[0], q)
