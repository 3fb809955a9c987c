"""From tissue fractions to a picture: contrast-enhanced CT, bSSFP-like MR, or contrast drawn at random.

A picture is sum_t f_t (mean_t + texture_t), then the scanner: uneven mixing of contrast, streaks, blur, noise; or coil
sensitivity, blur, Rician noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.phantom.anatomy import Anatomy
from diffatlas.phantom.fields import Field, Points
from diffatlas.phantom.shapes import body_points, tissue_fractions
from diffatlas.phantom.tissues import TISSUES

PhantomModality = Literal["ct", "mr", "random"]
MODALITIES: tuple[PhantomModality, ...] = ("ct", "mr", "random")

_BLOOD_LEFT = ("lv_blood", "la_blood", "aorta", "pulmonary_vein")
_BLOOD_RIGHT = ("rv_blood", "ra_blood", "pulmonary_artery", "superior_vena_cava", "inferior_vena_cava")

# Correlation length, mm, and spread of the texture inside a tissue, in HU for CT.
_CT_TEXTURE_HU = {
    "lung": 25.0,
    "fat": 8.0,
    "muscle": 8.0,
    "cortical_bone": 120.0,
    "cancellous_bone": 30.0,
    "liver": 5.0,
}


@dataclass(frozen=True, eq=False)
class Scene:
    """What an appearance needs: fractions [T, X, Y, Z], the grid, the body frame, and its own random stream."""

    body: Callable[[], Points]
    fractions: NDArray[np.float32]
    grid: Grid
    rng: np.random.Generator

    def smooth_noise(self, length_mm: float) -> Field:
        """Gaussian noise [X, Y, Z] of about unit variance and this correlation length."""
        nodes = [max(2, int(np.ceil(extent / length_mm)) + 2) for extent in self.grid.extent_mm]
        coarse = self.rng.standard_normal(nodes, dtype=np.float32)
        scale = [(n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(nodes, self.grid.shape, strict=True)]
        smooth = ndimage.affine_transform(coarse, scale, output_shape=self.grid.shape, order=1, mode="nearest")
        return np.asarray(smooth * np.float32(1.5), dtype=np.float32)

    def of(self, *tissues: str) -> Field:
        """Summed fraction of these tissues [X, Y, Z]."""
        return np.asarray(sum(self.fractions[TISSUES.index(t)] for t in tissues), dtype=np.float32)

    def mix(self, means: dict[str, float]) -> Field:
        """Partial-volume mixture of one value a tissue [X, Y, Z]."""
        table = np.array([means[t] for t in TISSUES], dtype=np.float32)
        return np.tensordot(table, self.fractions, axes=1)

    def blurred(self, image: Field, sd_mm: tuple[float, float, float]) -> Field:
        """Gaussian point spread, standard deviations in mm along the array axes; none below a third of a voxel."""
        sigma = [s / v if s / v > 0.3 else 0.0 for s, v in zip(sd_mm, self.grid.spacing_mm, strict=True)]
        return ndimage.gaussian_filter(image, sigma, truncate=2.5) if any(sigma) else image

    def noise(self, sd: float, grain_voxels: float) -> Field:
        """Gaussian noise of this standard deviation, correlated over a few voxels as after a soft kernel."""
        white = self.rng.standard_normal(self.grid.shape, dtype=np.float32)
        if grain_voxels > 0.25:
            white = ndimage.gaussian_filter(white, grain_voxels, truncate=2.5)
            white /= max(float(white.std()), 1e-6)
        return white * np.float32(sd)


def contrast_ct(scene: Scene) -> Field:
    """Hounsfield units. Contrast arrives left (coronary timing), evenly, late or hardly at all."""
    rng = scene.rng
    timing = str(rng.choice(["coronary", "even", "poor"], p=[0.65, 0.25, 0.10]))
    left = rng.uniform(150, 260) if timing == "poor" else rng.uniform(290, 460)
    right = {
        "coronary": rng.uniform(100, 400),
        "even": left * rng.uniform(0.8, 1.05),
        "poor": left * rng.uniform(0.6, 1.1),
    }[timing]
    dense = float(rng.uniform(right, 900)) if timing == "coronary" else right * rng.uniform(0.9, 1.3)
    late = rng.uniform(60, 160) if timing != "even" else right * rng.uniform(0.6, 1.0)
    muscle = rng.uniform(95, 130) if timing != "poor" else rng.uniform(70, 105)
    means = {
        "air": -1000.0,
        "lung": rng.uniform(-900, -790),
        "lung_vessel": 0.6 * left + 0.2 * right - 60,
        "fat": rng.uniform(-115, -85),
        "muscle": rng.uniform(40, 65),
        "cortical_bone": rng.uniform(450, 800),
        "cancellous_bone": rng.uniform(120, 260),
        "fluid": rng.uniform(15, 40),
        "liver": rng.uniform(60, 120),
        "wall": rng.uniform(50, 90),
        "myocardium": muscle,
        "lv_blood": left,
        "la_blood": left * rng.uniform(0.96, 1.04),
        "aorta": left * rng.uniform(0.96, 1.05),
        "pulmonary_vein": left * rng.uniform(0.97, 1.05),
        "rv_blood": right,
        "ra_blood": right,
        "pulmonary_artery": right * rng.uniform(0.9, 1.1),
        "superior_vena_cava": dense,
        "inferior_vena_cava": late,
    }
    image = scene.mix(means)

    # Uneven mixing on the right: dense blood streams in from above, plain blood from below.
    stream = scene.smooth_noise(14.0) * 0.6 + scene.smooth_noise(7.0) * 0.4
    unevenness = float(rng.uniform(0.05, 0.4)) if timing == "coronary" else 0.03
    amplitude = min(0.5 * (dense - late), 260.0) * unevenness * 2
    image += scene.of("ra_blood") * stream * np.float32(amplitude)
    image += scene.of("rv_blood") * stream * np.float32(0.4 * amplitude)
    body = scene.body()
    image += scene.of("ra_blood") * np.clip(body.z * 0.02, -0.5, 0.5) * np.float32(amplitude)

    fine = scene.smooth_noise(4.0)
    for tissue, sd in _CT_TEXTURE_HU.items():
        image += scene.of(tissue) * fine * np.float32(sd)
    if dense > 550 and rng.uniform() < 0.5:
        image += _streaks(scene, body, strength=float(rng.uniform(15, 60)) * dense / 800)
    sd_mm = float(rng.uniform(0.4, 1.0))
    image = scene.blurred(image, (sd_mm, sd_mm, sd_mm))
    image += scene.noise(float(rng.uniform(15, 40)), float(rng.uniform(0.0, 0.7)))
    return np.clip(image, -1024, 3071)


def _streaks(scene: Scene, body: Points, strength: float) -> Field:
    """Beam hardening about the superior vena cava: bright and dark rays in the axial plane, HU."""
    dx, dy = body.x - 37, body.y + 6
    angle = np.arctan2(dy, dx) * np.float32(180 / np.pi) + 180
    rays = scene.rng.standard_normal(91)
    rays[-1] = rays[0]
    profile = np.interp(angle, np.linspace(0, 360, 91), rays)
    distance = np.sqrt(dx * dx + dy * dy)
    near = np.exp(-distance / 45) * np.clip((body.z - 15) / 15, 0, 1) * np.clip(distance / 8, 0, 1)
    return np.asarray(profile * near * strength, dtype=np.float32)


def _mr(scene: Scene) -> Field:
    """Steady-state MR, arbitrary positive units: blood and fat bright, muscle dark, lung and bone black."""
    rng = scene.rng
    blood = rng.uniform(0.7, 1.0)
    even = rng.uniform(0.0, 0.12)
    muscle = blood * rng.uniform(0.22, 0.5)
    means = {t: blood * rng.uniform(1 - even, 1 + even) for t in (*_BLOOD_LEFT, *_BLOOD_RIGHT)}
    means |= {
        "air": 0.0,
        "lung": rng.uniform(0.02, 0.08),
        "lung_vessel": 0.55 * blood,
        "fat": rng.uniform(0.6, 1.1) if rng.uniform() < 0.8 else rng.uniform(0.1, 0.3),  # the rest fat-suppressed
        "muscle": muscle * rng.uniform(0.7, 1.0),
        "cortical_bone": rng.uniform(0.02, 0.1),
        "cancellous_bone": rng.uniform(0.3, 0.6),
        "fluid": rng.uniform(0.8, 1.1),
        "liver": muscle * rng.uniform(0.8, 1.5),
        "wall": muscle,
        "myocardium": muscle,
    }
    image = scene.mix(means)
    flow = scene.of("rv_blood", "ra_blood", "lv_blood", "la_blood", "aorta", "pulmonary_artery")
    image *= 1 + flow * scene.smooth_noise(12.0) * np.float32(rng.uniform(0.01, 0.08))
    image *= 1 + scene.smooth_noise(4.5) * np.float32(0.04)
    image *= _bias(scene, float(rng.uniform(0.1, 0.45)))
    fine, coarse = float(rng.uniform(0.4, 0.9)), float(rng.uniform(1.2, 2.6))
    sd_mm = [fine, fine, fine]
    if rng.uniform() < 0.4:
        sd_mm[int(rng.integers(3))] = coarse  # thick slices
    image = scene.blurred(image, (sd_mm[0], sd_mm[1], sd_mm[2]))
    sd, grain = float(rng.uniform(0.015, 0.06)), float(rng.uniform(0.0, 0.6))
    image = np.hypot(image + scene.noise(sd, grain), scene.noise(sd, grain))
    return np.asarray(image * np.float32(rng.uniform(200, 1200)), dtype=np.float32)


def _random(scene: Scene) -> Field:
    """Every tissue a value of its own between 0 and 1 (blood often alike): what remains to be learnt is shape."""
    rng = scene.rng
    means = {t: float(rng.uniform()) for t in TISSUES}
    for group, chance in ((_BLOOD_LEFT, 0.75), (_BLOOD_RIGHT, 0.75), ((*_BLOOD_LEFT, *_BLOOD_RIGHT), 0.35)):
        if rng.uniform() < chance:
            shared = means[group[0]]
            means |= {t: shared + float(rng.normal(0, 0.03)) for t in group}
    # Muscle that looks like the blood it holds leaves nothing to see.
    while min(abs(means["myocardium"] - means[t]) for t in ("lv_blood", "rv_blood")) < 0.12:
        means["myocardium"] = float(rng.uniform())
    means["wall"] = means["myocardium"] + float(rng.normal(0, 0.05))
    image = scene.mix(means)
    strength = float(rng.uniform(0.01, 0.06))
    textures = np.array([rng.uniform(0, 2) for _ in TISSUES], dtype=np.float32)
    image += np.tensordot(textures, scene.fractions, axes=1) * scene.smooth_noise(float(rng.uniform(3, 9))) * strength
    image *= _bias(scene, float(rng.uniform(0.0, 0.4)))
    sd_mm = rng.uniform(0.3, 1.6, 3)
    image = scene.blurred(image, (sd_mm[0], sd_mm[1], sd_mm[2]))
    image += scene.noise(float(rng.uniform(0.01, 0.06)), float(rng.uniform(0.0, 0.7)))
    return np.asarray(image * np.float32(rng.uniform(100, 1000)), dtype=np.float32)


def _bias(scene: Scene, strength: float) -> Field:
    """Smooth multiplicative field about one: exp(strength * smooth noise of 90 mm)."""
    return np.asarray(np.exp(strength * scene.smooth_noise(90.0)), dtype=np.float32)


_RENDERERS = {"ct": contrast_ct, "mr": _mr, "random": _random}


def render(
    anatomy: Anatomy,
    grid: Grid,
    modality: PhantomModality,
    seed: int,
    fractions: NDArray[np.float32] | None = None,
) -> Volume:
    """A picture of ``anatomy`` on ``grid``: HU for "ct", arbitrary units for "mr" (positive) and "random".

    ``seed`` draws contrast, texture, blur and noise. ``fractions``: what `tissue_fractions` gave for the same
    anatomy and grid, to spare computing it again. `BadInput` on an unknown modality.
    """
    if modality not in _RENDERERS:
        raise BadInput(f"modality must be one of {', '.join(MODALITIES)}, not {modality!r}")
    if fractions is None:
        fractions = tissue_fractions(anatomy, grid)
    rng = np.random.default_rng([seed, 3, MODALITIES.index(modality)])
    image = _RENDERERS[modality](Scene(lambda: body_points(anatomy, grid), fractions, grid, rng)).astype(np.float32)
    return Volume(image, grid, "unknown" if modality == "random" else modality, name=f"phantom heart {seed}")
