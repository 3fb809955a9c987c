"""Frames to volumes: which frames belong together, in which order, and where the volume lies.

A volume is a row of parallel slices, evenly spaced along a straight line. The line need not be at right angles to the
slices: a tilted gantry makes it oblique, and the affine then holds the shear. Frames of another size, direction or
stack belong to another volume; several frames at one place are the phases of a series in time, echo or acquisition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.header import PHASES, Frame, Header
from diffatlas.io.source import MAX_CHOICES

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A slice may be off an even row by this share of the slice distance; a missing slice is off by a whole one.
UNEVEN_SLICES = 0.1
SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3
LISTED_CHARACTERS = 220


@dataclass(frozen=True, eq=False)
class FrameVolume:
    """The frames of one volume in the order of their slices; ``what`` tells it from the others of its series."""

    header: Header
    frames: tuple[Frame, ...]
    what: str = ""

    @property
    def text(self) -> str:
        """For a list of choices."""
        slices, (rows, columns) = len(self.frames), self.header.shape
        named = " ".join(filter(None, (self.header.description, self.what)))
        return f"{slices} slice{'s' * (slices != 1)} of {columns}x{rows}" + f" ({named})" * bool(named)


def volumes_of(headers: Sequence[Header], path: Path) -> tuple[list[FrameVolume], dict[Path, Header]]:
    """All volumes in the files, series by series, and the files by name; `BadInput` for slices told twice."""
    by_path = {header.path: header for header in headers}
    by_series: dict[tuple[str, str], list[Header]] = {}
    for header in sorted(headers, key=lambda h: (h.series_number, h.series, h.instance_number, str(h.path))):
        by_series.setdefault((header.study, header.series), []).append(header)
    volumes: list[FrameVolume] = []
    for files in by_series.values():
        for stack in _stacks(files):
            volumes += _phases(stack, by_path, path)
    return volumes, by_path


def choose(volumes: Sequence[FrameVolume], index: int | None, chosen: Path | None, path: Path) -> FrameVolume:
    """The volume that is meant: by number, by the file given, or the only one."""
    name = shown(path)
    if index is not None:
        if not 0 <= index < len(volumes):
            raise BadInput(f"{name}: has no volume {index}; its {len(volumes)} volume(s) are 0 to {len(volumes) - 1}")
        return volumes[index]
    own = [v for v in volumes if any(frame.path == chosen for frame in v.frames)]
    if len(own) == 1:
        return own[0]
    if len(volumes) == 1:
        return volumes[0]
    series = {(v.header.study, v.header.series) for v in volumes}
    kind = f"{len(series)} DICOM series" if len(series) == len(volumes) else f"{len(volumes)} volumes"
    why = " (slices differ in size, direction or phase)" if len(series) == 1 else ""
    listed, rest = "", len(volumes)
    for number, volume in enumerate(volumes):
        entry = f"{', ' * bool(listed)}{number}: {volume.text}"
        if len(listed) + len(entry) > LISTED_CHARACTERS and listed:
            break
        listed, rest = listed + entry, rest - 1
    more = f" and {rest} more" if rest else ""
    raise SeveralVolumes(
        f"{name}: holds {kind}{why}; choose one, or give a file of it: {listed}{more}",
        tuple(volume.text for volume in volumes[:MAX_CHOICES]),
    )


def affine_of(frames: Sequence[Frame], path: Path) -> NDArray[np.float64]:
    """Voxel index [column, row, slice] to RAS+ mm, from the position of each frame; `BadInput` for uneven rows."""
    first, name = frames[0], shown(path)
    lps = np.eye(4)
    lps[:3, 0] = np.array(first.row) * first.spacing_mm[0]
    lps[:3, 1] = np.array(first.column) * first.spacing_mm[1]
    lps[:3, 3] = first.position
    if len(frames) == 1:
        if first.thickness_mm is None:
            raise BadInput(f"{name}: is one slice that does not say how thick it is (SliceThickness); give a series")
        lps[:3, 2] = np.array(first.normal) * first.thickness_mm
        return LPS_TO_RAS @ lps
    positions = np.array([frame.position for frame in frames])
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    even = positions[0] + np.arange(len(frames))[:, None] * step
    off = np.linalg.norm(positions - even, axis=1)
    if off.max() > UNEVEN_SLICES * np.linalg.norm(step):
        at = _widest(frames)
        raise BadInput(f"{name}: its slices are not evenly spaced; one is missing or moved near {at}")
    lps[:3, 2] = step
    return LPS_TO_RAS @ lps


def _widest(frames: Sequence[Frame]) -> str:
    """The slice behind the widest gap, for people."""
    gaps = np.diff([float(np.dot(frame.position, frames[0].normal)) for frame in frames])
    return _name(frames[int(np.argmax(gaps)) + 1])


def _name(frame: Frame) -> str:
    return shown(frame.path) + f", frame {frame.index + 1}" * (frame.index > 0)


def _stacks(files: Sequence[Header]) -> list[tuple[Header, list[Frame]]]:
    """Frames of one series that have size, direction, spacing and stack in common."""
    stacks: list[tuple[Header, list[Frame]]] = []
    for header in files:
        for frame in header.frames:
            for other, members in stacks:
                if header.shape == other.shape and _alike(frame, members[0]):
                    members.append(frame)
                    break
            else:
                stacks.append((header, [frame]))
    return stacks


def _alike(one: Frame, other: Frame) -> bool:
    return (
        one.stack == other.stack
        and max(abs(a - b) for a, b in zip(one.row + one.column, other.row + other.column, strict=True))
        < SAME_DIRECTION
        and all(abs(a - b) < 1e-3 * b for a, b in zip(one.spacing_mm, other.spacing_mm, strict=True))
    )


def _phases(stack: tuple[Header, list[Frame]], by_path: dict[Path, Header], path: Path) -> list[FrameVolume]:
    """A stack as one volume, or as one volume a phase where several frames lie at one place."""
    header, frames = stack
    normal = np.array(frames[0].normal)
    depths = {frame: float(normal @ frame.position) for frame in frames}
    frames = sorted(frames, key=lambda f: (depths[f], str(f.path), f.index))
    places: list[list[Frame]] = []
    for frame in frames:
        if places and depths[frame] - depths[places[-1][0]] < SAME_PLACE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    count = max(map(len, places))
    if count == 1:
        return [FrameVolume(header, tuple(frames), f"stack {frames[0].stack}" if frames[0].stack else "")]
    for place in places:
        uids = [(by_path[f.path].sop_instance, f.index) for f in place]
        twice = [f for f, uid in zip(place, uids, strict=True) if uid[0] and uids.count(uid) > 1]
        if twice:
            raise BadInput(f"{shown(path)}: {_name(twice[0])} and {_name(twice[1])} are the same slice; remove one")
    keys = [keyword for _, keyword in PHASES]
    for key in keys:
        values = sorted({frame.phase.get(key) for frame in frames}, key=lambda v: (str(type(v)), v))
        groups = {value: [p for p in frames if p.phase.get(key) == value] for value in values}
        if len(values) == count and all(_apart(group, depths) for group in groups.values()):
            return [FrameVolume(header, tuple(g), f"{key} {v}") for v, g in groups.items()]
    if any(len(place) != count for place in places):
        odd = next(place for place in places if len(place) > 1)
        raise BadInput(f"{shown(path)}: {_name(odd[0])} and {_name(odd[1])} lie at the same place; remove one of them")
    # Every place has as many frames: the n-th of each, in time or number.
    order = ("TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionTime", "ContentTime")
    for place in places:
        place.sort(key=lambda f: (*(_number(f.phase.get(k)) for k in order), by_path[f.path].instance_number, f.index))
    return [FrameVolume(header, tuple(place[n] for place in places), f"phase {n + 1}") for n in range(count)]


def _apart(frames: Sequence[Frame], depths: dict[Frame, float]) -> bool:
    """Whether no two of the frames, in the order of their depths, lie at one place."""
    return all(depths[b] - depths[a] >= SAME_PLACE_MM for a, b in pairwise(frames))


def _number(value: object) -> float:
    try:
        return float(str(value or 0))
    except ValueError:
        return 0.0
