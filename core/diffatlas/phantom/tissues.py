"""What the phantom is made of."""

from __future__ import annotations

from typing import NamedTuple

from diffatlas.phantom.fields import Field

TISSUES = (
    "air",
    "lung",
    "lung_vessel",
    "fat",
    "muscle",
    "cortical_bone",
    "cancellous_bone",
    "fluid",
    "liver",
    "wall",
    "myocardium",
    "lv_blood",
    "rv_blood",
    "la_blood",
    "ra_blood",
    "aorta",
    "pulmonary_artery",
    "pulmonary_vein",
    "superior_vena_cava",
    "inferior_vena_cava",
)


class Layer(NamedTuple):
    """One painted shape: its tissue, its MM-WHS index (0 none), and its distance field [X, Y, Z], mm."""

    tissue: str
    label: int
    distance: Field
