"""What is learnt from a batch of pairs: the seam between the loop and an objective.

The loop knows data, devices, optimiser, checkpoints and logs. A `Task` knows what network is trained, what it loses on a
batch, and how it segments an image. "atlas" is ours (`diffatlas.train.objective`), "published" the paper's;
`register_task` adds others, which then train in the same loop on the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffatlas.denoise import Denoiser, Network, as_denoiser
from diffatlas.errors import BadInput
from diffatlas.guidance import ImageGuidance
from diffatlas.nn.unet import AtlasUNet, channels_last
from diffatlas.sample import crowded_times, ddim, mask_first, uniform_times
from diffatlas.schedule import cosine
from diffatlas.train.config import TrainConfig
from diffatlas.train.draws import Draws, torch_generator
from diffatlas.train.objective import losses


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
        [B, 1 + K, X, Y, Z]: augmented pairs, image in [-1, 1], signed distances in units of the clip. The same parts
        each time. Nothing may depend on how many samples come at once: every random number is from ``draws``.
        """
        ...

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        """Segment: ``image`` [B, 1, X, Y, Z] in [-1, 1] to [B, K, X, Y, Z], negative exactly inside.

        ``network``: in evaluation mode, on the device of ``image``; no gradients are wanted. Repeatable.
        """
        ...

    def pairs(self, network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor | None:
        """``count`` generated pairs [count, 1 + K, *shape], same units as x0; None where there is nothing to generate."""
        return None

    def card(self, config: TrainConfig) -> dict[str, Any] | None:
        """What a model card says of the network: ``schedule``, ``prediction``, ``architecture``, ``atlas_walk`` and what
        else `diffatlas.checkpoint.ModelCard` knows; None where the engine cannot run it, so that no card is written."""
        return None


Factory = Callable[[TrainConfig], Task]
_FACTORIES: dict[str, Factory] = {}


def register_task(name: str, factory: Factory) -> None:
    """Let ``task: name`` in a configuration mean ``factory(config)``; a later registration of a name replaces it."""
    _FACTORIES[name] = factory


def task_of(config: TrainConfig) -> Task:
    """The task that ``config.task`` names; `BadInput` where there is none of that name."""
    if config.task not in _FACTORIES:
        raise BadInput(f"task: '{config.task}' is unknown; there are: {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[config.task](config)


def fixed_noise(name: str, count: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise [count, *shape], the same for every call of the same name; row i does not depend on count."""
    rows = [torch.randn(shape, generator=torch_generator(name, i)) for i in range(count)]
    return torch.stack(rows).to(like)


class AtlasTask(Task):
    """Ours: pairs at two noise levels (`diffatlas.train.objective`); answers as preset "fast" does, in two steps."""

    ANSWER_STEPS = 2
    PAIR_STEPS = 20

    def __init__(self, config: TrainConfig) -> None:
        self.objective = config.objective
        self.structures = len(config.scheme)
        # Soft width of a border in the Dice part, clip units.
        self.edge = 0.75 * min(config.space.spacing_mm) / config.space.sdf_clip_mm

    def build(self, config: TrainConfig) -> nn.Module:
        return channels_last(AtlasUNet(len(config.scheme), **config.network.model_dump()))

    def denoiser(self, network: Network) -> Denoiser:
        """The x0-denoiser that the network is trained to be."""
        return as_denoiser(network, cosine, "x0", "x0")

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return losses(forward, self.denoiser(forward), x0, self.objective, draws, self.edge)

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        noise = fixed_noise("answer", len(image), (self.structures, *image.shape[2:]), image)
        guided = ImageGuidance(image, 0.0, cosine, torch.zeros)(self.denoiser(network))
        x = torch.cat([image, noise], dim=1)
        *_, last = ddim(guided, cosine, x, uniform_times(self.ANSWER_STEPS), torch.zeros)
        return last.x0[:, 1:]

    def pairs(self, network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor | None:
        x = fixed_noise("pairs", count, (1 + self.structures, *shape), next(network.parameters()))
        denoiser, schedule = mask_first(self.denoiser(network), cosine, self.structures)
        *_, last = ddim(denoiser, schedule, x, crowded_times(self.PAIR_STEPS), torch.zeros)
        return last.x0

    def card(self, config: TrainConfig) -> dict[str, Any] | None:
        return {
            "schedule": "cosine",
            "prediction": {"image": "x0", "mask": "x0"},
            "atlas_walk": "mask-first",
            "architecture": {"kind": "atlas-unet", **config.network.model_dump(mode="json")},
        }


register_task("atlas", AtlasTask)
