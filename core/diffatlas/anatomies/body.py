"""A patient drawn around the heart of a label map: moved, warped, diseased, set into the digital chest.

The heart's regions are signed distances, so walls and chambers change size by moving a distance:

    cavity   { lv < 0, distance to the muscle > s }             s > 0: the wall moves inwards, as towards systole
    cavity   { lv < -s }, not into atria and vessels            s < 0: dilation
    muscle   { epicardium < e } without cavity, atria, vessels  e: how far the outer surface moves outwards

``frame`` says how the image's axes lie in the body: "body" as a file with a true header, "short axis" as files that
lost it: z along the left ventricle, either hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.anatomies.source import CLIP_MM, REGIONS, SCALE, SPACING_MM, HeartShape, distance_of
from diffatlas.geometry.grid import Grid
from diffatlas.phantom.anatomy import Anatomy, sample_anatomy
from diffatlas.phantom.chest import chest_layers
from diffatlas.phantom.fields import (
    Field,
    Points,
    Vector,
    displacement,
    noise_lattice,
    read_lattice,
    rotation_matrix,
    smooth_min,
    tube,
    warp_lattice,
)
from diffatlas.phantom.shapes import LA, LV, MYO, RA, RV, great_vessels
from diffatlas.phantom.tissues import TISSUES, Layer

Frame = Literal["body", "short axis"]
STRUCTURES = 5


@dataclass(frozen=True)
class Change:
    """How a heart differs from the label map: all in mm, positive outwards. ``wall`` is the outer surface of the left
    ventricle, ``uneven_mm`` the spread of a smooth field added to cavity and outer surface."""

    kind: str
    lv: float
    wall: float
    rv: float
    la: float
    ra: float
    uneven_mm: float
    rv_wall_mm: float
    fat_mm: float


@dataclass(frozen=True, eq=False)
class Pose:
    """A patient before anything is painted: how the heart ``shape`` is changed and turned (``turn`` [3, 3], ``size``
    [3]) in its body, and the body in the image (``to_body`` [3, 3]).

    ``axes`` [3, 3]: rows are the septal, upward and apical unit vectors of the left ventricle, and ``middles`` the
    centroids of the regions, mm, both in the image's world, whose origin is the heart's middle.
    """

    shape: HeartShape
    seed: int
    frame: Frame
    anatomy: Anatomy
    change: Change
    turn: Vector
    size: Vector
    to_body: Vector
    warp_mm: float
    axes: Vector
    middles: dict[str, Vector]


@dataclass(frozen=True, eq=False)
class Body:
    """A painted patient: ``fractions`` [len(TISSUES), X, Y, Z]; ``occupied`` [5, X, Y, Z], the share of each MM-WHS
    structure in a voxel; ``cavity`` and ``atrium``: distances [X, Y, Z] to the blood of the left ventricle and atrium,
    mm; ``points``: the voxels in the body."""

    fractions: NDArray[np.float32]
    occupied: NDArray[np.float32]
    cavity: Field
    atrium: Field
    points: Points


def sample_change(rng: np.random.Generator) -> Change:
    """Health, systole, dilation, hypertrophy, right or atrial enlargement; each with everyone's own variation."""
    kind = str(rng.choice(["healthy", "systole", "dilated", "hypertrophic", "right", "atrial"],
                          p=[0.30, 0.22, 0.15, 0.13, 0.08, 0.12]))  # fmt: skip
    lv, wall, rv, la, ra = (float(v) for v in rng.normal(0, (1.2, 0.8, 1.5, 1.5, 1.5)))
    more = float(rng.uniform())
    if kind == "systole":
        lv, wall, rv, la = lv - 3 - 4.5 * more, wall - 0.5 - 1.5 * more, rv - 2 - 3 * more, la + 2 * more
    elif kind == "dilated":
        lv, wall, la = lv + 2 + 6 * more, wall + 1.5 + 5.5 * more, la + 4 * more
        rv += float(rng.uniform(-1, 3))
    elif kind == "hypertrophic":
        lv, wall, la = lv - 1 - 4 * more, wall + 1 + 3.5 * more, la + 3 * more
    elif kind == "right":
        rv, ra, lv = rv + 2 + 5 * more, ra + 2 + 4 * more, lv - 2 * more
    elif kind == "atrial":
        la, ra = la + 2 + 6 * more, ra + 5 * more
    return Change(
        kind, lv, wall, rv, la, ra, float(rng.uniform(0.2, 1.2)), float(rng.uniform(1, 3.5)),
        float(max(0.5, rng.normal(2.5, 2.5))),
    )  # fmt: skip


