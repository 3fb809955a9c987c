"""The outcome of a run in the viewer: layers of the result, volumes, doubts and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import LabelScheme, Structure
from diffatlas.session import Frame, Result
from napari_diffatlas.viewer.doubt import Known, doubts_of, warnings_of
from napari_diffatlas.viewer.layers import CONFIDENCE_STYLE, Source, label_style, nearest

# Put into the name of a layer with a doubtful result, and of one with a warning.
DOUBTFUL, UNCERTAIN = " (doubtful)", " (uncertain)"
FROM_ATLAS = LabelScheme("from", (Structure("drawn by the atlas: the image was crossed out", 1, (255, 255, 255)),))
NOT_TOLD = LabelScheme("from", (Structure("crossed out, but the model could not be told", 1, (255, 176, 0)),))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a run: the result as displayed, the layers that show it, volumes in ml by structure.

    ``layers``: of a segmentation the labels first, then what of them lies where the image was crossed out, and with
    several samples their confidence; of a painting its images. ``spread_ml``: standard deviation over the samples,
    empty with one. ``crossed_ml``: the part of ``volumes_ml`` where the image was crossed out, empty where it was not.
    ``doubts``: see `doubts_of`; ``warnings``: see `warnings_of`.
    """

    result: Result
    layers: tuple[Image | Labels, ...]
    volumes_ml: dict[str, float]
    spread_ml: dict[str, float]
    crossed_ml: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, last: Frame, source: Source, title: str, card: Known | None = None) -> Outcome:
        """From the frame that carries the result. Uses no viewer and takes long: call it in the worker."""
        if last.result is None:
            raise ValueError("the last frame carries no result")
        result = source.origin.display_result(last.result)
        if result.images:
            return cls(result, tuple(_painted(result, source, title)), result.volumes_ml, {})
        doubts, warnings = doubts_of(last, result, card), warnings_of(result)
        title += DOUBTFUL if doubts else UNCERTAIN if warnings else ""
        asked = result.provenance.get("request")
        ignore = None if not asked or asked.get("ignore") is None else Request.from_json(asked).ignore
        crossed = None if ignore is None else source.origin.display(ignore)
        told = card is None or card.evidence
        layers = tuple(_segmented(result, last.grid, source, title, crossed, told))
        samples = [mask.volumes_ml() for mask in result.masks]
        names = result.labels.scheme.names if len(samples) > 1 else ()
        spread = {name: float(np.std([volumes[name] for volumes in samples], ddof=1)) for name in names}
        part = {} if crossed is None else _part_ml(result, crossed)
        return cls(result, layers, result.volumes_ml, spread, part, doubts, warnings)


def _part_ml(result: Result, crossed: NDArray[np.bool_]) -> dict[str, float]:
    """The volume of every structure within ``crossed``, ml."""
    names = result.labels.scheme.names
    counts = np.bincount(result.labels.data[crossed], minlength=len(names) + 1)[1:]
    return {n: float(c) * result.labels.grid.voxel_volume_ml for n, c in zip(names, counts, strict=True)}


def _segmented(
    result: Result, seen: Grid, source: Source, title: str, crossed: NDArray[np.bool_] | None, told: bool
) -> Iterator[Image | Labels]:
    """The labels on the source's own voxels; which of them were ``crossed`` out, and whether the model was ``told``;
    the confidence of them where the model looked (``seen``)."""
    labels, place = result.labels, source.placement.layer_arguments(source.grid)
    ours = {"origin": source.origin, "scheme": labels.scheme, "provenance": result.provenance, "notes": result.notes}
    ours["image"] = source.name
    state = label_style(labels.scheme) | {"metadata": source.placement.metadata(**ours)} | place
    yield Labels(labels.to_ids(), name=f"{source.name} {title}", **state)
    if crossed is not None:
        style = label_style(FROM_ATLAS if told else NOT_TOLD) | {"opacity": 1.0} | place
        where = (crossed & (labels.data > 0)).astype(np.uint8)
        name = f"{source.name} {'from the atlas' if told else 'crossed out'}, {title}"
        beside = Labels(where, name=name, metadata=source.placement.metadata(atlas=True), **style)
        beside.contour = 1  # the structures stay in sight inside
        yield beside
    if result.confidence is not None:
        field_ = np.ones(seen.shape, dtype=np.uint8)
        # Confidence is undefined where the model did not look.
        data = np.where(nearest(field_, seen, source.grid) > 0, result.confidence, np.float32(np.nan))
        metadata = source.placement.metadata(origin=source.origin, live=True)
        own = {"name": f"{source.name} confidence, {title}", "metadata": metadata}
        yield Image(data, visible=False, **CONFIDENCE_STYLE, **own, **place)


def _painted(result: Result, source: Source, title: str) -> Iterator[Image]:
    """The generated images where the model saw them."""
    for volume in result.images:
        orientation = Grid(volume.grid.shape, source.placement.world_affine(volume.grid)).to_canonical()
        place = source.placement.layer_arguments(volume.grid.reoriented(orientation))
        data = reorient(volume.data, orientation)
        own = {"name": f"{source.name} {title}", "metadata": source.placement.metadata(generated=True)}
        yield Image(data, contrast_limits=(-1, 1), colormap="gray", **own, **place)
