"""The atlas by itself: pairs drawn from noise, and an image painted onto a given mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from diffatlas import io, session
from diffatlas.engine.request import MaskEdit, PresetName, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.session import Frame, ModelCard
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
    """Draw pairs; the first is shown while it forms, and all are kept in the visitor's folder."""
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
    # Its values are in the model's range, -1 to 1, so the modality that the reader guessed means nothing.
    volume = replace(io.read_volume(image), name=name, modality="unknown", header=None, notes=())
    visitor.source = Source(name, volume=volume, true_labels=io.read_label_map(mask, visitor.pairs_scheme))
    return visitor.source


def paint(visitors: Visitors, visitor: Visitor, mask: LabelMap, request: Request, name: str) -> Iterator[runs.Update]:
    """Paint an image onto ``mask``; ``request`` as `paint_request` makes it.

    The given mask is shown and saved, not its form on the model's voxels. The painted image is saved on the mask's
    voxels, so that the two files match.
    """
    # The engine needs the grid of an image, not its values: the mask's own values are put in their place.
    where = Volume(mask.data.astype(np.float32), mask.grid, "unknown", name)
    shown: LabelMap | None = None

    def as_given(frame: Frame) -> Frame:
        nonlocal shown
        if shown is None or shown.grid is not frame.grid:
            shown = nearest(mask, frame.grid)
        result = frame.result
        if result is not None:
            images = tuple(on_grid(image, mask.grid) for image in result.images)
            result = replace(result, labels=mask, images=images)
        volumes = replace(frame.metrics, volumes_ml=mask.volumes_ml())
        return replace(frame, labels=shown.data, result=result, metrics=volumes)

    return runs.run(visitors, visitor, where, (request,), as_given)


def nearest(labels: LabelMap, grid: Grid) -> LabelMap:
    """A label map on another grid: the label of the nearest voxel, 0 outside."""
    at = np.rint(_voxels(labels.grid, grid)).astype(np.int64)
    inside = ((at >= 0) & (at < np.array(labels.grid.shape))).all(axis=-1)
    data = np.zeros(grid.shape, np.uint8)
    data[inside] = labels.data[tuple(at[inside].T)]
    return LabelMap(data, grid, labels.scheme)


def on_grid(image: Volume, grid: Grid) -> Volume:
    """An image on another grid, linearly between its voxels; its lowest value outside."""
    at = np.moveaxis(_voxels(image.grid, grid), -1, 0)
    low = float(image.data.min())
    data = map_coordinates(image.data, at, order=1, mode="constant", cval=low, prefilter=False)
    return replace(image, data=data.astype(np.float32), grid=grid, header=None)


def _voxels(source: Grid, target: Grid) -> NDArray[np.float64]:
    """Where the voxels of ``target`` lie in ``source``: fractional indices [X, Y, Z, 3]."""
    onto = np.linalg.inv(source.affine) @ target.affine
    indices = np.moveaxis(np.indices(target.shape, np.float64), 0, -1)
    return np.asarray(indices @ onto[:3, :3].T + onto[:3, 3])


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