def sample_pose(shape: HeartShape, seed: int, frame: Frame = "body") -> Pose:
    """The patient with this ``seed`` around the heart ``shape``."""
    rng = np.random.default_rng([seed, 101])
    anatomy = replace(sample_anatomy(seed), heart_rotation_deg=(0.0, 0.0, 0.0))
    change = sample_change(rng)
    turn = rotation_matrix(rng.normal(0, (6, 6, 8)).tolist())  # of the heart in its chest
    size = np.exp(rng.normal(0, 0.09)) * np.exp(rng.normal(0, 0.04, 3))  # and how large it is
    axes = _lv_axes(shape) @ turn.T  # body frame
    to_body = _frame(axes, frame, rng).T / anatomy.body_scale
    warp_mm = float(rng.uniform(2.0, 5.0))
    to_world = np.linalg.inv(to_body)
    world_axes = axes @ to_world.T
    world_axes /= np.linalg.norm(world_axes, axis=1, keepdims=True)
    middles = {k: to_world @ turn @ (size * (v - shape.centre_mm)) for k, v in shape.landmarks.items()}
    return Pose(shape, seed, frame, anatomy, change, turn, size, to_body, warp_mm, world_axes, middles)


def paint_body(pose: Pose, grid: Grid) -> Body:
    """The patient on the voxels of ``grid``."""
    matrix = np.eye(4)
    matrix[:3, :3] = pose.to_body @ grid.affine[:3, :3]
    matrix[:3, 3] = pose.to_body @ grid.affine[:3, 3]
    points = _points(matrix, grid, pose.seed, pose.warp_mm)
    to_source: Vector = np.asarray(np.linalg.inv(pose.turn @ np.diag(pose.size)), dtype=np.float64)
    fields = _regions(pose.shape, points, to_source, float(np.cbrt(np.prod(pose.size))))
    marks = {k: pose.to_body @ v for k, v in pose.middles.items()}
    occupied = np.zeros((STRUCTURES, *grid.shape), dtype=np.float32)
    out = np.zeros((len(TISSUES), *grid.shape), dtype=np.float32)
    left = np.ones(grid.shape, dtype=np.float32)
    sharpness = np.float32(pose.anatomy.body_scale / np.cbrt(grid.voxel_volume_ml * 1000))
    heart = _changed(fields, pose.change, points, pose.seed)
    for layer in _layers(heart, pose.change, pose.anatomy, points, marks, pose.seed):
        share = np.clip(np.float32(0.5) - layer.distance * sharpness, 0, 1)
        share *= left
        out[TISSUES.index(layer.tissue)] += share
        if layer.label:
            occupied[layer.label - 1] += share
        left -= share
    out[TISSUES.index("air")] += left
    return Body(out, occupied, heart["lv"], heart["la"], points)


def draw_distances(body: Body, grid: Grid, clip_mm: float) -> NDArray[np.float32]:
    """Signed distances of the structures, mm: float32 [5, X, Y, Z]; ``clip_mm`` where one is absent."""
    return np.stack([np.clip(distance_of(f, grid.spacing_mm, clip_mm), -clip_mm, clip_mm) for f in body.occupied])


def _lv_axes(shape: HeartShape) -> Vector:
    """Septal (towards the right ventricle), upward and apical unit vectors of the left ventricle [3, 3], world."""
    apical = shape.lv_axis
    septal = shape.landmarks["rv"] - shape.landmarks["lv"]
    septal = septal - (septal @ apical) * apical
    septal /= np.linalg.norm(septal)
    return np.stack([septal, np.cross(septal, apical), apical])


