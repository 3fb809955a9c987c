"""The objectives: the published one to the digit, ours, and anyone's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from diffatlas.diffusion.schedule import DiscreteCosine
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.models.store import load_model
from diffatlas.published.convert import Options, convert
from diffatlas.published.paper import published_loss
from diffatlas.session import segment
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.draws import Draws
from diffatlas.train.loop import train
from diffatlas.train.state import Run
from diffatlas.train.task import Task, register_task, task_of
from tests import published_files
from tests.geometry.test_space import ball_grid, two_balls
from tests.training import balls

PUBLISHED = ["task=published", "network={kind: published-unet, dim: 8, multipliers: [1, 2], heads: 2, head_size: 8}"]


def some_draws(count: int) -> Draws:
    return Draws(0, 3, count, tuple(range(count)))


def test_with_the_published_network_the_published_loss(tmp_path: Path) -> None:
    config = load_config(balls(tmp_path), [*PUBLISHED, "task_options={levels: 30}"])
    torch.manual_seed(0)
    task = task_of(config)
    network = task.build(config)
    x0 = torch.rand(4, 3, 8, 8, 8) * 2 - 1
    draws = some_draws(4)
    asked: list[Tensor] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        out: Tensor = network(x, t)
        return out

    loss, parts = task.losses(watched, x0, draws)
    noise = draws.normal("noise", (3, 8, 8, 8))
    (t,) = asked
    expected = published_loss(network, DiscreteCosine(30), x0[:, :1], x0[:, 1:] * 0.2, t, noise[:, :1], noise[:, 1:])
    torch.testing.assert_close(loss.mean(), expected)
    torch.testing.assert_close(parts["image"] + parts["mask"], loss.detach())


def test_published_levels_are_all_of_them_and_even(tmp_path: Path) -> None:
    config = load_config(balls(tmp_path), [*PUBLISHED, "task_options={levels: 10}"])
    asked: list[Tensor] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return x

    task_of(config).losses(watched, torch.zeros(4000, 3, 2, 2, 2), some_draws(4000))
    counts = torch.bincount(asked[0], minlength=10)
    assert len(counts) == 10
    assert (counts.float() / 4000 - 0.1).abs().max() < 0.02


@pytest.mark.parametrize("settings", [["task=published"], PUBLISHED], ids=["ours", "published"])
def test_the_published_objective_trains_a_model_that_runs(tmp_path: Path, settings: list[str]) -> None:
    options = "task_options={answer_steps: 2, levels: 30}"
    folder = train(load_config(balls(tmp_path), [*settings, options, "steps=2", "batch=2", "validate_every=2"]))
    card = load_model(folder).card
    assert card.prediction == {"image": "eps", "mask": "eps"}
    assert card.guidance_noise == 1.0
    assert card.convention.one_step == (settings is not PUBLISHED)
    assert card.training["task"] == "published"
    grid = ball_grid((44, 40, 40), (1.0, 1.0, 1.0))
    volume = Volume(two_balls(grid).data.astype("float32"), grid, "mr")
    assert segment(volume, Request(model=str(folder), steps=2, precision="fp32")).labels.data.shape == grid.shape


def test_a_converted_checkpoint_is_trained_on(tmp_path: Path) -> None:
    checkpoint = published_files.write(tmp_path / "model-1.pt", model=published_files.state())
    convert(checkpoint, tmp_path / "converted", Options(size=16))
    before = load_model(tmp_path / "converted")
    file = balls(tmp_path)
    said = yaml.safe_load(file.read_text())
    del said["network"]  # it is the checkpoint's
    file.write_text(yaml.safe_dump(said))
    named = "[" + ", ".join(f"{{name: {s.name}, id: {s.id}}}" for s in before.card.scheme.structures) + "]"
    settings = ["task=published", "start_from=converted", "data.scheme=null", f"data.structures={named}"]
    run = Run(load_config(file, settings))
    assert run.config.network.kind == "published-unet"
    given = before.network.state_dict()
    assert [k for k, v in run.network.state_dict().items() if not torch.equal(v, given[k])] == []
    assert task_of(run.config).card(run.config)["levels"] == before.card.levels  # type: ignore[index]


def test_structures_go_by_name_when_a_run_starts_from_another_scheme(tmp_path: Path) -> None:
    file = balls(tmp_path)
    names = ("posterior hippocampus", "a new one", "anterior hippocampus")
    structures = "[" + ", ".join(f"{{name: {name}, id: {i + 1}}}" for i, name in enumerate(names)) + "]"
    old = load_model(train(load_config(file, ["steps=2"]))).network.state_dict()
    other = ["run_folder=other", "data.scheme=null", f"data.structures={structures}"]
    fresh = Run(load_config(file, other)).network.state_dict()
    new = Run(load_config(file, [*other, "start_from=model"])).network.state_dict()
    patch = 8
    places = {0: 0, 1: 2, 3: 1}  # channel there -> channel in the model: image, posterior, anterior
    for place in range(4):
        here = slice(place * patch, (place + 1) * patch)
        if place in places:
            there = slice(places[place] * patch, (places[place] + 1) * patch)
            torch.testing.assert_close(new["stem.weight"][:, here], old["stem.weight"][:, there])
            torch.testing.assert_close(new["head.weight"][here], old["head.weight"][there])
            torch.testing.assert_close(new["head.bias"][here], old["head.bias"][there])
        else:
            torch.testing.assert_close(new["stem.weight"][:, here], fresh["stem.weight"][:, here])
            torch.testing.assert_close(new["head.weight"][here], fresh["head.weight"][here])
    torch.testing.assert_close(new["middle.0.conv1.weight"], old["middle.0.conv1.weight"])


class Threshold(Task):
    """What anyone may add: brighter than a learnt value is inside."""

    def build(self, config: TrainConfig) -> nn.Module:
        return nn.Conv3d(1, len(config.scheme), 1)

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        error = (forward(x0[:, :1]) - x0[:, 1:]).square().flatten(1).mean(1)
        return error, {"error": error.detach()}

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        out: Tensor = network(image)
        return out


def test_a_task_of_ones_own_trains_in_the_same_loop(tmp_path: Path) -> None:
    from diffatlas.evaluate import baselines  # noqa: F401  (registers its own; then the list is the same each time)

    register_task("threshold", lambda config: Threshold())
    folder = train(
        load_config(balls(tmp_path), ["task=threshold", "steps=40", "learning_rate=0.05", "validate_every=40"])
    )
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"]  # nothing the engine could run, so no card
    last = (tmp_path / "run" / "log.csv").read_text().splitlines()[-1]
    assert last.startswith("40,")
    known = "atlas, distilled, published, segmenter, threshold, unet"
    with pytest.raises(BadInput, match=f"'another' is unknown; there are: {known}$"):
        task_of(load_config(tmp_path / "train.yaml", ["task=another"]))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["task_options={speed: 3}"], "task_options.*speed"),
        (["task=published", "task_options={speed: 3}"], "task_options.*speed"),
        (["task=published", "task_options={orientation: ABC}"], "orientation"),
        ([PUBLISHED[1]], "task: published"),
    ],
)
def test_options_that_a_task_does_not_have(tmp_path: Path, settings: list[str], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        task_of(load_config(balls(tmp_path), settings))


@pytest.mark.parametrize("task", [["task=atlas"], ["task=published"], PUBLISHED])
def test_a_sample_loses_the_same_alone(tmp_path: Path, task: list[Any]) -> None:
    config = load_config(balls(tmp_path), task)
    objective = task_of(config)
    torch.manual_seed(0)
    network = objective.build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    x0 = torch.rand(4, 3, 8, 8, 8) * 2 - 1
    together, parts = objective.losses(network, x0, Draws(0, 5, 4, (0, 1, 2, 3)))
    for i in range(4):
        alone, own = objective.losses(network, x0[i : i + 1], Draws(0, 5, 4, (i,)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
        for name, values in parts.items():
            torch.testing.assert_close(own[name][0], values[i], equal_nan=True, atol=1e-5, rtol=1e-5)
