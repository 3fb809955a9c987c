"""The heart and the chest around it as implicit functions, read on any voxel grid.

Frames, all in mm and RAS+ (x right, y front, z up):

- world -> body: undo the shift, the patient's rotation and scale, then the warp. Spine, lungs, vessels live here.
- body -> heart: undo the heart's own rotation about the origin, the heart's centre. Chambers live here.
- heart -> (a, s, u): a along the LV from the middle of its base to the apex, which points left, forward and down;
  s towards the septum, right and forward; u = s x a, up and left.

Shapes are painted front to back: each takes what those before it left of a voxel. A soft edge about one voxel wide
gives the fraction of each tissue in a voxel; the same order with hard edges gives the label map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap
from diffatlas.phantom.anatomy import Anatomy
from diffatlas.phantom.chest import chest_layers
from diffatlas.phantom.fields import (
    Field,
    Points,
    Vector,
    displacement,
    ellipsoid,
    noise_lattice,
    read_lattice,
    rotation_matrix,
    smooth_max,
    smooth_min,
    tube,
    warp_lattice,
)
from diffatlas.phantom.tissues import TISSUES, Layer

LV_AXIS: Vector = np.array([-0.68, 0.53, -0.506]) / np.linalg.norm([-0.68, 0.53, -0.506])
_SEPTAL: Vector = np.array([0.62, 0.785, 0.0])
SEPTAL_AXIS: Vector = (_SEPTAL - (_SEPTAL @ LV_AXIS) * LV_AXIS) / np.linalg.norm(
    _SEPTAL - (_SEPTAL @ LV_AXIS) * LV_AXIS
)
UP_AXIS: Vector = np.cross(SEPTAL_AXIS, LV_AXIS) * np.sign(np.cross(SEPTAL_AXIS, LV_AXIS)[2])
BASE_MM: Vector = np.array([2.0, -17.0, 4.0])  # middle of the LV base in the heart frame

LV, RV, LA, RA, MYO = 1, 2, 3, 4, 5  # indices into MMWHS

# Size, in ml, of each chamber as drawn at scale one, so that the mean over patients meets the targets (2.5 mm grid).
_RV_UNIT_ML, _LA_UNIT_ML, _RA_UNIT_ML = 110.0, 82.0, 90.0


class _Heart(NamedTuple):
    """Distances of the chambers [X, Y, Z] and the landmarks [3] (heart frame) that the vessels start from."""

    lv: Field
    myocardium: Field
    rv: Field
    la: Field
    ra: Field
    lv_muscle: Field
    rv_muscle: Field
    envelope: Field
    aortic_valve: Vector
    pulmonary_valve: Vector
    la_centre: Vector
    ra_centre: Vector


def body_points(anatomy: Anatomy, grid: Grid) -> Points:
    """The voxel centres of ``grid`` in the body frame."""
    rotation = rotation_matrix(anatomy.body_rotation_deg)
    to_body = np.eye(4)
    to_body[:3, :3] = rotation.T / anatomy.body_scale
    to_body[:3, 3] = -to_body[:3, :3] @ np.array(anatomy.shift_mm)
    matrix = to_body @ grid.affine
    i, j, k = (np.arange(n, dtype=np.float64) for n in grid.shape)
    x, y, z = (
        (row[0] * i[:, None, None] + row[1] * j[None, :, None] + row[2] * k[None, None, :] + row[3]).astype(np.float32)
        for row in matrix[:3]
    )
    lattice = warp_lattice(anatomy.seed, anatomy.warp_mm)
    dx, dy, dz = displacement(lattice, x, y, z)
    slack = float(max(np.abs(d).max(initial=0) for d in (dx, dy, dz)))
    return Points(x + dx, y + dy, z + dz, np.asarray(np.linalg.inv(matrix), dtype=np.float64), slack)


def _heart(anatomy: Anatomy, points: Points) -> _Heart:
    """Chamber distances; ``points`` in the heart frame."""
    r, length, wall = anatomy.lv_radius_mm, anatomy.lv_length_mm, anatomy.wall_mm

    def at(a: float, s: float, u: float) -> Vector:
        return BASE_MM + a * LV_AXIS + s * SEPTAL_AXIS + u * UP_AXIS

    a, s, u = (points.along(axis, BASE_MM) for axis in (LV_AXIS, SEPTAL_AXIS, UP_AXIS))
    aortic_valve = at(-3.0, 0.70 * r, 0.80 * r)
    pulmonary_valve = at(22.0, 0.45 * r + 4, r + wall + 12)
    la_scale = (anatomy.la_ml / _LA_UNIT_ML) ** (1 / 3)
    ra_scale = (anatomy.ra_ml / _RA_UNIT_ML) ** (1 / 3)
    rv_scale = (anatomy.rv_ml / _RV_UNIT_ML) ** 0.6  # most of the RV's width is set by the LV beside it
    stretch = np.exp(np.array(anatomy.atrial_shape))
    la_semi = np.array([27.0, 21.0, 27.0]) * la_scale * stretch
    ra_semi = np.array([23.0, 26.0, 29.0]) * ra_scale / stretch

    # Left ventricle: ellipsoid cut at the base, with the outflow tract up to the aortic valve.
    radial = ellipsoid(a - np.float32(0.25 * length), s, u, (0.75 * length, r, r))
    dome = 4 * (1 - (s * s + u * u) * np.float32(1 / r**2))  # the closed mitral valve bulges into the atrium
    lv = smooth_max(radial, -a - np.maximum(dome, 0), 4.0)
    outflow = tube(points, np.stack([at(14, 0.38 * r, 0.42 * r), aortic_valve]), np.array([10.0, 0.42 * r]))
    outflow_axis = aortic_valve - at(14, 0.38 * r, 0.42 * r)
    outflow_axis /= np.linalg.norm(outflow_axis)
    lv = np.minimum(lv, np.maximum(outflow, points.along(outflow_axis, aortic_valve)))

    # Myocardium: a larger ellipsoid, thinner at the apex, thicker towards the septum, rising a little above the base.
    outer = (0.75 * length + 0.75 * wall, r + wall, r + wall)
    shifted = s - np.float32(anatomy.septal_shift_mm)
    myocardium = smooth_max(ellipsoid(a - np.float32(0.25 * length), shifted, u, outer), -a - 1.5, 5.0)
    myocardium = np.maximum(myocardium, np.minimum(-radial, a))  # open at the base

    # Right ventricle: an ellipsoid against the septum (the LV, painted first, makes it a crescent), cut at the
    # tricuspid valve, with the outflow tract climbing over the septum to the pulmonary valve.
    tricuspid = at(8.0, r + wall + 5, -4.0)
    tricuspid_axis = 0.97 * LV_AXIS - 0.12 * SEPTAL_AXIS + 0.2 * UP_AXIS
    tricuspid_axis /= np.linalg.norm(tricuspid_axis)
    rv_semi = (0.54 * length, 29.0 * rv_scale, (r + wall) * (0.62 + 0.42 * rv_scale))
    rv = ellipsoid(a - np.float32(0.43 * length), s - np.float32(0.84 * (r + wall)), u + 3, rv_semi)
    beyond_tricuspid = points.along(tricuspid_axis, tricuspid)
    rv = smooth_max(rv, -beyond_tricuspid, 4.0)
    conus = np.stack([at(36, r + wall + 2, 6), at(32, 0.8 * (r + wall), 0.75 * (r + wall)), pulmonary_valve])
    pulmonary_axis = (conus[2] - conus[1]) / np.linalg.norm(conus[2] - conus[1])
    conus_tube = tube(points, conus, np.array([16.0, 15.0, 0.5 * anatomy.pulmonary_mm]) * rv_scale**0.3, margin_mm=20.0)
    rv = smooth_min(rv, np.maximum(conus_tube, points.along(pulmonary_axis, pulmonary_valve)), 6.0)

    # Atria: ellipsoids behind their valves, funnels to the valves, appendages.
    mitral = at(0.0, -0.22 * r, -0.25 * r)
    support = np.sqrt(((la_semi * LV_AXIS) ** 2).sum())
    la_centre = mitral - (support + 1.0) * LV_AXIS + np.array([3.0, -1.0, 3.0])
    la = ellipsoid(*_minus(points, la_centre), la_semi)
    la = smooth_min(la, tube(points, np.stack([la_centre, mitral]), np.array([0.8 * r, 0.62 * r]), 20.0), 5.0)
    appendage = la_centre + np.array([[-16, 12, 8], [-36, 24, 14], [-42, 36, 12]]) * la_scale
    la = smooth_min(la, tube(points, appendage, np.array([9.0, 8.0, 5.0]) * la_scale, 20.0), 4.0)

    support = np.sqrt(((ra_semi * tricuspid_axis) ** 2).sum())
    ra_centre = tricuspid - (support - 4.0) * tricuspid_axis + np.array([5.0, -4.0, -1.0])
    ra = ellipsoid(*_minus(points, ra_centre), ra_semi)
    ra = smooth_min(ra, tube(points, np.stack([ra_centre, tricuspid]), np.array([21.0, 20.0]), 20.0), 8.0)
    appendage = ra_centre + np.array([[0, 12, 16], [-10, 24, 27], [-17, 28, 33]]) * ra_scale
    ra = smooth_min(ra, tube(points, appendage, np.array([11.0, 9.0, 6.0]) * ra_scale, 20.0), 4.0)
    ra = np.maximum(ra, 2.0 - la)  # interatrial septum
    ra = np.maximum(ra, beyond_tricuspid)

    # Papillary muscles and trabeculae: in the picture they are muscle, in the labels (as in MM-WHS) blood pool.
    lattice = noise_lattice(anatomy.seed, 30, 48, 0.7)
    near = np.minimum(lv, rv) < 1
    rough = np.zeros_like(a)
    rough[near] = read_lattice(lattice, 2.6, a[near], s[near], u[near])
    apical = np.clip(a * np.float32(1 / length), 0, 1)
    trabeculae = -lv - (rough + 0.4) * np.float32(anatomy.trabeculation_mm) * apical
    muscles = np.minimum(
        tube(points, np.stack([at(0.62 * length, -0.55 * r, 0.35 * r), at(0.36 * length, -0.42 * r, 0.28 * r)]), _TWO),
        tube(points, np.stack([at(0.62 * length, -0.1 * r, -0.65 * r), at(0.36 * length, -0.1 * r, -0.5 * r)]), _TWO),
    )
    crescent = np.maximum(rv, -myocardium)
    inside_rv = -crescent - (rough + 0.2) * np.float32(1.8 * anatomy.trabeculation_mm) * apical
    moderator = tube(points, np.stack([at(0.6 * length, r, 0), at(0.68 * length, r + wall + 30, 8)]), _TWO * 0.7)
    lv_muscle = np.maximum(np.minimum(trabeculae, muscles), lv)
    rv_muscle = np.maximum(np.minimum(inside_rv, moderator), crescent)
    envelope = smooth_min(smooth_min(myocardium, rv, 14.0), smooth_min(la, ra, 14.0), 14.0)
    return _Heart(
        lv, myocardium, rv, la, ra, lv_muscle, rv_muscle, envelope, aortic_valve, pulmonary_valve, la_centre, ra_centre
    )


_TWO: Vector = np.array([4.5, 3.0])


def _minus(points: Points, centre: Vector) -> tuple[Field, Field, Field]:
    x, y, z = (np.float32(v) for v in centre)
    return points.x - x, points.y - y, points.z - z


def great_vessels(
    anatomy: Anatomy, aortic: Vector, pulmonary: Vector, la: Vector, ra: Vector
) -> dict[str, tuple[Vector, Vector]]:
    """Centre lines [N, 3] and radii [N], body frame, mm; from the valves and the middles of the atria, [3] each."""
    turn = rotation_matrix(anatomy.heart_rotation_deg)
    rng = np.random.default_rng([anatomy.seed, 2])

    def line(start: list[Vector], rest: Sequence[Sequence[float]], wander_mm: float = 2.0) -> Vector:
        loose = np.array(rest) + rng.normal(0, wander_mm, (len(rest), 3))
        return np.concatenate([np.array(start).reshape(-1, 3), loose])

    ao, pa = anatomy.aorta_mm / 2, anatomy.pulmonary_mm / 2
    la_size = (anatomy.la_ml / _LA_UNIT_ML) ** (1 / 3)
    root = turn @ np.array([0.3, 0.25, 0.92])
    arch = [[13, 4, 66], [6, -18, 84], [-2, -44, 84], [-6, -64, 66]]
    down = [[-5, -70, 30], [-3, -70, -10], [2, -67, -60], [8, -63, -120]]
    trunk = pulmonary + turn @ np.array([2, -12, 17])
    out = {
        "aorta": (
            line([aortic, aortic + 12 * root, aortic + 30 * root], arch + down),
            ao * np.array([0.95, 1.12, 1.0, 0.97, 0.92, 0.85, 0.8, 0.75, 0.72, 0.7, 0.65]),
        ),
        "pa_left": (
            line([pulmonary, trunk], [[-18, -14, 54], [-32, -38, 58], [-56, -54, 52]]),
            pa * np.array([1, 1, 0.95, 0.75, 0.5]),
        ),
        "pa_right": (
            line([trunk], [[-15, -14, 53], [4, -27, 52], [32, -34, 49], [62, -44, 42]]),
            pa * np.array([0.9, 0.85, 0.78, 0.7, 0.5]),
        ),
        "svc": (
            line([ra + np.array([0, 0, 12])], [[37, -4, 44], [36, -12, 70], [33, -8, 110]]),
            np.array([11.0, 10.0, 9.5, 9.0]),
        ),
        "ivc": (
            line([ra + np.array([-1, -8, -12])], [[30, -10, -42], [30, -18, -66], [27, -30, -110]]),
            np.array([12.0, 12.0, 12.5, 12.0]),
        ),
    }
    for name, side, start, lift in (
        ("pv_right_upper", 1, [18, -4, 8], 16),
        ("pv_right_lower", 1, [17, -10, -8], -6),
        ("pv_left_upper", -1, [-17, -6, 10], 12),
        ("pv_left_lower", -1, [-15, -11, -6], -8),
    ):
        begin = la + np.array(start) * la_size
        steps = np.array([[0, 0, 0], [side * 18, -4, 0.4 * lift], [side * 42, -13, lift]])
        wander = rng.normal(0, 2, (3, 3)) * np.array([[0], [1], [2]])
        out[name] = (begin + steps + wander, np.array([8.0, 6.5, 4.0]))
    return out


def layers(anatomy: Anatomy, body: Points) -> Iterator[Layer]:
    """Everything in the chest, front to back; ``body`` are the voxel centres in the body frame."""
    heart = _heart(anatomy, body.rotated(rotation_matrix(anatomy.heart_rotation_deg)))
    turn = rotation_matrix(anatomy.heart_rotation_deg)
    marks = (turn @ p for p in (heart.aortic_valve, heart.pulmonary_valve, heart.la_centre, heart.ra_centre))
    vessel = {name: tube(body, *line) for name, line in great_vessels(anatomy, *marks).items()}
    veins = np.minimum.reduce([d for name, d in vessel.items() if name.startswith("pv")])
    pulmonary = np.minimum(vessel["pa_left"], vessel["pa_right"])
    aorta = vessel["aorta"]
    la_body = np.maximum(heart.la, 1.5 - aorta)
    la = smooth_min(la_body, np.maximum(veins, la_body - 8), 3.0)  # the label takes the veins' mouths, no more
    ra = np.maximum(heart.ra, np.maximum(1.5 - aorta, 2.0 - la))

    yield Layer("myocardium", LV, heart.lv_muscle)
    yield Layer("lv_blood", LV, heart.lv)
    yield Layer("myocardium", MYO, heart.myocardium)
    yield Layer("aorta", 0, aorta)
    yield Layer("wall", 0, aorta - 1.5)
    yield Layer("myocardium", RV, heart.rv_muscle)
    yield Layer("rv_blood", RV, heart.rv)
    yield Layer("pulmonary_artery", 0, pulmonary)
    yield Layer("la_blood", LA, la)
    yield Layer("ra_blood", RA, ra)
    yield Layer("pulmonary_vein", 0, veins)
    yield Layer("superior_vena_cava", 0, vessel["svc"])
    yield Layer("inferior_vena_cava", 0, vessel["ivc"])
    yield Layer("myocardium", 0, heart.rv - np.float32(anatomy.rv_wall_mm))
    atria = np.minimum(la, ra)
    yield Layer("wall", 0, np.minimum(atria - 2, pulmonary - 1))
    vessels = np.minimum.reduce([aorta, pulmonary, vessel["svc"]])
    fat = np.minimum(heart.envelope - np.float32(anatomy.fat_mm), vessels - 4)
    yield Layer("fat", 0, np.minimum(fat, np.minimum(veins, vessel["ivc"]) - 1))
    yield from chest_layers(anatomy, body, heart.envelope)


def paint(anatomy: Anatomy, grid: Grid) -> tuple[NDArray[np.float32], LabelMap]:
    """`tissue_fractions` and `label_map` in one pass, for the time of the first."""
    out = np.zeros((len(TISSUES), *grid.shape), dtype=np.float32)
    left = np.ones(grid.shape, dtype=np.float32)
    labels = _Labels(grid)
    sharpness = np.float32(anatomy.body_scale / np.cbrt(grid.voxel_volume_ml * 1000))
    for layer in layers(anatomy, body_points(anatomy, grid)):
        share = np.clip(np.float32(0.5) - layer.distance * sharpness, 0, 1)
        share *= left
        out[TISSUES.index(layer.tissue)] += share
        left -= share
        labels.add(layer)
    out[TISSUES.index("air")] += left
    return out, LabelMap(labels.data, grid, MMWHS)


def tissue_fractions(anatomy: Anatomy, grid: Grid) -> NDArray[np.float32]:
    """Fraction of each tissue in each voxel: float32 [len(TISSUES), X, Y, Z] in [0, 1], summing to one."""
    return paint(anatomy, grid)[0]


def label_map(anatomy: Anatomy, grid: Grid) -> LabelMap:
    """The five MM-WHS structures, exclusive: left and right ventricle and atrium (blood pools), LV myocardium."""
    labels = _Labels(grid)
    for layer in layers(anatomy, body_points(anatomy, grid)):
        if not labels.add(layer):
            break
    return LabelMap(labels.data, grid, MMWHS)


class _Labels:
    """Hard-edged painting, front to back: the first shape that holds a voxel's centre owns it."""

    def __init__(self, grid: Grid) -> None:
        self.data = np.zeros(grid.shape, dtype=np.uint8)
        self._free = np.ones(grid.shape, dtype=bool)
        self._open = True

    def add(self, layer: Layer) -> bool:
        """Paint one layer; False once nothing further back can carry a label (behind the epicardial fat)."""
        self._open = self._open and layer.tissue != "fat"
        if self._open:
            inside = self._free & (layer.distance < 0)
            self.data[inside] = layer.label
            self._free &= ~inside
        return self._open
