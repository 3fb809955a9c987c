"""Find a model's structures in a large volume: a search with one-step answers, and the confidence of its result.

The volume is resampled to the model's spacing once. The model's field of view is then laid over it, from the middle
outwards in steps of ``STRIDE`` of its edge. At each place the network answers once, from the clean image and a mask of
pure noise. The score of an answer is

    fit = mean over structures k of min(v_k / e_k, e_k / v_k)  *  share of its surface that the view does not cut

v_k: volume of structure k in the answer; e_k: its mean volume in the training cases (model card). After the best
answer so far, the field of view moves to the middle of the structures that were found, up to ``MAX_MOVES`` times while
the fit grows. If the fit stays low, the best of the other answers are tried in the same way.

A network draws an atlas-like shape at any place. A real structure keeps its place in the world when the field of view
moves; an invented one moves along. So the network answers twice more, ``SHIFT`` of an edge to either side, from other
noise:

    agreement = mean Dice between the three answers, by structure, voxel by voxel in the world

The confidence is a logistic function of agreement and fit. Its constants were set by hand from the volumes of
`benchmarks/bench_locate.py --split choose` and two abdomens: agreement was 0.96 or more where the heart was there, 0.80
or less where it was invented, and never between. The benchmark counts on other seeds how often each level of
confidence was right, that is, the middle was found within ``HIT_MM``. The search ends when it is sure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.grid import Array, Grid, reorient
from diffatlas.geometry.resample import apply_window, resample_believed
from diffatlas.geometry.space import ModelSpace, Ranges, field_of_view, world_box
from diffatlas.geometry.volume import Volume
from diffatlas.metrics import dice

STRIDE = 0.55  # more than the shifts of augmentation; half a heart is enough to move towards it
SHIFT = 0.08
MAX_LOOKS = 64  # of a view of 64^3 voxels; more of smaller ones
MAX_SMALL_LOOKS = 400
# Before a run. `Backend.locate` searches the whole volume, and can be stopped.
AUTOMATIC_LOOKS = 12
MAX_MOVES = 4
MIN_FIT = 0.2
MAX_TRIED = 6
SECOND_AWAY = 0.25
HIT_MM = 20.0
NEAR = 1.3  # fields of view; in a smaller volume one answer from the middle sees enough
NEAR_FIT = 0.4
SURE, LIKELY = 0.9, 0.6
LOGISTIC = (-28.0, 30.0, 4.0)  # one, agreement, fit

# image [X, Y, Z], where it is known [X, Y, Z], a seed -> signed distances [K, X, Y, Z]
Answer = Callable[[NDArray[np.float32], NDArray[np.bool_], int], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A place to look at.

    ``centre_mm`` [3]: middle of the proposed field of view, world. ``roi``: voxel ranges of that field of view in the
    volume. ``confidence``, ``agreement``, ``fit`` in [0, 1], see the module; ``covered``: whether the fields of view
    that the search was to look at leave no gap in the volume.
    """

    centre_mm: Array
    roi: Ranges
    confidence: float
    agreement: float
    fit: float
    covered: bool = True

    @property
    def words(self) -> str:
        """The confidence in words, one clause."""
        share = f"{self.confidence:.0%}"
        if self.confidence >= SURE:
            text = f"found, {share} sure"
        elif self.confidence >= LIKELY:
            text = f"probably found, {share} sure; look at it before you rely on it"
        else:
            text = f"not found with any certainty ({share} sure); place the box yourself"
        return text if self.covered else f"{text} (the search did not cover all of the volume)"


@dataclass(frozen=True, eq=False)
class Look:
    """One answer of the network on the way: ``index`` of ``total`` at most; the last one carries the proposal."""

    index: int
    total: int
    centre_mm: Array
    fit: float
    proposal: Proposal | None = None


@dataclass(frozen=True, eq=False)
class _Seen:
    centre_mm: Array
    fit: float
    labels: NDArray[np.uint8]
    start: NDArray[np.int64]


