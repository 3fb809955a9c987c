"""The distances of generated to training images that `benchmarks/bench_atlas.py` reports."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_atlas")


def test_sliced_wasserstein_of_a_shifted_set_is_the_mean_length_of_the_shifts_projections(bench: ModuleType) -> None:
    # W1 between a distribution on a line and the same one moved by s is |s|, and u . c is that move along u.
    draws = np.random.default_rng(3)
    a = draws.normal(size=(500, 27)).astype(np.float32)
    shift = np.linspace(-0.5, 1.0, 27, dtype=np.float32)
    u = np.random.default_rng(0).normal(size=(27, bench.DIRECTIONS))
    expected = np.abs(shift @ (u / np.linalg.norm(u, axis=0))).mean()
    assert bench.sliced_wasserstein(a, draws.permutation(a)) == pytest.approx(0, abs=1e-6)
    assert bench.sliced_wasserstein(a, a + shift) == pytest.approx(expected, rel=1e-4)


def test_patches_away_from_structures_have_their_middle_more_than_the_distance_from_all_of_them(
    bench: ModuleType,
) -> None:
    shape = (40, 24, 24)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[:10] = 1
    image = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], shape)  # a voxel's value is its x
    case = bench.OnGrid(image, labels)
    middle = bench.EDGE**3 // 2
    spacing_mm = (2.5, 2.5, 2.5)
    away = bench.patches([case], spacing_mm, away=True)[:, middle]
    anywhere = bench.patches([case], spacing_mm, away=False)[:, middle]
    assert len(away) == len(anywhere) == bench.PATCHES
    assert away.min() == 14  # the last structure's voxel is 9; 10 mm are four voxels, and 10 mm itself is not away
    assert anywhere.min() < 10
    assert anywhere.min() >= bench.EDGE // 2
    assert anywhere.max() <= 39 - bench.EDGE // 2
