"""The convention of the paper's networks: one noise level for image and mask, out of T discrete ones.

Planning does not import torch; the computations are in `diffatlas.published.paper`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.models.convention import Convention
from diffatlas.models.presets import PRESETS, Preset, PresetName, SamplerName

if TYPE_CHECKING:
    from torch import Tensor

    from diffatlas.diffusion.denoise import Denoiser
    from diffatlas.diffusion.guidance import Guidance, NoiseSource, Watched
    from diffatlas.diffusion.sample import Sampler
    from diffatlas.diffusion.schedule import DiscreteCosine, Schedule

# A clean image is nothing that a network of one level has seen, and from pure noise it cannot answer in two steps.
# Deterministic, so that one image noise lasts through the walk.
FAST = Preset("fast", "ddim", 8, 1.0, "eight steps of the published guidance")


class OneLevel(Convention):
    """``network(x, t)`` with integer steps t in 0 .. T - 1, which returns eps."""

    one_step = False

    def preset(self, name: PresetName) -> Preset:
        return FAST if name == "fast" else PRESETS[name]

    def count(self, steps: int, start: float = 1.0) -> int:
        return min(steps, max(1, round(start * self.card.levels)))

    def notes(self, steps: int, guidance_noise: float | None) -> list[str]:
        notes = []
        if guidance_noise is not None and guidance_noise < 1:
            notes.append(
                f"this network knows one noise level for image and mask; guidance noise {guidance_noise:g} is outside "
                f"what it was trained on (preset published is the paper's way)"
            )
        if steps > self.card.levels:
            notes.append(f"this model has {self.card.levels} noise levels; there are no more steps than that")
        return notes

    def schedule(self) -> DiscreteCosine:
        from diffatlas.diffusion.schedule import DiscreteCosine

        return DiscreteCosine(self.card.levels)

    def denoiser(self, network: Any, sampler: SamplerName) -> Denoiser:
        from diffatlas.diffusion.denoise import as_denoiser
        from diffatlas.published.paper import CLAMP, one_level

        schedule, predicted = self.schedule(), self.card.prediction
        # The paper's walk with the paper's clamp, exactly; few large steps fare better within the data's range.
        clamp = CLAMP if sampler == "ddpm" else self.card.mask_range
        two_level = one_level(network, schedule, self.card.orientation)
        return as_denoiser(two_level, schedule, predicted["image"], predicted["mask"], clamp)

    def first_level(self, start: float) -> float:
        return self.times(1, start, False)[0]

    def times(self, steps: int, start: float, atlas: bool) -> list[float]:
        from diffatlas.diffusion.sample import discrete_times

        return discrete_times(steps, start, self.card.levels)

    def atlas(self, denoiser: Denoiser, schedule: Schedule) -> tuple[Denoiser, Schedule]:
        return denoiser, schedule

    def distances(self, mask_x0: NDArray[np.float32]) -> NDArray[np.float32]:
        # The paper's walk may leave the range of distances.
        within: NDArray[np.float32] = np.clip(mask_x0 / np.float32(self.card.mask_range), -1, 1)
        return within

    def edited_mask(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        from diffatlas.geometry.distance import distances_to_labels
        from diffatlas.published.paper import published_sdf

        return published_sdf(distances_to_labels(distances), len(self.card.scheme))

    def given_mask(self, mask: Tensor, noise: NoiseSource, fresh: bool) -> Guidance:
        from diffatlas.diffusion.guidance import MaskNoised

        return MaskNoised(mask, self.schedule(), noise, fresh)

    def gradient(self, image: Tensor, sampler: Sampler, noise: NoiseSource) -> tuple[Guidance, Sampler, Watched]:
        from diffatlas.diffusion.guidance import no_guidance
        from diffatlas.published.paper import GradientPull

        # It moves the sampler's state and not what the network is shown, see there.
        pull = GradientPull(image, self.schedule(), noise, sampler)
        return no_guidance, pull, pull
