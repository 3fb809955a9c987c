"""Whatever makes the network faster gives the numbers that the plain way gives, within a stated tolerance."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffatlas.engine import device
from diffatlas.engine.request import Request
from diffatlas.models import conv, unet
from diffatlas.models.store import load_model
from diffatlas.session import compare, example, segment, stream

# Largest difference of any output value (range about -1 to 1) between two ways to compute the same network in fp32.
TOLERANCE = 1e-4


@pytest.fixture(params=["tiny", pytest.param("heart-phantom", marks=pytest.mark.weights)])
def network(request: pytest.FixtureRequest, tiny_model: Path) -> torch.nn.Module:
    return load_model(tiny_model if request.param == "tiny" else request.param).network


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def seen_by(network: torch.nn.Module, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """An input such as a walk gives it: clean images, masks of noise."""
    assert isinstance(network, unet.AtlasUNet)
    channels = network.stem.in_channels // network.patch**3
    size = 64 if channels == 6 else 16
    x = torch.randn((batch, channels, size, size, size), generator=torch.Generator().manual_seed(seed))
    return x, torch.zeros(batch), torch.ones(batch)


@torch.no_grad()
def test_onednn_by_name_is_the_same_convolution(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    called = seen_by(network, 1)
    by_name = network(*called)
    monkeypatch.setattr(conv, "onednn", lambda x: False)
    assert (by_name - network(*called)).abs().max() < TOLERANCE


def test_onednn_by_name_has_the_same_gradients(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_model(tiny_model).network
    x, t_image, t_mask = seen_by(network, 2)
    gradients = []
    for onednn in (conv.onednn, lambda x: False):
        monkeypatch.setattr(conv, "onednn", onednn)
        channel = x.clone().requires_grad_()
        network(channel, t_image, t_mask).square().sum().backward()
        gradients.append(channel.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_answer_hardly_depends_on_the_number_of_threads(network: torch.nn.Module, threads: None) -> None:
    called = seen_by(network, 1)
    answers = []
    for count in (1, 2):
        torch.set_num_threads(count)
        answers.append(network(*called))
    assert (answers[0] - answers[1]).abs().max() < TOLERANCE


@torch.no_grad()
def test_the_answer_hardly_depends_on_what_else_is_in_the_batch(network: torch.nn.Module) -> None:
    x, t_image, t_mask = seen_by(network, 2)
    together = network(x, t_image, t_mask)
    assert (together[:1] - network(x[:1], t_image[:1], t_mask[:1])).abs().max() < TOLERANCE


def test_space_to_depth_is_undone_and_puts_channels_last() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8, dtype=torch.float32).reshape(2, 3, 4, 6, 8)
    deep = unet.space_to_depth(x, 2)
    assert deep.is_contiguous(memory_format=torch.channels_last_3d)
    # channel c, offset (i, j, k) within a patch of 8
    assert torch.equal(deep[:, 1 * 8 + 0b101], x[:, 1, 1::2, 0::2, 1::2])
    assert torch.equal(unet.depth_to_space(deep, 2), x)


@pytest.mark.parametrize(("users", "used"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(users: str | None, used: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if users is not None:
        environment["OMP_WAIT_POLICY"] = users
    code = "import diffatlas, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used


def test_bf16_falls_back_where_it_would_be_emulated(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Request(model=str(tiny_model), precision="bf16", task="generate", guidance="none", steps=1)
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    result = segment(None, asked)
    assert result.provenance["precision"] == "fp32"
    assert any("no bf16" in note for note in result.notes)
    assert not segment(None, replace(asked, precision="auto")).notes


@pytest.mark.weights
@pytest.mark.skipif(not device.has_bf16(torch.device("cpu")), reason="emulating bf16 takes minutes")
def test_labels_in_bf16_are_those_in_fp32() -> None:
    volume, _ = example("heart-ct")
    asked = Request(model="heart-phantom", roi=((8, 88), (8, 88), (8, 88)), device="cpu", precision="fp32")
    plain, fast = segment(volume, asked), segment(volume, replace(asked, precision="bf16"))
    assert fast.provenance["precision"] == "bf16"
    assert min(row.dice for row in compare(fast.labels, plain.labels).rows) > 0.98


def test_a_run_in_bf16_is_nearly_that_in_fp32(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network so small that emulation is no matter; its weights are random, so its distances are compared."""
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    asked = Request(model=str(tiny_model), task="generate", guidance="none", steps=2, device="cpu", precision="fp32")
    plain, fast = (list(stream(None, replace(asked, precision=p)))[-1] for p in ("fp32", "bf16"))
    assert fast.result is not None
    assert fast.result.provenance["precision"] == "bf16"
    change = np.abs(fast.sdf - plain.sdf)  # mm, of +-6
    assert 0 < change.max() < 0.3
