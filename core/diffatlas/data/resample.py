"""One case into the model's space: crop, resample, window to [-1, 1], signed distances, as bytes.

``image``: uint8 [M, X, Y, Z], model range [-1, 1] over 0 to 255, M appearances of the same anatomy; ``sdf``: int8
[K, X, Y, Z], distance / (1.3 clip) over -127 to 127 (beyond the clip, so that scaling an anatomy still finds values).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffatlas.anatomies import draw_pair, read_shapes
from diffatlas.data.case import Case, Centre, Drawn, DrawnAnatomy, Refused
from diffatlas.data.labels import read_labels, same_grid
from diffatlas.data.names import canonical
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import image_to_model, labels_to_model
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import MMWHS, LabelMap, LabelScheme, Modality
from diffatlas.io import read_volume
from diffatlas.phantom import PhantomModality, paint, render, sample_anatomy

REACH = 1.3
# A sample of the labelled voxels is enough to say which part of them is in view.
SAMPLED = 200_000
# The sampler looks for the structures where the volume exceeds the field of view by more than this; so does training.
LARGER = 1.15

Tensors = tuple[NDArray[np.uint8], NDArray[np.int8]]


@dataclass(frozen=True)
class Plan:
    """What is done with every case: the model's ``space`` and the ``margin`` (voxels a side) around it; the
    structures; where the field of view is put; whether a case that lacks a structure is refused (``complete``)."""

    space: ModelSpace
    scheme: LabelScheme
    margin: int = 4
    centre: Centre = "auto"
    complete: bool = False


@dataclass(frozen=True)
class Facts:
    """What was found in a case. ``intensity``: lowest and highest; ``window``: the intensities of -1 and 1;
    ``missing``: structures without a voxel; ``cut``: the share of each structure outside the field of view, where
    there is one; ``extent_mm``: of all structures together, along right, anterior, superior."""

    id: str
    modality: Modality
    split: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity: tuple[float, float]
    window: tuple[float, float]
    missing: tuple[str, ...] = ()
    cut: dict[str, float] = field(default_factory=dict)
    extent_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centred_on: str = "volume"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case as the prepared file holds it, and what was found in it. ``known``: [M, X, Y, Z], the voxels that each
    image acquired; None: all."""

    image: NDArray[np.uint8]
    sdf: NDArray[np.int8]
    facts: Facts
    known: NDArray[np.bool_] | None = None


def with_margin(space: ModelSpace, margin: int) -> ModelSpace:
    """The same space with ``margin`` more voxels on every side."""
    x, y, z = (n + 2 * margin for n in space.shape)
    return replace(space, shape=(x, y, z))


def prepare_case(case: Case, plan: Plan) -> PreparedCase | Refused:
    """The case in model space, or why not. What is wrong with the user's files never raises."""
    try:
        if isinstance(case.image, Drawn):
            return _drawn(case, case.image, plan)
        if isinstance(case.image, DrawnAnatomy):
            return _from_labels(case, case.image, plan)
        return _read(case, case.image, plan)
    except BadInput as error:
        # The reader leaves to its caller how a volume is chosen; here that is called channel.
        return Refused(case.id, str(error).replace("choose one, or", "choose one with channel, or"))


def phantom_case(seed: int, space: ModelSpace, modalities: tuple[PhantomModality, ...]) -> Tensors:
    """One digital heart in every appearance of ``modalities``, drawn on the model's own grid."""
    images, sdf_mm, *_ = _draw(Drawn(seed, modalities), space)
    return _encode(images, sdf_mm, space.sdf_clip_mm)


def _encode(images: list[NDArray[np.float32]], sdf_mm: NDArray[np.float32], clip_mm: float) -> Tensors:
    image = np.stack([np.round((i + 1) * 127.5).astype(np.uint8) for i in images])
    return image, np.round(sdf_mm / (REACH * clip_mm) * 127).astype(np.int8)


def _draw(
    heart: Drawn, space: ModelSpace
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32], LabelMap, tuple[float, float], tuple[float, float]]:
    anatomy, grid = sample_anatomy(heart.seed), space.grid_at(np.zeros(3))
    fractions, labels = paint(anatomy, grid)
    images, lows, highs, limits = [], [], [], (0.0, 0.0)
    for modality in heart.modalities:
        volume = render(anatomy, grid, modality, heart.seed, fractions)
        image, _, limits = image_to_model(volume, grid, space.window_for(volume.modality), space.fill)
        images.append(image)
        lows.append(float(volume.data.min()))
        highs.append(float(volume.data.max()))
    sdf_mm = labels_to_model(labels, grid, REACH * space.sdf_clip_mm)
    return images, sdf_mm, labels, (min(lows), max(highs)), limits


def _drawn(case: Case, heart: Drawn, plan: Plan) -> PreparedCase:
    if [canonical(n) for n in plan.scheme.names] != [canonical(n) for n in MMWHS.names]:
        raise BadInput(f"digital hearts have the structures {', '.join(MMWHS.names)}, in this order")
    wide = with_margin(plan.space, plan.margin)
    images, sdf_mm, labels, intensity, limits = _draw(heart, wide)
    facts = _facts(case, "unknown", labels.grid, labels, plan, labels.grid, intensity, limits)
    if labels.data.any():
        facts = replace(facts, extent_mm=Box.of(labels).extent_mm)
    return PreparedCase(*_encode(images, sdf_mm, wide.sdf_clip_mm), facts)


