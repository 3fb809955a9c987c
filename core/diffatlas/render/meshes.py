"""Structures as surfaces: marching cubes on signed distances, saved as GLB (binary glTF 2.0).

glTF is in metres, right-handed, +Y up, and a model looks towards +Z. World coordinates here are RAS+ millimetres, so a
point (R, A, S) becomes (-R, S, A) / 1000: the patient stands upright and faces the viewer, their left on the viewer's
right.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import signed_distance_mm
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap
from diffatlas.io import atomic_write_bytes

if TYPE_CHECKING:
    from trimesh import Trimesh

# RAS+ millimetres to glTF metres.
TO_GLTF = np.array([[-0.001, 0, 0, 0], [0, 0, 0.001, 0], [0, 0.001, 0, 0], [0, 0, 0, 1]])
# Wide enough that the surface never sees the truncation, in voxels.
BAND_VOXELS = 4
SMOOTHING_VOXELS = 0.7
# Structures longer than this many voxels are sampled more coarsely: a mesh for looking at stays within some megabytes.
MAX_VOXELS = 192


def meshes(labels: LabelMap, sdf: NDArray[np.float32] | None = None) -> dict[str, Trimesh]:
    """The closed surface of every structure that is there, by name, in world mm (RAS+), normals outwards.

    ``sdf``: float32 [K, X, Y, Z], mm, negative inside, on the grid of ``labels`` (a frame's own distances);
    None computes them from the labels and smooths them lightly, so that the voxels' steps do not show.
    """
    if sdf is not None and sdf.shape != (len(labels.scheme), *labels.grid.shape):
        raise ValueError(f"sdf must be of shape {(len(labels.scheme), *labels.grid.shape)}, not {sdf.shape}")
    found = {}
    for index, structure in enumerate(labels.scheme.structures, start=1):
        inside = labels.data == index if sdf is None else sdf[index - 1] < 0
        if inside.any():
            found[structure.name] = _surface(inside, None if sdf is None else sdf[index - 1], labels.grid)
    return found


def write_glb(labels: LabelMap, path: str | os.PathLike[str], *, sdf: NDArray[np.float32] | None = None) -> None:
    """Write the surfaces of all structures as GLB, one named node and material each, in the scheme's colours.

    ``sdf`` as in `meshes`. In metres, +Y up, see the module. Absent structures are left out; `BadInput` where all are.
    """
    from trimesh import Scene
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    surfaces = meshes(labels, sdf)
    if not surfaces:
        raise BadInput(f"{os.fspath(path)}: there is no structure to make a mesh of; the label map is empty")
    scene = Scene()
    for structure in labels.scheme.structures:
        if structure.name not in surfaces:
            continue
        surface = surfaces[structure.name].copy()
        surface.apply_transform(TO_GLTF)
        material = PBRMaterial(  # type: ignore[no-untyped-call]
            name=structure.name,
            baseColorFactor=[*_linear(structure.color), 1.0],
            metallicFactor=0.0,
            roughnessFactor=0.6,
        )
        surface.visual = TextureVisuals(material=material)  # type: ignore[no-untyped-call]
        scene.add_geometry(surface, node_name=structure.name, geom_name=structure.name)
    data: Any = scene.export(file_type="glb", include_normals=True)  # type: ignore[no-untyped-call]
    atomic_write_bytes(path, bytes(data))


def _surface(inside: NDArray[np.bool_], sdf: NDArray[np.float32] | None, grid: Grid) -> Trimesh:
    """The surface of one structure on ``grid``, world mm."""
    from skimage.measure import marching_cubes
    from trimesh import Trimesh

    margin = BAND_VOXELS
    hit = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = np.array([max(int(h[0]) - margin, 0) for h in hit])
    high = np.array([int(h[-1]) + 1 + margin for h in hit])
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    spacing = grid.spacing_mm
    band = BAND_VOXELS * max(spacing)
    if sdf is None:
        # Padding the mask first lets structures at the border of the grid close half a voxel outside of it.
        part = np.pad(inside[box], margin)
        field = _smoothed(signed_distance_mm(part, spacing, band), part)
    else:
        field = np.pad(np.clip(sdf[box], -band, band), margin, constant_values=band)
    step = max(1, -(-max(field.shape) // MAX_VOXELS))
    vertices, faces, _, _ = marching_cubes(field, 0.0, step_size=step)
    world = grid.to_world(vertices.astype(np.float64) + low - margin)
    if np.linalg.det(grid.affine[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return Trimesh(world, faces, process=True)


def _smoothed(field: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distances with the voxels' steps smoothed away, shifted so that zero encloses as many voxels as before.

    Returned as they are where smoothing would lose the structure (one thin as a voxel).
    """
    smooth = ndimage.gaussian_filter(field, SMOOTHING_VOXELS, mode="nearest")
    count = int(np.count_nonzero(inside))
    # Smoothing shrinks what is convex; the border goes between the count-th lowest value and the next.
    lowest = np.partition(smooth.ravel(), [count - 1, count])
    smooth -= (lowest[count - 1] + lowest[count]) / 2
    kept = np.count_nonzero((smooth < 0) & inside) >= 0.7 * count
    return smooth if kept else field


def _linear(color: tuple[int, int, int]) -> list[float]:
    """sRGB bytes to the linear values in [0, 1] that glTF materials hold."""
    srgb = np.array(color) / 255
    return [float(c) for c in np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)]
