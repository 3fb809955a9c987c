"""Label maps of hearts as signed distances, which can be moved.

A label map is read once: block means to 2 mm give the fraction f of each region in each voxel; inside the border layer
(0 < f < 1) the distance is (1/2 - f) * 2 mm, elsewhere it is the Euclidean distance transform's. Valve planes belong to
the regions beside them, by what is near.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid, reorient

SPACING_MM = 2.0
CLIP_MM = 20.0
PAD = 10  # voxels of SPACING_MM around the heart
SCALE = 127 / CLIP_MM  # int8 a mm
# Regions whose distance is kept. "epicardium": LV blood and its wall; "heart": everything that is labelled.
REGIONS = ("lv", "myocardium", "rv", "la", "ra", "aorta", "pulmonary", "epicardium", "heart")
# What the structures of a label map are called in `labels.json`.
NAMES = {
    "lv": "LV blood",
    "rv": "RV blood",
    "la": "LA blood",
    "ra": "RA blood",
    "myocardium": "LV myocardium",
    "aorta": "aorta (lumen and wall)",
    "pulmonary": "pulmonary artery (lumen and wall)",
}
VALVES = "valve planes"

Field = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeartShape:
    """One heart: ``distance`` int8 [len(REGIONS), X, Y, Z], mm times `SCALE`, on ``grid`` (RAS+, `SPACING_MM`).

    ``centre_mm`` [3]: middle of the heart's box, world; ``landmarks``: centroids [3] of the regions, world.
    """

    name: str
    distance: NDArray[np.int8]
    grid: Grid
    centre_mm: NDArray[np.float64]
    landmarks: dict[str, NDArray[np.float64]]

    @property
    def lv_axis(self) -> NDArray[np.float64]:
        """Unit vector from the left atrium through the left ventricle, that is towards the apex."""
        axis = self.landmarks["lv"] - self.landmarks["la"]
        return np.asarray(axis / np.linalg.norm(axis))


def label_ids(path: Path) -> dict[str, int]:
    """Which id each region has, from ``labels.json``; `BadInput` where a chamber is not named in it."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        ids = {str(name): int(key) for key, name in table.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: not a table of label ids ({error})") from error
    missing = [name for name in NAMES.values() if name not in ids]
    if missing:
        raise BadInput(f"{path}: names no {', '.join(missing)}")
    return {region: ids[name] for region, name in NAMES.items()} | {"valves": ids.get(VALVES, 0)}


def shape_of(name: str, labels: NDArray[np.integer], grid: Grid, ids: dict[str, int]) -> HeartShape:
    """The distances of one label map [X, Y, Z]; `BadInput` where a region of `NAMES` has no voxel."""
    orientation = grid.to_canonical()
    canonical = grid.reoriented(orientation)
    data = reorient(labels, orientation)
    block = [max(1, round(SPACING_MM / s)) for s in canonical.spacing_mm]
    spare = [(-n) % b for n, b in zip(data.shape, block, strict=True)]
    data = np.pad(data, [(PAD * b, PAD * b + s) for b, s in zip(block, spare, strict=True)])
    counts = [n // b for n, b in zip(data.shape, block, strict=True)]

    def fraction(inside: NDArray[np.bool_]) -> Field:
        parts = inside.reshape([p for n, b in zip(counts, block, strict=True) for p in (n, b)])
        return np.asarray(parts.mean(axis=(1, 3, 5), dtype=np.float32))

    share = {region: fraction(data == ids[region]) for region in NAMES}
    for region, f in share.items():
        if not f.any():
            raise BadInput(f"{name}: holds no voxel of {NAMES[region]}")
    if ids["valves"]:
        valves = fraction(data == ids["valves"])
        blood = ("lv", "rv", "la", "ra")
        near = {r: ndimage.gaussian_filter(share[r], 1.5) for r in blood}
        total = np.maximum(sum(near.values()), 1e-6)
        for r in blood:
            share[r] += valves * near[r] / total
    share["epicardium"] = share["lv"] + share["myocardium"]
    share["heart"] = fraction(data > 0)

    affine = canonical.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag(block)
    first = (np.array(block, dtype=np.float64) - 1) / 2 - PAD * np.array(block, dtype=np.float64)
    affine[:3, 3] = canonical.to_world(first)
    small = Grid((counts[0], counts[1], counts[2]), affine)
    spacing = small.spacing_mm
    fields = np.stack([distance_of(share[r], spacing) for r in REGIONS])
    box = np.argwhere(share["heart"] > 0.5)
    landmarks = {r: small.to_world(np.argwhere(share[r] > 0.5).mean(axis=0)) for r in NAMES}
    centre = small.to_world((box.min(axis=0) + box.max(axis=0)) / 2)
    packed = np.round(np.clip(fields, -CLIP_MM, CLIP_MM) * SCALE).astype(np.int8)
    return HeartShape(name, packed, small, centre, landmarks)


def distance_of(fraction: Field, spacing_mm: Sequence[float], absent_mm: float = CLIP_MM) -> Field:
    """Signed distance, mm, of the region that fills ``fraction`` of each voxel; ``absent_mm`` where there is none."""
    inside = fraction > 0.5
    if not inside.any():
        return np.full(fraction.shape, absent_mm, dtype=np.float32)
    edge = min(spacing_mm)
    outer = ndimage.distance_transform_edt(~inside, sampling=spacing_mm) - edge / 2
    inner = ndimage.distance_transform_edt(inside, sampling=spacing_mm) - edge / 2
    distance = np.where(inside, -inner, outer).astype(np.float32)
    border = (fraction > 0.02) & (fraction < 0.98) & (np.abs(distance) < edge)
    return np.where(border, (np.float32(0.5) - fraction) * np.float32(edge), distance)


def write_shapes(path: Path, shapes: Sequence[HeartShape]) -> None:
    """Keep shapes in one safetensors file."""
    from safetensors.numpy import save_file

    from diffatlas.io import atomic_path

    meta = {
        s.name: json.dumps(
            {
                "affine": s.grid.affine.tolist(),
                "centre_mm": s.centre_mm.tolist(),
                "landmarks": {k: v.tolist() for k, v in s.landmarks.items()},
            }
        )
        for s in shapes
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        save_file({s.name: s.distance for s in shapes}, part, meta)
        part.chmod(0o644)


def read_shapes(path: Path, names: Sequence[str] | None = None) -> list[HeartShape]:
    """What `write_shapes` kept, or those of these names, in the order of their names; `BadInput` where it is not such
    a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            meta = file.metadata() or {}
            return [
                _shape(name, file.get_tensor(name), json.loads(meta[name]))
                for name in sorted(file.keys() if names is None else names)
            ]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: not a file of heart shapes ({error}); delete it to make it again") from error


def _shape(name: str, distance: NDArray[np.int8], meta: dict[str, Any]) -> HeartShape:
    grid = Grid((distance.shape[1], distance.shape[2], distance.shape[3]), np.array(meta["affine"]))
    landmarks = {k: np.array(v) for k, v in meta["landmarks"].items()}
    return HeartShape(name, distance, grid, np.array(meta["centre_mm"]), landmarks)
