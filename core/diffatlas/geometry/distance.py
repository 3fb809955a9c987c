"""Labels <-> signed distances in millimetres.

``sdf[k] < 0`` inside structure k + 1, positive outside, zero on its surface. The surface lies half-way between a voxel
and its neighbour of the other kind, so half the smallest voxel edge is taken off the centre-to-centre distance; the
sign is exact, hence labels -> distances -> labels is the identity. An absent structure has no surface anywhere: it is
``+clip`` everywhere, and one that fills the grid is ``-clip``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.geometry.volume import LabelMap


def signed_distance_mm(
    inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float], clip_mm: float
) -> NDArray[np.float32]:
    """Signed distance of one structure: bool [X, Y, Z] to float32 [X, Y, Z], mm, within [-clip_mm, clip_mm]."""
    out = np.full(inside.shape, clip_mm, dtype=np.float32)
    if not inside.any():
        return out
    # Beyond clip_mm the value is known, so the transform only has to see the structure's surroundings.
    reach = [int(np.ceil(clip_mm / s)) + 1 for s in spacing_mm]
    box = []
    for axis, margin in enumerate(reach):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, inside.shape[axis])))
    window = (box[0], box[1], box[2])
    part = inside[window]
    half = min(spacing_mm) / 2
    if part.all():
        out[window] = -clip_mm
        return out
    to_inside = ndimage.distance_transform_edt(~part, sampling=spacing_mm)
    to_outside = ndimage.distance_transform_edt(part, sampling=spacing_mm)
    distance = np.where(part, half - to_outside, to_inside - half)
    out[window] = np.clip(distance, -clip_mm, clip_mm)
    return out


def label_distances_mm(labels: LabelMap, clip_mm: float) -> NDArray[np.float32]:
    """Signed distances of every structure of the scheme: float32 [K, X, Y, Z], mm, clipped to ``clip_mm``."""
    return np.stack(
        [
            signed_distance_mm(labels.data == k, labels.grid.spacing_mm, clip_mm)
            for k in range(1, len(labels.scheme) + 1)
        ]
    )


def distances_to_labels(sdf: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The structure a voxel lies deepest in, 0 where it lies in none: [K, X, Y, Z] to uint8 [X, Y, Z]."""
    # One structure after the other: an argmin over the first axis takes three times as long.
    deepest = np.minimum(sdf[0], 0)
    labels: NDArray[np.uint8] = (sdf[0] < 0).astype(np.uint8)
    for k in range(1, len(sdf)):
        deeper = sdf[k] < deepest
        np.putmask(labels, deeper, k + 1)
        np.minimum(deepest, sdf[k], out=deepest)
    return labels
