"""The baselines: what they learn, what they are told, what they answer, and how their arithmetic is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffatlas.evaluate.baselines import (
    UNetTask,
    classes_of,
    forward_and_backward_flop,
    soft_dice_of_classes,
)
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.draws import Draws
from diffatlas.train.task import task_of

UNET = {"filters": [8, 8, 16]}


def config_of(base: Path, **more: Any) -> TrainConfig:
    return load_config(base, [f"{key}={json.dumps(value)}" for key, value in more.items()])


@pytest.mark.parametrize("task", ["segmenter", "unet"])
def test_a_baseline_learns_and_its_losses_belong_to_samples(base: Path, task: str) -> None:
    config = config_of(base, task=task, task_options=UNET if task == "unet" else {})
    one = task_of(config)
    torch.manual_seed(0)
    network = one.build(config)
    axis = torch.linspace(-1, 1, 24)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    x0 = torch.stack([-radius, radius - 0.6, (radius - 0.9).abs() - 0.2]).expand(3, -1, -1, -1, -1).contiguous()
    x0[1] = x0[1].flip(1)
    draws = Draws(0, 0, 3, (0, 1, 2))
    losses, parts = one.losses(network, x0, draws)
    losses = losses.detach()
    assert losses.shape == (3,)
    assert all(p.shape == (3,) for p in parts.values())
    alone, _ = one.losses(network, x0[2:], draws.select(torch.tensor([2])))
    assert torch.allclose(alone, losses[2:], atol=1e-5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        one.losses(network, x0, draws)[0].mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(one.losses(network, x0, draws)[0].mean()) < 0.6 * float(losses.mean())
        answer = one.answer(network.eval(), x0[:, :1])
    assert answer.shape == (3, 2, 24, 24, 24)
    # A sphere inside a shell, both seen in the image: learnt well enough that most of each is inside.
    found = classes_of(answer)
    assert float((found == classes_of(x0[:, 1:])).float().mean()) > 0.8


@pytest.mark.parametrize("task", ["segmenter", "unet"])
def test_a_baseline_with_evidence_is_told_what_is_missing(base: Path, task: str) -> None:
    more = {"task_options": UNET} if task == "unet" else {}
    objective = {"hidden": 1.0}
    config = config_of(base, task=task, objective=objective, **{"network.evidence": True}, **more)
    one = task_of(config)
    torch.manual_seed(0)
    network = one.build(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # the last layer of an untrained one is zero
    image = torch.rand(1, 1, 24, 24, 24)
    known = torch.ones_like(image)
    known[..., :12] = 0
    with torch.no_grad():
        answers = [
            one.answer(network, torch.cat([i, k], 1))
            for i, k in ((image, known), (torch.where(known > 0, image, 0.3), known), (image, torch.ones_like(image)))
        ]
    assert torch.equal(answers[0], answers[1])  # what is not to be believed is not looked at
    assert not torch.equal(answers[0], answers[2])

    x0 = torch.cat([image, torch.rand(1, 2, 24, 24, 24) - 0.5, torch.ones_like(image)], 1)
    network.train()
    hid = [float(one.losses(network, x0, Draws(0, update, 1, (0,)))[0].detach()) for update in range(8)]
    assert len(set(hid)) == 8  # each update hides something else


def test_the_unet_holds_every_weight_under_one_name(base: Path) -> None:
    config = config_of(base, task="unet", task_options=UNET)
    state = task_of(config).build(config).state_dict()
    places = [v.data_ptr() for v in state.values()]
    assert len(set(places)) == len(places)


def test_margins_are_negative_exactly_where_a_structure_wins(base: Path) -> None:
    config = config_of(base, task="unet", task_options=UNET)
    task = UNetTask(config)
    network = task.build(config).eval()
    image = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        logits, answer = network(image), task.answer(network, image)
    assert torch.equal(logits.argmax(1) > 0, (answer < 0).any(1))
    assert torch.equal(classes_of(answer), logits.argmax(1))


def test_classes_and_soft_dice_by_hand() -> None:
    sdf = torch.tensor([[-0.2, 0.3, -0.1, 0.5], [0.1, -0.1, -0.4, 0.5]]).reshape(1, 2, 4, 1, 1)
    assert classes_of(sdf).flatten().tolist() == [1, 2, 2, 0]
    sure = torch.full((1, 3, 4, 1, 1), -50.0)
    for voxel, k in enumerate([1, 2, 2, 0]):
        sure[0, k, voxel] = 50
    assert float(soft_dice_of_classes(sure, classes_of(sdf))) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice_of_classes(-sure, classes_of(sdf))) > 0.3


def test_arithmetic_is_that_of_the_convolutions(base: Path) -> None:
    small = forward_and_backward_flop(config_of(base, task="segmenter"))
    assert forward_and_backward_flop(config_of(base, task="segmenter", batch=8)) == pytest.approx(2 * small)


def test_arithmetic_holds_the_answers_that_are_recycled(base: Path) -> None:
    shares = dict.fromkeys(("one_step", "recycled", "conditional", "shared", "paint"), 0)
    once = forward_and_backward_flop(config_of(base, objective={**shares, "one_step": 1}))
    twice = forward_and_backward_flop(config_of(base, objective={**shares, "recycled": 1}))
    # A way there and two ways back, less what the first layer need not hand on; then one more way there.
    assert 1.3 * once < twice < 1.5 * once
