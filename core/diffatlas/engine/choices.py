"""Names and bounds of a request's fields. The command line builds its options of them, so nothing slow is imported."""

from __future__ import annotations

from typing import Literal

from diffatlas.models.presets import PresetName as PresetName
from diffatlas.models.presets import SamplerName as SamplerName

Task = Literal["segment", "generate", "paint"]
GuidanceName = Literal["image", "gradient", "none"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "fp32", "bf16"]
Roi = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

MAX_STEPS = 1000
MAX_SAMPLES = 1024
