"""The door to the engine: ``stream`` and ``segment`` on this machine, the models in the box, example volumes.

Everything a front end needs comes from here and from the value types; importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas.engine.frame import Frame, FrameMetrics, Result
from diffatlas.engine.locate import AUTOMATIC_LOOKS, LIKELY, Look, Proposal
from diffatlas.engine.plan import Plan
from diffatlas.engine.request import PRESETS, MaskEdit, Preset, Request, Roi
from diffatlas.engine.run_record import RecordedRun, read_report, read_run, write_report
from diffatlas.engine.seam import Backend
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.models.card import ModelCard
from diffatlas.models.store import Model, available_models, find_model, load_model, read_card, use_models_folder

if TYPE_CHECKING:
    from diffatlas.io.anything import ImageLike, LabelsLike
    from diffatlas.metrics import Comparison as Comparison

__all__ = [
    "AUTOMATIC_LOOKS",
    "EXAMPLES",
    "EXAMPLE_REGION",
    "LIKELY",
    "PRESETS",
    "Backend",
    "Frame",
    "FrameMetrics",
    "Look",
    "MaskEdit",
    "Model",
    "ModelCard",
    "Plan",
    "Preset",
    "Proposal",
    "RecordedRun",
    "Request",
    "Result",
    "available_models",
    "choose_model",
    "compare",
    "example",
    "find_model",
    "load_model",
    "local_backend",
    "locate",
    "model_card",
    "needs_search",
    "pair_request",
    "pairs",
    "plan",
    "read_report",
    "read_run",
    "segment",
    "start",
    "stream",
    "use_models_folder",
    "write_pair",
    "write_report",
]

EXAMPLES = ("heart-ct", "heart-mr")
EXAMPLE_REGION: Roi = ((6, 86), (11, 91), (4, 84))
"""The region of interest that comes with the examples, both of one patient: where `locate` finds the heart."""


@lru_cache(maxsize=1)
def local_backend() -> Backend:
    """The engine on this machine; models it has loaded stay warm."""
    from diffatlas.engine.backend import LocalBackend

    return LocalBackend()


def model_card(name: str) -> ModelCard:
    """The card of a model by name or folder; its weights are not touched. `BadInput` where there is no such model."""
    return read_card(find_model(name))


def plan(image: ImageLike | None, request: Request | None = None, **options: Any) -> Plan:
    """What `stream` will do with the same arguments: model, steps, time, place, notes. Loads no network, no torch.

    Front ends show this and predict nothing themselves. Raises the `BadInput` that the run would raise; ``image`` may
    be None for a form that has none yet.
    """
    from diffatlas.engine import plan as planning

    return planning.plan(*_asked(image, request, options))


def stream(image: ImageLike | None, request: Request | None = None, **options: Any) -> Iterator[Frame]:
    """Run and yield a `Frame` a step; the last carries the `Result`. ``close()`` cancels. Arguments as `segment`."""
    return local_backend().stream(*_asked(image, request, options))


def segment(image: ImageLike | None, request: Request | None = None, **options: Any) -> Result:
    """Segment an image and return the `Result`, whose ``labels`` lie on the image's own voxels.

    ``image``: a path, a nibabel image, a `Volume`, or an array [X, Y, Z] with ``affine=`` [4, 4]; None for requests
    without an image. ``options``: fields of `Request` (``model="heart"``, ``preset="watch"``, ``seed=3``),
    which override those of ``request``; ``affine``; and ``modality``, "ct" or "mr", where it should not be guessed.
    """
    result = None
    for frame in stream(image, request, **options):
        result = frame.result
    if result is None:
        raise RuntimeError("the run ended without a result")
    return result


def _asked(image: ImageLike | None, request: Request | None, options: dict[str, Any]) -> tuple[Volume | None, Request]:
    """Volume and request of a call."""
    how = {name: options[name] for name in ("affine", "modality") if name in options}
    wanted = {name: value for name, value in options.items() if name not in how}
    known = [f.name for f in fields(Request)]
    if unknown := sorted(wanted.keys() - set(known)):
        raise TypeError(f"there is no option {unknown[0]!r}; there are: {', '.join(known)}, affine, modality")
    if request is not None and not isinstance(request, Request):
        raise TypeError(f"request must be a diffatlas.Request, not {type(request).__name__}; options have names")
    full = replace(request or Request(), **wanted)
    if image is None or (isinstance(image, Volume) and not how):
        return image, full
    from diffatlas.io.anything import as_volume

    return as_volume(image, **how), full


def start(volume: Volume | None, request: Request) -> Frame:
    """What a run of ``request`` begins with, before the network is asked, as a `Frame` of index -1.

    Both halves are the noise of the first sample, where the model will look. For the tasks "segment" and "generate": a
    mask that is painted on is not noise. Where `Plan.search` is set, the noise
    lies in the middle of the volume.
    """
    from diffatlas.engine.first_noise import first_noise

    return first_noise(volume, request)


def needs_search(volume: Volume, model: str = "auto") -> bool:
    """`Plan.search` of a run without a region of interest; use `plan`."""
    return plan(volume, Request(model=model, force=True)).search


def locate(volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
    """Search a large volume for what the request's model knows; the last `Look` carries the `Proposal`.

    Its ``roi`` goes into `Request.roi`. ``limit``: looks after which no new place is tried; `AUTOMATIC_LOOKS` is what a
    run allows itself. ``close()`` stops the search.
    """
    return local_backend().locate(volume, request, limit)


def pair_request(request: Request) -> Request:
    """``request`` as one that draws image-mask pairs from the atlas alone, whatever else it asked for."""
    return replace(request, task="generate", guidance="none", roi=None, edit=None, ignore=None, force=False)


def pairs(request: Request, count: int, backend: Backend | None = None) -> Iterator[Frame]:
    """Draw ``count`` image-mask pairs from the atlas, one after the other; pair i belongs to seed ``request.seed + i``.

    Every pair ends with a `Frame` that carries its `Result` (one image, one mask). ``close()`` stops within a step.
    """
    for i in range(count):
        one = replace(pair_request(request), seed=request.seed + i, samples=1)
        yield from (backend or local_backend()).stream(None, one)


def write_pair(folder: Path, index: int, image: Volume, mask: LabelMap) -> str:
    """Write a pair as ``case-NNN_image.nii.gz`` and ``case-NNN_label.nii.gz``; returns ``case-NNN``."""
    from diffatlas import io

    case = f"case-{index:03d}"
    io.write_volume(image, folder / f"{case}_image.nii.gz")
    io.write_label_map(mask, folder / f"{case}_label.nii.gz")
    return case


def example(name: str, seed: int = 7) -> tuple[Volume, LabelMap]:
    """A digital heart and its true labels: "heart-ct" or "heart-mr"; needs no file and no download."""
    if name not in EXAMPLES:
        raise BadInput(f"no example named '{name}'; there are: {', '.join(EXAMPLES)}")
    from diffatlas.phantom import phantom

    return phantom(seed, "ct" if name == "heart-ct" else "mr")


def compare(prediction: LabelsLike, reference: LabelsLike, tolerance_mm: float = 2.0) -> Comparison:
    """Dice, surface Dice and HD95 of two label maps on one grid, see `diffatlas.metrics`.

    Each is a `LabelMap`, a path or a nibabel image. Structures have the names of a label map's scheme; those of files
    alone are named by their ids.
    """
    from diffatlas import metrics
    from diffatlas.io.anything import as_label_maps

    predicted, true = as_label_maps(prediction, reference)
    return metrics.compare(predicted, true, tolerance_mm)


def choose_model(volume: Volume | None) -> str:
    """The name of the model that "auto" stands for, see `diffatlas.engine.plan.choose_model`."""
    from diffatlas.engine import plan as planning

    return planning.choose_model(volume).name
