"""Steps of a walk -> frames; the last frame carries the result and its provenance.

numpy only; a test can feed it steps that no network made.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.engine import pace
from diffatlas.engine.frame import Frame, FrameMetrics, Result
from diffatlas.engine.placement import EditedMask, Placement
from diffatlas.engine.plan import Plan
from diffatlas.engine.run_record import RecordedImage
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import Resampler
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.values import plain, program_version

if TYPE_CHECKING:
    from diffatlas.engine.walk import Walk, WalkStep


@dataclass(eq=False)
class Samples:
    """What is kept of the samples of a step. ``shown`` [K, X, Y, Z]: signed distances, mm, of their mean or the first;
    ``first`` [X, Y, Z]: the first one's image; ``likely`` [1 + K, X, Y, Z]: their probabilities' sum, where asked for;
    ``masks`` and ``images`` [X, Y, Z] of each, where a result or their agreement needs them."""

    shown: NDArray[np.float32]
    first: NDArray[np.float32]
    count: int = 0
    likely: NDArray[np.float32] | None = None
    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    images: list[NDArray[np.float32]] = field(default_factory=list)


class Frames:
    """The frames of a run. ``begin``: `time.monotonic` when it began; ``where``: `Compute.provenance`.

    ``hashed``: gives `Volume.sha256` of the volume, where somebody calculates it already.
    """

    def __init__(
        self,
        plan: Plan,
        volume: Volume | None,
        placement: Placement,
        edited: EditedMask | None,
        where: dict[str, Any],
        begin: float,
        hashed: Callable[[], str] | None = None,
    ) -> None:
        self.plan, self.volume, self.placement, self.edited = plan, volume, placement, edited
        self.where, self.begin, self.hashed = where, begin, hashed
        self.metrics: list[FrameMetrics] = []
        self._last: NDArray[np.uint8] | None = None

    def of(self, walk: Walk) -> Iterator[Frame]:
        """A frame a step; ``close()`` closes the walk."""
        prepared_s = time.monotonic() - self.begin - self.placement.search_s
        finishing = time.monotonic()
        steps = iter(walk)
        try:
            for step in steps:
                frame, samples = self.frame(step, walk.guided)
                if step.index == step.total - 1:
                    finishing = time.monotonic()
                    frame = replace(frame, result=self.result(frame, samples))
                    rest_s = prepared_s + time.monotonic() - finishing
                    per_step = walk.seconds / (step.total * self.plan.request.samples)
                    pace.record(self.plan.card.sha256, self.plan.request, pace.Pace(per_step, rest_s))
                yield frame
        finally:
            steps.close()  # type: ignore[attr-defined]

    def frame(self, step: WalkStep, guided: bool) -> tuple[Frame, Samples]:
        """The frame of a step, and what is kept of its samples.

        A segmentation shows the mean of its samples, everything else the first one. ``guided``: whether the image
        guides the walk.
        """
        card, grid = self.plan.card, self.placement.grid
        samples = self._samples(step)
        shown, image = samples.shown, samples.first
        labels = distances_to_labels(shown)
        residual, change = None, None
        if guided and self.placement.image is not None:
            residual = float(np.abs(image - self.placement.image).mean())
        if self._last is not None:
            either = (labels > 0) | (self._last > 0)
            change = float((labels != self._last)[either].mean()) if either.any() else 0.0
        counts = np.bincount(labels.ravel(), minlength=len(card.scheme) + 1)[1:]
        volumes = {n: float(c) * grid.voxel_volume_ml for n, c in zip(card.scheme.names, counts, strict=True)}
        self._last = labels
        self.metrics.append(FrameMetrics(residual, change, volumes, time.monotonic() - self.begin))
        frame = Frame(
            index=step.index,
            total=step.total,
            t=step.t,
            grid=grid,
            scheme=card.scheme,
            noisy_image=step.seen,
            image=image,
            labels=labels,
            sdf=shown,
            confidence=self._confidence(samples, labels),
            metrics=self.metrics[-1],
        )
        return frame, samples

    def _samples(self, step: WalkStep) -> Samples:
        """The samples of a step, one after the other: what is kept of each does not grow with their distances."""
        request, calibration = self.plan.request, self.plan.card.calibration
        clip_mm = np.float32(self.plan.card.space.sdf_clip_mm)
        segmenting, several, last = request.task == "segment", request.samples > 1, step.index == step.total - 1
        # With one sample, what a walk believes on its way was not calibrated.
        sure = segmenting and calibration is not None and (several or last)
        keep_masks = (several and segmenting and (last or not sure)) or (last and not segmenting)
        out: Samples | None = None
        for image, distances in step.pairs:
            sdf = np.asarray(distances * clip_mm, dtype=np.float32)
            if out is None:
                out = Samples(sdf, image.copy())
            elif segmenting:
                out.shown += sdf
            if sure and calibration is not None:
                likely = calibration.probabilities(sdf)
                out.likely = likely if out.likely is None else np.add(out.likely, likely, out=likely)
            if keep_masks:
                out.masks.append(distances_to_labels(sdf))
            if last and not segmenting:
                out.images.append(image.copy())
            out.count += 1
        assert out is not None
        if segmenting and several:
            out.shown /= np.float32(out.count)
        return out

    @staticmethod
    def _confidence(samples: Samples, labels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """How likely each label is right, where the card can say; else how far several samples agree."""
        if samples.likely is not None:
            given = np.take_along_axis(samples.likely, labels[None].astype(np.intp), axis=0)[0]
            return np.asarray(given / np.float32(samples.count), dtype=np.float32)
        return agreement(samples.masks, labels) if samples.count > 1 and samples.masks else None

    def result(self, frame: Frame, samples: Samples) -> Result:
        """The result that belongs to the last frame and its samples."""
        place, scheme, task = self.placement, self.plan.card.scheme, self.plan.request.task
        images: tuple[Volume, ...] = ()
        labels, confidence = LabelMap(frame.labels, place.grid, scheme), frame.confidence
        masks = tuple(LabelMap(mask, place.grid, scheme) for mask in samples.masks)
        if task != "segment":
            images = tuple(
                Volume(image, place.grid, "unknown", f"sample-{i}") for i, image in enumerate(samples.images)
            )
            labels = masks[0] if task == "generate" or self.edited is None else self.edited.labels
        elif place.source is not None:
            back = Resampler(place.source, place.grid)
            labels = back.labels(frame.sdf, scheme, self.plan.request.roi)
            confidence = None if confidence is None else back.field(confidence, 0.0)
        notes = [*(self.volume.notes if self.volume else ()), *place.notes]
        seconds = time.monotonic() - self.begin
        self.metrics[-1] = replace(self.metrics[-1], seconds=seconds)
        calibration = self.plan.card.calibration if task == "segment" else None
        beyond: dict[str, float] = {}
        if task == "segment" and place.source is not None:
            beyond = outside(frame.labels, place.grid, place.source, scheme)
        result = Result(
            labels, confidence, tuple(self.metrics), self.provenance(seconds), images, masks, (), calibration, beyond
        )
        if result.cut_off:
            parts = ", ".join(f"{name} ({share:.0%} lies beyond it)" for name, share in result.cut_off.items())
            notes.append(f"cut off by the image's border: {parts}; volumes are those of the parts in the image")
        return replace(result, notes=tuple(notes))

    def provenance(self, seconds: float) -> dict[str, Any]:
        """What it takes to run this again, as plain data."""
        grid, card = self.placement.grid, self.plan.card
        return {
            "program": {"name": "napari-diffatlas", "version": program_version()},
            "request": self.plan.request.to_json(),
            "model": {"name": card.name, "sha256": card.sha256},
            "source": None if self.volume is None else plain(RecordedImage.of(self.volume, self.hashed)),
            "placement": {
                "shape": list(grid.shape),
                "affine": grid.affine.tolist(),
                "confidence": self.placement.confidence,
            },
            **self.where,
            "versions": {"python": platform.python_version(), "torch": version("torch"), "numpy": np.__version__},
            "seconds": round(seconds, 3),
        }


def outside(labels: NDArray[np.uint8], grid: Grid, source: Grid, scheme: LabelScheme) -> dict[str, float]:
    """The share of each structure of ``labels`` [X, Y, Z] on ``grid`` that lies beyond the voxels of ``source``; those
    of which nothing does are left out."""
    where = np.argwhere(labels).astype(np.float64)
    index = source.to_voxel(grid.to_world(where))
    beyond = ((index < -0.5) | (index > np.array(source.shape) - 0.5)).any(axis=1)
    found = labels[labels > 0]
    every, missing = (np.bincount(part, minlength=len(scheme) + 1)[1:] for part in (found, found[beyond]))
    return {n: float(m / e) for n, m, e in zip(scheme.names, missing, every, strict=True) if m}


def agreement(masks: Sequence[NDArray[np.uint8]], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of ``masks`` that give a voxel the label it has in ``labels``: float32 [X, Y, Z]."""
    votes = np.zeros(labels.shape, dtype=np.uint16)
    for mask in masks:
        votes += mask == labels
    return np.asarray(votes / np.float32(len(masks)), dtype=np.float32)
