"""MONAI's diffusion network as a network of ours: trained, kept, loaded, asked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_volume
from diffatlas.models.monai_unet import MonaiUNet
from diffatlas.models.store import build_network, load_model, read_card
from diffatlas.session import segment
from diffatlas.train import run
from diffatlas.train.config import load_config
from diffatlas.train.start import starting_weights
from diffatlas.train.tasks import build_network as build_for
from tests.training import balls

MONAI = "network={kind: monai-unet, widths: [8, 16], attention: [false, true], evidence: true}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = balls(tmp_path_factory.mktemp("monai"))
    run(config, [MONAI, "steps=30", "pictures=false", "learning_rate=6e-3", "ema=0.8"])
    return config


def test_it_is_trained_kept_and_segments(trained: Path) -> None:
    model = load_model(str(trained.parent / "model"))
    assert isinstance(model.network, MonaiUNet)
    assert model.card.architecture["kind"] == "monai-unet"
    assert model.card.evidence
    volume = read_volume(trained.parent / "data" / "images" / "case5.nii.gz")
    result = segment(volume, model=str(trained.parent / "model"), force=True)
    truth = read_volume(trained.parent / "data" / "labels" / "case5.nii.gz").data
    found, there = result.labels.data > 0, truth > 0
    assert 2 * (found & there).sum() / (found.sum() + there.sum()) > 0.5  # an untrained one: 0
    half = np.zeros(volume.grid.shape, bool)
    half[: volume.grid.shape[0] // 2] = True
    other = segment(volume, model=str(trained.parent / "model"), force=True, ignore=half)
    assert not np.array_equal(result.labels.data, other.labels.data)


def test_it_hears_both_levels_and_what_is_unknown() -> None:
    torch.manual_seed(0)
    net = MonaiUNet(2, widths=(16, 32), attention=(False, True), evidence=True).eval()
    for parameter in net.parameters():  # the last layers begin at zero, which hides everything
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, low, high = torch.randn(1, 3, 8, 8, 8), torch.full((1,), 0.2), torch.full((1,), 0.7)
    unknown = torch.zeros(1, 1, 8, 8, 8)
    unknown[..., :3] = 1
    other = x.clone()
    other[:, 0, ..., :3] = 7.0
    with torch.no_grad():
        out = net(x, low, high)
        assert out.shape == x.shape
        assert not torch.equal(out, net(x, high, high))
        assert not torch.equal(out, net(x, low, low))
        assert not torch.equal(out, net(x, low, high, unknown))
        assert torch.equal(net(x, low, high, unknown), net(other, low, high, unknown))
        with pytest.raises(ValueError, match="does not divide by 4"):
            net(torch.randn(1, 3, 6, 8, 8), low, high)


def test_structures_go_by_name_to_a_run_that_starts_from_it(trained: Path) -> None:
    names = "[{name: posterior hippocampus, id: 1}, {name: anterior hippocampus, id: 2}]"
    changes = ["start_from=model", "data.scheme=null", f"data.structures={names}", MONAI]
    config = load_config(trained, changes)
    network = build_for(config)
    new = starting_weights(config, network)
    old = load_model(str(trained.parent / "model")).network.state_dict()
    patch = 8
    image, first, second, level, evidence = (slice(i * patch, (i + 1) * patch) for i in range(5))
    stem = "net.conv_in.conv.weight"
    for here, there in ((image, image), (first, second), (second, first), (level, level), (evidence, evidence)):
        torch.testing.assert_close(new[stem][:, here], old[stem][:, there])
    torch.testing.assert_close(new["net.out.2.conv.bias"][first], old["net.out.2.conv.bias"][second])


def test_without_monai_it_says_what_to_install(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card(trained.parent / "model")
    monkeypatch.setitem(sys.modules, "monai.networks.nets.diffusion_model_unet", None)
    with pytest.raises(BadInput, match=r"balls: .*monai.*pip install 'napari-diffatlas\[train\]'"):
        build_network(card)


def test_widths_that_do_not_go_together_are_one_line(trained: Path) -> None:
    config = load_config(trained, ["network={kind: monai-unet, widths: [8, 15], attention: [false, true]}"])
    with pytest.raises(BadInput, match=r"^network: [^\n]*$"):
        build_for(config)


def test_it_takes_a_plain_volume_of_another_size(trained: Path) -> None:
    volume = Volume.from_array(np.random.default_rng(0).normal(size=(9, 31, 5)), np.diag([3.0, 1.0, 5.0, 1.0]))
    labels = segment(volume, model=str(trained.parent / "model"), force=True, steps=1).labels
    assert labels.data.shape == (9, 31, 5)
