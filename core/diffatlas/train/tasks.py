"""The objectives that come with this program: ours, and the published one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from diffatlas.diffusion.denoise import Denoiser, Network, as_denoiser
from diffatlas.diffusion.guidance import ImageGuidance
from diffatlas.diffusion.sample import crowded_times, ddim, discrete_times, mask_first, uniform_times
from diffatlas.diffusion.schedule import DiscreteCosine, Schedule, cosine
from diffatlas.errors import BadInput
from diffatlas.models.monai_unet import MonaiUNet
from diffatlas.models.unet import AtlasUNet, channels_last
from diffatlas.published.network import PublishedUNet
from diffatlas.published.paper import check_orientation, one_level
from diffatlas.train.config import TrainConfig, told_evidence
from diffatlas.train.draws import Draws
from diffatlas.train.objective import losses
from diffatlas.train.task import Task, fixed_noise, register_task
from diffatlas.values import load


def build_network(config: TrainConfig) -> nn.Module:
    """The network that ``config.network`` describes, untrained; `BadInput` where its sizes do not go together."""
    arguments = config.network.model_dump(exclude={"kind"})
    try:
        network: AtlasUNet | MonaiUNet | PublishedUNet
        if config.network.kind == "published-unet":
            network = PublishedUNet(1 + len(config.scheme), **arguments)
            # The vector of the guided variant, of which training uses nothing.
            network.null_cond_emb.requires_grad_(False)
        else:
            kind = MonaiUNet if config.network.kind == "monai-unet" else AtlasUNet
            network = channels_last(kind(len(config.scheme), **arguments))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"network: {str(error).splitlines()[0]}") from error
    if any(n % network.divisor for n in config.space.shape):
        raise BadInput(f"space.shape: {list(config.space.shape)} does not divide by {network.divisor}, see network")
    return network


class AtlasTask(Task):
    """Ours: pairs at two noise levels (`diffatlas.train.objective`); answers as preset "fast" does, in two steps."""

    ANSWER_STEPS = 2
    PAIR_STEPS = 12

    def __init__(self, config: TrainConfig) -> None:
        if config.task_options:
            raise BadInput(f"task_options: task 'atlas' has none named {next(iter(config.task_options))}")
        if config.network.kind == "published-unet":
            raise BadInput("network: a published network knows one noise level; train it with task: published")
        self.objective = config.objective
        self.structures = len(config.scheme)
        # Soft width of a border in the Dice part, clip units.
        self.edge = 0.75 * min(config.space.spacing_mm) / config.space.sdf_clip_mm
        self.evidence = told_evidence(config)
        self.spacing_mm = min(config.space.spacing_mm)

    def build(self, config: TrainConfig) -> nn.Module:
        return build_network(config)

    def denoiser(self, network: Network) -> Denoiser:
        """The x0-denoiser that the network is trained to be."""
        return as_denoiser(network, cosine, "x0", "x0")

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        acquired = None
        if self.evidence:
            x0, acquired = x0[:, :-1], x0[:, -1:] > 0.5
        return losses(forward, self.denoiser(forward), x0, self.objective, draws, self.edge, acquired, self.spacing_mm)

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        noise = fixed_noise("answer", len(image), (self.structures, *image.shape[2:]), image)
        forward: Network = network
        if self.evidence:
            forward, image = partial(network, unknown=1 - image[:, 1:]), image[:, :1]
        guided = ImageGuidance(image, 0.0, cosine, torch.zeros)(self.denoiser(forward))
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
            "architecture": config.network.model_dump(mode="json"),
        }


class DistilledOptions(BaseModel):
    """Whose answers the masks are: the teacher's name and sha256, how many ``images``, how it was ``asked``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    sha256: str
    images: int
    asked: str


class DistilledTask(AtlasTask):
    """Ours, on masks that another model answered (`diffatlas.distill`); the card says so."""

    def __init__(self, config: TrainConfig) -> None:
        self.options = load(DistilledOptions, config.task_options, "task_options")
        super().__init__(config.model_copy(update={"task_options": {}}))

    def card(self, config: TrainConfig) -> dict[str, Any] | None:
        told = self.options
        training = {
            "distilled_from": f"{told.teacher}, sha256 {told.sha256}",
            "answers": f"{told.images} images; {told.asked}",
            "command": f"diffatlas distill {told.teacher}",
        }
        return {**(super().card(config) or {}), "training": training}


