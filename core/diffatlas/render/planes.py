"""Slices of a volume as a radiologist sees them, and structures painted onto them.

Arrays are first brought to the axes closest to RAS+ (no voxel is resampled), then cut along an array axis. Display is
radiological: the patient's right is on the left of the picture, anterior is up in the axial plane and left in the
sagittal one, superior is up. One scale in pixels per mm serves all planes, so anisotropic voxels keep their shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel.orientations as nio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelScheme, Volume

Gray = NDArray[np.uint8]
Picture = NDArray[np.uint8]

# Structures are painted at this many times the resolution and averaged down: smooth outlines.
SUPERSAMPLE = 2
FILL_OPACITY = 0.36
LINE_OPACITY = 0.95
CT_WINDOW_HU = (-250.0, 800.0)


@dataclass(frozen=True)
class Plane:
    """An anatomical plane of a RAS+ array: the axis it cuts across, the axes that run along columns and rows, and the
    letters at the left, right, top and bottom of its picture."""

    across: int
    columns: int
    rows: int
    letters: tuple[str, str, str, str]


PLANES: dict[str, Plane] = {
    "axial": Plane(2, 0, 1, ("R", "L", "A", "P")),
    "coronal": Plane(1, 0, 2, ("R", "L", "S", "I")),
    "sagittal": Plane(0, 1, 2, ("A", "P", "S", "I")),
}


def plane_named(name: str) -> Plane:
    """The plane called "axial", "coronal" or "sagittal"; `BadInput` on any other name."""
    if name not in PLANES:
        raise BadInput(f"plane must be one of {', '.join(PLANES)}, not {name!r}")
    return PLANES[name]


@dataclass(frozen=True, eq=False)
class Canonical:
    """A grid brought closest to RAS+, and the orientation that does it to arrays [X, Y, Z] on the original grid."""

    grid: Grid
    orientation: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid) -> Canonical:
        orientation = grid.to_canonical()
        return cls(grid.reoriented(orientation), orientation)

    def view(self, data: NDArray[Any]) -> NDArray[Any]:
        """``data`` [X, Y, Z] along the canonical axes; a view, for a slice does not need a copy of the volume."""
        view: NDArray[Any] = np.asarray(nio.apply_orientation(data, self.orientation))
        return view

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Width and height of the plane's picture, mm."""
        extent = self.grid.extent_mm
        return extent[plane.columns], extent[plane.rows]

    def voxel_at(self, at_mm: NDArray[np.float64]) -> tuple[int, int, int]:
        """The voxel of the canonical grid nearest to a world point [3], mm."""
        if np.shape(at_mm) != (3,) or not np.isfinite(at_mm).all():
            raise BadInput(f"a point is three world coordinates in mm, not {at_mm!r}")
        index = np.clip(np.rint(self.grid.to_voxel(at_mm)), 0, np.array(self.grid.shape) - 1).astype(int)
        return int(index[0]), int(index[1]), int(index[2])

    def centre_of(self, labels: NDArray[np.uint8] | None) -> tuple[int, int, int]:
        """The canonical voxel at the centroid of all structures, or the middle of the grid where there is none."""
        shape = self.grid.shape
        if labels is None or not labels.any():
            return shape[0] // 2, shape[1] // 2, shape[2] // 2
        inside = self.view(labels) > 0
        middle = []
        for axis in range(3):
            counts = inside.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
            middle.append(round(float(counts @ np.arange(len(counts)) / counts.sum())))
        return middle[0], middle[1], middle[2]


def cut(data: NDArray[Any], plane: Plane, voxel: tuple[int, int, int]) -> NDArray[Any]:
    """The slice [rows, columns] of canonical ``data`` [X, Y, Z] through ``voxel``, in display order."""
    # Both axes run from R, A or S at the top left; the remaining two axes are in the order (columns, rows).
    part: NDArray[Any] = np.take(data, voxel[plane.across], axis=plane.across)
    return part[::-1, ::-1].T


def size_px(size_mm: tuple[float, float], px_per_mm: float) -> tuple[int, int]:
    """Width and height in whole pixels of a picture of ``size_mm``, at least one each."""
    return max(1, round(size_mm[0] * px_per_mm)), max(1, round(size_mm[1] * px_per_mm))


def display_window(volume: Volume) -> tuple[float, float]:
    """Black and white of a volume: -250 to 800 HU for CT (soft tissue to contrast-filled heart), else percentiles."""
    return CT_WINDOW_HU if volume.modality == "ct" else percentile_window(volume.data)