class _Coarse:
    """The volume at the model's spacing, axes RAS, from which fields of view are cut."""

    def __init__(self, volume: Volume, space: ModelSpace) -> None:
        self.space = space
        self.window = space.window_for(volume.modality)
        low, high = world_box(volume.grid)
        spacing = np.array(space.spacing_mm)
        shape = np.maximum(np.ceil((high - low) / spacing).astype(int), 1)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = (low + high) / 2 - spacing * (shape - 1) / 2
        self.grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
        thinned = _thinned(volume, space.spacing_mm)
        self.values, self.inside = resample_believed(thinned, self.grid, thinned.unknown)

    def view(self, centre_mm: Array) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_], NDArray[np.int64]]:
        """The image on the field of view nearest to ``centre_mm`` (None where there is nothing to see), where it is
        known, and its corner."""
        size = np.array(self.space.shape)
        start = np.rint(self.grid.to_voxel(centre_mm) - (size - 1) / 2).astype(int)
        low, high = np.maximum(start, 0), np.minimum(start + size, self.grid.shape)
        if (high <= low).any():
            return None, np.zeros(self.space.shape, dtype=bool), start
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        pad = [(int(a - s), int(s + n - b)) for a, b, s, n in zip(low, high, start, size, strict=True)]
        values, inside = np.pad(self.values[part], pad, mode="edge"), np.pad(self.inside[part], pad)
        if not inside.any():
            return None, inside, start
        image = apply_window(values, inside, self.window, self.space.fill).image
        return (image if float(np.ptp(image[inside])) > 0 else None), inside, start

    def centre(self, start: NDArray[np.int64]) -> Array:
        return self.grid.to_world(start + (np.array(self.space.shape, dtype=np.float64) - 1) / 2)


def search(
    volume: Volume,
    space: ModelSpace,
    answer: Answer,
    expected_ml: Sequence[float] | None = None,
    limit: int | None = None,
) -> Iterator[Look]:
    """Look for the structures of a model in ``volume``; the last `Look` carries the `Proposal`.

    ``answer``: image [X, Y, Z] in [-1, 1], where it is known, and a seed -> signed distances [K, X, Y, Z] (any unit,
    negative inside) from one pass of the network. ``expected_ml``: volumes of the K structures; None leaves them out of
    the fit.
    ``limit``: looks after which no new place is tried.
    """
    places, covered = _places(volume.grid, space)
    searcher = _Searcher(_Coarse(volume, space), answer, expected_ml)
    seen: list[_Seen] = []
    tried: list[_Candidate] = []
    record, index = MIN_FIT, 0
    for place, centre_mm in enumerate(places):
        if limit is not None and index >= limit:
            covered = False
            break
        here = searcher.look(centre_mm)
        yield Look(index, index + len(places) - place, centre_mm, here.fit)
        index += 1
        if here.fit > record:
            index = yield from _follow(searcher, here, tried, index, len(places) - place)
            record = max(here.fit, tried[-1].fit)
            if tried[-1].confidence >= SURE:
                break
        elif here.fit > MIN_FIT:
            seen.append(here)
    else:
        # What is made up may fit better at first than what is there: give the runners-up elsewhere their turn.
        apart = SECOND_AWAY * np.array(space.extent_mm)
        for turn, here in enumerate(sorted(seen, key=lambda s: s.fit, reverse=True)):
            middle = searcher.middle(here)
            if len(tried) >= MAX_TRIED or tried[-1].confidence >= SURE:
                break
            if not any((np.abs(middle - c.centre_mm) < apart).all() for c in tried):
                index = yield from _follow(searcher, here, tried, index, min(len(seen) - turn, 2))
    best = max(tried, key=lambda c: c.confidence, default=_Candidate(volume.grid.centre_mm, 0.0, 0.0, 0.0))
    roi = field_of_view(space, volume.grid, best.centre_mm)
    proposal = Proposal(best.centre_mm, roi, best.confidence, best.agreement, best.fit, covered)
    yield Look(index, index + 1, best.centre_mm, best.fit, proposal)


