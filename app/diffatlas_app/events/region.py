"""Where the model looks: the region that a visitor chose, that an example brings, or that a search finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffatlas import session
from diffatlas.engine.request import Request, Roi
from diffatlas.geometry.grid import Array, Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure, Volume
from diffatlas.session import ModelCard
from diffatlas_app.runs import gpu, settings
from diffatlas_app.visitors.source import Source

SHOWN = LabelScheme("region", (Structure("what the model sees", 1, (86, 180, 233)),))

DOUBT = 0.6
"""Below this confidence of the search, the page says that the result is in doubt."""


@dataclass(frozen=True, eq=False)
class Searching:
    """The state of a search: ``words`` for the visitor, the field of view that is looked at (None at first), and at the
    end the region that is ``found`` and whether it is in ``doubt``."""

    words: str
    view: LabelMap | None = None
    found: Roi | None = None
    doubt: bool = False


def card_for(volume: Volume, model: str) -> ModelCard:
    """The card of the model that a run on ``volume`` takes; ``model``: its name, or "auto"."""
    return session.plan(volume, Request(model=model, force=True)).card


def chosen(source: Source, volume: Volume, wanted: settings.Settings) -> Roi | None:
    """The region without any search: the visitor's own, else the example's if its model is the one that runs."""
    if wanted.centre is not None:
        return settings.region(volume.grid, wanted.centre, card_for(volume, wanted.model).space.extent_mm)
    if source.region is not None and wanted.model in ("auto", card_for(volume, "auto").name):
        return source.region
    return None


def view_of(card: ModelCard, grid: Grid, roi: Roi) -> LabelMap:
    """The field of view that a run with this region has, as a box to show."""
    return _box(card, grid.to_world(np.array([(low + high - 1) / 2 for low, high in roi])))


def in_words(roi: Roi) -> str:
    return "Voxels " + " · ".join(f"{axis} {low}:{high}" for axis, (low, high) in zip("XYZ", roi, strict=True))


def search(volume: Volume, request: Request) -> Iterator[Searching]:
    """Search for the model's structures as a run would; yields the state after each look, the last with ``found``.

    Yields nothing where the plan of the run needs no search. ``close()`` stops it within a look, or within the three
    looks that rate what was found.
    """
    planned = session.plan(volume, request)
    if not planned.search:
        return
    card = planned.card
    yield Searching(f"Larger than what the model sees ({_size(card)}): searching for its structures…")
    proposal = None
    for look in gpu.looks(volume, request):
        proposal = look.proposal
        number, most = look.index + 1, min(look.total, session.AUTOMATIC_LOOKS)
        which = f"look {number} of about {most}" if number <= most else f"look {number}, a closer one"
        yield Searching(f"Searching for the structures: {which}", _box(card, look.centre_mm))
    assert proposal is not None
    region = in_words(proposal.roi).lower()
    yield Searching(
        f"The image is larger than what the model sees ({_size(card)}). A search chose {region}: {proposal.words}. "
        f"More settings can choose another region.",
        view_of(card, volume.grid, proposal.roi),
        proposal.roi,
        proposal.confidence < DOUBT,
    )


def _size(card: ModelCard) -> str:
    return " × ".join(f"{e:.0f}" for e in card.space.extent_mm) + " mm"


def _box(card: ModelCard, centre_mm: Array) -> LabelMap:
    grid = card.space.grid_at(centre_mm)
    return LabelMap(np.ones(grid.shape, np.uint8), Grid(grid.shape, grid.affine), SHOWN)