def percentile_window(data: NDArray[Any]) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of the finite values (of at most about a million of them)."""
    sample = data[tuple(slice(None, None, max(1, n // 100)) for n in data.shape)]
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.5))
    return float(low), float(high)


def to_gray(values: NDArray[Any], window: tuple[float, float], size: tuple[int, int], *, voxels: bool = False) -> Gray:
    """A slice [rows, columns] to gray levels [height, width] at ``size`` (width, height).

    ``voxels`` shows every voxel as a rectangle (noise looks like noise); otherwise it is interpolated.
    """
    low, high = window
    filled = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    scaled = (filled - low) * (255.0 / (high - low)) if high > low else np.zeros_like(filled)
    method = Image.Resampling.NEAREST if voxels else Image.Resampling.BICUBIC
    resized = Image.fromarray(np.clip(scaled, 0, 255)).resize(size, method)
    gray: Gray = np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
    return gray


def sample_plane(
    source: Volume, onto: Canonical, plane: Plane, voxel: tuple[int, int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Values [height, width] of ``source`` where the plane of another grid lies; NaN outside of the source.

    Sampled at the picture's own pixels, so a source finer than the other grid keeps its detail.
    """
    width, height = size
    points = np.empty((height, width, 3))
    points[..., plane.across] = voxel[plane.across]
    for axis, count, where in ((plane.columns, width, (None, slice(None))), (plane.rows, height, (slice(None), None))):
        n = onto.grid.shape[axis]
        points[..., axis] = (n - 0.5 - (np.arange(count) + 0.5) * (n / count))[where]
    at = source.grid.to_voxel(onto.grid.to_world(points))
    values = ndimage.map_coordinates(source.data, at.transpose(2, 0, 1), order=1, mode="nearest")
    inside = ((at > -0.5) & (at < np.array(source.grid.shape) - 0.5)).all(axis=-1)
    return np.where(inside, values, np.nan).astype(np.float32)


def regions(labels: NDArray[np.uint8], size: tuple[int, int], sdf: NDArray[np.float32] | None = None) -> Gray:
    """A label slice [rows, columns] at ``size`` (width, height): every pixel takes the structure that wins there.

    ``sdf``: signed distances [K, rows, columns], negative inside. They only say where *between* voxel centres a border
    runs, and only where they tell the same labels (an edited mask may differ from them): the picture shows the labels.
    """
    present = np.unique(labels)
    if len(present) == 1:
        return np.full((size[1], size[0]), present[0], dtype=np.uint8)
    if sdf is not None and np.array_equal(distances_to_labels(sdf), labels):
        scores = [np.zeros_like(sdf[0]) if k == 0 else -sdf[k - 1] for k in present]
    else:
        scores = [(labels == k).astype(np.float32) for k in present]
    winner = np.full((size[1], size[0]), present[0], dtype=np.uint8)
    best = None
    for k, score in zip(present, scores, strict=True):
        resized = np.array(Image.fromarray(score).resize(size, Image.Resampling.BICUBIC))
        if best is None:
            best = resized
            continue
        wins = resized > best
        winner[wins] = k
        np.maximum(best, resized, out=best)
    return winner


@dataclass(frozen=True, eq=False)
class Overlay:
    """Where the structures of one slice lie, at `SUPERSAMPLE` times a picture's resolution: index and border."""

    region: NDArray[np.uint8]
    line: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: NDArray[np.uint8], size: tuple[int, int], sdf: NDArray[np.float32] | None = None) -> Overlay:
        """From a label slice [rows, columns] for a picture of ``size`` (width, height); ``sdf`` as in `regions`."""
        region = regions(labels, (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE), sdf)
        # Lines lie inside their structure, so that two neighbours keep one each.
        reach = 2 * SUPERSAMPLE + 1
        low = ndimage.minimum_filter(region, reach, mode="nearest")
        return cls(region, ndimage.maximum_filter(region, reach, mode="nearest") != low)

    def on(self, gray: Gray, scheme: LabelScheme, *, fill: float = FILL_OPACITY) -> Picture:
        """Gray levels [height, width] with outlines and translucent fill in the scheme's colours [height, width, 3]."""
        table = np.zeros((len(scheme) + 1, 2, 4), dtype=np.uint8)
        for k, structure in enumerate(scheme.structures, start=1):
            table[k] = [(*structure.color, round(255 * opacity)) for opacity in (fill, LINE_OPACITY)]
        layer = Image.fromarray(table[self.region, self.line.view(np.uint8)]).reduce(SUPERSAMPLE)
        picture = Image.fromarray(gray).convert("RGBA")
        picture.alpha_composite(layer)
        return np.array(picture.convert("RGB"))
