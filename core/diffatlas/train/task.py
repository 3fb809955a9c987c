"""`Task`: the interface between the training loop and an objective.

The loop has data, devices, optimiser, checkpoints and logs. A `Task` has the network, its loss on a batch, and how it
segments an image. "atlas" is ours, "published" the paper's (both in `diffatlas.train.tasks`);
`register_task` adds others, which then train in the same loop on the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffatlas.errors import BadInput
from diffatlas.train.config import TrainConfig
from diffatlas.train.draws import Draws, torch_generator


class Task(Protocol):
    """An objective. Implementations derive from this class and inherit what they do not need to say."""

    def build(self, config: TrainConfig) -> nn.Module:
        """A new network, float32, on the CPU; random numbers from torch's global generator, which the loop seeds.

        A parameter that takes no part in the loss must not require a gradient.
        """
        ...

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each sample [B], and named parts of it [B], NaN where a part does not apply to a sample.

        ``forward``: the network, called as `build` made it, in the run's precision, on the run's device. ``x0``
        [B, 1 + K, X, Y, Z]: augmented pairs, image in [-1, 1], signed distances in units of the clip; for a network
        with ``evidence`` one more channel, 1 where the image was acquired, else 0. The same parts each time. Nothing
        may depend on how many samples come at once: every random number is from ``draws``.
        """
        ...

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        """Segment: ``image`` [B, 1, X, Y, Z] in [-1, 1] to [B, K, X, Y, Z], negative exactly inside.

        For a network with ``evidence`` the image has a second channel, as in `losses`.

        ``network``: in evaluation mode, on the device of ``image``; no gradients are wanted. Repeatable.
        """
        ...

    def pairs(self, network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor | None:
        """``count`` generated pairs [count, 1 + K, *shape], in the units of x0; None where nothing is generated."""
        return None

    def card(self, config: TrainConfig) -> dict[str, Any] | None:
        """Fields of `diffatlas.models.card.ModelCard`: ``schedule``, ``prediction``, ``architecture``,
        ``atlas_walk``; ``training`` adds to what the export says of the run.

        None where the engine cannot run the network; then only its weights are exported.
        """
        return None


Factory = Callable[[TrainConfig], Task]
_FACTORIES: dict[str, Factory] = {}


def register_task(name: str, factory: Factory) -> None:
    """Let ``task: name`` in a configuration mean ``factory(config)``; a later registration of a name replaces it."""
    _FACTORIES[name] = factory


def task_of(config: TrainConfig) -> Task:
    """The task that ``config.task`` names; `BadInput` where there is none of that name."""
    import_module("diffatlas.train.tasks")  # which registers ours
    if config.task not in _FACTORIES:
        raise BadInput(f"task: '{config.task}' is unknown; there are: {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[config.task](config)


def fixed_noise(name: str, count: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise [count, *shape], the same at every call; row i does not depend on ``count``."""
    rows = [torch.randn(shape, generator=torch_generator(name, i)) for i in range(count)]
    return torch.stack(rows).to(like)