def glance(
    volume: Volume, space: ModelSpace, answer: Answer, expected_ml: Sequence[float] | None = None
) -> Array | None:
    """The middle, world mm [3], of what one answer sees from the middle of a volume hardly larger than the view.

    None where the volume is larger than `NEAR` fields of view, or the answer does not fit: then search. The other
    arguments are those of `search`.
    """
    low, high = world_box(volume.grid)
    if ((high - low) > NEAR * np.array(space.extent_mm)).any():
        return None
    searcher = _Searcher(_Coarse(volume, space), answer, expected_ml)
    here = searcher.look(volume.grid.centre_mm)
    return searcher.middle(here) if here.fit >= NEAR_FIT else None


def _follow(
    searcher: _Searcher, here: _Seen, tried: list[_Candidate], index: int, left: int
) -> Generator[Look, None, int]:
    """Move the view onto what ``here`` saw, weigh it, and add it to ``tried``; returns the next look's index."""
    for _ in range(MAX_MOVES):
        middle = searcher.middle(here)
        if np.linalg.norm(middle - here.centre_mm) < 1.5 * max(searcher.space.spacing_mm):
            break
        there = searcher.look(middle)
        yield Look(index, index + left, middle, there.fit)
        index += 1
        if there.fit <= here.fit:
            break
        here = there
    agreement = searcher.agreement(here)
    tried.append(_Candidate(searcher.middle(here), here.fit, agreement, confidence(agreement, here.fit)))
    return index


@dataclass(frozen=True, eq=False)
class _Candidate:
    centre_mm: Array
    fit: float
    agreement: float
    confidence: float


class _Searcher:
    """One-step answers and what is read from them."""

    def __init__(self, coarse: _Coarse, answer: Answer, expected_ml: Sequence[float] | None) -> None:
        self.coarse, self.space, self.answer, self.expected_ml = coarse, coarse.space, answer, expected_ml

    def look(self, centre_mm: Array, seed: int = 0) -> _Seen:
        image, known, start = self.coarse.view(centre_mm)
        if image is None:
            return _Seen(centre_mm, 0.0, np.zeros(self.space.shape, dtype=np.uint8), start)
        distances = self.answer(image, known, seed)
        labels = distances_to_labels(distances)
        return _Seen(self.coarse.centre(start), self._fit(labels, len(distances)), labels, start)

    def middle(self, seen: _Seen) -> Array:
        """The middle of what was found, strays left out, world."""
        found = np.argwhere(seen.labels)
        low, high = np.percentile(found, (1, 99), axis=0) if len(found) else (0.0, np.array(self.space.shape) - 1.0)
        return self.coarse.grid.to_world(seen.start + (low + high) / 2)

    def agreement(self, seen: _Seen) -> float:
        """How far two more answers, from either side and from other noise, agree with this one, and with each other."""
        shift = SHIFT * np.array(self.space.extent_mm)
        a, b = (self.look(seen.centre_mm + side * shift, seed) for seed, side in ((1, -1.0), (2, 1.0)))
        return float(np.mean([_overlap(seen, a), _overlap(seen, b), _overlap(a, b)]))

    def _fit(self, labels: NDArray[np.uint8], structures: int) -> float:
        found = labels > 0
        if not found.any():
            return 0.0
        volumes = np.bincount(labels.ravel(), minlength=structures + 1)[1:] * math.prod(self.space.spacing_mm) / 1000
        if self.expected_ml is None:
            scores = (volumes > 0).astype(float)
        else:
            expected = np.asarray(self.expected_ml, dtype=np.float64)
            scores = np.minimum(volumes, expected) / np.maximum(np.maximum(volumes, expected), 1e-9)
        surface = found & ~ndimage.binary_erosion(found)  # the border of the view counts as outside
        whole = int(surface.sum())
        return float(scores.mean() * int(surface[1:-1, 1:-1, 1:-1].sum()) / whole)


