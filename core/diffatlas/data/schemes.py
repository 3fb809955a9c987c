"""Which structures are learnt: a scheme by name, one's own, or what the source declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffatlas.data.case import Collection
from diffatlas.data.names import canonical
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelScheme, Structure

SCHEMES: Mapping[str, LabelScheme] = {"mmwhs": MMWHS, "hippocampus": HIPPOCAMPUS}
MAX_STRUCTURES = 254
MAX_ID = 65_535
# Okabe and Ito's palette, then the same lighter: distinguishable with any colour vision while it lasts.
COLORS = (
    (213, 94, 0), (86, 180, 233), (230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66),
    (234, 175, 128), (171, 218, 244), (242, 207, 128), (128, 185, 217), (128, 207, 185), (230, 188, 211),
)  # fmt: skip

Color = tuple[int, int, int]


def named_scheme(name: str, structures: Iterable[tuple[str, int, Color | None]]) -> LabelScheme:
    """A scheme of one's own from (name, id, colour or None); `BadInput` where names or ids clash."""
    rows = list(structures)
    if not 1 <= len(rows) <= MAX_STRUCTURES:
        raise BadInput(f"structures: {len(rows)} are named, 1 to {MAX_STRUCTURES} can be learnt")
    given: tuple[tuple[str, list[Any]], ...] = (
        ("name", [canonical(n) for n, _, _ in rows]),
        ("id", [i for _, i, _ in rows]),
    )
    for what, values in given:
        if twice := [v for v in values if values.count(v) > 1]:
            raise BadInput(f"structures: the {what} {twice[0]} is given twice")
    if wrong := [i for _, i, _ in rows if not 1 <= i <= MAX_ID]:
        raise BadInput(f"structures: the id {wrong[0]} is not between 1 and {MAX_ID}")
    return LabelScheme(name, tuple(Structure(n, i, c or COLORS[k % len(COLORS)]) for k, (n, i, c) in enumerate(rows)))


def scheme_of(collection: Collection) -> LabelScheme:
    """The scheme of a source that says what it holds: MM-WHS's for hearts, the named labels otherwise."""
    if collection.layout in ("mmwhs", "totalsegmentator", "diffatlas", "phantom"):
        return MMWHS
    if collection.structures is None:
        raise BadInput(f"{collection.root}: does not name its labels; name every structure with its id")
    return named_scheme(collection.root.resolve().name, [(name, id_, None) for name, id_ in collection.structures])


def check_annotated(collection: Collection, scheme: LabelScheme) -> None:
    """`BadInput` where no case of the collection can have a structure of the scheme, because the source does not
    annotate it.

    Training on such a source would teach that the structure is absent from every patient.
    """
    if collection.structures is None or not collection.cases:
        return
    there = {canonical(name) for name, _ in collection.structures}
    lacking = [name for name in scheme.names if canonical(name) not in there]
    if lacking:
        names = sorted(name for name, _ in collection.structures)
        has = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        hint = collection.hint or f"it has: {has or 'none'}"
        raise BadInput(f"{collection.root}: {', '.join(lacking)} not annotated in this source; {hint}")
