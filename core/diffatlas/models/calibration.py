"""How likely a voxel's label is right, from the distances that a model answers and its errors on cases kept apart.

With d_k the signed distance of structure k (mm, negative inside), K structures and background 0,

    s = softmax(0, (b_1 - d_1) / w_1, ..., (b_K - d_K) / w_K),    p_k = (1 - e) s_k + e / (K + 1)

b_k moves a border that a model draws too tight or too wide; w_k is the width of its usual error, one inside of the
moved border and one outside; e is the share of voxels at which it is wrong whatever the distance. All are fitted by
likelihood on cases that were not trained on. The probabilities of several samples are averaged. A structure's volume
gets the interval in which nine of ten true volumes lie, from the ratio of true to found volume on the same cases
(log-normal, Student's t for few cases).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffatlas.geometry.distance import distances_to_labels
from diffatlas.values import Positive, Real, Whole, value

Ratio = Annotated[Real, Field(gt=0, le=1000)]
Width = Annotated[Positive, Field(ge=0.01, le=100)]
LEAST_CASES = 5
NEAR_MM = 10.0  # a voxel further than this from every structure is background to anyone
FITTED_VOXELS = 200_000
WIDE = math.log(3)  # an interval from a third to three times a volume, and one that is wider, says nothing


@value(frozen=True)
class Border:
    """A structure's numbers. ``offset_mm``: b; ``inside_mm``, ``outside_mm``: w on either side; ``volume_ratio``: true
    volume over found volume, low and high ends of nine in ten; None where too few cases had it, or `WIDE`."""

    name: str
    offset_mm: Annotated[Real, Field(ge=-50, le=50)]
    inside_mm: Width
    outside_mm: Width
    volume_ratio: tuple[Ratio, Ratio] | None = None


@value(frozen=True)
class Calibration:
    """``borders``: in the order of the scheme; ``floor``: e; ``cases``: how many it was fitted on; ``fitted_on``:
    which, in words."""

    borders: Annotated[tuple[Border, ...], Field(min_length=1)]
    floor: Annotated[Real, Field(ge=0, lt=1)]
    cases: Annotated[Whole, Field(ge=1)]
    fitted_on: str

    def probabilities(self, distance_mm: NDArray[np.floating]) -> NDArray[np.float32]:
        """Of background and every structure, float32 [K + 1, ...], which sum to 1; ``distance_mm`` [K, ...]."""
        ones = (1,) * (distance_mm.ndim - 1)
        offset, inside, outside = (
            np.array([getattr(b, name) for b in self.borders], dtype=np.float32).reshape(-1, *ones)
            for name in ("offset_mm", "inside_mm", "outside_mm")
        )
        scores = np.zeros((len(self.borders) + 1, *distance_mm.shape[1:]), dtype=np.float32)
        np.subtract(offset, distance_mm, out=scores[1:])
        scores[1:] /= np.where(scores[1:] > 0, inside, outside)
        scores -= scores.max(axis=0)
        np.exp(scores, out=scores)
        scores *= np.float32(1 - self.floor) / scores.sum(axis=0)
        scores += np.float32(self.floor / len(scores))
        return scores

    def volume_intervals_ml(self, volumes_ml: dict[str, float]) -> dict[str, tuple[float, float]]:
        """Between which volumes the true one lies nine times in ten, by structure; those without a ratio are absent."""
        return {
            b.name: (volumes_ml[b.name] * b.volume_ratio[0], volumes_ml[b.name] * b.volume_ratio[1])
            for b in self.borders
            if b.volume_ratio is not None and volumes_ml.get(b.name)
        }


def fit(
    names: Sequence[str],
    answers: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[np.uint8]],
    fitted_on: str,
    seed: int = 0,
    seen: Sequence[NDArray[np.bool_]] | None = None,
) -> Calibration | None:
    """The calibration of a model from its ``answers`` (mm, [K, X, Y, Z] a case) and the true labels [X, Y, Z] of cases
    that were not trained on; None for fewer than `LEAST_CASES`.

    ``seen`` [X, Y, Z]: where the image of a case was acquired, None where all of it was. A run labels nothing else, so
    nothing else counts; but volumes are those of whole structures.
    """
    from scipy.optimize import minimize

    if len(answers) < LEAST_CASES:
        return None
    rng = np.random.default_rng(seed)
    seen = [np.ones(truth.shape, dtype=bool) for truth in truths] if seen is None else seen
    distance, label = [], []
    for answer, truth, here in zip(answers, truths, seen, strict=True):
        near = np.flatnonzero(((answer.min(axis=0) < NEAR_MM) | (truth > 0)) & here)
        near = rng.permutation(near)[: FITTED_VOXELS // len(answers)]
        distance.append(answer.reshape(len(names), -1)[:, near])
        label.append(truth.ravel()[near])
    d = np.concatenate(distance, axis=1).astype(np.float64)
    c = np.concatenate(label).astype(np.intp)
    count, k = len(c), len(names)
    rows = np.arange(count)

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        offset, rates = numbers[:k], np.exp(numbers[k : 3 * k])
        floor = 1 / (1 + np.exp(-numbers[-1]))
        deep = offset[:, None] - d
        within = deep > 0
        rate = np.where(within, rates[:k, None], rates[k:, None])
        z = np.zeros((k + 1, count))
        z[1:] = deep * rate
        z -= z.max(axis=0)
        s = np.exp(z)
        s /= s.sum(axis=0)
        own = s[c, rows]
        p = (1 - floor) * own + floor / (k + 1)
        pull = (1 - floor) * own / p  # -dL/dz_j = pull * ([j is true] - s_j)
        slope = s[1:] * pull
        inside = c > 0
        slope[c[inside] - 1, rows[inside]] -= pull[inside]
        gradient = np.empty_like(numbers)
        gradient[:k] = (slope * rate).mean(axis=1)
        moved = slope * deep * rate
        gradient[k : 2 * k] = np.where(within, moved, 0).mean(axis=1)
        gradient[2 * k : 3 * k] = np.where(within, 0, moved).mean(axis=1)
        gradient[-1] = float(np.mean((own - 1 / (k + 1)) / p)) * floor * (1 - floor)
        return float(-np.log(p).mean()), gradient

    start = np.concatenate([np.zeros(3 * k), [math.log(0.01)]])
    limits = [(-20.0, 20.0)] * k + [(math.log(1 / 50), math.log(20.0))] * 2 * k + [(math.log(1e-6), math.log(0.5))]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits).x
    ratios = _ratios(k, answers, truths)
    borders = tuple(
        Border(
            name=name,
            offset_mm=round(float(found[i]), 4),
            inside_mm=round(float(np.exp(-found[k + i])), 4),
            outside_mm=round(float(np.exp(-found[2 * k + i])), 4),
            volume_ratio=ratios[i],
        )
        for i, name in enumerate(names)
    )
    floor = round(float(1 / (1 + np.exp(-found[-1]))), 6)
    return Calibration(borders=borders, floor=floor, cases=len(answers), fitted_on=fitted_on)


def _ratios(
    count: int, answers: Sequence[NDArray[np.floating]], truths: Sequence[NDArray[np.uint8]]
) -> list[tuple[float, float] | None]:
    """Prediction interval, 90 %, of the next case's true volume over its found one, by structure."""
    from scipy.stats import t

    found = np.array([np.bincount(distances_to_labels(a).ravel(), minlength=count + 1)[1 : count + 1] for a in answers])
    true = np.array([np.bincount(x.ravel(), minlength=count + 1)[1 : count + 1] for x in truths])
    ratios: list[tuple[float, float] | None] = []
    for f, v in zip(found.T, true.T, strict=True):
        both = (f > 0) & (v > 0)
        n = int(both.sum())
        if n < LEAST_CASES:
            ratios.append(None)
            continue
        log = np.log(v[both] / f[both])
        spread = float(t.ppf(0.95, n - 1) * log.std(ddof=1) * math.sqrt(1 + 1 / n))
        if spread > WIDE:
            ratios.append(None)
            continue
        low, high = np.exp(log.mean() - spread), np.exp(log.mean() + spread)
        ratios.append((round(float(low), 4), round(float(high), 4)))
    return ratios