class PublishedOptions(BaseModel):
    """``levels``: T; ``mask_range`` and ``orientation``: of a published network, as in its card; ``answer_steps``: of
    the walk with the published guidance that validates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: int = Field(300, ge=2, le=10_000)
    mask_range: float = Field(0.2, gt=0, le=1)
    orientation: str = "RAS"
    answer_steps: int = Field(10, ge=1)

    @field_validator("orientation")
    @classmethod
    def _axes(cls, value: str) -> str:
        return check_orientation(value)


class PublishedTask(Task):
    """The paper's: image and masks at one of T levels, L1 on the noise of each half.

    With the published network this is `diffatlas.published.paper.published_loss`, in the network's own units of
    distance. With ours the same is asked of a network that is told the level twice, on distances within +- 1.
    """

    PAIR_STEPS = 12

    def __init__(self, config: TrainConfig) -> None:
        self.options = load(PublishedOptions, config.task_options, "task_options")
        self.structures = len(config.scheme)
        self.ours = config.network.kind != "published-unet"
        self.mask_range = 1.0 if self.ours else self.options.mask_range
        self.levels = DiscreteCosine(self.options.levels)
        self.schedule: Schedule = cosine if self.ours else self.levels

    def build(self, config: TrainConfig) -> nn.Module:
        return build_network(config)

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        t = ((draws.uniform("level") * self.levels.steps).floor() + 1) / self.levels.steps
        noise = draws.normal("noise", tuple(x0.shape[1:]))
        alpha, sigma = (a[:, None, None, None, None] for a in self.schedule(t))
        x0 = torch.cat([x0[:, :1], x0[:, 1:] * self.mask_range], dim=1)
        error = (self._one_level(forward)(alpha * x0 + sigma * noise, t, t) - noise).abs()
        image, mask = error[:, :1].flatten(1).mean(1), error[:, 1:].flatten(1).mean(1)
        return image + mask, {"image": image.detach(), "mask": mask.detach()}

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        shape = (1 + self.structures, *image.shape[2:])
        x = fixed_noise("answer", len(image), shape, image)
        seen = fixed_noise("answer image", len(image), (1, *image.shape[2:]), image)
        guided = ImageGuidance(image, 1.0, self.schedule, lambda _: seen)(self._denoiser(network))
        *_, last = ddim(guided, self.schedule, x, self._times(self.options.answer_steps), torch.zeros)
        return last.x0[:, 1:]

    def pairs(self, network: nn.Module, count: int, shape: tuple[int, int, int]) -> Tensor | None:
        x = fixed_noise("pairs", count, (1 + self.structures, *shape), next(network.parameters()))
        *_, last = ddim(self._denoiser(network), self.schedule, x, self._times(self.PAIR_STEPS), torch.zeros)
        return torch.cat([last.x0[:, :1], last.x0[:, 1:] / self.mask_range], dim=1)

    def card(self, config: TrainConfig) -> dict[str, Any] | None:
        fields: dict[str, Any] = {
            "schedule": "cosine" if self.ours else "published-cosine",
            "prediction": {"image": "eps", "mask": "eps"},
            "atlas_walk": "together",
            "architecture": config.network.model_dump(mode="json"),
            # A network of one level is off what it was trained on wherever image and mask are at two.
            "guidance_noise": 1.0,
        }
        if not self.ours:
            fields |= self.options.model_dump(include={"levels", "mask_range", "orientation"})
        return fields

    def _one_level(self, network: Callable[..., Tensor]) -> Network:
        return network if self.ours else one_level(network, self.levels, self.options.orientation)

    def _denoiser(self, network: nn.Module) -> Denoiser:
        return as_denoiser(self._one_level(network), self.schedule, "eps", "eps", self.mask_range)

    def _times(self, steps: int) -> list[float]:
        walk = uniform_times if self.ours else partial(discrete_times, start=1.0, levels=self.levels.steps)
        return walk(steps)


register_task("atlas", AtlasTask)
register_task("distilled", DistilledTask)
register_task("published", PublishedTask)
