"""Steps of a walk -> frames; the last frame carries the result and its provenance.

numpy only; a test can feed it steps that no network made.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from diffatlas.geometry.resample import Resampler
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.values import plain, program_version

if TYPE_CHECKING:
    from diffatlas.engine.walk import Walk, WalkStep


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
                frame, sdf = self.frame(step, walk.guided)
                if step.index == step.total - 1:
                    finishing = time.monotonic()
                    frame = replace(frame, result=self.result(step, frame, sdf))
                    rest_s = prepared_s + time.monotonic() - finishing
                    per_step = walk.seconds / (step.total * self.plan.request.samples)
                    pace.record(self.plan.card.sha256, self.plan.request, pace.Pace(per_step, rest_s))
                yield frame
        finally:
            steps.close()  # type: ignore[attr-defined]

    def frame(self, step: WalkStep, guided: bool) -> tuple[Frame, NDArray[np.float32]]:
        """The frame of a step, and the signed distances of every sample: float32 [S, K, X, Y, Z], mm.

        A segmentation shows the mean of its samples, everything else the first one. ``guided``: whether the image
        guides the walk.
        """
        card, grid = self.plan.card, self.placement.grid
        sdf = step.distances * np.float32(card.space.sdf_clip_mm)
        segmenting = self.plan.request.task == "segment"
        shown = sdf.mean(axis=0) if segmenting else sdf[0]
        labels = distances_to_labels(shown)
        image = step.images[0].copy()
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
            sdf=shown.astype(np.float32),
            confidence=self._confidence(step, sdf, labels) if segmenting else None,
            metrics=self.metrics[-1],
        )
        return frame, sdf

    def _confidence(
        self, step: WalkStep, sdf: NDArray[np.float32], labels: NDArray[np.uint8]
    ) -> NDArray[np.float32] | None:
        """How likely each label is right, where the card can say: with one sample at the last step only, because what
        a walk believes on its way was not calibrated. Else how far several samples agree."""
        calibration = self.plan.card.calibration
        if calibration is not None and (len(sdf) > 1 or step.index == step.total - 1):
            return calibration.certainty(sdf, labels)
        return agreement(sdf, labels) if len(sdf) > 1 else None

    def result(self, step: WalkStep, frame: Frame, sdf: NDArray[np.float32]) -> Result:
        """The result that belongs to the last step and its frame; ``sdf`` [S, K, X, Y, Z], mm."""
        place, scheme, task = self.placement, self.plan.card.scheme, self.plan.request.task
        images: tuple[Volume, ...] = ()
        masks: tuple[LabelMap, ...] = ()
        labels, confidence = LabelMap(frame.labels, place.grid, scheme), frame.confidence
        if task != "segment" or len(sdf) > 1:
            masks = tuple(LabelMap(distances_to_labels(one), place.grid, scheme) for one in sdf)
        if task != "segment":
            images = tuple(
                Volume(image.copy(), place.grid, "unknown", f"sample-{i}") for i, image in enumerate(step.images)
            )
            labels = masks[0] if task == "generate" or self.edited is None else self.edited.labels
        elif place.source is not None:
            back = Resampler(place.source, place.grid)
            labels = back.labels(frame.sdf, scheme, self.plan.request.roi)
            confidence = None if confidence is None else back.field(confidence, 0.0)
        notes = (*(self.volume.notes if self.volume else ()), *place.notes)
        seconds = time.monotonic() - self.begin
        self.metrics[-1] = replace(self.metrics[-1], seconds=seconds)
        calibration = self.plan.card.calibration if task == "segment" else None
        provenance = self.provenance(seconds)
        return Result(labels, confidence, tuple(self.metrics), provenance, images, masks, notes, calibration)

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


def agreement(sdf: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of samples that give a voxel the label it got: sdf [S, K, X, Y, Z] to float32 [X, Y, Z]."""
    votes = np.stack([distances_to_labels(one) == labels for one in sdf])
    return np.asarray(votes.mean(axis=0), dtype=np.float32)
