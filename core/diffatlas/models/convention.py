"""The rules by which the networks of a card are used: `Convention`, one for each schedule that a card can name.

A convention gives the schedule, the denoiser, the noise levels of a run, the presets, and how an edited mask enters.
Engine and front ends use it and never read a card's schedule. Two exist: `TwoLevel`, of
our networks, which are told a noise level for the image and another for the mask; and
`diffatlas.published.convention.OneLevel`, of the paper's.

Planning does not import torch; methods from `schedule` on import it when they are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from diffatlas.models.presets import PRESETS, Preset, PresetName, SamplerName

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffatlas.diffusion.denoise import Denoiser, Network
    from diffatlas.diffusion.guidance import Guidance, NoiseSource, Watched
    from diffatlas.diffusion.sample import Sampler
    from diffatlas.diffusion.schedule import Schedule
    from diffatlas.models.card import ModelCard

# The schedule that a card names -> module and class of its convention.
CONVENTIONS = {
    "cosine": ("diffatlas.models.convention", "TwoLevel"),
    "published-cosine": ("diffatlas.published.convention", "OneLevel"),
}


class Convention(ABC):
    """How the networks of ``card`` are used. Distances are in clip units: 1 is ``card.space.sdf_clip_mm``."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    # -- asked by the plan; no torch -------------------------------------------------------------------------------

    one_step: bool
    """Whether one pass of the network answers from the clean image: then large volumes can be searched, and a run takes
    seconds where it otherwise takes hours."""

    @abstractmethod
    def preset(self, name: PresetName) -> Preset:
        """What a preset means to these networks."""

    @abstractmethod
    def count(self, steps: int, start: float = 1.0) -> int:
        """Steps of a walk of ``steps`` from noise level ``start`` (0 to 1)."""

    @abstractmethod
    def notes(self, steps: int, guidance_noise: float | None) -> list[str]:
        """What to know of a run with these settings; ``guidance_noise`` None where no image guides by replacement."""

    # -- asked by the walk -----------------------------------------------------------------------------------------

    @abstractmethod
    def schedule(self) -> Schedule:
        """t -> (alpha, sigma)."""

    @abstractmethod
    def denoiser(self, network: Network | nn.Module, sampler: SamplerName) -> Denoiser:
        """The x0-denoiser of a network, see `diffatlas.diffusion.denoise.as_denoiser`."""

    @abstractmethod
    def first_level(self, start: float) -> float:
        """The noise level at which a walk from ``start`` begins: the nearest that the network knows."""

    @abstractmethod
    def times(self, steps: int, start: float, atlas: bool) -> list[float]:
        """Noise levels of a walk, from ``start`` down to 0; ``atlas``: no image guides it."""

    @abstractmethod
    def atlas(self, denoiser: Denoiser, schedule: Schedule) -> tuple[Denoiser, Schedule]:
        """Denoiser and schedule of a walk without image and mask: how pairs are drawn from the atlas."""

    @abstractmethod
    def distances(self, mask_x0: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mask channels of an x0 as distances in clip units."""

    @abstractmethod
    def edited_mask(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances [K, X, Y, Z] of an edited mask, in clip units, as the network's mask channels."""

    @abstractmethod
    def given_mask(self, mask: Tensor, noise: NoiseSource, fresh: bool) -> Guidance:
        """Guidance that paints an image onto the network's mask channels ``mask`` [1, K, X, Y, Z]."""

    @abstractmethod
    def gradient(self, image: Tensor, sampler: Sampler, noise: NoiseSource) -> tuple[Guidance, Sampler, Watched]:
        """Gradient guidance towards ``image`` [1, 1, X, Y, Z]: guidance, sampler, and whose ``seen`` to show."""


class TwoLevel(Convention):
    """Our networks: ``network(x, t_image, t_mask)`` with levels in [0, 1] on the continuous cosine schedule."""

    one_step = True

    def preset(self, name: PresetName) -> Preset:
        return PRESETS[name]

    def count(self, steps: int, start: float = 1.0) -> int:
        return steps

    def notes(self, steps: int, guidance_noise: float | None) -> list[str]:
        return []

    def schedule(self) -> Schedule:
        from diffatlas.diffusion.schedule import cosine

        return cosine

    def denoiser(self, network: Network | nn.Module, sampler: SamplerName) -> Denoiser:
        from diffatlas.diffusion.denoise import as_denoiser

        predicted = self.card.prediction
        return as_denoiser(network, self.schedule(), predicted["image"], predicted["mask"], self.card.mask_range)

    def first_level(self, start: float) -> float:
        return start

    def times(self, steps: int, start: float, atlas: bool) -> list[float]:
        from diffatlas.diffusion.sample import crowded_times, uniform_times

        return crowded_times(steps, start) if atlas and self._mask_first else uniform_times(steps, start)

    def atlas(self, denoiser: Denoiser, schedule: Schedule) -> tuple[Denoiser, Schedule]:
        from diffatlas.diffusion.sample import mask_first

        return mask_first(denoiser, schedule, len(self.card.scheme)) if self._mask_first else (denoiser, schedule)

    @property
    def _mask_first(self) -> bool:
        return self.card.atlas_walk == "mask-first"

    def distances(self, mask_x0: NDArray[np.float32]) -> NDArray[np.float32]:
        return mask_x0

    def edited_mask(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        return distances

    def given_mask(self, mask: Tensor, noise: NoiseSource, fresh: bool) -> Guidance:
        from diffatlas.diffusion.guidance import MaskGiven

        return MaskGiven(mask)

    def gradient(self, image: Tensor, sampler: Sampler, noise: NoiseSource) -> tuple[Guidance, Sampler, Watched]:
        from diffatlas.diffusion.guidance import GradientGuidance

        guidance = GradientGuidance(image)
        return guidance, sampler, guidance


def convention_of(card: ModelCard) -> Convention:
    """The convention of a card's schedule; KeyError where there is none."""
    module, name = CONVENTIONS[card.schedule]
    kind: Any = getattr(import_module(module), name)
    return cast("Convention", kind(card))
