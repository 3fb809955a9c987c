"""The chest around the heart: spine, lungs with vessels, airways, diaphragm, liver, stomach, ribs, chest wall.

It is context, not anatomy to be measured: none of it carries a label. Coordinates are the body frame of `shapes` (mm,
RAS+, origin at the heart's centre; the spine's midline lies at x = 22).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffatlas.phantom.anatomy import Anatomy
from diffatlas.phantom.fields import (
    Field,
    Points,
    ellipsoid,
    noise_lattice,
    read_lattice,
    smooth_max,
    smooth_min,
    tube,
)
from diffatlas.phantom.tissues import Layer

MIDLINE_MM = 22.0
_VERTEBRA_MM = 27.0  # height of a vertebra with its disc
_RIB_MM = 27.0  # distance between ribs along z


def _ellipse(u: Field, v: Field, semi_u: float, semi_v: float) -> Field:
    """Elliptic cylinder; first-order distance, mm."""
    qu, qv = u * np.float32(1 / semi_u), v * np.float32(1 / semi_v)
    size = np.sqrt(qu * qu + qv * qv)
    slope = np.sqrt((qu * np.float32(1 / semi_u)) ** 2 + (qv * np.float32(1 / semi_v)) ** 2)
    return np.asarray(size * (size - 1) / (slope + np.float32(1e-6)), dtype=np.float32)


def _sawtooth(v: Field, period: float) -> Field:
    """Distance to the nearest multiple of ``period``, signed."""
    return np.asarray(v - np.float32(period) * np.round(v * np.float32(1 / period)), dtype=np.float32)


def _diaphragm(anatomy: Anatomy, x: Field, y: Field, z: Field) -> Field:
    """Negative below the diaphragm: two domes and the saddle under the heart."""
    right, left = anatomy.diaphragm_mm
    domes = []
    for height, cx, cy in ((-28 + right, MIDLINE_MM + 56, -6), (-40 + left, MIDLINE_MM - 62, -6), (-38, -8, 22)):
        fall = ((x - np.float32(cx)) * np.float32(1 / 72)) ** 2 + ((y - np.float32(cy)) * np.float32(1 / 66)) ** 2
        domes.append((z - np.float32(height) + 42 * fall) * np.float32(0.75))
    return smooth_min(smooth_min(domes[0], domes[1], 15.0), domes[2], 15.0)


def _ribs(x: Field, y: Field, z: Field, depth: Field) -> tuple[Field, Field]:
    """Outer surface and marrow of ribs in the chest wall, falling towards the front; ``depth``: mm from inside."""
    level = _sawtooth(z + np.float32(0.45) * y, _RIB_MM)
    ring = np.sqrt(((depth - 6) * np.float32(1 / 3.8)) ** 2 + (level * np.float32(1 / 6.5)) ** 2)
    cartilage = np.maximum(y - 38, 0) * np.float32(0.3)  # bone ends before the sternum
    rib = (ring - 1) * np.float32(4.2) + cartilage
    return rib, rib + np.float32(1.6)


def chest_layers(anatomy: Anatomy, points: Points, envelope: Field) -> Iterator[Layer]:
    """Layers behind the heart and its fat, front to back. ``envelope``: distance to the heart's surface, mm."""
    x, y, z = points.x, points.y, points.z
    wide, deep = anatomy.chest_shape
    from_midline = x - np.float32(MIDLINE_MM)

    # Spine: vertebral bodies waisted between their end plates, discs, canal, arch and processes.
    along = _sawtooth(z, _VERTEBRA_MM)
    waist = np.float32(1.8) * np.cos(along * np.float32(2 * np.pi / _VERTEBRA_MM))
    column = _ellipse(from_midline, y + 80, 17.0, 13.5) + waist
    disc = np.float32(_VERTEBRA_MM / 2 - 2.6) - np.abs(along)
    canal = _ellipse(from_midline, y + 101, 9.5, 8.0)
    process = np.maximum(np.abs(from_midline) - 3.5, np.abs(y + 118) - 14)
    across = np.maximum(np.abs(along - 3) - 6, np.maximum(np.abs(from_midline) - 32, np.abs(y + 104) - 4.5))
    arch = np.minimum(np.maximum(canal - 4.5, np.abs(along) - 9), np.maximum(process, np.abs(along) - 8))
    arch = np.minimum(arch, across)
    vertebra = np.maximum(column, -disc)
    yield Layer("fluid", 0, canal)
    yield Layer("cancellous_bone", 0, np.minimum(vertebra, arch) + 1.7)
    yield Layer("cortical_bone", 0, np.minimum(vertebra, arch))
    yield Layer("muscle", 0, np.minimum(column, tube(points, _OESOPHAGUS, np.full(3, 6.0))))

    # Airways.
    airway: Field = np.minimum(
        tube(points, _TRACHEA, np.array([8.5, 8.5, 8.0])), tube(points, _BRONCHI, np.full(5, 5.5))
    )
    yield Layer("air", 0, airway)
    yield Layer("muscle", 0, airway - np.float32(1.5))

    # The space inside the ribs, indented by spine and back muscles; the mediastinum between the lungs.
    inside = _ellipse(from_midline, y + 30, 128.0 * wide, 82.0 * deep)
    inside = smooth_max(inside, -_ellipse(from_midline, y + 116, 36.0, 30.0), 14.0)
    inside = smooth_min(inside, envelope - 3, 20.0)  # a large heart finds room
    below = _diaphragm(anatomy, x, y, z)
    mediastinum = _ellipse(from_midline + 8, y + 28, 24.0, 78.0)
    upper = smooth_max(mediastinum, 30 - z, 30.0)
    front = _ellipse(from_midline + 8, y - 44, 20.0, 14.0)
    rear = _ellipse(from_midline + 12, y + 72, 26.0, 14.0)
    middle = smooth_min(smooth_min(upper, front, 10.0), smooth_min(rear, envelope - 5, 12.0), 12.0)
    lung = np.maximum(inside, np.maximum(-below, -middle))

    # Lung vessels: where two smooth random fields vanish together, which is along curves; thicker near the hila.
    near = lung < 2
    vessels = np.full(lung.shape, 60.0, dtype=np.float32)
    px, py, pz = x[near], y[near], z[near]
    first = read_lattice(noise_lattice(anatomy.seed, 40, 64, 1.4), 3.6, px, py, pz)
    second = read_lattice(noise_lattice(anatomy.seed, 41, 64, 1.4), 3.6, px, py, pz)
    hilum = np.sqrt((np.abs(px - MIDLINE_MM) - 42) ** 2 + (py + 38) ** 2 + ((pz - 30) * np.float32(0.7)) ** 2)
    vessels[near] = 4.5 * np.sqrt(first * first + second * second) - 0.7 - 3.0 * np.exp(-hilum / 38)
    yield Layer("lung_vessel", 0, np.maximum(vessels, lung))
    yield Layer("lung", 0, lung)

    # Below the diaphragm: the liver on the right and across the middle, the stomach (often with gas) on the left.
    belly = np.maximum(below + 3, inside)
    left = from_midline + 34 - np.float32(0.35) * (y + 20)
    liver = smooth_max(belly + 1, -left, 12.0)
    stomach_x, stomach_y, stomach_z = from_midline + 74, y - 5, z - np.float32(-78 + anatomy.diaphragm_mm[1])
    stomach = np.maximum(ellipsoid(stomach_x, stomach_y, stomach_z, (34.0, 36.0, 24.0)), below + 5)
    if anatomy.stomach_gas:
        yield Layer("air", 0, np.maximum(stomach + 4, -stomach_y + 8))
    yield Layer("muscle", 0, stomach)
    yield Layer("liver", 0, liver)
    spleen = ellipsoid(from_midline + 92, y + 60, stomach_z, (26.0, 38.0, 36.0))
    yield Layer("liver", 0, np.maximum(spleen, belly + 1))
    yield Layer("muscle", 0, np.maximum(below, np.maximum(inside, -below - 3)))
    yield Layer("fat", 0, inside)

    # Chest wall: sternum, ribs, muscle, subcutaneous fat, skin.
    sternum = np.maximum(np.abs(from_midline) - 15, np.abs(inside - 7) - 5)
    sternum = np.maximum(sternum, np.maximum(-y, -z - 45))
    rib, marrow = _ribs(x, y, z, inside)
    yield Layer("cancellous_bone", 0, np.minimum(marrow, sternum + 1.4))
    yield Layer("cortical_bone", 0, np.minimum(rib, sternum))
    shape = _ellipse(from_midline, y + 36, 140.0 * wide, 104.0 * deep)
    muscle = smooth_min(inside - 13, smooth_max(shape, y + 70, 20.0), 10.0)
    yield Layer("muscle", 0, muscle)
    skin = smooth_min(muscle, _ellipse(from_midline, y + 36, 146.0 * wide, 102.0 * deep), 20.0)
    yield Layer("fat", 0, skin - np.float32(anatomy.chest_fat_mm))
    yield Layer("muscle", 0, skin - np.float32(anatomy.chest_fat_mm + 2))


_OESOPHAGUS = np.array([[16.0, -58.0, 110.0], [11.0, -61.0, 20.0], [2.0, -54.0, -60.0]])
_TRACHEA = np.array([[21.0, -30.0, 120.0], [19.0, -42.0, 85.0], [17.0, -47.0, 64.0]])
_BRONCHI = np.array(
    [[62.0, -52.0, 36.0], [38.0, -50.0, 50.0], [17.0, -48.0, 62.0], [-8.0, -54.0, 48.0], [-34.0, -58.0, 34.0]]
)
