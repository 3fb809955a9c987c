"""The engine on this machine: a request becomes a placement, a guidance, a sampler, and a stream of frames.

Every sample has generators of its own, drawn on the CPU, and every network call sees one sample: batching, ensembling
or replaying never changes a result.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser, Prediction, as_denoiser
from diffatlas.diffusion.guidance import (
    GradientGuidance,
    Guidance,
    ImageGuidance,
    MaskGiven,
    MaskNoised,
    MaskPinned,
    NoiseSource,
    no_guidance,
)
from diffatlas.diffusion.sample import SAMPLERS, Step, crowded_times, discrete_times, mask_first, uniform_times
from diffatlas.diffusion.schedule import DiscreteCosine, Schedule, cosine
from diffatlas.engine import pace
from diffatlas.engine.device import pick_device, pick_precision
from diffatlas.engine.frame import Frame, FrameMetrics, Result
from diffatlas.engine.locate import AUTOMATIC_LOOKS, Look, glance, search
from diffatlas.engine.plan import Plan, card_for, larger_than_view_note, plan, window_note
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.resample import Resampler, image_to_model, labels_to_model
from diffatlas.geometry.space import Window, field_of_view
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.models.store import Model, load_model
from diffatlas.published.convention import CLAMP, GradientPull, one_level, published_sdf


class SampleNoise:
    """Noise of one sample: a seeded CPU generator, so that every device and batch sees the same draws."""

    def __init__(self, seed: int, stream: int) -> None:
        # Image noise and mask noise come from streams of their own: changing one never shifts the other.
        digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)


# A guidance whose last view of the image channel is worth showing.
Watched = ImageGuidance | GradientGuidance | GradientPull


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the model looks: its grid in the world, the image on it, and the way back."""

    grid: Grid
    image: Tensor | None
    source: Grid | None
    notes: tuple[str, ...]


class LocalBackend:
    """`Backend` on this machine's CPU or GPU."""

    def plan(self, volume: Volume | None, request: Request) -> Plan:
        """See `diffatlas.engine.plan.plan`."""
        return plan(volume, request)

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        """Yield a frame a step. Bad input raises before the first frame."""
        planned = plan(volume, request)
        if volume is None and request.task == "segment" and request.guidance != "none":
            raise BadInput("there is no image to segment")
        return _Run(load_model(planned.card.path), volume, planned).frames()

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
        """Search ``volume`` for what the model knows; the last `Look` carries the `Proposal`. ``close()`` stops it."""
        card = card_for(volume, request)
        if card.published:
            raise BadInput(
                f"model '{card.name}' knows one noise level for image and mask and cannot answer in one step; "
                f"give a region of interest"
            )
        middle = field_of_view(card.space, volume.grid, volume.grid.centre_mm)  # a placement that needs no search
        planned = plan(volume, replace(request, task="segment", roi=middle, edit=None))
        return _Run(load_model(card.path), volume, planned).looks(limit)