def confidence(agreement: float, fit: float) -> float:
    """The chance, 0 to 1, that the proposal is within `HIT_MM`, after `benchmarks/bench_locate.py`."""
    a, b, c = LOGISTIC
    return 1 / (1 + math.exp(-(a + b * agreement + c * fit)))


def _places(grid: Grid, space: ModelSpace) -> tuple[list[Array], bool]:
    """Middles of the fields of view to look at, from the volume's middle outwards; whether they leave no gap."""
    low, high = world_box(grid)
    extent, size = np.array(space.extent_mm), high - low
    budget = min(MAX_LOOKS * max(1.0, 64**3 / math.prod(space.shape)), MAX_SMALL_LOOKS)
    stride = STRIDE
    while True:
        counts = [1 + math.ceil(max(0.0, s - e) / (stride * e)) for s, e in zip(size, extent, strict=True)]
        if math.prod(counts) <= budget:
            break
        stride *= 1.1
    axes = [
        [(a + b) / 2] if n == 1 else np.linspace(a + e / 2, b - e / 2, n)
        for a, b, e, n in zip(low, high, extent, counts, strict=True)
    ]
    places = [np.array(p) for p in itertools.product(*axes)]
    middle = (low + high) / 2
    places.sort(key=lambda p: float(np.linalg.norm((p - middle) / extent)))
    return places, stride <= 1.0


def _thinned(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Block means of a volume much finer than ``spacing_mm``, so that the resampling has less to filter.

    Voxels that are unknown have no part in a mean; a block is unknown where more than half of it is.
    """
    orientation = volume.grid.to_canonical()
    grid = volume.grid.reoriented(orientation)
    block = [max(1, int(w // h)) for w, h in zip(spacing_mm, grid.spacing_mm, strict=True)]
    block = [min(b, n) for b, n in zip(block, grid.shape, strict=True)]
    if block == [1, 1, 1]:
        return volume
    counts = [n // b for n, b in zip(grid.shape, block, strict=True)]
    whole = tuple(slice(0, n * b) for n, b in zip(counts, block, strict=True))
    shape = [part for n, b in zip(counts, block, strict=True) for part in (n, b)]

    def mean(data: NDArray[Any]) -> NDArray[np.float32]:
        blocks = reorient(data, orientation)[whole].reshape(shape)
        # Two halves at a time: each mean is of one block, so the numbers stay the same.
        halves = np.array_split(blocks, 2)
        with ThreadPoolExecutor(2) as pool:
            return np.concatenate(list(pool.map(lambda half: half.mean(axis=(1, 3, 5), dtype=np.float32), halves)))

    unknown = None
    if volume.unknown is None or not volume.unknown.any():
        means = mean(volume.data)
    else:
        share = mean(~volume.unknown)
        believed = mean(np.where(volume.unknown, np.float32(0), volume.data))
        means = np.asarray(believed / np.maximum(share, np.float32(1e-3)), dtype=np.float32)
        unknown = share <= 0.5
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag(block)
    affine[:3, 3] = grid.to_world((np.array(block, dtype=np.float64) - 1) / 2)
    thinned = Grid((counts[0], counts[1], counts[2]), affine)
    return Volume(means, thinned, volume.modality, volume.name, unknown=unknown)


def _overlap(a: _Seen, b: _Seen) -> float:
    """Mean Dice of two answers where both fields of view lie; structures in neither do not count."""
    low = np.maximum(a.start, b.start)
    high = np.minimum(a.start + a.labels.shape, b.start + b.labels.shape)
    one = a.labels[tuple(slice(i, j) for i, j in zip(low - a.start, high - a.start, strict=True))]
    two = b.labels[tuple(slice(i, j) for i, j in zip(low - b.start, high - b.start, strict=True))]
    scores = [dice(one == k, two == k) for k in range(1, int(max(one.max(), two.max())) + 1)]
    known = [s for s in scores if not math.isnan(s)]
    return float(np.mean(known)) if known else 0.0
