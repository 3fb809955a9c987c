"""A digital heart in a digital chest, seeded, in millimetres.

`sample_anatomy` draws a patient, `tissue_fractions` and `label_map` read that patient on any voxel grid, `render` takes
the picture (contrast CT in HU, bSSFP-like MR, or random contrast), `phantom` does all of it. The same seed gives the
same patient on every grid and in every modality.
"""

from __future__ import annotations

import numpy as np

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.phantom.anatomy import PATHOLOGIES, Anatomy, sample_anatomy
from diffatlas.phantom.appearance import MODALITIES, PhantomModality, render
from diffatlas.phantom.shapes import label_map, paint, tissue_fractions
from diffatlas.phantom.tissues import TISSUES

__all__ = [
    "MODALITIES",
    "PATHOLOGIES",
    "TISSUES",
    "Anatomy",
    "PhantomModality",
    "default_grid",
    "label_map",
    "paint",
    "phantom",
    "render",
    "sample_anatomy",
    "tissue_fractions",
]


def default_grid() -> Grid:
    """96 x 96 x 96 voxels of 2 mm about the origin, RAS: 192 mm, the whole heart and a good part of the chest."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -95.0
    return Grid((96, 96, 96), affine)


def phantom(seed: int, modality: PhantomModality = "ct", grid: Grid | None = None) -> tuple[Volume, LabelMap]:
    """Image and MM-WHS label map of the patient with this seed, on ``grid`` (default: `default_grid`)."""
    grid = default_grid() if grid is None else grid
    anatomy = sample_anatomy(seed)
    fractions, labels = paint(anatomy, grid)
    return render(anatomy, grid, modality, seed, fractions), labels
