"""The atlas by itself: pairs drawn from noise, and an image painted onto a given mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffatlas import io, session
from diffatlas.engine.request import MaskEdit, PresetName, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.session import ModelCard
from diffatlas_app import limits
from diffatlas_app.runs import stream as runs
from diffatlas_app.visitors.sessions import Visitor, Visitors
from diffatlas_app.visitors.source import Source, read_limits


def draw_request(model: str, count: int, seed: int, preset: PresetName = "watch") -> Request:
    """``count`` pairs from noise; pair i belongs to seed + i. `BadInput` beyond what this page offers."""
    if not 1 <= count <= limits.MAX_PAIRS:
        raise BadInput(f"this page draws 1 to {limits.MAX_PAIRS} pairs at a time; the command line takes more")
    card_named(model)
    return Request(task="generate", model=model, preset=preset, guidance="none", samples=count, seed=seed)


def draw(visitor: Visitor, request: Request) -> Iterator[runs.Update]:
    """Draw pairs; the first of them is shown while they form, all of them stay in the visitor's folder."""
    for update in runs.watch(visitor, None, (request,)):
        result = update.frame.result
        if result is not None:
            visitor.pairs_scheme = result.labels.scheme
            visitor.pairs = tuple(
                _kept(visitor.folder, number, image, mask)
                for number, (image, mask) in enumerate(zip(result.images, result.masks, strict=True))
            )
        yield update


def _kept(folder: Path, number: int, image: Volume, mask: LabelMap) -> tuple[Path, Path]:
    paths = folder / f"pair-{number}-image.nii", folder / f"pair-{number}-mask.nii"
    io.write_volume(image, paths[0])
    io.write_label_map(mask, paths[1])
    return paths


def open_pair(visitor: Visitor, number: int, seed: int) -> Source:
    """One of the pairs drawn last as what the visitor looks at: to be seen in three planes, or segmented."""
    if not 0 <= number < len(visitor.pairs) or visitor.pairs_scheme is None:
        raise BadInput("these pairs are not here any more; draw some again")
    image, mask = visitor.pairs[number]
    name = f"pair-of-seed-{seed + number}"
    # Its values are the model's, between -1 and 1: what the reader takes them for means nothing.
    volume = replace(io.read_volume(image), name=name, modality="unknown", header=None, notes=())
    visitor.source = Source(name, volume=volume, true_labels=io.read_label_map(mask, visitor.pairs_scheme))
    return visitor.source


def paint(visitors: Visitors, visitor: Visitor, mask: LabelMap, request: Request, name: str) -> Iterator[runs.Update]:
    """Paint an image onto ``mask``; ``request`` as `paint_request` makes it."""
    # The engine wants to know where it is, not what is there: the mask's own values stand for an image.
    where = Volume(mask.data.astype(np.float32), mask.grid, "unknown", name)
    return runs.run(visitors, visitor, where, (request,))


def paint_request(mask: LabelMap, seed: int, preset: PresetName = "watch") -> Request:
    """Paint with the first model of the mask's scheme, its field of view around the structures."""
    if not mask.data.any():
        raise BadInput("this mask is empty: there is nothing to paint on")
    model = next((c.name for c in session.available_models() if c.scheme.ids == mask.scheme.ids), None)
    if model is None:
        raise BadInput(f"no model here knows the structures of '{mask.scheme.name}'")
    inside = np.nonzero(mask.data)
    low, high = [int(i.min()) for i in inside], [int(i.max()) + 1 for i in inside]
    roi = ((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))
    return Request(task="paint", model=model, preset=preset, seed=seed, edit=MaskEdit(mask.data), roi=roi)


def last_mask(visitor: Visitor) -> tuple[str, LabelMap]:
    """The labels of the visitor's last run, and what to call them."""
    saved = visitor.saved
    if saved is None:
        raise BadInput("there is no finished run yet: run a segmentation first, or give a label map")
    return saved.stem, io.read_label_map(saved.folder / "labels.nii.gz", saved.scheme, limits=read_limits())


def card_named(model: str) -> ModelCard:
    """The card of a model on this page; a path is not one."""
    for card in session.available_models():
        if card.name == model:
            return card
    raise BadInput(f"there is no model {model[:60]!r} on this page")