def _frame(axes: Vector, frame: Frame, rng: np.random.Generator) -> Vector:
    """Rotation [3, 3] from body to image axes (a reflection too, where a file's hand is lost)."""
    if frame == "body":
        return rotation_matrix(rng.normal(0, 4, 3).tolist())
    # Short-axis stacks whose headers were lost: the septum on the left, the diaphragm up or down, the apex at the top
    # or at the bottom; benchmarks hold the first of each, which is a mirror image of the body.
    septal, up, apical = axes
    side = -1.0 if rng.uniform() < 0.8 else 1.0
    end = 1.0 if rng.uniform() < 0.85 else -1.0
    rows = np.stack([-septal, side * up, end * apical])
    tilt = rotation_matrix((rng.normal(0, 6), rng.normal(0, 6), rng.normal(0, 28)))
    return np.asarray(tilt @ rows)


def _points(matrix: Vector, grid: Grid, seed: int, warp_mm: float) -> Points:
    i, j, k = (np.arange(n, dtype=np.float64) for n in grid.shape)
    x, y, z = (
        (row[0] * i[:, None, None] + row[1] * j[None, :, None] + row[2] * k[None, None, :] + row[3]).astype(np.float32)
        for row in matrix[:3]
    )
    dx, dy, dz = displacement(warp_lattice(seed, warp_mm), x, y, z)
    slack = float(max(np.abs(d).max(initial=0) for d in (dx, dy, dz)))
    return Points(x + dx, y + dy, z + dz, np.asarray(np.linalg.inv(matrix), dtype=np.float64), slack)


def _regions(shape: HeartShape, points: Points, to_source: Vector, size: float) -> dict[str, Field]:
    """Distances of the regions at ``points`` [X, Y, Z], mm in the body; beyond the label map, of its border."""
    world = shape.grid.affine
    inverse = np.linalg.inv(world[:3, :3])
    linear = inverse @ to_source
    offset = inverse @ (shape.centre_mm - world[:3, 3])
    at = [
        points.x * np.float32(row[0]) + points.y * np.float32(row[1]) + points.z * np.float32(row[2]) + np.float32(o)
        for row, o in zip(linear, offset, strict=True)
    ]
    inside = np.ones(points.x.shape, dtype=bool)
    outside = np.zeros(points.x.shape, dtype=np.float32)
    for a, n in zip(at, shape.distance.shape[1:], strict=True):
        inside &= (a > 0) & (a < n - 1)
        outside += np.square(np.maximum(np.maximum(-a, a - (n - 1)), 0))
    where = np.stack([a[inside] for a in at])
    beyond = (np.sqrt(outside) * np.float32(SPACING_MM) + np.float32(CLIP_MM)) * np.float32(size)
    out = {}
    for name, field in zip(REGIONS, shape.distance, strict=True):
        full = beyond.copy()
        values = ndimage.map_coordinates(field, where, order=1, output=np.float32, prefilter=False)
        full[inside] = values * np.float32(size / SCALE)
        out[name] = full
    return out


def _changed(fields: dict[str, Field], change: Change, points: Points, seed: int) -> dict[str, Field]:
    """The regions after ``change``, which no longer exclude each other: the layers' order decides."""
    uneven = read_lattice(noise_lattice(seed, 51, 24, 1.2), 12.0, points.x, points.y, points.z) * np.float32(
        change.uneven_mm
    )
    other = read_lattice(noise_lattice(seed, 52, 24, 1.2), 12.0, points.x, points.y, points.z) * np.float32(
        change.uneven_mm
    )
    inner, outer = np.float32(change.lv) + uneven, np.float32(change.wall) + other
    base = np.minimum(np.minimum(fields["la"], fields["ra"]), np.minimum(fields["aorta"], fields["pulmonary"]))
    shrunk = np.maximum(fields["lv"], -inner - fields["myocardium"])
    grown = np.maximum(fields["lv"] - inner, -base)
    cavity = np.where(inner > 0, np.minimum(grown, fields["lv"]), shrunk)
    muscle = np.minimum(
        np.where(outer < 0, np.maximum(fields["myocardium"], fields["epicardium"] - outer), fields["myocardium"]),
        np.where(outer > 0, np.maximum(fields["epicardium"] - outer, 1 - base), np.float32(99)),
    )
    # Where the cavity drew back, muscle follows.
    followed = np.maximum(fields["lv"], -cavity)
    muscle = np.where(inner < 0, np.minimum(muscle, followed), muscle)
    out = dict(fields)
    out["lv"], out["myocardium"] = cavity, muscle
    out["rv"] = fields["rv"] - (np.float32(change.rv) + uneven)
    out["la"] = fields["la"] - (np.float32(change.la) + other)
    out["ra"] = fields["ra"] - (np.float32(change.ra) - other)
    parts = ("lv", "myocardium", "rv", "la", "ra", "aorta", "pulmonary")
    out["heart"] = np.minimum.reduce([out[k] for k in parts]) - 2
    return out


