"""The door to the engine: ``stream`` and ``segment`` on this machine, the models in the box, example volumes.

Everything a front end needs comes from here and from the value types; importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from diffatlas.checkpoint import Model, ModelCard, available_models, load_model
from diffatlas.errors import BadInput
from diffatlas.frame import Backend, Frame, FrameMetrics, Result
from diffatlas.request import PRESETS, MaskEdit, Preset, Request
from diffatlas.volume import LabelMap, Volume

if TYPE_CHECKING:
    from diffatlas.metrics import Comparison as Comparison

__all__ = [
    "EXAMPLES",
    "PRESETS",
    "Backend",
    "Frame",
    "FrameMetrics",
    "MaskEdit",
    "Model",
    "ModelCard",
    "Preset",
    "Request",
    "Result",
    "available_models",
    "choose_model",
    "compare",
    "example",
    "load_model",
    "local_backend",
    "segment",
    "stream",
]

EXAMPLES = ("heart-ct", "heart-mr")


@lru_cache(maxsize=1)
def local_backend() -> Backend:
    """The engine on this machine; models it has loaded stay warm."""
    from diffatlas.local import LocalBackend

    return LocalBackend()


def stream(volume: Volume | None, request: Request) -> Iterator[Frame]:
    """Run ``request`` on ``volume`` and yield a `Frame` a step; the last carries the `Result`. ``close()`` cancels."""
    return local_backend().stream(volume, request)


def segment(volume: Volume | None, request: Request) -> Result:
    """Run to the end and return the `Result`."""
    result = None
    for frame in stream(volume, request):
        result = frame.result
    if result is None:
        raise RuntimeError("the run ended without a result")
    return result


def example(name: str, seed: int = 7) -> tuple[Volume, LabelMap]:
    """A digital heart and its true labels: "heart-ct" or "heart-mr"; needs no file and no download."""
    if name not in EXAMPLES:
        raise BadInput(f"no example named '{name}'; there are: {', '.join(EXAMPLES)}")
    from diffatlas.phantom import phantom

    return phantom(seed, "ct" if name == "heart-ct" else "mr")


def compare(prediction: LabelMap, reference: LabelMap, tolerance_mm: float = 2.0) -> Comparison:
    """Dice, surface Dice and HD95 of two label maps on one grid, see `diffatlas.metrics`."""
    from diffatlas import metrics

    return metrics.compare(prediction, reference, tolerance_mm)


def choose_model(volume: Volume | None) -> str:
    """The name of the model that "auto" stands for, see `diffatlas.local`."""
    from diffatlas import local

    return local.choose_model(volume)
