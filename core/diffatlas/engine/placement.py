"""Where the model looks: the model grid in the world, the image on it, and the user's edited mask on it.

numpy only. The network is asked for one thing, where the structures of a large volume are, and comes as a function
(`diffatlas.engine.locate.Answer`).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffatlas.engine.locate import AUTOMATIC_LOOKS, Answer, glance, search
from diffatlas.engine.plan import Plan, larger_than_view_note, window_note
from diffatlas.engine.request import MaskEdit
from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import image_to_model, labels_to_model
from diffatlas.geometry.space import Window, field_of_view
from diffatlas.geometry.volume import LabelMap, Volume

# A volume is low where it has at most this share of the field of view, and of its own second edge.
LOW, SLAB = 0.4, 0.75
# Slices are then tried so many times as far apart as told; so much less of the labels must be expected to be wrong.
STRETCH, SURER = 1.5, 0.007


@dataclass(frozen=True, eq=False)
class Placement:
    """``grid``: the model grid in the world. ``source``: the volume's grid, None without a volume.

    ``image``: float32 [X, Y, Z] in [-1, 1] on ``grid``, None without a volume. ``known``: bool [X, Y, Z], the voxels
    for which the volume gives evidence; elsewhere the image is the fill value of the model's space. ``search_s``:
    seconds that finding the place took. ``confidence``: of a search in what it found, 0 to 1; None where there was no
    search. ``notes``: findings, one line each.
    """

    grid: Grid
    source: Grid | None = None
    image: NDArray[np.float32] | None = None
    known: NDArray[np.bool_] | None = None
    search_s: float = 0.0
    confidence: float | None = None
    notes: tuple[str, ...] = ()


def place(plan: Plan, volume: Volume | None, answer: Answer) -> Placement:
    """Lay the model grid where ``plan`` says, or where a search with ``answer`` finds the structures."""
    space = plan.card.space
    if volume is None:
        return Placement(space.grid_at(np.zeros(3)), notes=plan.notes)
    begin = time.monotonic()
    grid, where, confidence = (plan.grid, plan.where, None) if plan.grid is not None else find(plan, volume, answer)
    grid, stretched = as_it_looks_surest(plan, volume, grid, answer)
    search_s = time.monotonic() - begin
    seen = image_to_model(volume, grid, space.window_for(volume.modality), space.fill, plan.request.ignore)
    told = [text for text in (where, stretched) if text]
    notes = [*plan.notes, *told, window_note(volume, *seen.limits)]
    if seen.limits[1] - seen.limits[0] < 1e-6 or float(np.ptp(seen.image)) == 0:
        notes.append("the image is constant within the field of view; there is nothing to see in it")
    return Placement(grid, volume.grid, seen.image, seen.known, search_s, confidence, tuple(notes))


def as_it_looks_surest(plan: Plan, volume: Volume, grid: Grid, answer: Answer) -> tuple[Grid, str]:
    """``grid``, or one that takes the slices of a low crop to lie further apart than its header tells, where the model
    is surer of what it sees so; and a sentence on it, else "". `docs/decisions/0028-wrong-distances.md`.

    Headers with a wrong distance between slices are common, and nothing in a file gives them away. The model is asked
    where one look can tell (it has a calibration), the volume lies within its view, and it is a slab too low for a
    whole structure.
    """
    request = plan.request
    asked = request.task == "segment" and request.guidance == "image" and request.roi is None and not plan.search
    looks = two_looks(plan, volume, grid, answer) if asked else None
    if looks is None or looks.stretched > looks.as_told - SURER:
        return grid, ""
    return looks.longer, (
        f"the volume is only {min(volume.grid.extent_mm):.0f} mm high; the model is surer of it with slices "
        f"{STRETCH:g} times as far apart as the header tells ({looks.stretched:.1%} instead of {looks.as_told:.1%} "
        f"expected to be wrong), and looked at it so; volumes are by the header; a region of interest keeps to the "
        f"header"
    )


@dataclass(frozen=True, eq=False)
class TwoLooks:
    """A low crop as its header tells and with its slices `STRETCH` times as far apart: the share of the labels that is
    expected to be wrong, ``as_told`` and ``stretched``, and the model grid of the second, ``longer``."""

    longer: Grid
    as_told: float
    stretched: float


def two_looks(plan: Plan, volume: Volume, grid: Grid, answer: Answer) -> TwoLooks | None:
    """Both looks at ``volume`` from the model grid ``grid``; None where it is no low crop, or the model has no
    calibration.

    A view of the volume that is longer than true is a model grid that is squeezed along the slices' normal: labels stay
    on the volume's voxels, and ml those of its header.
    """
    card, shortest = plan.card, int(np.argmin(volume.grid.extent_mm))
    calibration = card.calibration
    height, width = sorted(volume.grid.extent_mm)[:2]
    low = height <= LOW * min(card.space.extent_mm) and height <= SLAB * width
    if not (low and card.convention.one_step) or calibration is None:
        return None

    def doubt(at: Grid) -> float:
        window = card.space.window_for(volume.modality)
        seen = image_to_model(volume, at, window, card.space.fill, plan.request.ignore)
        distance_mm = answer(seen.image, seen.known, 0) * np.float32(card.space.sdf_clip_mm)
        labels = distances_to_labels(distance_mm)
        found = (labels > 0) & seen.known
        right = np.take_along_axis(calibration.probabilities(distance_mm), labels[None].astype(np.intp), 0)[0]
        return float(1 - right[found].mean(dtype=np.float64)) if found.any() else 1.0

    normal = volume.grid.affine[:3, shortest] / np.linalg.norm(volume.grid.affine[:3, shortest])
    longer = _squeezed(grid, normal, STRETCH)
    return TwoLooks(longer, doubt(grid), doubt(longer))


def _squeezed(grid: Grid, normal: NDArray[np.float64], factor: float) -> Grid:
    """``grid`` about its middle, shorter by ``factor`` along ``normal`` [3]."""
    squeeze = np.eye(3) + (1 / factor - 1) * np.outer(normal, normal)
    affine = grid.affine.copy()
    affine[:3, :3] = squeeze @ affine[:3, :3]
    affine[:3, 3] = grid.centre_mm - affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return Grid(grid.shape, affine)


def find(plan: Plan, volume: Volume, answer: Answer) -> tuple[Grid, str, float | None]:
    """The model grid about the structures of a large volume, a sentence on how they were found, and the confidence of
    the search where one look was not enough."""
    space, expected_ml = plan.card.space, plan.card.expected_volumes_ml
    if plan.request.ignore is not None:  # nor does the search believe them
        hidden = plan.request.ignore if volume.unknown is None else plan.request.ignore | volume.unknown
        volume = replace(volume, unknown=hidden)
    centre_mm = glance(volume, space, answer, expected_ml)
    by, words, confidence = "one look from its middle", "", None
    if centre_mm is None:
        (last,) = deque(search(volume, space, answer, expected_ml, AUTOMATIC_LOOKS), maxlen=1)
        assert last.proposal is not None
        centre_mm, by, words = last.proposal.centre_mm, "a search", f": {last.proposal.words}"
        confidence = last.proposal.confidence
    # As a region of interest it is moved into the volume where it would stick out.
    grid = space.place(volume.grid, field_of_view(space, volume.grid, centre_mm))
    moved = float(np.linalg.norm(grid.centre_mm - volume.grid.centre_mm))
    how = f"{by} placed it {moved:.0f} mm from the volume's centre{words}"
    return grid, larger_than_view_note(space, volume.grid, how), confidence


@dataclass(frozen=True, eq=False)
class EditedMask:
    """The user's mask of a request: ``labels`` on the source grid; the rest on the model grid.

    ``channels``: float32 [K, X, Y, Z], the network's mask channels. ``pinned``: bool [X, Y, Z], or None.
    """

    labels: LabelMap
    channels: NDArray[np.float32]
    pinned: NDArray[np.bool_] | None


def edited_mask(plan: Plan, placement: Placement) -> EditedMask | None:
    """The request's edit brought to the model grid, None where it has none; `BadInput` where it does not fit."""
    edit, card = plan.request.edit, plan.card
    if edit is None:
        return None
    grid = placement.source or placement.grid
    labels = _labels(edit, grid, plan)
    distances = labels_to_model(labels, placement.grid, card.space.sdf_clip_mm) / card.space.sdf_clip_mm
    pinned = None
    if edit.pinned is not None:
        if edit.pinned.shape != grid.shape:
            raise BadInput(f"the pinned voxels have shape {edit.pinned.shape}, the volume {grid.shape}")
        share = Volume(edit.pinned.astype(np.float32), grid)
        pinned = image_to_model(share, placement.grid, Window("range", 0.0, 1.0)).image > 0
    return EditedMask(labels, card.convention.edited_mask(distances), pinned)


def _labels(edit: MaskEdit, grid: Grid, plan: Plan) -> LabelMap:
    scheme = plan.card.scheme
    if edit.labels.shape != grid.shape:
        raise BadInput(f"the edited mask has shape {edit.labels.shape}, the volume {grid.shape}")
    if edit.labels.size and int(edit.labels.max()) > len(scheme):
        raise BadInput(f"the edited mask holds label {int(edit.labels.max())}, the model knows {len(scheme)}")
    return LabelMap(np.ascontiguousarray(edit.labels, dtype=np.uint8), grid, scheme)