def _from_labels(case: Case, heart: DrawnAnatomy, plan: Plan) -> PreparedCase:
    if [canonical(n) for n in plan.scheme.names] != [canonical(n) for n in MMWHS.names]:
        raise BadInput(f"drawn hearts have the structures {', '.join(MMWHS.names)}, in this order")
    wide = with_margin(plan.space, plan.margin)
    (shape,) = read_shapes(heart.shapes, [heart.name])
    drawn = draw_pair(shape, heart.seed, wide, heart.looks)
    facts = Facts(case.id, "unknown", case.split, wide.shape, wide.spacing_mm, (-1.0, 1.0), (-1.0, 1.0))
    facts = replace(facts, notes=(drawn.kind, *drawn.families))
    image, sdf = _encode(list(drawn.image), drawn.distance_mm, wide.sdf_clip_mm)
    return PreparedCase(image, sdf, facts, drawn.known)


def _read(case: Case, path: Path, plan: Plan) -> PreparedCase:
    if not case.labels:
        raise BadInput(f"{path}: has no labels (split '{case.split}')")
    volume = read_volume(path, volume_index=case.channel)
    if volume.data.min() == volume.data.max():
        raise BadInput(f"{path}: every voxel has the same value; there is nothing to learn from it")
    labels, notes = read_labels(case.labels, plan.scheme)
    same_grid(path, volume.grid, case.labels[0].path, labels.grid)
    if not labels.data.any():
        raise BadInput(f"{case.labels[0].path}: holds none of the structures ({', '.join(plan.scheme.names)})")
    modality = case.modality if case.modality != "unknown" else volume.modality
    wide = with_margin(plan.space, plan.margin)
    box = Box.of(labels)
    at_labels = plan.centre == "labels" or (plan.centre == "auto" and _elsewhere(volume.grid, labels, plan.space))
    grid = wide.place(volume.grid, centre_mm=box.centre_mm if at_labels else None)
    image, _, limits = image_to_model(volume, grid, wide.window_for(modality), wide.fill)
    intensity = float(volume.data.min()), float(volume.data.max())
    facts = _facts(case, modality, volume.grid, labels, plan, grid, intensity, limits)
    if plan.complete and facts.missing:
        raise BadInput(f"{case.labels[0].path}: lacks {', '.join(facts.missing)}, and only complete cases are wanted")
    sdf_mm = labels_to_model(labels, grid, REACH * wide.sdf_clip_mm)
    where = "labels" if at_labels else "volume"
    facts = replace(facts, centred_on=where, extent_mm=box.extent_mm, notes=(*volume.notes, *notes))
    return PreparedCase(*_encode([image], sdf_mm, wide.sdf_clip_mm), facts)


def _elsewhere(grid: Grid, labels: LabelMap, space: ModelSpace) -> bool:
    """Whether a view at the volume's middle would miss a structure, or the volume is so large that the sampler looks
    for them."""
    box_mm = np.abs(grid.affine[:3, :3]) @ np.array(grid.shape)
    if (box_mm > LARGER * np.array(space.extent_mm)).any():
        return True
    return any(share > 0 for share in _outside(labels, space.place(grid), space.shape).values())


def _outside(labels: LabelMap, view: Grid, shape: tuple[int, int, int]) -> dict[str, float]:
    """Share of each structure's voxels whose centre is outside the middle ``shape`` voxels of ``view``."""
    inner = (np.array(view.shape) - np.array(shape)) / 2
    out: dict[str, float] = {}
    for k, name in enumerate(labels.scheme.names, start=1):
        hits = np.flatnonzero(labels.data == k)
        if not len(hits):
            continue
        hits = hits[:: max(1, len(hits) // SAMPLED)]
        voxels = np.stack(np.unravel_index(hits, labels.data.shape), axis=-1).astype(np.float64)
        at = view.to_voxel(labels.grid.to_world(voxels))
        inside = ((at > inner - 0.5) & (at < inner + np.array(shape) - 0.5)).all(axis=-1)
        out[name] = float(1 - inside.mean())
    return out


@dataclass(frozen=True, eq=False)
class Box:
    """The box around all labelled voxels, along the world's axes: its middle [3] and edges, mm."""

    centre_mm: NDArray[np.float64]
    extent_mm: tuple[float, float, float]

    @classmethod
    def of(cls, labels: LabelMap) -> Box:
        """Of a label map that is not empty."""
        low, high = [], []
        for axis in range(3):
            hit = np.flatnonzero((labels.data > 0).any(axis=tuple(a for a in range(3) if a != axis)))
            low.append(hit[0] - 0.5)
            high.append(hit[-1] + 0.5)
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
        world = labels.grid.to_world(corners)
        x, y, z = world.max(0) - world.min(0)
        return cls((world.max(0) + world.min(0)) / 2, (float(x), float(y), float(z)))


def _facts(
    case: Case,
    modality: Modality,
    grid: Grid,
    labels: LabelMap,
    plan: Plan,
    view: Grid,
    intensity: tuple[float, float],
    window: tuple[float, float],
) -> Facts:
    outside = _outside(labels, view, plan.space.shape)
    return Facts(
        id=case.id,
        modality=modality,
        split=case.split,
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        intensity=intensity,
        window=window,
        missing=tuple(n for n in plan.scheme.names if n not in outside),
        cut={name: round(share, 4) for name, share in outside.items() if share > 0},
    )
