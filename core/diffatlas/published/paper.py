"""The published code's own definitions of data, metrics, loss and gradient guidance, digit for digit.

They serve the authors' checkpoints and comparisons with the paper. Each function agrees with outputs recorded from the
published code (``tests/published/test_published.py``). Ours differ:

| here, in voxels | ours |
|---|---|
| `published_image`: fixed window, centre crop or pad, no resampling | `space.image_to_model`, mm |
| `published_sdf`: centre to centre, / 32, within +- 0.2 | `distance.signed_distance_mm`, to the surface, mm |
| `published_labels`: overlaps to the lowest channel | `distance.distances_to_labels`, to the deepest |
| `published_dice`, `published_nsd`: counted voxels | `metrics.compare`, areas in mm^2, NaN stated |
| `published_loss`: L1 on eps, one level | `train.objective` |
| `GradientPull`: moves the state between two steps | `guidance.GradientGuidance`, a denoiser from a denoiser |

Replacement ("noisy image") guidance and unconditional sampling need nothing of their own: they are
`guidance.ImageGuidance` with rho = 1 and a fresh draw a step, and no guidance, under `sample.ddpm` on
`schedule.DiscreteCosine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from diffatlas.diffusion.denoise import Denoiser, Network
from diffatlas.diffusion.guidance import NoiseSource
from diffatlas.diffusion.sample import Sampler, Step, ancestral, ddpm
from diffatlas.diffusion.schedule import DiscreteCosine, Schedule

SIZE = 64
SDF_SCALE_VOXELS = 32.0
SDF_RANGE = 0.2
# The sampler's clamp is that of the image for the masks too, although their data end at SDF_RANGE.
CLAMP = 1.0

WINDOWS: dict[str, tuple[float, float]] = {
    "mmwhs-ct": (-250.0, 800.0),
    "mmwhs-mr": (0.0, 1000.0),
    "totalsegmentator-ct": (-250.0, 450.0),
}


# -- data ----------------------------------------------------------------------------------------------------------


def published_image(
    data: NDArray[np.floating], window: str | tuple[float, float], size: int = SIZE
) -> NDArray[np.float32]:
    """[X, Y, Z] intensities to float32 [size]^3: window to [-1, 1], then centre crop, or pad with 0.

    ``window``: a name of `WINDOWS`, or the intensities of -1 and 1. The axes keep their order: the network's D, H, W
    are the X, Y, Z of the array.
    """
    low, high = WINDOWS[window] if isinstance(window, str) else window
    scaled = (np.clip(data, low, high) - low) / (high - low) * 2 - 1
    return crop_or_pad(scaled.astype(np.float32), size)


def crop_or_pad(data: NDArray[np.float32], size: int = SIZE) -> NDArray[np.float32]:
    """The middle [size]^3 of [X, Y, Z], zeros where there is none; an odd voxel is taken off, or added, in front."""
    out = np.zeros((size, size, size), dtype=data.dtype)
    source, target = [], []
    for n in data.shape:
        cut, pad = -(-max(n - size, 0) // 2), -(-max(size - n, 0) // 2)
        source.append(slice(cut, cut + min(n, size)))
        target.append(slice(pad, pad + min(n, size)))
    out[tuple(target)] = data[tuple(source)]
    return out


def published_sdf(labels: NDArray[np.uint8], structures: int) -> NDArray[np.float32]:
    """Distances the network knows: indices [X, Y, Z] to float32 [K, X, Y, Z] within +- 0.2, negative inside.

    Euclidean, in *voxels*, from centre to centre (so no value lies between -1/32 and 1/32), divided by 32; 0.2
    everywhere where a structure is absent.
    """
    return np.stack([_published_distance(labels == k) for k in range(1, structures + 1)])


def _published_distance(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    if not inside.any():
        return np.full(inside.shape, SDF_RANGE, dtype=np.float32)
    voxels = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return np.clip(voxels / SDF_SCALE_VOXELS, -SDF_RANGE, SDF_RANGE).astype(np.float32)


def published_labels(sdf: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[K, X, Y, Z] to indices uint8 [X, Y, Z]: inside where negative, and the lowest of several."""
    inside = np.asarray(sdf) < 0
    return np.where(inside.any(axis=0), inside.argmax(axis=0) + 1, 0).astype(np.uint8)


# -- scores --------------------------------------------------------------------------------------------------------


def published_dice(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], structures: int) -> NDArray[np.float64]:
    """Dice of each structure [K] of two index maps [X, Y, Z]; NaN where it is in neither."""
    out = np.full(structures, np.nan)
    for k in range(structures):
        p, r = prediction == k + 1, reference == k + 1
        if total := int(p.sum()) + int(r.sum()):
            out[k] = 2 * int((p & r).sum()) / total
    return out


def published_nsd(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], structures: int, tolerance: float = 1.0
) -> NDArray[np.float64]:
    """Normalised surface Dice of each structure [K], ``tolerance`` in voxels; NaN where it is in neither.

    The border is the layer of voxels just *outside* a structure (neighbours by face); counted is the share of both
    borders' voxels that lie within the tolerance of the other one, centre to centre.
    """
    out = np.full(structures, np.nan)
    for k in range(structures):
        p, r = _outer_border(prediction == k + 1), _outer_border(reference == k + 1)
        total = int(p.sum()) + int(r.sum())
        if p.any() and r.any():
            near_r = ndimage.distance_transform_edt(~r) <= tolerance
            near_p = ndimage.distance_transform_edt(~p) <= tolerance
            out[k] = (int((p & near_r).sum()) + int((r & near_p).sum())) / total
        elif total:
            out[k] = 0.0
    return out


