"""The image of a visitor, and how an uploaded file is read: with limits, and with errors that use its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffatlas import io, session
from diffatlas.engine.request import Roi
from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas_app import limits
from diffatlas_app.runs import recording
from diffatlas_app.visitors import uploads

RECORDED = "recorded:"
EXAMPLES = {"heart-ct": "Phantom heart CT", "heart-mr": "Phantom heart MR"}


def read_limits() -> io.Limits:
    """Limits for reading a visitor's file, which another process decodes."""
    return io.Limits(limits.MAX_VOXELS, limits.MAX_BYTES, contained=True)


@dataclass(frozen=True)
class Source:
    """What a visitor looks at: an example's or a generated volume, or a file of theirs; ``name`` is what they call it.

    ``key``: of `EXAMPLES` or of a recorded run, else empty. ``true_labels``: of an example or a drawn pair. ``region``:
    of interest, which an example brings. ``index``: of the volume in a file that holds several.
    """

    name: str
    volume: Volume | None = None
    path: Path | None = None
    key: str = ""
    true_labels: LabelMap | None = None
    recorded: recording.Recording | None = None
    region: Roi | None = None
    index: int | None = None

    def read(self) -> Volume:
        """The volume; `BadInput` speaks of the visitor's file name, not of ours."""
        if self.recorded is not None:
            last = self.recorded.frames[-1]
            return self.recorded.volume or Volume(last.image, last.grid, "unknown", self.name)
        if self.volume is not None:
            return self.volume
        assert self.path is not None
        with sender_names(self.path, self.name):
            volume = io.read_volume(self.path, volume_index=self.index, limits=read_limits())
        notes = tuple(_renamed(note, self.path, self.name) for note in volume.notes)
        return replace(volume, name=uploads.stem_of(self.name), notes=notes)


class sender_names:
    """`BadInput` raised in the block names the file as its sender does, and no folder of this machine."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SeveralVolumes):
            raise SeveralVolumes(_renamed(str(error), self.path, self.name), error.choices) from error
        if isinstance(error, BadInput):
            raise BadInput(_renamed(str(error), self.path, self.name)) from error


def _renamed(message: str, path: Path, name: str) -> str:
    return message.replace(str(path), name).replace(path.name, name)


def read_labels(name: str, path: Path, scheme: LabelScheme | None = None) -> LabelMap:
    """A visitor's label map, in ``scheme``, else in the first shipped scheme that knows its ids."""
    with sender_names(path, name):
        return _any_labels(path) if scheme is None else io.read_label_map(path, scheme, limits=read_limits())


def _any_labels(path: Path) -> LabelMap:
    ids, grid = io.read_label_ids(path, limits=read_limits())
    found = {int(i) for i in np.unique(ids) if i != 0}
    if not found:
        raise BadInput(f"{path.name}: is empty; give a label map with at least one structure")
    for card in session.available_models():
        if found <= set(card.scheme.ids):
            return LabelMap.from_ids(ids, grid, card.scheme)
    known = "; ".join(f"{card.title}: {', '.join(map(str, card.scheme.ids))}" for card in session.available_models())
    raise BadInput(f"{path.name}: holds the ids {sorted(found)[:8]}, which no model here knows ({known})")
