"""Digital hearts as a source: every case is its seed."""

from __future__ import annotations

from pathlib import Path

from diffatlas.data.case import Case, Collection, Drawn
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS
from diffatlas.phantom import PhantomModality

LAYOUT = "phantom"
WHAT = "digital hearts; needs no files"


def scan(cases: int, seed: int = 0, modalities: tuple[PhantomModality, ...] = ("mr",)) -> Collection:
    """``cases`` hearts from ``seed`` on, each in every appearance of ``modalities``."""
    if cases < 1 or seed < 0:
        raise BadInput(f"phantom: {cases} cases from seed {seed} on: give at least one case and a seed of 0 or more")
    if not modalities:
        raise BadInput("phantom: name at least one modality: ct, mr, random")
    made = tuple(Case(f"phantom-{s}", Drawn(s, modalities), (), "unknown") for s in range(seed, seed + cases))
    return Collection(LAYOUT, Path("phantom"), made, structures=tuple((s.name, s.id) for s in MMWHS.structures))
