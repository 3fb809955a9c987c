"""Probabilities from distances: laws, numbers by hand, and a fit that finds what made the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.models.calibration import Border, Calibration, fit
from diffatlas.models.store import read_card, shipped_folder
from diffatlas.values import load, plain

NAMES = ("one", "two")


def calibration(offset_mm: float = 0.0, width_mm: float = 1.0, floor: float = 0.0) -> Calibration:
    borders = tuple(
        Border(name=n, offset_mm=offset_mm, inside_mm=width_mm, outside_mm=width_mm, volume_ratio=(0.8, 1.25))
        for n in NAMES
    )
    return Calibration(borders=borders, floor=floor, cases=9, fitted_on="hearts of a test")


def test_probabilities_by_hand() -> None:
    found = calibration(width_mm=2.0).probabilities(np.array([[-2.0], [4.0]]))[:, 0]
    scores = np.exp([0.0, 1.0, -2.0])
    np.testing.assert_allclose(found, scores / scores.sum(), rtol=1e-6)
    floored = calibration(width_mm=2.0, floor=0.3).probabilities(np.array([[-2.0], [4.0]]))[:, 0]
    np.testing.assert_allclose(floored, 0.7 * scores / scores.sum() + 0.1, rtol=1e-6)


def test_probabilities_sum_to_one_and_favour_the_label() -> None:
    distance = np.random.default_rng(0).normal(0, 6, (2, 9, 8, 7))
    sure = calibration(floor=0.02)
    p = sure.probabilities(distance)
    np.testing.assert_allclose(p.sum(axis=0), 1, rtol=1e-5)
    assert (p >= 0.02 / 3 - 1e-6).all()
    assert (p.argmax(axis=0) == distances_to_labels(distance)).all()


def test_extreme_distances_are_no_overflow() -> None:
    p = calibration(width_mm=0.01).probabilities(np.array([[-1e4, 1e4], [1e4, 1e4]]))
    np.testing.assert_allclose(p, [[0, 1], [1, 0], [0, 0]], atol=1e-6)


def test_a_fit_finds_what_made_the_labels() -> None:
    """Labels are drawn from the probabilities of a known calibration; the fit gives its numbers back."""
    true = Calibration(
        borders=(
            Border(name="one", offset_mm=1.0, inside_mm=1.5, outside_mm=2.5),
            Border(name="two", offset_mm=-0.5, inside_mm=0.7, outside_mm=0.7),
        ),
        floor=0.06,
        cases=1,
        fitted_on="nothing",
    )
    rng = np.random.default_rng(3)
    answers = [rng.uniform(-9, 9, (2, 20, 20, 20)).astype(np.float32) for _ in range(6)]
    truths = []
    for answer in answers:
        edges = np.cumsum(true.probabilities(answer), axis=0)
        truths.append((rng.uniform(size=(20, 20, 20)) > edges).sum(axis=0).clip(0, 2).astype(np.uint8))
    found = fit(NAMES, answers, truths, "cases of a test")
    assert found is not None
    assert found.floor == pytest.approx(0.06, abs=0.015)
    for got, want in zip(found.borders, true.borders, strict=True):
        assert got.offset_mm == pytest.approx(want.offset_mm, abs=0.15)
        assert got.inside_mm == pytest.approx(want.inside_mm, rel=0.2)
        assert got.outside_mm == pytest.approx(want.outside_mm, rel=0.2)


def test_nine_of_ten_new_volumes_lie_in_the_interval() -> None:
    rng = np.random.default_rng(5)

    def pair() -> tuple[np.ndarray, np.ndarray]:
        axis = np.arange(-12, 12)
        radius = float(rng.uniform(5, 9))
        far = np.sqrt((np.stack(np.meshgrid(axis, axis, axis)) ** 2).sum(axis=0))
        truth = (far < radius).astype(np.uint8)
        return (far - radius * rng.lognormal(0.03, 0.04))[None].astype(np.float32), truth

    kept = [pair() for _ in range(12)]
    found = fit(("ball",), [a for a, _ in kept], [t for _, t in kept], "balls")
    assert found is not None
    ratio = found.borders[0].volume_ratio
    assert ratio is not None
    new = [pair() for _ in range(60)]
    inside = [ratio[0] <= t.sum() / (a < 0).sum() <= ratio[1] for a, t in new]
    assert 0.8 <= np.mean(inside) <= 1.0
    assert ratio[0] > 0.5
    assert ratio[1] < 1.6


def test_what_was_not_acquired_does_not_count() -> None:
    """Half of each case was not acquired, and the answer is wrong there."""
    rng = np.random.default_rng(4)
    axis = np.arange(-10, 10)
    far = np.sqrt((np.stack(np.meshgrid(axis, axis, axis)) ** 2).sum(axis=0))
    seen = np.ones(far.shape, dtype=bool)
    seen[10:] = False
    answers, truths = [], []
    for _ in range(8):
        answer = (far - 7 + rng.normal(0, 0.4, far.shape))[None].astype(np.float32)
        truth = (far < 7).astype(np.uint8)
        truth[10:] = rng.uniform(size=truth[10:].shape) < 0.5
        answers.append(answer)
        truths.append(truth)
    whole = fit(("ball",), answers, truths, "all")
    half = fit(("ball",), answers, truths, "seen", seen=[seen] * 8)
    assert whole is not None
    assert half is not None
    assert half.floor < 0.02 < whole.floor
    assert half.borders[0].volume_ratio == whole.borders[0].volume_ratio


def test_few_cases_give_none() -> None:
    answers = [np.zeros((1, 4, 4, 4), np.float32)] * 4
    assert fit(("ball",), answers, [np.zeros((4, 4, 4), np.uint8)] * 4, "too few") is None


def test_intervals_of_volumes() -> None:
    assert calibration().volume_intervals_ml({"one": 10.0, "two": 0.0}) == {"one": (8.0, 12.5)}


def test_a_calibration_survives_the_card_s_file(tmp_path: Path) -> None:
    made = calibration(0.5, 1.2, 0.01)
    assert load(Calibration, plain(made), "card") == made
    with pytest.raises(BadInput, match="inside_mm"):
        Border(name="one", offset_mm=0.0, inside_mm=0.0, outside_mm=1.0)


def test_a_card_refuses_the_calibration_of_other_structures() -> None:
    card = read_card(shipped_folder() / "hippocampus-mri")
    with pytest.raises(BadInput, match="calibration"):
        replace(card, calibration=calibration())
