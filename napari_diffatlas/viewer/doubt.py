"""When a result should not be believed, and when it should be looked at first.

Doubts: sizes that do not fit the image, volumes that do not fit the training cases. These rules do not use the
image's content; they find runs far from the training data. Warnings: low confidence of the network itself.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, world_box
from diffatlas.geometry.volume import LabelMap
from diffatlas.session import LIKELY, Frame, Result

SMALLER = 0.5  # of the model's field of view, along any axis
OUTSIDE = 0.3  # of what the model drew
TIMES = 3.0  # as large or as small as in the training cases


CONFIDENT = 0.75  # of the confidence in the labels, on average over the labelled voxels


class Known(Protocol):
    """The fields of a model card that are used here."""

    @property
    def evidence(self) -> bool: ...
    @property
    def space(self) -> ModelSpace: ...
    @property
    def expected_volumes_ml(self) -> list[float] | None: ...


def much_smaller(space: ModelSpace, grid: Grid) -> bool:
    """Whether an image on ``grid`` fills less than half of the model's field of view along some axis."""
    low, high = world_box(grid)
    return any(size < SMALLER * seen for size, seen in zip((high - low).tolist(), space.extent_mm, strict=True))


def doubts_of(last: Frame, result: Result, card: Known | None) -> tuple[str, ...]:
    """Lines that say why ``result`` is doubtful; empty where it is not.

    ``last``: the frame that carried the result, with the mask as the model drew it, beyond the image as well.
    """
    drawn_ml = float(np.count_nonzero(last.labels)) * last.grid.voxel_volume_ml
    found = result.volumes_ml
    found_ml = sum(found.values())
    if found_ml == 0:
        return ("Doubtful: the model found none of its structures.",)
    doubts = []
    roi = result.provenance.get("request", {}).get("roi")
    if roi is None and found_ml < (1 - OUTSIDE) * drawn_ml:
        share = 1 - found_ml / drawn_ml
        doubts.append(f"Doubtful: of the {in_ml(drawn_ml)} that the model drew, {share:.0%} lie outside the image.")
    return (*doubts, *_unusual(found_ml, card))


def doubts_of_labels(labels: LabelMap, card: Known) -> tuple[str, ...]:
    """Like `doubts_of`, for labels that were made earlier, from the labels and their grid alone."""
    found_ml = sum(labels.volumes_ml().values())
    if found_ml == 0:
        return ("Doubtful: the model found none of its structures.",)
    small = "Doubtful: the image is far smaller than what the model looks at."
    return (*([small] if much_smaller(card.space, labels.grid) else []), *_unusual(found_ml, card))


def _unusual(found_ml: float, card: Known | None) -> tuple[str, ...]:
    """A line where the labels are far larger or smaller than those of the training cases."""
    usual_ml = sum(card.expected_volumes_ml or ()) if card is not None else 0.0
    if usual_ml <= 0 or usual_ml / TIMES <= found_ml <= usual_ml * TIMES:
        return ()
    return (f"Doubtful: {in_ml(found_ml)} in all, where the model was trained on {in_ml(usual_ml)} on average.",)


def warnings_of(result: Result) -> tuple[str, ...]:
    """Lines that say where the model itself is unsure, of the region or of the labels; empty where it is sure.

    The place: the search's confidence (`diffatlas.engine.locate`). The labels: the result's confidence, if any.
    """
    warnings = []
    sure = result.provenance.get("placement", {}).get("confidence")
    if sure is not None and sure < LIKELY:
        warnings.append(f"Uncertain: the search is {sure:.0%} sure of the place. Put the box there yourself.")
    labelled = result.labels.data > 0
    if result.confidence is not None and labelled.any():
        agree = float(result.confidence[labelled].mean())
        if agree < CONFIDENT:
            warnings.append(
                f"Uncertain: the model is {agree:.0%} sure of its labels, on average. Look before you rely."
            )
    return tuple(warnings)


def in_ml(volume: float) -> str:
    """A volume in few digits: "115 ml", "2.5 ml", "0.012 ml"."""
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.3g} ml"
