"""The sampled parameters of one digital patient: sizes, wall thickness, pose, pathology.

Sizes follow end-diastolic adult textbook values: LV blood 140 +- 35 ml, wall 7 to 11 mm (hypertrophic up to 20), RV
155 +- 40 ml, LA 75 +- 20 ml, RA 85 +- 25 ml, ascending aorta 30 to 35 mm, pulmonary artery 25 to 28 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffatlas.errors import BadInput

PATHOLOGIES = ("normal", "dilated", "hypertrophic")
_PREVALENCE = (0.76, 0.12, 0.12)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Anatomy:
    """One patient. Lengths in mm, volumes in ml, angles in degrees; both before `body_scale` and the warp.

    ``shift_mm``: where the heart's centre lies in world coordinates. ``body_rotation_deg`` turns the whole patient,
    ``heart_rotation_deg`` the heart inside the chest. ``septal_shift_mm`` moves the outer LV surface towards the septum
    (asymmetric thickness). ``warp_mm``: root mean square of the velocity field of the warp.
    """

    seed: int
    pathology: str
    shift_mm: Triple
    body_scale: float
    body_rotation_deg: Triple
    heart_rotation_deg: Triple
    lv_ml: float
    lv_slenderness: float
    wall_mm: float
    septal_shift_mm: float
    rv_ml: float
    rv_wall_mm: float
    la_ml: float
    ra_ml: float
    atrial_shape: Triple
    aorta_mm: float
    pulmonary_mm: float
    trabeculation_mm: float
    fat_mm: float
    chest_fat_mm: float
    chest_shape: tuple[float, float]
    diaphragm_mm: tuple[float, float]
    stomach_gas: bool
    warp_mm: float

    @property
    def lv_radius_mm(self) -> float:
        """Largest inner radius of the left ventricle.

        The blood pool is an ellipsoid of semi-axes (3/4 L, r, r) cut by the base plane 1/4 L from its centre:
        V = pi r^2 (3/4 L) (2/3 + 1/3 - 1/81), with L = slenderness * 2 r.
        """
        return float((self.lv_ml * 1000 / (np.pi * 1.5 * self.lv_slenderness * (80 / 81))) ** (1 / 3))

    @property
    def lv_length_mm(self) -> float:
        """Base plane to apex, inside."""
        return 2 * self.lv_slenderness * self.lv_radius_mm


def sample_anatomy(seed: int, pathology: str | None = None) -> Anatomy:
    """The patient with this seed; ``pathology`` is one of `PATHOLOGIES`, or None to draw it (mostly normal).

    The same seed with another pathology is the same patient, diseased. `BadInput` on an unknown pathology or a negative
    seed.
    """
    if pathology is not None and pathology not in PATHOLOGIES:
        raise BadInput(f"pathology must be one of {', '.join(PATHOLOGIES)}, not {pathology!r}")
    if seed < 0:
        raise BadInput(f"seed must be zero or more, not {seed}")
    rng = np.random.default_rng([seed, 1])

    def normal(mean: float, sd: float, reach: float = 2.0) -> float:
        return float(mean + sd * np.clip(rng.standard_normal(), -reach, reach))

    def triple(sd: float, reach: float = 2.0) -> Triple:
        return normal(0, sd, reach), normal(0, sd, reach), normal(0, sd, reach)

    drawn = str(rng.choice(PATHOLOGIES, p=_PREVALENCE))
    kind = pathology or drawn
    body = normal(0, 1)  # large people have large chambers
    severity = float(rng.uniform())

    def volume(mean: float, sd: float) -> float:
        return mean + sd * float(np.clip(0.45 * body + 0.8 * rng.standard_normal(), -1.9, 1.9))

    lv_ml, wall_mm, septal = volume(140, 35), normal(8.6, 0.8), normal(0.3, 0.4)
    rv_ml, la_ml, ra_ml = volume(155, 38), volume(75, 19), volume(85, 24)
    slenderness = normal(1.68, 0.10)
    if kind == "dilated":
        lv_ml *= 1.45 + 0.45 * severity
        wall_mm *= 0.92
        slenderness *= 0.90
        la_ml *= 1.2 + 0.3 * severity
        rv_ml *= 1.1
    elif kind == "hypertrophic":
        lv_ml *= 0.85 - 0.12 * severity
        wall_mm = min(wall_mm + 3.5 + 4.5 * severity, 17.0)
        septal += 1.0 + 1.5 * severity
        la_ml *= 1.1 + 0.3 * severity
    return Anatomy(
        seed=seed,
        pathology=kind,
        shift_mm=triple(6.0),
        body_scale=1 + 0.025 * body,
        body_rotation_deg=triple(3.0),
        heart_rotation_deg=triple(7.5),
        lv_ml=lv_ml,
        lv_slenderness=slenderness,
        wall_mm=wall_mm,
        septal_shift_mm=septal,
        rv_ml=rv_ml,
        rv_wall_mm=normal(3.0, 0.4),
        la_ml=la_ml,
        ra_ml=ra_ml,
        atrial_shape=triple(0.06),
        aorta_mm=normal(32.5, 1.6),
        pulmonary_mm=normal(26.5, 1.2),
        trabeculation_mm=normal(2.0, 0.6),
        fat_mm=normal(4.5, 1.6),
        chest_fat_mm=float(rng.uniform(6, 28)),
        chest_shape=(normal(1, 0.05), normal(1, 0.05)),
        diaphragm_mm=(normal(0, 6), normal(0, 6)),
        stomach_gas=bool(rng.uniform() < 0.6),
        warp_mm=float(rng.uniform(2.0, 4.5)),
    )
