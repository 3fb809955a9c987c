"""From a volume to labels by a baseline, and what an answer is held against: its case's structures and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffatlas.data import canonical
from diffatlas.errors import BadInput
from diffatlas.geometry.resample import Resampler, image_to_model
from diffatlas.geometry.space import Ranges
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.io import atomic_path
from diffatlas.train.config import TrainConfig, told_evidence
from diffatlas.train.prepared import REACH, load_or_prepare
from diffatlas.train.task import Task

BINS = 10
# More confident background than this is left out of the calibration: nearly all of a volume is.
SURE = 0.99


@torch.no_grad()
def answer(
    task: Task,
    network: nn.Module,
    volume: Volume,
    config: TrainConfig,
    roi: Ranges | None = None,
    ignore: NDArray[np.bool_] | None = None,
) -> LabelMap:
    """Labels on the voxels of ``volume``, placed, resampled and brought back as the engine does for an atlas.

    The field of view is at the middle of ``roi`` (voxel ranges), else of the volume. ``ignore`` (bool, the volume's
    shape): voxels not to be believed, which a network with evidence is told.
    """
    space = config.space
    grid = space.place(volume.grid, roi)
    seen = image_to_model(volume, grid, space.window_for(volume.modality), space.fill, ignore)
    image = torch.from_numpy(seen.image)[None, None]
    if told_evidence(config):
        image = torch.cat([image, torch.from_numpy(seen.known.astype(np.float32))[None, None]], dim=1)
    inside = task.answer(network, image.to(next(network.parameters()).device))[0]
    return Resampler(volume.grid, grid).labels(inside.float().cpu().numpy(), config.scheme)


@torch.no_grad()
def teach(config: TrainConfig, ask: Callable[[Tensor], Tensor], cases: list[str], path: Path) -> None:
    """Write the prepared file of ``config`` once more, with the signed distances that ``ask`` answers for ``cases``.

    ``ask``: `Task.answer` of a network, on the whole prepared grid, margin included.
    """
    data = config.data
    prepared = load_or_prepare(data.model_copy(update={"only": None}), config.space)
    sdf = prepared.sdf.clone()
    for name in cases:
        if name not in prepared.names:
            raise BadInput(f"settings: {data.cache} holds no case {name}")
        at = prepared.names.index(name)
        image = prepared.image[at, :1].float() / 127.5 - 1
        if told_evidence(config):
            known = torch.ones_like(image) if prepared.known is None else prepared.known[at, :1].float()
            image = torch.cat([image, known])
        sdf[at] = (ask(image[None])[0].float().clamp(-1, 1) * (127 / REACH)).round().to(sdf.dtype)
    with safe_open(data.cache, "pt") as file:
        told = file.metadata()
    tensors = {"image": prepared.image, "sdf": sdf, **({} if prepared.known is None else {"known": prepared.known})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        save_file(tensors, part, told)


def onto(labels: LabelMap, scheme: LabelScheme) -> LabelMap:
    """``labels`` with the structures of ``scheme`` only, matched by name."""
    place = {canonical(name): k for k, name in enumerate(scheme.names, start=1)}
    table = np.array([0, *(place.get(canonical(name), 0) for name in labels.scheme.names)], dtype=np.uint8)
    return LabelMap(table[labels.data], labels.grid, scheme)


def box_of(labels: NDArray[np.uint8]) -> Ranges | None:
    """Voxel ranges that hold all labels; None where there are none."""
    found = np.nonzero(labels)
    if not len(found[0]):
        return None
    x, y, z = ((int(at.min()), int(at.max()) + 1) for at in found)
    return x, y, z


def calibration(found: NDArray[np.uint8], truth: NDArray[np.uint8], confidence: NDArray[np.float32]) -> list[list[int]]:
    """[given, right] for each of ten ranges of ``confidence`` [X, Y, Z], among the voxels that are not sure
    background (`SURE`). Confidence is 0 outside the model's field of view: nothing was given there."""
    counted = ((found > 0) | (truth > 0) | (confidence < SURE)) & (confidence > 0)
    place = np.minimum((confidence[counted] * BINS).astype(int), BINS - 1)
    right = (found == truth)[counted]
    given = np.bincount(place, minlength=BINS)
    return [[int(g), int(r)] for g, r in zip(given, np.bincount(place, right, BINS), strict=True)]
