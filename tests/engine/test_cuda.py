"""What a GPU must not change: labels, samples, the published network, a training. Run where there is one:

python -m pytest tests/engine/test_cuda.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas.engine.device import Compute
from diffatlas.engine.placement import place
from diffatlas.engine.request import Request
from diffatlas.engine.walk import Walk, denoiser_of, one_step
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.metrics import dice
from diffatlas.models.store import load_model
from diffatlas.published.network import PublishedUNet
from diffatlas.session import EXAMPLE_REGION, example, plan, segment
from diffatlas.train.config import load_config
from diffatlas.train.loop import advance
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.state import Run
from tests.training import balls

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFATLAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions in float32: TF32 off."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.weights
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_the_labels_are_those_of_the_processor(precision: str) -> None:
    volume, _ = example("heart-mr")
    asked = Request(model="heart-phantom", roi=EXAMPLE_REGION, precision=precision, device="cuda")  # type: ignore[arg-type]
    found = segment(volume, asked)
    expected = segment(volume, asked, device="cpu", precision="fp32")
    assert found.provenance["device"].startswith("cuda")
    for k in range(1, 6):
        assert dice(found.labels.data == k, expected.labels.data == k) > 0.99


@pytest.mark.weights
@pytest.mark.usefixtures("exact")
def test_what_else_is_in_the_batch_changes_no_sample() -> None:
    volume, _ = example("heart-ct")
    request = Request(model="heart-phantom", roi=EXAMPLE_REGION, samples=4, steps=4, guidance_noise=0.5, device="cuda")
    model, planned, compute = load_model("heart-phantom"), plan(volume, request), Compute(CUDA)
    placement = place(planned, volume, one_step(model, planned, compute))
    denoiser = denoiser_of(model, planned, compute)
    one, many = (
        [np.stack([d for _, d in step.pairs]) for step in Walk(planned, placement, None, denoiser, compute, batch=n)][
            -1
        ]
        for n in (1, 4)
    )
    assert np.abs(one - many).max() < 1e-3
    labels = [np.stack([distances_to_labels(sample) for sample in found]) for found in (one, many)]
    assert (labels[0] != labels[1]).mean() < 1e-5
    assert (labels[0][0] != labels[0][1]).mean() > 1e-4  # seeds do differ


@pytest.mark.usefixtures("exact")
def test_the_published_network_answers_the_same() -> None:
    torch.manual_seed(0)
    network = PublishedUNet(channels=3, dim=16, multipliers=(1, 2, 4)).eval().requires_grad_(False)
    x, t = torch.randn(1, 3, 16, 16, 16), torch.tensor([40])
    with torch.no_grad():
        expected = network(x, t)
        found = network.to(CUDA)(x.to(CUDA), t.to(CUDA)).cpu()
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_what_it_learns_on_a_processor(tmp_path: Path, precision: str) -> None:
    file, losses = balls(tmp_path), {}
    for accelerator, numbers in (("cpu", "fp32"), ("cuda", precision)):
        more = [f"accelerator={accelerator}", f"precision={numbers}", f"run_folder={accelerator}", "batch=4"]
        config = load_config(file, more)
        data, run = load_or_prepare(config.data, config.space), Run(config)
        for _ in range(8):
            advance(run, data)
        run.meter.gather()
        assert run.meter.finite
        losses[accelerator] = run.meter.means()["loss"]
    # Each device draws its own noise: the mean over 32 samples is alike, not the same.
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.2)
