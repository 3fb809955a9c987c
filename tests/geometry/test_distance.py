"""Signed distances: signs are exact, millimetres are right, absence is absence."""

from __future__ import annotations

import numpy as np
import pytest

from diffatlas.geometry.distance import distances_to_labels, label_distances_mm, signed_distance_mm
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap


def test_a_plane_in_millimetres() -> None:
    inside = np.zeros((9, 3, 3), dtype=bool)
    inside[:4] = True  # the surface is at x = 3.5 voxels
    sdf = signed_distance_mm(inside, (2.0, 2.0, 2.0), 100.0)
    np.testing.assert_allclose(sdf[:, 1, 1], (np.arange(9) - 3.5) * 2.0)


def test_a_sphere_on_an_anisotropic_grid() -> None:
    spacing, radius = (0.5, 1.0, 2.0), 12.0
    axes = [np.arange(-n, n + 1) * s for n, s in zip((40, 20, 10), spacing, strict=True)]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    sdf = signed_distance_mm(r < radius, spacing, 6.0)
    near = np.abs(r - radius) < 4
    assert np.abs(sdf - (r - radius))[near].mean() < 0.5
    assert sdf.min() == -6.0
    assert sdf.max() == 6.0


def test_absent_and_full_have_no_surface() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    assert (signed_distance_mm(empty, (1, 1, 1), 5.0) == 5.0).all()
    assert (signed_distance_mm(~empty, (1, 1, 1), 5.0) == -5.0).all()


@pytest.mark.parametrize("clip_mm", [0.6, 3.0, 50.0])
def test_labels_survive_the_round_trip(rng: np.random.Generator, clip_mm: float) -> None:
    data = rng.integers(0, 6, size=(9, 10, 11)).astype(np.uint8)
    labels = LabelMap(data, Grid(data.shape, np.diag([1.0, 2.0, 3.0, 1.0])), MMWHS)
    sdf = label_distances_mm(labels, clip_mm)
    assert sdf.shape == (5, 9, 10, 11)
    np.testing.assert_array_equal(distances_to_labels(sdf), data)


def test_overlap_goes_to_the_deepest() -> None:
    sdf = np.array([-1.0, -2.0, 3.0]).reshape(3, 1, 1, 1)
    assert distances_to_labels(sdf).item() == 2
    assert distances_to_labels(np.abs(sdf)).item() == 0
