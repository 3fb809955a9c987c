"""A backend without a network: frames made with numpy, so that front ends can be tested in milliseconds.

The "structures" are concentric shells around the middle of the model grid; they grow from nothing as noise fades, and
the image half fades from seeded noise to a smooth ball. Everything follows from (volume grid, request), so that runs
can be compared; the labels depend on the seed by one voxel, so that seeds can be told apart.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, LabelScheme, Volume
from diffatlas.session import Frame, FrameMetrics, Look, Plan, Proposal, Result

MODEL_SIZE = 16
DEFAULT_STEPS = 4
SHA256 = "0" * 64


def hearts() -> str:
    """The name of the heart model that the test has installed."""
    names = [card.name for card in session.available_models()]
    return "heart" if "heart" in names else "heart-phantom"


class FakeBackend:
    """Implements `diffatlas.session.Backend`.

    ``before`` is called before the first step; ``delay_s`` passes at every step; ``fail_at`` raises ``error`` at that
    step. ``requests`` and ``volumes`` record what was asked; ``frames_made`` counts steps over all runs, ``open_runs``
    the streams neither ended nor closed.
    """

    def __init__(
        self,
        scheme: LabelScheme = MMWHS,
        *,
        before: Callable[[], Any] = lambda: None,
        delay_s: float = 0.0,
        fail_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.scheme = scheme
        self.before = before
        self.delay_s = delay_s
        self.fail_at = fail_at
        self.error = error or RuntimeError("expected a tensor of another shape")
        self.requests: list[Request] = []
        self.volumes: list[Volume | None] = []
        self.frames_made = 0
        self.open_runs = 0

    def plan(self, volume: Volume | None, request: Request) -> Plan:
        """The engine's plan for the same request, with the fake's steps and grid; never a search."""
        card = session.model_card(hearts() if request.model == "auto" else request.model)
        filled = request.resolved(session.PRESETS[request.preset], card.guidance_noise)
        steps = request.steps or DEFAULT_STEPS
        return Plan(
            request=replace(filled, model=card.name, steps=steps),
            card=replace(card, scheme=self.scheme),
            preset=session.PRESETS[request.preset],
            steps=steps,
            grid=None if volume is None else model_grid(volume),
            search=False,
            where="",
            seconds=None,
            notes=(),
        )

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
        """Three looks; the last proposes the middle of the volume, with confidence 0.95."""
        self.open_runs += 1
        try:
            middle = volume.grid.centre_mm
            roi = tuple((0, n) for n in volume.grid.shape)
            for index in range(3):
                found = Proposal(middle, roi, 0.95, 0.95, 0.9) if index == 2 else None  # type: ignore[arg-type]
                yield Look(index, 3, middle, 0.9, found)
        finally:
            self.open_runs -= 1

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        self.requests.append(request)
        self.volumes.append(volume)
        self.open_runs += 1
        try:
            yield from self._frames(volume, request)
        finally:
            self.open_runs -= 1

    def start(self, volume: Volume | None, request: Request) -> Frame:
        """Stands in for `diffatlas.session.start`."""
        grid = model_grid(volume)
        rng = np.random.default_rng(request.seed)
        labels = LabelMap(rng.integers(0, len(self.scheme) + 1, grid.shape, dtype=np.uint8), grid, self.scheme)
        noise = rng.standard_normal(grid.shape).astype(np.float32)
        return Frame(
            index=-1,
            total=request.steps or DEFAULT_STEPS,
            t=1.0,
            grid=grid,
            scheme=self.scheme,
            noisy_image=noise,
            image=np.clip(noise, -1, 1),
            labels=labels.data,
            sdf=self._sdf(labels),
            confidence=None,
            metrics=FrameMetrics(None, None, {}, 0.0),
        )

    def _frames(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        total = request.steps or DEFAULT_STEPS
        grid = model_grid(volume)
        noise = np.random.default_rng(request.seed).standard_normal(grid.shape).astype(np.float32)
        ball = np.clip(1 - 2 * _radius(grid) / MODEL_SIZE, -1, 1).astype(np.float32)
        confidence = np.full(grid.shape, 0.5, np.float32) if request.samples > 1 else None
        metrics: list[FrameMetrics] = []
        start = time.perf_counter()
        self.before()
        for index in range(total):
            if self.delay_s:
                time.sleep(self.delay_s)
            if index == self.fail_at:
                raise self.error
            t = 1 - (index + 1) / total
            labels = self.labels_at(grid, 1 - t, request.seed)
            metrics.append(
                FrameMetrics(
                    guidance_residual=None if volume is None else float(t),
                    mask_change=None if index == 0 else float(t) / 2,
                    volumes_ml=labels.volumes_ml(),
                    seconds=time.perf_counter() - start,
                )
            )
            self.frames_made += 1
            yield Frame(
                index=index,
                total=total,
                t=t,
                grid=grid,
                scheme=self.scheme,
                noisy_image=((1 - t) * ball + t * noise).astype(np.float32),
                image=ball,
                labels=labels.data,
                sdf=self._sdf(labels),
                confidence=confidence,
                metrics=metrics[-1],
                result=self._result(volume, request, labels, tuple(metrics)) if index == total - 1 else None,
            )

    def labels_at(self, grid: Grid, progress: float, seed: int = 0) -> LabelMap:
        """The mask on ``grid`` once ``progress`` (0 to 1) of the noise is gone; seeds differ in one corner voxel."""
        count = len(self.scheme)
        reach = min(grid.shape) / 2 * progress
        shell = np.floor(_radius(grid) / max(reach, 1e-6) * count).astype(int) + 1
        data = np.where(shell <= count, shell, 0).astype(np.uint8)
        data[0, 0, 0] = 1 + seed % count
        return LabelMap(data, grid, self.scheme)

    def _sdf(self, labels: LabelMap) -> NDArray[np.float32]:
        signs = [np.where(labels.data == k, -1.0, 1.0) for k in range(1, len(self.scheme) + 1)]
        return np.stack(signs).astype(np.float32)

    def _result(
        self, volume: Volume | None, request: Request, labels: LabelMap, metrics: tuple[FrameMetrics, ...]
    ) -> Result:
        source: dict[str, Any] | None = None
        images: tuple[Volume, ...] = ()
        masks: tuple[LabelMap, ...] = ()
        if volume is None:
            grid = labels.grid
            made = range(request.seed, request.seed + request.samples)
            masks = tuple(self.labels_at(grid, 1.0, seed) for seed in made)
            images = tuple(Volume(m.data.astype(np.float32), grid, "ct", "generated") for m in masks)
        else:
            if request.task == "segment" and request.samples > 1:
                made = range(request.seed, request.seed + request.samples)
                masks = tuple(self.labels_at(labels.grid, 1.0, seed) for seed in made)
            labels = self.labels_at(volume.grid, 1.0, request.seed)
            source = {"path": None, "sha256": volume.sha256(), "shape": list(volume.grid.shape), "name": volume.name}
            source["modality"] = volume.modality
        provenance = {
            "request": request.to_json(),
            "model": {"name": hearts(), "sha256": SHA256},
            "source": source,
            "device": "cpu",
            "precision": "fp32",
            "seconds": metrics[-1].seconds,
        }
        if request.task == "paint":
            grid = model_grid(volume)
            images = (Volume(np.full(grid.shape, 0.25, np.float32), grid, "unknown", "painted"),)
        confidence = np.full(labels.grid.shape, 0.5, np.float32) if request.samples > 1 else None
        notes = () if volume is None else volume.notes
        return Result(labels, confidence, metrics, provenance, images, masks, notes)


class Troubled(FakeBackend):
    """Has trouble with volumes called hangs, dies or grows, as files can make it; can be started in another process."""

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        name = "" if volume is None else volume.name
        if "hangs" in name:
            time.sleep(3600)
        if "dies" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "grows" in name:
            taken: list[bytes] = []
            while len(taken) < 100:
                taken.append(b"x" * 20_000_000)
                time.sleep(0.02)
            time.sleep(3600)
        yield from super().stream(volume, request)


def model_grid(volume: Volume | None) -> Grid:
    """The fake's field of view: `MODEL_SIZE`^3 voxels of 2 mm, RAS, around the middle of the volume (or the origin)."""
    centre = np.zeros(3) if volume is None else volume.grid.centre_mm
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = centre - (MODEL_SIZE - 1)
    return Grid((MODEL_SIZE, MODEL_SIZE, MODEL_SIZE), affine)


def _radius(grid: Grid) -> NDArray[np.float64]:
    """Distance of every voxel from the middle of the array, voxels."""
    axes = [np.arange(n) - (n - 1) / 2 for n in grid.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray(np.sqrt(x**2 + y**2 + z**2))
