"""Live runs for scene 6 of *Learn*: a recorded scan, and a place that the student brushed over.

The scans are those that the scene shows, as they are shown: one byte a voxel of the model's window. The place is
crossed out (`Request.ignore`) or filled with one brightness. Two runs of one seed answer: of the scan as it was, and as
brushed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import resample
from diffatlas.geometry.volume import Volume
from diffatlas.session import Frame, ModelCard
from diffatlas_app.learn import SITE
from diffatlas_app.runs import stream as runs
from diffatlas_app.visitors.sessions import Visitor

DATA = SITE / "data"
SIDE = 64
"""Voxels along each axis of a recorded volume."""
PLACE_TEXT = 4 * -(-(SIDE**3 // 8) // 3)
"""Length of a place as text: a bit a voxel, x fastest, in base64."""


@dataclass(frozen=True, eq=False)
class Brushed:
    """``scan``: a case of the scene; ``place``: bool [64, 64, 64]; ``fill``: 0 to 255, or None: crossed out."""

    scan: str
    place: NDArray[np.bool_]
    fill: int | None

    @classmethod
    def of(cls, scan: Any, place: Any, fill: Any) -> Brushed:
        """From what a call says; `BadInput` for anything else than the scene sends."""
        cases = _book()["fool"]["cases"]
        if not isinstance(scan, str) or scan not in cases:
            raise BadInput(f"scan must be one of {', '.join(cases)}")
        if not isinstance(place, str) or len(place) != PLACE_TEXT:
            raise BadInput(f"place must be {SIDE}^3 bits in base64, {PLACE_TEXT} characters")
        if fill is not None and (not isinstance(fill, int) or isinstance(fill, bool) or not 0 <= fill <= 255):
            raise BadInput("fill must be a whole number, 0 to 255, or null to cross the place out")
        try:
            packed = np.frombuffer(base64.b64decode(place, validate=True), np.uint8)
        except (binascii.Error, ValueError) as error:
            raise BadInput("place is not base64") from error
        bits = np.unpackbits(packed)[: SIDE**3].astype(bool).reshape((SIDE,) * 3, order="F")
        if not bits.any():
            raise BadInput("nothing is brushed over")
        return cls(scan, bits, fill)


def run(visitor: Visitor, asked: Brushed) -> Iterator[dict[str, Any]]:
    """The steps of both runs, {"step", "of"}, then the answer.

    The answer: "before" and "after", labels, and "half", the image half of the second run, 0 to 255 for [-1, 1]; each
    is 64^3 bytes, x fastest, in gzip and base64. "model" and "sha256" say of what; "told": whether the model has an
    input for what is not to be believed.
    """
    card = model_for(session.available_models())
    picture = recorded(_book()["fool"]["cases"][asked.scan]["image"])
    changed = picture if asked.fill is None else np.where(asked.place, np.uint8(asked.fill), picture)
    request = Request(model=card.name, preset="fast")
    wanted = replace(request, ignore=asked.place) if asked.fill is None else request
    ends: list[Frame] = []
    for volume, one in ((as_volume(picture, card), request), (as_volume(changed, card), wanted)):
        last: Frame | None = None
        for update in runs.watch(visitor, volume, (one,)):
            last = update.frame
            yield {"step": len(ends) * last.total + last.index + 1, "of": 2 * last.total}
        if last is None or last.result is None:
            raise BadInput("the run was stopped")
        ends.append(last)
    before, after = (frame.result for frame in ends)
    assert before is not None
    assert after is not None
    yield {
        "before": _packed(before.labels.data),
        "after": _packed(after.labels.data),
        "half": _packed(_half(ends[1], volume.grid)),
        "model": card.name,
        "sha256": card.sha256,
        "told": card.evidence,
    }


def model_for(cards: tuple[ModelCard, ...]) -> ModelCard:
    """A model of the scene's structures in CT: the first that can be told what not to believe, else the first."""
    names = [structure["name"] for structure in _book()["structures"]]
    fit = [c for c in cards if "ct" in c.modalities and [s.name for s in c.scheme.structures] == names]
    if not fit:
        raise BadInput("no model on this page knows the scene's structures in CT")
    return next((card for card in fit if card.evidence), fit[0])


def as_volume(picture: NDArray[np.uint8], card: ModelCard) -> Volume:
    """A recorded picture [64, 64, 64] as a CT, its bytes in the model's window."""
    low, high = card.space.window_for("ct").limits(np.array([0, 1], np.float32))
    spacing = np.array(_book()["spacing_mm"], dtype=float)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(SIDE - 1) / 2 * spacing
    return Volume(
        (picture / 255 * (high - low) + low).astype(np.float32), Grid((SIDE, SIDE, SIDE), affine), "ct", "scene"
    )


@lru_cache(maxsize=8)
def recorded(name: str) -> NDArray[np.uint8]:
    """A volume of the recording, [64, 64, 64]."""
    with Image.open(DATA / f"{name}.webp") as picture:
        return volume_of(np.asarray(picture.convert("RGB"))[..., 0])


def volume_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[512, 512] of 8 x 8 axial slices (tile z, row y, column x) to [64, 64, 64] indexed x, y, z."""
    tiles = picture.reshape(8, SIDE, 8, SIDE).transpose(0, 2, 1, 3).reshape((SIDE,) * 3)
    return np.ascontiguousarray(tiles.transpose(2, 1, 0))


@lru_cache(maxsize=1)
def _book() -> dict[str, Any]:
    book: dict[str, Any] = json.loads((DATA / "scenes.json").read_text(encoding="utf-8"))
    return book


def _half(frame: Frame, grid: Grid) -> NDArray[np.uint8]:
    image = frame.image if frame.grid.same_as(grid) else resample(Volume(frame.image, frame.grid), grid)[0]
    return np.rint((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def _packed(data: NDArray[np.uint8]) -> str:
    return base64.b64encode(gzip.compress(data.tobytes(order="F"), 6)).decode("ascii")
