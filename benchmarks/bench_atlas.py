"""Are generated pairs like the training data? Volumes and image patches of pairs from the atlas against training cases.

    python benchmarks/bench_atlas.py --count 48 --threads 1

For each structure: mean and standard deviation of its volume (ml) in both, and the two-sample Kolmogorov-Smirnov
distance (0 the same distribution, 1 disjoint). For the images, on the model's grid in [-1, 1]: the sliced Wasserstein
distance of patches of `EDGE`^3 voxels,

    SW(A, B) = mean over unit vectors u of W1(u . a, u . b),   a, b patches of A and B

between generated and training images, in multiples of that between two halves of the training images; "away" takes only
patches whose middle is more than `AWAY_MM` from every structure. The training cases of the digital hearts are drawn
again: the patients and the shares of modalities of `weights/heart-phantom/train.yaml`, without augmentation.

Writes docs/images/atlas-<model>.png, a gallery of the first pairs. Nothing is chosen by these seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from common import HIPPOCAMPUS_DATA, ROOT, hippocampus, read_results, write_results
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import ks_2samp

from diffatlas.engine.request import Request, SamplerName
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.resample import image_to_model, labels_to_model
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.models.store import read_card, shipped_folder, write_card
from diffatlas.phantom import PhantomModality, label_map, phantom, sample_anatomy
from diffatlas.render import montage, write_png
from diffatlas.session import available_models, segment

MODELS = ("heart-phantom", "hippocampus-mri")
FIRST_TRAINED = 100_000
MODALITIES: tuple[PhantomModality, ...] = ("ct", "mr", "ct", "mr", "random")
EDGE, PATCHES, DIRECTIONS, AWAY_MM = 9, 200, 256, 10.0


@dataclass(frozen=True, eq=False)
class OnGrid:
    """An image [X, Y, Z] in [-1, 1] on the model's grid, and its labels [X, Y, Z] there."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


def training_volumes(model: str, space: ModelSpace, count: int) -> list[dict[str, float]]:
    """Volumes of each structure in the cases the atlas was trained on, within its field of view."""
    if model == "hippocampus-mri":
        return [labels.volumes_ml() for _, _, labels in hippocampus("train", 144)] if HIPPOCAMPUS_DATA.is_dir() else []
    grid = space.grid_at(np.zeros(3))
    return [label_map(sample_anatomy(seed), grid).volumes_ml() for seed in range(FIRST_TRAINED, FIRST_TRAINED + count)]


def training_images(model: str, space: ModelSpace, count: int) -> list[OnGrid]:
    """``count`` training cases as the network was shown them, without augmentation."""

    def shown(volume: Volume, labels: LabelMap) -> OnGrid:
        grid = space.grid_at(volume.grid.centre_mm)
        image = image_to_model(volume, grid, space.window_for(volume.modality), space.fill).image
        return OnGrid(image, distances_to_labels(labels_to_model(labels, grid, space.sdf_clip_mm)))

    if model == "hippocampus-mri":
        return [shown(replace(image, modality="mr"), labels) for _, image, labels in hippocampus("train", count)]
    grid = space.grid_at(np.zeros(3))
    return [shown(*phantom(FIRST_TRAINED + i, MODALITIES[i % len(MODALITIES)], grid)) for i in range(count)]


def patches(
    cases: Sequence[OnGrid], spacing_mm: Sequence[float], away: bool, seed: int = 0, each: int = PATCHES
) -> NDArray[np.float32]:
    """``each`` patches of every case, drawn at random: [N, EDGE^3]. ``away``: from what is far from all structures."""
    draws, half, rows = np.random.default_rng(seed), EDGE // 2, []
    for case in cases:
        allowed = np.zeros(case.image.shape, dtype=bool)
        allowed[half:-half, half:-half, half:-half] = True
        if away and (case.labels > 0).any():
            allowed &= ndimage.distance_transform_edt(case.labels == 0, sampling=spacing_mm) > AWAY_MM
        places = np.argwhere(allowed)
        if not len(places):
            continue
        for x, y, z in places[draws.integers(len(places), size=each)] - half:
            rows.append(case.image[x : x + EDGE, y : y + EDGE, z : z + EDGE].ravel())
    return np.array(rows, dtype=np.float32).reshape(-1, EDGE**3)


def sliced_wasserstein(a: NDArray[np.float32], b: NDArray[np.float32], seed: int = 0) -> float:
    """Mean over `DIRECTIONS` random unit vectors of the W1 distance between the projections of a [N, D], b [M, D]."""
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], DIRECTIONS))
    directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
    ranks = (np.arange(2000) + 0.5) / 2000
    one, two = (np.quantile(x @ directions, ranks, axis=0) for x in (a, b))
    return float(np.abs(one - two).mean())


