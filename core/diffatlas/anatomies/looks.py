"""What a drawn patient looks like: signal of each tissue by family, and what varies inside a tissue.

Families: contrast CT (`diffatlas.phantom.appearance.contrast_ct`), plain and low-dose CT, bright-blood MR (bSSFP-like),
late enhancement (muscle nulled, scars bright, blood bright or nulled), T1- and T2-like, and free contrast. A picture is

    sum_t f_t (mean_t + sum_c cluster_tc),   times a bias field, blurred; ghosts and streaks on top; noise comes later

Every tissue has smooth sub-clusters of intensity of its own; where labels are few these matter most (arXiv 2411.06842).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffatlas.anatomies.body import Body
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Modality
from diffatlas.phantom.appearance import Scene, contrast_ct
from diffatlas.phantom.fields import Field
from diffatlas.phantom.tissues import TISSUES

Family = Literal["contrast ct", "plain ct", "bright blood", "late enhancement", "t1 t2", "free"]
FAMILIES: tuple[Family, ...] = ("contrast ct", "plain ct", "bright blood", "late enhancement", "t1 t2", "free")

BLOOD = (
    "lv_blood", "rv_blood", "la_blood", "ra_blood", "aorta", "pulmonary_artery", "pulmonary_vein",
    "superior_vena_cava", "inferior_vena_cava",
)  # fmt: skip
LEFT = ("lv_blood", "la_blood", "aorta", "pulmonary_vein")


@dataclass(frozen=True, eq=False)
class Look:
    """A noise-free picture [X, Y, Z], HU for CT, else positive units of about one; the noise it is to get."""

    image: Field
    modality: Modality
    noise: float
    rician: bool


def sample_look(body: Body, grid: Grid, family: Family, rng: np.random.Generator) -> Look:
    """A picture of ``body`` on ``grid`` of this ``family``."""
    scene = Scene(lambda: body.points, body.fractions, grid, rng)
    if family == "contrast ct":
        noise = float(rng.uniform(0, 30)) if rng.uniform() < 0.4 else 0.0
        return Look(contrast_ct(scene), "ct", noise, False)
    if family == "plain ct":
        image = scene.mix(_plain_ct(rng)) + _clusters(scene, 6.0, rng)
        return Look(scene.blurred(image, _blur(rng)), "ct", float(rng.uniform(15, 70)), False)
    means = _MEANS[family](rng)
    image = scene.mix(means) + _clusters(scene, float(rng.uniform(0.02, 0.12 if family == "free" else 0.07)), rng)
    if family == "late enhancement" or (family == "free" and rng.uniform() < 0.15):
        image = _scarred(image, scene, body, means, rng)
    image *= 1 + scene.smooth_noise(4.5) * np.float32(rng.uniform(0, 0.08))
    image = np.maximum(image, 0)
    image *= np.exp(np.float32(rng.uniform(0.05, 0.4)) * scene.smooth_noise(float(rng.uniform(60, 130))))
    if rng.uniform() < 0.2:
        image = _ghost(image, rng)
    image = scene.blurred(image, _blur(rng))
    blood = max(means["lv_blood"], means["myocardium"], 0.2)
    return Look(image, "mr", float(rng.uniform(0.01, 0.12) * blood), bool(rng.uniform() < 0.7))


def _blur(rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = rng.uniform(0.3, 1.6, 3)
    return float(x), float(y), float(z)


def _clusters(scene: Scene, strength: float, rng: np.random.Generator) -> Field:
    """Smooth variation inside tissues: a few fields, each tissue a random mixture of them [X, Y, Z]."""
    out = np.zeros(scene.grid.shape, dtype=np.float32)
    for length_mm in rng.uniform(5, 45, 3):
        weight = rng.normal(0, strength, len(TISSUES)).astype(np.float32)
        calm = [TISSUES.index(t) for t in (*BLOOD, "myocardium")]
        weight[calm] *= 0.4
        weight[TISSUES.index("air")] *= 0.2
        out += np.tensordot(weight, scene.fractions, axes=1) * scene.smooth_noise(float(length_mm))
    return out


def _plain_ct(rng: np.random.Generator) -> dict[str, float]:
    blood, muscle = rng.uniform(30, 50), rng.uniform(38, 60)
    means = {t: float(blood + rng.normal(0, 2)) for t in BLOOD}
    return means | {
        "air": -1000.0,
        "lung": float(rng.uniform(-900, -760)),
        "lung_vessel": -60.0,
        "fat": float(rng.uniform(-115, -80)),
        "muscle": float(muscle),
        "cortical_bone": float(rng.uniform(450, 800)),
        "cancellous_bone": float(rng.uniform(120, 260)),
        "fluid": 15.0,
        "liver": float(rng.uniform(45, 75)),
        "wall": float(muscle),
        "myocardium": float(muscle),
    }


def _bright_blood(rng: np.random.Generator) -> dict[str, float]:
    blood = float(rng.uniform(0.6, 1.0))
    muscle = blood * float(rng.uniform(0.18, 0.5))
    apart = float(rng.uniform(0.0, 0.15))
    means = {t: blood * float(rng.uniform(1 - apart, 1 + apart)) for t in BLOOD}
    return means | _rest(rng, muscle, fat=(0.5, 1.2), liver=(0.6, 1.6), fluid=(0.8, 1.1))


def _late_enhancement(rng: np.random.Generator) -> dict[str, float]:
    """Muscle nulled more or less well; blood from nulled to brighter than all but scar and fat."""
    nulled = rng.uniform() < 0.12
    blood = float(rng.uniform(0.05, 0.3)) if nulled else float(rng.uniform(0.35, 0.95))
    muscle = float(rng.uniform(0.25, 0.6)) if nulled else blood * float(rng.uniform(0.08, 0.6))
    apart = float(rng.uniform(0.0, 0.12))
    means = {t: blood * float(rng.uniform(1 - apart, 1 + apart)) for t in BLOOD}
    means |= _rest(rng, muscle, fat=(0.5, 1.5), liver=(0.6, 2.0), fluid=(0.1, 1.0))
    if rng.uniform() < 0.4:  # atrial walls enhance
        means["wall"] = blood * float(rng.uniform(0.7, 1.4))
    return means


def _t1_t2(rng: np.random.Generator) -> dict[str, float]:
    blood = float(rng.uniform(0.02, 0.5))
    muscle = float(rng.uniform(0.3, 0.7))
    means = {t: max(0.0, blood + float(rng.normal(0, 0.06))) for t in BLOOD}
    return means | _rest(rng, muscle, fat=(0.6, 1.3), liver=(0.7, 1.4), fluid=(0.1, 1.2))


def _rest(
    rng: np.random.Generator,
    muscle: float,
    *,
    fat: tuple[float, float],
    liver: tuple[float, float],
    fluid: tuple[float, float],
) -> dict[str, float]:
    """Tissues that MR shows alike: lung and bone dark, liver in units of ``muscle``."""
    suppressed = rng.uniform() < 0.25
    return {
        "air": 0.0,
        "lung": float(rng.uniform(0.01, 0.12)),
        "lung_vessel": float(rng.uniform(0.05, 0.6)),
        "fat": float(rng.uniform(0.05, 0.3)) if suppressed else float(rng.uniform(*fat)),
        "muscle": muscle * float(rng.uniform(0.7, 1.3)),
        "cortical_bone": float(rng.uniform(0.02, 0.12)),
        "cancellous_bone": float(rng.uniform(0.2, 0.7)),
        "fluid": float(rng.uniform(*fluid)),
        "liver": muscle * float(rng.uniform(*liver)),
        "wall": muscle * float(rng.uniform(0.8, 1.2)),
        "myocardium": muscle,
    }


def _free(rng: np.random.Generator) -> dict[str, float]:
    """Every tissue a value of its own; blood pools alike in most draws, and never like the muscle around them."""
    means = {t: float(rng.uniform()) for t in TISSUES}
    shared, spread = means["lv_blood"], float(rng.uniform(0, 0.05))
    if rng.uniform() < 0.6:
        means |= {t: shared + float(rng.normal(0, spread)) for t in BLOOD}
    else:
        right = means["rv_blood"]
        means |= {t: (shared if t in LEFT else right) + float(rng.normal(0, spread)) for t in BLOOD}
    while min(abs(means["myocardium"] - means[t]) for t in ("lv_blood", "rv_blood")) < 0.12:
        means["myocardium"] = float(rng.uniform())
    means["wall"] = means["myocardium"] + float(rng.normal(0, 0.08))
    dark = rng.uniform()
    means["air"] = 0.0 if dark < 0.8 else means["air"]
    if dark < 0.6:
        means["lung"] = float(rng.uniform(0, 0.15))
    return means


_MEANS: dict[str, Callable[[np.random.Generator], dict[str, float]]] = {
    "bright blood": _bright_blood,
    "late enhancement": _late_enhancement,
    "t1 t2": _t1_t2,
    "free": _free,
}


def _scarred(
    image: Field, scene: Scene, body: Body, means: dict[str, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Bright scars from the inside of the wall outwards, in two of three patients, and in atrial walls."""
    bright = np.float32(max(means["lv_blood"], means["myocardium"]) * rng.uniform(0.9, 1.7))
    if rng.uniform() < 0.65:
        where = scene.smooth_noise(float(rng.uniform(15, 40))) > np.float32(rng.uniform(0.2, 1.3))
        deep = np.clip(1.5 - np.maximum(body.cavity, 0) / np.float32(rng.uniform(2, 9)), 0, 1)
        scar = np.asarray(where * deep * scene.of("myocardium"), dtype=np.float32)
        image = image + scar * (bright - np.float32(means["myocardium"]))
    if rng.uniform() < 0.4:
        where = scene.smooth_noise(8.0) > np.float32(rng.uniform(0.2, 1.0))
        atrial = np.asarray(where * scene.of("wall") * (body.atrium < 5), dtype=np.float32)
        image = image + atrial * (bright - np.float32(means["wall"]))
    return np.asarray(image, dtype=np.float32)


def _ghost(image: Field, rng: np.random.Generator) -> Field:
    """A faint copy, moved along one axis: breathing."""
    axis = int(rng.integers(3))
    away = int(rng.integers(4, 24))
    strength = np.float32(rng.uniform(0.03, 0.15))
    return np.asarray((1 - strength) * image + strength * np.roll(image, away, axis), dtype=np.float32)
