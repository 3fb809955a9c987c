"""From noise to pairs: denoiser, guidance and sampler of a run, and the steps of its samples.

Every sample draws from generators of its own on the CPU, so that neither device nor batch nor other samples change its
noise. On a GPU samples are walked as one batch; on a CPU one by one, which is faster there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffatlas.diffusion.denoise import Denoiser
from diffatlas.diffusion.guidance import Guidance, ImageGuidance, MaskPinned, NoiseSource, Watched, no_guidance
from diffatlas.diffusion.sample import SAMPLERS, Sampler, Step
from diffatlas.engine.device import Compute
from diffatlas.engine.locate import Answer
from diffatlas.engine.placement import EditedMask, Placement
from diffatlas.engine.plan import Plan
from diffatlas.models.store import Model

GPU_BATCH = 8  # samples; more gain little, and their activations have to fit


class SampleNoise:
    """Noise of one sample from a seeded CPU generator: shape -> standard normal.

    ``stream``: image noise and mask noise come from different streams, so that changing one never shifts the other.
    """

    def __init__(self, seed: int, stream: int) -> None:
        digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def batch_noise(seeds: Sequence[int], stream: int) -> NoiseSource:
    """Noise of several samples: shape [B, ...] -> each sample's own draw of [1, ...], stacked."""
    sources = [SampleNoise(seed, stream) for seed in seeds]
    return lambda shape: torch.cat([source((1, *shape[1:])) for source in sources])


def denoiser_of(model: Model, plan: Plan, compute: Compute, known: NDArray[np.bool_] | None = None) -> Denoiser:
    """The x0-denoiser of the model's network on the device of ``compute``, in its arithmetic.

    ``known``: bool [X, Y, Z], where the image is to be believed; None: everywhere. Networks with evidence are told.
    """
    network = model.on(compute.device)
    evidence: tuple[Tensor, ...] = ()
    if known is not None and model.card.evidence:
        evidence = (torch.from_numpy(~known)[None, None].to(compute.device, torch.float32),)

    def call(*inputs: Tensor) -> Tensor:
        with torch.autocast(compute.device.type, torch.bfloat16, enabled=compute.dtype == torch.bfloat16):
            out: Tensor = network(*inputs, *evidence)
            return out

    return model.card.convention.denoiser(call, plan.request.sampler or "ddim")


def one_step(model: Model, plan: Plan, compute: Compute) -> Answer:
    """What a search asks: distances (clip units) [K, X, Y, Z] from the clean image and a mask of pure noise."""

    @torch.no_grad()
    def answer(image: NDArray[np.float32], known: NDArray[np.bool_], seed: int) -> NDArray[np.float32]:
        noise = SampleNoise(plan.request.seed + seed, 0)((1, len(plan.card.scheme), *image.shape))
        x = torch.cat([torch.from_numpy(image)[None, None], noise], dim=1).to(compute.device)
        x0 = denoiser_of(model, plan, compute, known)(x, x.new_zeros(1), x.new_ones(1))
        return x0[0, 1:].float().cpu().numpy()

    return answer


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The image [X, Y, Z] and the distances [K, X, Y, Z] (clip units) that a sample's network believes in."""


@dataclass(frozen=True, eq=False)
class WalkStep:
    """Step ``index`` of ``total``, at noise level ``t`` after it; float32 on the model grid.

    ``seen`` [X, Y, Z]: the image channel that the network was shown, of the first sample. ``pairs``: of each sample, to
    be read once; a sample makes its step when its pair is asked for, so that no more than a batch is held at a time.
    """

    index: int
    total: int
    t: float
    seen: NDArray[np.float32]
    pairs: Iterator[Pair]


