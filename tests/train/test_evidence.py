"""Evidence: a network that is told where there is no image, from the data to the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffatlas.diffusion.denoise import as_denoiser
from diffatlas.diffusion.schedule import cosine
from diffatlas.models.store import load_model
from diffatlas.models.unet import UNSEEN, AtlasUNet, with_evidence
from diffatlas.train import export, run
from diffatlas.train.config import ObjectiveConfig, load_config
from diffatlas.train.draws import Draws
from diffatlas.train.hide import hidden
from diffatlas.train.objective import losses, misplaced
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.start import starting_weights
from diffatlas.train.state import Run
from diffatlas.train.tasks import build_network
from diffatlas.train.validate import held_out
from tests.training import balls


def some_draws(count: int, update: int = 0) -> Draws:
    return Draws(0, update, count, tuple(range(count)))


def network(evidence: bool, seed: int = 0) -> AtlasUNet:
    torch.manual_seed(seed)
    net = AtlasUNet(2, widths=(16, 32), blocks=1, embedding=32, evidence=evidence).eval()
    for parameter in net.parameters():  # the last layers begin at zero, which hides everything
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net


def test_what_is_unknown_cannot_change_the_answer() -> None:
    net = network(True)
    x, t = torch.randn(1, 3, 16, 16, 16), torch.zeros(1)
    unknown = torch.zeros(1, 1, 16, 16, 16)
    unknown[..., :6] = 1
    other = x.clone()
    other[:, 0, ..., :6] = 7.0
    with torch.no_grad():
        assert torch.equal(net(x, t, t, unknown), net(other, t, t, unknown))
        assert not torch.equal(net(x, t, t), net(other, t, t))
        assert not torch.equal(net(x, t, t), net(x, t, t, unknown))
        assert torch.equal(net(x, t, t), net(x, t, t, torch.zeros_like(unknown)))


def test_the_field_is_the_last_channel() -> None:
    x = torch.rand(2, 3, 4, 4, 4)
    unknown = torch.zeros(1, 1, 4, 4, 4)
    unknown[..., 0] = 1
    out = with_evidence(x, unknown)
    assert out.shape == (2, 4, 4, 4, 4)
    assert (out[:, 0, ..., 0] == UNSEEN).all()
    assert torch.equal(out[:, 1:3], x[:, 1:])
    assert torch.equal(out[:, 3:], unknown.expand(2, -1, -1, -1, -1))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    config = balls(tmp_path)
    run(config, ["steps=2", "pictures=false", "objective.hidden=1"])
    return config


def test_an_atlas_without_evidence_is_a_start_for_one_with_it(trained: Path) -> None:
    config = load_config(trained, ["start_from=model", "network.evidence=true"])
    fresh = build_network(config)
    fresh.load_state_dict(starting_weights(config, fresh))
    before = load_model(str(config.start_from)).network
    x, t = torch.randn(1, 3, 24, 24, 24), torch.full((1,), 0.5)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x, t, t), before(x, t, t))
    stem = fresh.state_dict()["stem.weight"]
    assert stem.shape[1] == 4 * 8
    assert (stem[:, 3 * 8 :] == 0).all()


def test_evidence_is_trained_exported_and_asked_for(trained: Path) -> None:
    run(trained, ["network.evidence=true", "steps=2", "run_folder=second", "export=told", "pictures=false"])
    model = load_model(str(trained.parent / "told"))
    assert model.card.evidence
    assert model.network.evidence


def test_hidden_parts_come_in_the_share_asked_for() -> None:
    masks = torch.cat([hidden(some_draws(40, update), (16, 16, 16), 0.5) for update in range(5)])
    some = masks.flatten(1).any(1)
    assert some.float().mean() == pytest.approx(0.5, abs=0.15)
    assert masks.flatten(1).float().mean(1)[some].std() > 0.05
    assert not hidden(some_draws(40), (16, 16, 16), 0.0).any()


def test_a_misplaced_answer_is_the_same_one_elsewhere() -> None:
    answer = torch.ones(8, 1, 16, 16, 16)
    answer[:, :, 6:10, 6:10, 6:10] = -1
    config = ObjectiveConfig(misplaced=1.0, misplaced_mm=4.0)
    moved = misplaced(answer, some_draws(8), config, 1.0)
    assert ((moved < 0).flatten(1).sum(1) == 64).all()
    assert not torch.equal(moved, answer)
    assert torch.equal(misplaced(answer, some_draws(8), ObjectiveConfig(misplaced=0.0), 1.0), answer)


def test_the_loss_asks_for_the_image_where_it_was_hidden_and_nowhere_else() -> None:
    x0 = torch.rand(12, 3, 16, 16, 16) * 1.6 - 0.8
    acquired = torch.ones(12, 1, 16, 16, 16, dtype=torch.bool)
    acquired[..., :4] = False
    one_step = dict.fromkeys(("recycled", "conditional", "shared", "paint"), 0.0) | {"one_step": 1.0}
    config = ObjectiveConfig(**one_step, hidden=1.0, dice_weight=0.0, image_weight=1.0)
    told: list[Tensor] = []

    def loss(image_error: Tensor) -> Tensor:
        def answer(x: Tensor, a: Tensor, b: Tensor, unknown: Tensor) -> Tensor:
            told.append(unknown)
            return torch.cat([x0[:, :1] + image_error, x0[:, 1:]], dim=1)

        return losses(answer, as_denoiser(answer, cosine, "x0", "x0"), x0, config, some_draws(12), 0.1, acquired)[0]

    assert (loss(torch.zeros_like(x0[:, :1])) == 0).all()
    unknown = told[0] > 0.5
    assert unknown[..., :4].all()
    gone = unknown & acquired
    assert gone.any()
    assert (loss((~gone).float()) == 0).all()
    assert (loss(gone.float())[gone.flatten(1).any(1)] > 0).all()


@pytest.mark.parametrize("evidence", [False, True])
def test_a_calibration_is_fitted_on_what_was_acquired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: bool
) -> None:
    told: list[list[NDArray[np.bool_]] | None] = []

    def noted(*_: object, seen: list[NDArray[np.bool_]] | None) -> None:
        told.append(seen)

    config = load_config(balls(tmp_path), [f"network.evidence={str(evidence).lower()}", "steps=1", "data.holdout=2"])
    prepared = load_or_prepare(config.data, config.space)
    known = torch.ones_like(prepared.image)
    known[..., :12] = 0
    half = replace(prepared, known=known)
    monkeypatch.setattr(export, "fit", noted)
    run_ = Run(config)
    held = held_out(half, config)
    export.measured(run_, run_.averaged.state_dict(), held)
    if not evidence:
        assert told == [None]
        return
    assert told[0] is not None
    assert len(told[0]) == 2
    cut = (known.shape[-1] - config.space.shape[-1]) // 2
    assert [int(seen.sum()) for seen in told[0]] == [seen[..., 12 - cut :].size for seen in told[0]]
    assert not any(seen[..., : 12 - cut].any() for seen in told[0])
