"""Presets: named sets of sampling options. A model's convention may give a preset other values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["fast", "watch", "published"]
SamplerName = Literal["ddim", "ddpm", "dpmpp-2m"]


@dataclass(frozen=True)
class Preset:
    """``guidance_noise`` None means the model card's own default."""

    name: PresetName
    sampler: SamplerName
    steps: int
    guidance_noise: float | None
    summary: str


PRESETS: dict[str, Preset] = {
    "fast": Preset("fast", "ddim", 2, 0.0, "two steps with the clean image: an answer in about a second"),
    "watch": Preset("watch", "ddim", 40, None, "forty steps, made to be seen"),
    "published": Preset(
        "published", "ddpm", 300, 1.0, "the paper's guidance: 300 ancestral steps, image as noisy as the mask"
    ),
}
