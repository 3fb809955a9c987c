"""The prepared data set: every case once resampled into model space, in one safetensors file.

``image``: uint8 [N, M, X, Y, Z], model range [-1, 1] over 0 to 255, M appearances of the same anatomy; ``sdf``: int8
[N, K, X, Y, Z], distance / (1.3 clip) over -127 to 127 (beyond the clip, so that scaling an anatomy still finds
values). X, Y, Z are the model's shape plus a margin that augmentation can move into view.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffatlas.errors import BadInput
from diffatlas.io import read_label_map, read_volume
from diffatlas.phantom import PhantomModality, paint, render, sample_anatomy
from diffatlas.space import ModelSpace, image_to_model, labels_to_model
from diffatlas.train.config import DataConfig
from diffatlas.volume import HIPPOCAMPUS, MMWHS, LabelScheme

SCHEMES: dict[str, LabelScheme] = {"mmwhs": MMWHS, "hippocampus": HIPPOCAMPUS}
REACH = 1.3

Case = tuple[NDArray[np.uint8], NDArray[np.int8]]


@dataclass(frozen=True)
class Prepared:
    """The tensors of a prepared file (see the module) and the names of its cases."""

    image: Tensor
    sdf: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def subset(self, indices: list[int]) -> Prepared:
        return Prepared(self.image[indices], self.sdf[indices], tuple(self.names[i] for i in indices))


def with_margin(space: ModelSpace, margin: int) -> ModelSpace:
    """The same space with ``margin`` more voxels on every side."""
    x, y, z = (n + 2 * margin for n in space.shape)
    return ModelSpace((x, y, z), space.spacing_mm, space.sdf_clip_mm, space.windows)


def _encode(images: list[NDArray[np.float32]], sdf_mm: NDArray[np.float32], clip_mm: float) -> Case:
    image = np.stack([np.round((i + 1) * 127.5).astype(np.uint8) for i in images])
    return image, np.round(sdf_mm / (REACH * clip_mm) * 127).astype(np.int8)


def folder_case(name: str, folder: Path, space: ModelSpace, scheme: LabelScheme, modality: str) -> Case:
    """One case of ``folder``/images and ``folder``/labels."""
    volume = read_volume(folder / "images" / f"{name}.nii.gz")
    labels = read_label_map(folder / "labels" / f"{name}.nii.gz", scheme)
    grid = space.place(volume.grid)
    image, _ = image_to_model(volume, grid, space.windows[modality])
    return _encode([image], labels_to_model(labels, grid, REACH * space.sdf_clip_mm), space.sdf_clip_mm)


def phantom_case(seed: int, space: ModelSpace, modalities: tuple[PhantomModality, ...]) -> Case:
    """One digital heart in every appearance of ``modalities``, drawn on the model's own grid."""
    anatomy, grid = sample_anatomy(seed), space.grid_at(np.zeros(3))
    fractions, labels = paint(anatomy, grid)
    images = []
    for modality in modalities:
        volume = render(anatomy, grid, modality, seed, fractions)
        images.append(image_to_model(volume, grid, space.window_for(volume.modality))[0])
    return _encode(images, labels_to_model(labels, grid, REACH * space.sdf_clip_mm), space.sdf_clip_mm)


def prepare(config: DataConfig, space: ModelSpace, workers: int = 2) -> Iterator[tuple[str, Case]]:
    """Yield every case of the source, in a fixed order."""
    wide = with_margin(space, config.margin)
    if config.source == "folder":
        if config.path is None or not (config.path / config.split).is_file():
            raise BadInput(f"{config.path}: no {config.split} there; see the model card for where its data can be had")
        names = [str(n) for n in json.loads((config.path / config.split).read_text())["train"]]
        make: Any = partial(
            folder_case, folder=config.path, space=wide, scheme=SCHEMES[config.scheme], modality=config.modalities[0]
        )
        tasks: list[Any] = list(names)
    else:
        tasks = list(range(config.seed, config.seed + config.cases))
        names = [f"phantom-{seed}" for seed in tasks]
        make = partial(phantom_case, space=wide, modalities=config.modalities)
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(names, pool.map(make, tasks, chunksize=2), strict=True)


def load_or_prepare(config: DataConfig, space: ModelSpace) -> Prepared:
    """The prepared file at ``config.cache``; made first where it is missing."""
    if not config.cache.is_file():
        names, images, distances = [], [], []
        for name, (image, sdf) in prepare(config, space):
            names.append(name)
            images.append(torch.from_numpy(image))
            distances.append(torch.from_numpy(sdf))
            if len(names) % 50 == 0:
                print(f"prepared {len(names)} cases", flush=True)
        config.cache.parent.mkdir(parents=True, exist_ok=True)
        meta = {"names": json.dumps(names), "space": json.dumps(space.to_json())}
        partial_file = config.cache.with_name(config.cache.name + ".part")
        save_file({"image": torch.stack(images), "sdf": torch.stack(distances)}, partial_file, meta)
        partial_file.replace(config.cache)
    with safe_open(config.cache, "pt") as file:
        meta = file.metadata() or {}
        if json.loads(meta.get("space", "null")) != space.to_json():
            raise BadInput(f"{config.cache}: prepared for another model space; delete it to prepare again")
        return Prepared(file.get_tensor("image"), file.get_tensor("sdf"), tuple(json.loads(meta["names"])))