def _layers(
    heart: dict[str, Field], change: Change, anatomy: Anatomy, points: Points, marks: dict[str, Vector], seed: int
) -> Iterator[Layer]:
    root = np.array([0.3, 0.25, 0.92])
    lines = great_vessels(anatomy, marks["aorta"] - 14 * root, marks["pulmonary"] - 8 * root, marks["la"], marks["ra"])
    vessel = {name: tube(points, *line) for name, line in lines.items()}
    veins = np.minimum.reduce([d for name, d in vessel.items() if name.startswith("pv")])
    cavities = np.minimum.reduce([heart[k] for k in ("lv", "rv", "la", "ra", "myocardium")])
    aorta = smooth_min(heart["aorta"] + 1.5, np.maximum(vessel["aorta"], 1 - cavities), 4.0)
    trunk = np.minimum(vessel["pa_left"], vessel["pa_right"])
    pulmonary = smooth_min(heart["pulmonary"] + 1.5, np.maximum(trunk, 1 - cavities), 4.0)
    rough = read_lattice(noise_lattice(seed, 30, 48, 0.7), 2.8, points.x, points.y, points.z)
    depth = np.float32(anatomy.trabeculation_mm)
    lv_muscle = np.maximum(heart["lv"], -heart["lv"] - (rough + 0.4) * depth)
    rv_muscle = np.maximum(heart["rv"], -heart["rv"] - (rough + 0.2) * depth * np.float32(1.6))
    epicardium = np.minimum(heart["lv"], heart["myocardium"])
    rv = np.maximum(heart["rv"], 0.5 - np.minimum(epicardium, np.minimum(heart["aorta"], heart["pulmonary"])))
    septum = np.float32(1.5)
    la = np.maximum(heart["la"], septum - np.minimum(heart["aorta"], heart["lv"] + 1))
    ra = np.maximum(heart["ra"], septum - np.minimum(np.minimum(la, heart["aorta"]), heart["rv"] + 1))

    yield Layer("myocardium", LV, lv_muscle)
    yield Layer("lv_blood", LV, heart["lv"])
    yield Layer("myocardium", MYO, heart["myocardium"])
    yield Layer("aorta", 0, aorta)
    yield Layer("wall", 0, np.minimum(heart["aorta"], aorta - 1.5))
    yield Layer("pulmonary_artery", 0, pulmonary)
    yield Layer("myocardium", RV, np.maximum(rv_muscle, rv))
    yield Layer("rv_blood", RV, rv)
    yield Layer("la_blood", LA, la)
    yield Layer("ra_blood", RA, ra)
    yield Layer("pulmonary_vein", 0, veins)
    yield Layer("superior_vena_cava", 0, vessel["svc"])
    yield Layer("inferior_vena_cava", 0, vessel["ivc"])
    yield Layer("myocardium", 0, rv - np.float32(change.rv_wall_mm))
    yield Layer("wall", 0, np.minimum(np.minimum(la, ra) - 2, pulmonary - 1))
    vessels = np.minimum.reduce([aorta, pulmonary, vessel["svc"]])
    thick = np.float32(change.fat_mm) * np.clip(1 + 1.0 * read_lattice(
        noise_lattice(seed, 53, 24, 1.0), 10.0, points.x, points.y, points.z), 0, 3)  # fmt: skip
    envelope = smooth_min(heart["heart"], np.minimum(heart["rv"], epicardium) - 2, 8.0)
    yield Layer("fat", 0, np.minimum(np.minimum(envelope - thick, vessels - 4), np.minimum(veins, vessel["ivc"]) - 1))
    yield from chest_layers(anatomy, points, envelope)