def _outer_border(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(inside) & ~inside, dtype=bool)


# -- training ------------------------------------------------------------------------------------------------------


def published_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    schedule: DiscreteCosine,
    image: Tensor,
    sdf: Tensor,
    t: Tensor,
    noise_image: Tensor,
    noise_sdf: Tensor,
) -> Tensor:
    """mean |eps - eps_hat| of the image, plus that of the masks: a scalar.

    ``image`` [B, 1, D, H, W] and ``sdf`` [B, K, D, H, W] at steps ``t`` (int64 [B], 0 .. T - 1) share one level.
    """
    alpha, sigma = schedule((t.double() + 1) / schedule.steps)
    alpha, sigma = (a.to(image.dtype)[:, None, None, None, None] for a in (alpha, sigma))
    x = torch.cat([alpha * image + sigma * noise_image, alpha * sdf + sigma * noise_sdf], dim=1)
    eps = network(x, t)
    return F.l1_loss(eps[:, :1], noise_image) + F.l1_loss(eps[:, 1:], noise_sdf)


# -- sampling ------------------------------------------------------------------------------------------------------


def one_level(
    network: Callable[[Tensor, Tensor], Tensor], schedule: DiscreteCosine, orientation: str = "RAS"
) -> Network:
    """``network(x, step)`` as the engine calls networks: x [B, C, X, Y, Z] along right, anterior, superior, two levels.

    The network knows one level: it is told the mask's, and where the image's differs it is off what it was trained on.
    ``orientation``: the directions in which its axes D, H, W run, as axis codes ("RAS" is the engine's own order).
    """
    axes = [("RL".find(c), "AP".find(c), "SI".find(c)) for c in check_orientation(orientation)]
    order = [next(i for i, found in enumerate(codes) if found >= 0) for codes in axes]
    turned = [2 + i for i, codes in enumerate(axes) if max(codes) == 1]
    there = [0, 1, *(2 + i for i in order)]
    back = [0, 1, *(2 + order.index(i) for i in range(3))]

    def call(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        step = schedule.index(t_mask).clamp(0, schedule.steps - 1)
        eps = network(x.permute(there).flip(turned), step)
        return eps.flip(turned).permute(back)

    return call


def check_orientation(codes: str) -> str:
    """The codes in capitals; ValueError unless they name each of the three directions once ("RAS", "LPS", "SAR")."""
    upper = codes.upper()
    if len(upper) != 3 or any(sum(c in pair for c in upper) != 1 for pair in ("RL", "AP", "SI")):
        raise ValueError(f"orientation {codes!r} is not three axis codes such as RAS, LPS or SAR")
    return upper


@dataclass
class GradientPull:
    """The published gradient guidance, exactly: a `Sampler` that moves the state, then lets ``step`` take its step.

    Below step ``below``, with x at level t: two ancestral steps down from x, each with noise of its own; the mean over
    both of the mean squared difference between their image channel and the patient's ``image`` [1 or B, 1, X, Y, Z]
    noised to t (``noise``, a fresh draw a step); its gradient with respect to x, times ``scale``, clamped to +-
    ``limit``, is taken off the image channel of x. Then comes an ordinary step from there, with a third draw.

    No wrapper of a denoiser can say this: the ordinary step starts from the moved state, and the gradient runs through
    a step, whose lower level and noise a denoiser is never told. Both steps start from one x, so that they share one
    pass of the network. ``seen``: the moved image channel, for whoever wants to draw it.
    """

    image: Tensor
    schedule: DiscreteCosine
    noise: NoiseSource
    step: Sampler = ddpm
    below: int = 250
    scale: float = 1e4
    limit: float = 1.5
    seen: Tensor | None = field(default=None, init=False)

    def __call__(
        self, denoiser: Denoiser, schedule: Schedule, x: Tensor, times: Sequence[float], noise: NoiseSource
    ) -> Iterator[Step]:
        total = len(times) - 1
        for index, (t, s) in enumerate(pairwise(times)):
            with torch.no_grad():  # no decorator: that would keep the first state for as long as the walk lasts
                if int(self.schedule.index(torch.tensor(t))) < self.below:
                    x = self._moved(denoiser, x, t, s, noise)
                self.seen = x[:, :1].clone()  # a view would keep all channels
                (step,) = self.step(denoiser, schedule, x, (t, s), noise)
                x = step.x
            yield replace(step, index=index, total=total)

    def _moved(self, denoiser: Denoiser, x: Tensor, t: float, s: float, noise: NoiseSource) -> Tensor:
        at_t, at_s = (self.schedule(torch.tensor(level, dtype=torch.float64, device=x.device)) for level in (t, s))
        level = torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)
        draw = self.noise((x.shape[0], 1, *x.shape[2:])).to(x)
        target = at_t[0].to(x.dtype) * self.image + at_t[1].to(x.dtype) * draw
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            mean, deviation = ancestral(start, denoiser(start, level, level), at_t, at_s)
            misfit = torch.zeros((), dtype=x.dtype, device=x.device)
            for _ in range(2):
                down = mean if s == 0 else mean + deviation.to(x.dtype) * noise(tuple(x.shape)).to(x)
                # The mean is over one sample's voxels: how many samples share a batch changes nothing.
                misfit = misfit + (down[:, :1] - target).square().mean(dim=(1, 2, 3, 4)).sum() / 2
            (gradient,) = torch.autograd.grad(misfit, start)
        pull = (self.scale * gradient[:, :1]).clamp(-self.limit, self.limit)
        return torch.cat([x[:, :1] - pull, x[:, 1:]], dim=1)