class Walk:
    """The steps of all samples of a run; iterate once. ``seconds``: time spent in them so far.

    ``batch``: samples that go through the network together; None takes what suits the device.
    """

    def __init__(
        self,
        plan: Plan,
        placement: Placement,
        edited: EditedMask | None,
        denoiser: Denoiser,
        compute: Compute,
        batch: int | None = None,
    ) -> None:
        self.plan, self.convention, self.device, self.seconds = plan, plan.card.convention, compute.device, 0.0
        self.denoiser, self.schedule = denoiser, self.convention.schedule()
        self.image = None if placement.image is None else self._tensor(placement.image[None, None])
        self.mask = None if edited is None else self._tensor(edited.channels[None])
        self.pinned = None
        if edited is not None and edited.pinned is not None:
            self.pinned = self._tensor(edited.pinned[None, None])
        first, count = plan.request.seed, plan.request.samples
        size = batch or (1 if self.device.type == "cpu" else GPU_BATCH)
        self._groups = [
            self._group(range(begin, min(begin + size, first + count))) for begin in range(first, first + count, size)
        ]

    @property
    def guided(self) -> bool:
        """Whether the image guides the walk."""
        return self._groups[0][1] is not None

    def __iter__(self) -> Iterator[WalkStep]:
        try:
            while (first := self._next(0)) is not None:
                watched = self._groups[0][1]
                seen = first.x[:, :1] if watched is None or watched.seen is None else watched.seen
                shown = seen[0, 0].float().cpu().numpy().copy()
                pairs = self._pairs(first.x0)
                yield WalkStep(first.index, first.total, first.t, shown, pairs)
                for _ in pairs:  # of those that nobody asked for
                    pass
        finally:
            for walk, _ in self._groups:
                walk.close()  # type: ignore[attr-defined]

    def _next(self, group: int) -> Step | None:
        begin = time.monotonic()
        step = next(self._groups[group][0], None)
        self.seconds += time.monotonic() - begin
        return step

    def _pairs(self, x0: Tensor) -> Iterator[Pair]:
        """The pairs of the first group, which has made its step, then of the others, which make it now."""
        yield from self._believed(x0)
        for group in range(1, len(self._groups)):
            step = self._next(group)
            assert step is not None  # all walks have the same number of steps
            yield from self._believed(step.x0)

    def _believed(self, x0: Tensor) -> Iterator[Pair]:
        values = x0.float().cpu().numpy()
        return zip(values[:, 0], self.convention.distances(values[:, 1:]), strict=True)

    def _group(self, seeds: Sequence[int]) -> tuple[Iterator[Step], Watched | None]:
        """The walk of a batch of samples, and the guidance whose view of the image is worth showing."""
        request, convention = self.plan.request, self.convention
        start_noise, image_noise, step_noise, edit_noise = (batch_noise(seeds, stream) for stream in range(4))
        space = self.plan.card.space
        x = start_noise((len(seeds), 1 + len(self.plan.card.scheme), *space.shape)).to(self.device)
        guidance, sampler, watched = self._guidance(image_noise, edit_noise)
        denoiser, schedule, atlas = guidance(self.denoiser), self.schedule, watched is None
        if atlas and request.task != "paint":  # where the mask is given, it is at 0 already
            denoiser, schedule = convention.atlas(denoiser, schedule)
        start = 1.0
        if request.task == "segment" and self.mask is not None and request.edit is not None:
            start = convention.first_level(request.edit.t)
            alpha, sigma = schedule(torch.tensor(start))
            image = torch.zeros_like(self.mask[:, :1]) if self.image is None else self.image
            x = alpha * torch.cat([image, self.mask], dim=1) + sigma * x
        times = convention.times(self.plan.steps, start, atlas)
        return sampler(denoiser, schedule, x, times, step_noise), watched

    def _guidance(self, image_noise: NoiseSource, edit_noise: NoiseSource) -> tuple[Guidance, Sampler, Watched | None]:
        request, sampler = self.plan.request, SAMPLERS[self.plan.request.sampler or "ddim"]
        # The published code draws fresh noise at every step; samplers with a memory need one draw for the run.
        fresh = request.sampler == "ddpm"
        if request.task == "paint":
            assert self.mask is not None
            return self.convention.given_mask(self.mask, edit_noise, fresh), sampler, None
        guidance: Guidance = no_guidance
        watched: Watched | None = None
        if request.task == "generate" or self.image is None or request.guidance == "none":
            pass
        elif request.guidance == "gradient":
            guidance, sampler, watched = self.convention.gradient(self.image, sampler, image_noise)
        else:
            rho = request.guidance_noise or 0.0
            guidance = watched = ImageGuidance(self.image, rho, self.schedule, image_noise, fresh=fresh)
        if self.pinned is not None and self.mask is not None:
            guidance = _after(guidance, MaskPinned(self.mask, self.pinned, self.schedule, edit_noise))
        return guidance, sampler, watched

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _after(inner: Guidance, outer: Callable[[Denoiser], Denoiser]) -> Guidance:
    return lambda denoiser: outer(inner(denoiser))