def image_distances(
    made: Sequence[OnGrid], trained: Sequence[OnGrid], space: ModelSpace
) -> dict[str, dict[str, float]]:
    """Sliced Wasserstein distance of generated to training images (mean over two halves), of the halves, the ratio."""
    row = {}
    for where, away in (("everywhere", False), ("away", True)):
        a, b = (patches(half, space.spacing_mm, away, 1 + i) for i, half in enumerate((trained[::2], trained[1::2])))
        own = patches(made, space.spacing_mm, away)
        halves = sliced_wasserstein(a, b)
        distance = (sliced_wasserstein(own, a) + sliced_wasserstein(own, b)) / 2
        row[where] = {
            "generated": round(distance, 4),
            "halves": round(halves, 4),
            "ratio": round(distance / halves, 2),
        }
    return row


def generate(model: str, count: int, sampler: SamplerName, steps: int) -> list[tuple[Volume, LabelMap]]:
    """``count`` pairs, a seed each."""
    pairs: list[tuple[Volume, LabelMap]] = []
    for seed in range(1000, 1000 + count):
        request = Request(task="generate", model=model, preset="watch", sampler=sampler, steps=steps, seed=seed)
        result = segment(None, request)
        print(f"{model}: pair {len(pairs) + 1} of {count}", end="\r", flush=True)
        pairs.append((result.images[0], result.masks[0]))
    return pairs


def gallery(pairs: list[tuple[Volume, LabelMap]], columns: int = 4) -> np.ndarray:
    tiles = [montage(image, labels, height_px=150, window=(-1, 1)) for image, labels in pairs]
    width, height = max(t.shape[1] for t in tiles), max(t.shape[0] for t in tiles)
    same = [np.pad(t, ((0, height - t.shape[0]), (0, width - t.shape[1]), (0, 0)), mode="edge") for t in tiles]
    rows = [np.concatenate(same[i : i + columns], axis=1) for i in range(0, len(same) - columns + 1, columns)]
    return np.concatenate(rows, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--sampler", choices=("ddim", "ddpm", "dpmpp-2m"), default="ddim")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=48, help="training images, half of them in each half")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write-cards", action="store_true")
    parser.add_argument("--only", choices=MODELS, help="one of the models; the others' figures are kept")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    usual = (arguments.sampler, arguments.steps) == ("ddim", 40)
    results: dict[str, Any] = read_results("atlas")
    for card in available_models():
        if card.name not in MODELS or arguments.only not in (None, card.name):
            continue
        space = card.space
        reference = training_volumes(card.name, space, 60)
        if not reference:
            print(f"{card.name}: left out, its training data is not here")
            continue
        begin = time.perf_counter()
        pairs = generate(card.name, arguments.count, arguments.sampler, arguments.steps)
        seconds = (time.perf_counter() - begin) / len(pairs)
        if usual:
            write_png(gallery(pairs[:8], 2), ROOT / "docs" / "images" / f"atlas-{card.name}.png")
        made = [labels.volumes_ml() for _, labels in pairs]
        print(
            f"{card.name}: {len(made)} generated pairs ({seconds:.1f} s each) against {len(reference)} training cases"
        )
        rows = {}
        for name in card.scheme.names:
            a, b = np.array([v[name] for v in made]), np.array([v[name] for v in reference])
            rows[name] = {
                "generated_ml": [round(float(a.mean()), 2), round(float(a.std()), 2)],
                "training_ml": [round(float(b.mean()), 2), round(float(b.std()), 2)],
                "ks": round(float(ks_2samp(a, b).statistic), 3),
            }
            print(
                f"  {name:22} {a.mean():7.2f} +- {a.std():6.2f} ml, training {b.mean():7.2f} +- {b.std():6.2f} ml, "
                f"KS {rows[name]['ks']:.2f}"
            )
        trained = training_images(card.name, space, arguments.images)
        drawn = [OnGrid(image.data, labels.data) for image, labels in pairs]
        images = image_distances(drawn, trained, space)
        for where, row in images.items():
            print(
                f"  patches {where:14} SW {row['generated']:.4f}, halves {row['halves']:.4f}, ratio {row['ratio']:.2f}"
            )
        volumes = {"n": len(made), "structures": rows}
        key = card.name if usual else f"{card.name}, {arguments.sampler}, {arguments.steps} steps"
        results[key] = {**volumes, "trained": len(reference), "images": {"n": len(trained), **images}}
        if arguments.write_cards and usual:
            folder = shipped_folder() / card.name
            old = read_card(folder)
            write_card(replace(old, metrics=old.metrics | {"generated volumes": volumes}), folder)
    write_results("atlas", results)


if __name__ == "__main__":
    main()