class _Run:
    def __init__(self, model: Model, volume: Volume | None, planned: Plan) -> None:
        self.begin = time.monotonic()
        self.model, self.card, self.volume, self.plan = model, model.card, volume, planned
        self.request = request = planned.request
        self.device = pick_device(request.device)
        self.dtype = pick_precision(request.precision, self.device)
        self.notes: list[str] = []
        if request.precision == "bf16" and self.dtype != torch.bfloat16:
            self.notes.append(f"this {self.device.type} has no bf16 arithmetic; the network ran in fp32")
        self.schedule: Schedule = DiscreteCosine(self.card.levels) if self.card.published else cosine
        self.denoiser = self._denoiser()
        self.clip_mm = model.card.space.sdf_clip_mm
        self.placement = self._place()
        self.step_s = 0.0

    def _denoiser(self) -> Denoiser:
        network: Any = self.model.network
        if self.device.type != "cpu":
            network = network.to(self.device)
        mask_range = self.card.mask_range
        if isinstance(self.schedule, DiscreteCosine):
            network = one_level(network, self.schedule, self.card.orientation)
            if self.request.sampler == "ddpm":
                # The paper's walk with the paper's clamp, exactly; few large steps fare better within the data's range.
                mask_range = CLAMP
        use_bf16 = self.dtype == torch.bfloat16

        def call(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16):
                out: Tensor = network(x, t_image, t_mask)
                return out

        prediction: dict[str, Prediction] = self.card.prediction  # type: ignore[assignment]
        return as_denoiser(call, self.schedule, prediction["image"], prediction["mask"], mask_range)

    # -- where to look ---------------------------------------------------------------------------------------------

    def _place(self) -> Placement:
        space, volume = self.card.space, self.volume
        if volume is None:
            return Placement(space.grid_at(np.zeros(3)), None, None, (*self.notes, *self.plan.notes))
        grid, where = self.plan.grid, self.plan.where
        if grid is None:
            grid, where = self._find(volume, space.place(volume.grid))
        image, limits = image_to_model(volume, grid, space.window_for(volume.modality), space.fill)
        notes = [*self.notes, *self.plan.notes, *([where] if where else []), window_note(volume, *limits)]
        if limits[1] - limits[0] < 1e-6 or float(np.ptp(image)) == 0:
            notes.append("the image is constant within the field of view; there is nothing to see in it")
        return Placement(grid, torch.from_numpy(image)[None, None].to(self.device), volume.grid, tuple(notes))

    def _find(self, volume: Volume, middle: Grid) -> tuple[Grid, str]:
        """The model grid where in a large volume its structures are, and a sentence on how they were found.

        ``middle``: where the grid would lie without a search.
        """
        space = self.card.space
        centre_mm = glance(volume, space, self._one_step, self.card.expected_volumes_ml)
        by, words = "one look from its middle", ""
        if centre_mm is None:
            proposal = deque(self.looks(AUTOMATIC_LOOKS), maxlen=1)[0].proposal
            assert proposal is not None
            centre_mm, by, words = proposal.centre_mm, "a search", f": {proposal.words}"
        # As a region of interest it is moved into the volume where it would stick out.
        grid = space.place(volume.grid, field_of_view(space, volume.grid, centre_mm))
        moved = float(np.linalg.norm(grid.centre_mm - middle.centre_mm))
        how = f"{by} placed it {moved:.0f} mm from the volume's centre{words}"
        return grid, larger_than_view_note(space, volume.grid, how)

    def looks(self, limit: int | None = None) -> Iterator[Look]:
        """Search the volume for the model's structures, see `diffatlas.engine.locate`."""
        assert self.volume is not None
        return search(self.volume, self.card.space, self._one_step, self.card.expected_volumes_ml, limit)

    def _one_step(self, image: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Signed distances (clip units) from the clean image and a pure-noise mask: [K, X, Y, Z]."""
        noise = SampleNoise(self.request.seed + seed, 0)((1, len(self.card.scheme), *image.shape))
        x = torch.cat([torch.from_numpy(image)[None, None], noise], dim=1).to(self.device)
        with torch.no_grad():
            x0 = self.denoiser(x, x.new_zeros(1), x.new_ones(1))
        return x0[0, 1:].float().cpu().numpy()

    # -- how to walk -----------------------------------------------------------------------------------------------

    def _guidance(self, image_noise: NoiseSource, edit_noise: NoiseSource) -> tuple[Guidance, Watched | None]:
        request, image = self.request, self.placement.image
        # The published code draws fresh noise at every step; samplers with a memory need one for the run.
        fresh = request.sampler == "ddpm"
        if request.task == "paint":
            if self.card.published:  # it knows one level only
                return MaskNoised(self._edit_sdf(), self.schedule, edit_noise, fresh), None
            return MaskGiven(self._edit_sdf()), None
        inner: Guidance = no_guidance
        watched: Watched | None = None
        if request.task == "generate" or image is None or request.guidance == "none":
            pass
        elif request.guidance == "gradient" and isinstance(self.schedule, DiscreteCosine):
            # It moves the sampler's state and not what the network is shown, see there.
            watched = GradientPull(image, self.schedule, image_noise, SAMPLERS[request.sampler or "ddpm"])
        elif request.guidance == "gradient":
            inner = watched = GradientGuidance(image)
        else:
            rho = request.guidance_noise or 0.0
            inner = watched = ImageGuidance(image, rho, self.schedule, image_noise, fresh=fresh)
        if request.edit is not None and request.edit.pinned is not None:
            pin = MaskPinned(self._edit_sdf(), self._edit_pinned(), self.schedule, edit_noise)
            return (lambda denoiser: pin(inner(denoiser))), watched
        return inner, watched

    def _edit_sdf(self) -> Tensor:
        """The edited mask as the network's distances [1, K, X, Y, Z] on the model grid."""
        labels = self._edit_labels()
        sdf = labels_to_model(labels, self.placement.grid, self.clip_mm) / self.clip_mm
        if self.card.published:
            sdf = published_sdf(distances_to_labels(sdf), len(self.card.scheme))
        return torch.from_numpy(sdf)[None].to(self.device)

    def _edit_labels(self) -> LabelMap:
        edit = self.request.edit
        assert edit is not None
        grid = self.placement.source or self.placement.grid
        if edit.labels.shape != grid.shape:
            raise BadInput(f"the edited mask has shape {edit.labels.shape}, the volume {grid.shape}")
        if edit.labels.size and int(edit.labels.max()) > len(self.card.scheme):
            raise BadInput(
                f"the edited mask holds label {int(edit.labels.max())}, the model knows {len(self.card.scheme)}"
            )
        return LabelMap(np.ascontiguousarray(edit.labels, dtype=np.uint8), grid, self.card.scheme)

    def _edit_pinned(self) -> Tensor:
        edit = self.request.edit
        assert edit is not None
        assert edit.pinned is not None
        grid = self.placement.source or self.placement.grid
        if edit.pinned.shape != grid.shape:
            raise BadInput(f"the pinned voxels have shape {edit.pinned.shape}, the volume {grid.shape}")
        where = Volume(edit.pinned.astype(np.float32), grid)
        share, _ = image_to_model(where, self.placement.grid, Window("range", 0.0, 1.0))
        return torch.from_numpy(share > 0)[None, None].to(self.device)

    def _sample_steps(self, seed: int) -> tuple[Iterator[Step], Watched | None]:
        """The walk of one sample."""
        request = self.request
        start_noise, image_noise, step_noise, edit_noise = (SampleNoise(seed, i) for i in range(4))
        shape = (1, 1 + len(self.card.scheme), *self.card.space.shape)
        x = start_noise(shape).to(self.device)
        guidance, watched = self._guidance(image_noise, edit_noise)
        denoiser, schedule = guidance(self.denoiser), self.schedule
        in_time: Callable[[int, float], list[float]] = uniform_times
        if isinstance(schedule, DiscreteCosine):
            in_time = partial(discrete_times, levels=schedule.steps)
        if self.card.atlas_walk == "mask-first" and watched is None:
            in_time = crowded_times
            if request.task != "paint":  # where the mask is given, it is at 0 already
                denoiser, schedule = mask_first(denoiser, cosine, len(self.card.scheme))
        start, steps = 1.0, request.steps or 1
        if request.edit is not None and request.task == "segment":
            start = request.edit.t
            steps = max(1, round(steps * start))
            if self.card.published:
                start = in_time(1, start)[0]
            alpha, sigma = schedule(torch.tensor(start))
            image = self.placement.image if self.placement.image is not None else torch.zeros_like(x[:, :1])
            x = alpha * torch.cat([image, self._edit_sdf()], dim=1) + sigma * x
        sampler = watched if isinstance(watched, GradientPull) else SAMPLERS[request.sampler or "ddim"]
        return sampler(denoiser, schedule, x, in_time(steps, start), step_noise), watched

    # -- what to show ----------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[Frame]:
        """Walk all samples in step; yield their mean as a frame."""
        walks = [self._sample_steps(self.request.seed + i) for i in range(self.request.samples)]
        self.past: list[FrameMetrics] = []
        return self._frames(walks)

    def _frames(self, walks: list[tuple[Iterator[Step], Watched | None]]) -> Iterator[Frame]:
        together = self.request.task == "segment"
        last: NDArray[np.uint8] | None = None
        try:
            while True:
                steps = []
                step_begin = time.monotonic()
                for walk, _ in walks:
                    step = next(walk, None)
                    if step is not None:
                        steps.append(step)
                if not steps:
                    return
                self.step_s += time.monotonic() - step_begin
                sdf = np.stack([s.x0[0, 1:].float().cpu().numpy() for s in steps])
                if self.card.published:  # the paper's walk may leave the range of distances
                    sdf = np.clip(sdf / np.float32(self.card.mask_range), -1, 1)
                sdf *= np.float32(self.clip_mm)
                mean = sdf.mean(axis=0) if together else sdf[0]
                labels = distances_to_labels(mean)
                watched = walks[0][1]
                frame = self._frame(steps[0], watched, mean, labels, sdf, last)
                self.past.append(frame.metrics)
                last = labels
                if steps[0].index == steps[0].total - 1:
                    frame = self._with_result(frame, steps, sdf)
                yield frame
        finally:
            for walk, _ in walks:
                walk.close()  # type: ignore[attr-defined]

    def _frame(
        self,
        step: Step,
        watched: Watched | None,
        mean: NDArray[np.float32],
        labels: NDArray[np.uint8],
        sdf: NDArray[np.float32],
        last: NDArray[np.uint8] | None,
    ) -> Frame:
        seen = watched.seen if watched is not None and watched.seen is not None else step.x[:, :1]
        image = step.x0[0, 0].float().cpu().numpy()
        residual = None
        if watched is not None and self.placement.image is not None:
            residual = float(np.abs(image - self.placement.image[0, 0].cpu().numpy()).mean())
        change = None
        if last is not None:
            either = (labels > 0) | (last > 0)
            change = float((labels != last)[either].mean()) if either.any() else 0.0
        voxel_ml = self.placement.grid.voxel_volume_ml
        counts = np.bincount(labels.ravel(), minlength=len(self.card.scheme) + 1)[1:]
        volumes = {n: float(c) * voxel_ml for n, c in zip(self.card.scheme.names, counts, strict=True)}
        return Frame(
            index=step.index,
            total=step.total,
            t=step.t,
            grid=self.placement.grid,
            scheme=self.card.scheme,
            noisy_image=seen[0, 0].float().cpu().numpy().copy(),
            image=image.copy(),
            labels=labels,
            sdf=mean.astype(np.float32),
            confidence=_agreement(sdf, labels) if self.request.task == "segment" and len(sdf) > 1 else None,
            metrics=FrameMetrics(residual, change, volumes, time.monotonic() - self.begin),
        )

    def _with_result(self, frame: Frame, steps: list[Step], sdf: NDArray[np.float32]) -> Frame:
        place, scheme = self.placement, self.card.scheme
        images: tuple[Volume, ...] = ()
        masks: tuple[LabelMap, ...] = ()
        confidence = None
        if self.request.task == "segment":
            if len(steps) > 1:
                masks = tuple(LabelMap(distances_to_labels(s), place.grid, scheme) for s in sdf)
            if place.source is None:
                labels = LabelMap(frame.labels, place.grid, scheme)
                confidence = frame.confidence
            else:
                back = Resampler(place.source, place.grid)
                labels = back.labels(frame.sdf, scheme, self.request.roi)
                if frame.confidence is not None:
                    confidence = back.field(frame.confidence, 0.0)
        else:
            images = tuple(
                Volume(s.x0[0, 0].float().cpu().numpy().copy(), place.grid, "unknown", f"sample-{i}")
                for i, s in enumerate(steps)
            )
            masks = tuple(LabelMap(distances_to_labels(s), place.grid, scheme) for s in sdf)
            labels = masks[0] if self.request.task == "generate" else self._edit_labels()
        seconds = time.monotonic() - self.begin
        step_s = self.step_s / (frame.total * self.request.samples)
        # What the consumer did between two steps is not the engine's time.
        pace.record(self.card.sha256, self.request, pace.Pace(step_s, 0.0))
        metrics = (*self.past[:-1], replace(frame.metrics, seconds=seconds))
        notes = (*(self.volume.notes if self.volume else ()), *place.notes)
        result = Result(labels, confidence, metrics, self._provenance(seconds), images, masks, notes)
        return replace(frame, metrics=metrics[-1], result=result)

    def _provenance(self, seconds: float) -> dict[str, Any]:
        source = None
        if self.volume is not None:
            source = {
                "name": self.volume.name,
                "shape": list(self.volume.grid.shape),
                "affine": self.volume.grid.affine.tolist(),
                "modality": self.volume.modality,
                "sha256": self.volume.sha256(),
            }
        return {
            "program": {"name": "napari-diffatlas", "version": version("napari-diffatlas")},
            "request": self.request.to_json(),
            "model": {"name": self.card.name, "sha256": self.card.sha256},
            "source": source,
            "placement": {"shape": list(self.placement.grid.shape), "affine": self.placement.grid.affine.tolist()},
            "device": str(self.device),
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "threads": torch.get_num_threads(),
            "seconds": round(seconds, 3),
        }


def _agreement(sdf: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of samples that give a voxel the label it got: sdf [S, K, X, Y, Z] to float32 [X, Y, Z]."""
    votes = np.stack([distances_to_labels(s) == labels for s in sdf])
    return np.asarray(votes.mean(axis=0), dtype=np.float32)
