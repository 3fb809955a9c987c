"""What a run will do, known before any network is loaded: `plan` turns a volume and a request into a `Plan`.

Front ends show a plan; they never work out steps, time, presets or the need of a search themselves. Reads the model's
card only; does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffatlas.engine import pace
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, Ranges, field_of_view, larger_than_view, world_box
from diffatlas.geometry.volume import Volume
from diffatlas.models.card import ModelCard
from diffatlas.models.presets import Preset
from diffatlas.models.store import available_models, find_model, read_card

# What is drawn from where nobody names an atlas: "heart" segments better, but its pairs are poor. Not in the wheel.
PAIRS = "heart-phantom"
LARGEST = 2.0  # fields of view, of the volume along any axis, for a model to be chosen by size


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A run before it starts.

    ``request``: with the model chosen ("auto" replaced by its name) and sampler, steps and guidance noise filled in
    from preset and card. ``card``: of that model. ``preset``: what the request's preset means to this model.
    ``steps``: frames that the run will yield; fewer than ``request.steps`` where an edit resumes part of the way or the
    model knows fewer levels. ``grid``: the model grid in world coordinates where the run will look; None without a
    volume, and where ``search`` says that the run searches the volume first. ``where``: a sentence for a volume larger
    than the field of view, else empty. ``seconds``: expected duration, the search not counted; None until a run of this
    model on this device was measured in this process. ``notes``: one-line findings worth showing, which the result will
    repeat.
    """

    request: Request
    card: ModelCard
    preset: Preset
    steps: int
    grid: Grid | None
    search: bool
    where: str
    seconds: float | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Plan({self.summary}{', after a search' if self.search else ''})"

    @property
    def summary(self) -> str:
        """One line such as "heart, 40 steps, seed 0", for forms and progress bars."""
        parts = [self.card.name, "one step" if self.steps == 1 else f"{self.steps} steps"]
        if self.request.samples > 1:
            parts.append(f"{self.request.samples} samples")
        return ", ".join([*parts, f"seed {self.request.seed}"])


def plan(volume: Volume | None, request: Request) -> Plan:
    """The plan of ``request`` on ``volume``; raises the `BadInput` that the run itself would raise.

    ``volume`` None: for a request without an image, or a form that has none yet; then nothing is said of the place.
    """
    card = card_for(volume, request)
    convention = card.convention
    preset = convention.preset(request.preset)
    filled = request.resolved(preset, card.guidance_noise)
    if request.model == "auto":
        filled = replace(filled, model=card.name)
    steps, start = filled.steps or 1, 1.0
    by_image = request.task == "segment" and request.guidance == "image"
    notes = convention.notes(steps, filled.guidance_noise if by_image else None)
    grid, search, where = None, False, ""
    if request.ignore is not None:
        if volume is None or request.ignore.shape != volume.grid.shape:
            shape = "no volume" if volume is None else f"the volume {volume.grid.shape}"
            raise BadInput(f"the mask of what to ignore has shape {request.ignore.shape}, {shape}")
        if not card.evidence:
            notes.append(
                f"model '{card.name}' cannot be told what to ignore; the network saw those voxels as the darkest ones"
            )
    if volume is not None:
        if request.task == "segment":
            check_modality(volume, card, request)
        if request.roi is not None:
            view = field_of_view(card.space, volume.grid, card.space.place(volume.grid, request.roi).centre_mm)
            if request.task == "segment" and _exceeds(request.roi, view):
                notes.append(
                    f"the region of interest is larger than the model's field of view ({in_mm(card.space.extent_mm)}); "
                    f"the model looked at its middle"
                )
        elif request.task == "segment" and larger_than_view(card.space, volume.grid):
            search = convention.one_step
            how = "a search places it" if search else "its middle was taken, as in the published preprocessing"
            where = larger_than_view_note(card.space, volume.grid, how)
        grid = None if search else card.space.place(volume.grid, request.roi)
    if request.edit is not None and request.task == "segment":
        start = request.edit.t
        steps = max(1, round(steps * start))
    steps = convention.count(steps, start)
    return Plan(
        request=filled,
        card=card,
        preset=preset,
        steps=steps,
        grid=grid,
        search=search,
        where=where,
        seconds=pace.expected(card.sha256, filled, steps),
        notes=tuple(notes),
    )


def card_for(volume: Volume | None, request: Request) -> ModelCard:
    """The card of the request's model; "auto" is settled by `choose_model`."""
    return choose_model(volume) if request.model == "auto" else read_card(find_model(request.model))


def choose_model(volume: Volume | None) -> ModelCard:
    """The installed model that knows the volume's modality and whose field of view is nearest in size.

    Models that see less than half of the volume along some axis come last: a crop about a left atrium is nearer to a
    hippocampus's view in ml than to a heart's, and no crop about a hippocampus is as wide. A network that needs many
    steps takes hours where others take seconds: it is chosen only where nothing else fits.
    """
    cards = available_models()
    if not cards:
        raise BadInput("no model is installed; give the folder of one as the model")
    if volume is None:
        return next((c for c in cards if c.name == PAIRS), cards[0])
    fitting = [c for c in cards if volume.modality in (*c.modalities, "unknown")]
    if not fitting:
        known = ", ".join(f"{c.name} ({'/'.join(c.modalities)})" for c in cards)
        raise BadInput(
            f"no model for {volume.modality} images; there are: {known}; name one as model, and insist with force=True"
        )
    fitting = [c for c in fitting if c.convention.one_step] or fitting
    low, high = world_box(volume.grid)
    fitting = [c for c in fitting if (high - low <= LARGEST * np.array(c.space.extent_mm)).all()] or fitting
    size = np.prod(volume.grid.extent_mm)
    return min(fitting, key=lambda c: abs(np.log(np.prod(c.space.extent_mm) / size)))


def check_modality(volume: Volume, card: ModelCard, request: Request) -> None:
    """`BadInput` where the model was not trained on the volume's modality and the request does not insist."""
    known = card.modalities
    if volume.modality != "unknown" and volume.modality not in known and not request.force:
        raise BadInput(
            f"{volume.name}: looks like {volume.modality}, and model '{card.name}' was trained on {'/'.join(known)} "
            f"only; choose another model, or insist with force=True"
        )


def window_note(volume: Volume, low: float, high: float) -> str:
    """Which intensities the model saw as its range, and why: the window of the volume's modality."""
    why = f" ({volume.modality_reason})" if volume.modality_reason else ""
    if volume.modality == "unknown":
        return f"neither CT nor MR for certain{why}: window of {low:g} to {high:g}; name the modality if you know it"
    return f"window of {low:g} to {high:g}, as for {volume.modality.upper()}{why}"


def larger_than_view_note(space: ModelSpace, grid: Grid, how: str) -> str:
    """A sentence on a volume larger than the field of view; ``how``: a clause on how the place is decided."""
    low, high = world_box(grid)
    return (
        f"the volume ({in_mm((high - low).tolist())}) is larger than the model's field of view "
        f"({in_mm(space.extent_mm)}); {how}; a region of interest decides otherwise"
    )


def in_mm(extent: tuple[float, ...] | list[float]) -> str:
    """ "160 x 160 x 120 mm"."""
    return " x ".join(f"{e:.0f}" for e in extent) + " mm"


def _exceeds(roi: Ranges, view: Ranges) -> bool:
    return any(b - a > 1.15 * (d - c) for (a, b), (c, d) in zip(roi, view, strict=True))
