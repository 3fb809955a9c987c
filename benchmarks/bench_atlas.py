"""Are generated pairs like the training data? Volumes of the structures in pairs from the atlas against training cases.

    python benchmarks/bench_atlas.py [--count 40]

For each structure: mean and standard deviation of its volume (ml) in both, and the two-sample Kolmogorov-Smirnov
distance (0 the same distribution, 1 disjoint). Writes docs/images/atlas-<model>.png, a gallery of the first pairs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from common import HIPPOCAMPUS_DATA, ROOT, hippocampus, read_results, write_results
from scipy.stats import ks_2samp

from diffatlas.engine.request import Request
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.models.store import read_card, shipped_folder, write_card
from diffatlas.phantom import label_map, sample_anatomy
from diffatlas.render import montage, write_png
from diffatlas.session import available_models, segment


def training_volumes(model: str, space: ModelSpace, count: int) -> list[dict[str, float]]:
    """Volumes of each structure in the cases the atlas was trained on, within its field of view."""
    if model == "hippocampus-mri":
        return [labels.volumes_ml() for _, _, labels in hippocampus("train", 144)] if HIPPOCAMPUS_DATA.is_dir() else []
    grid = space.grid_at(np.zeros(3))
    return [label_map(sample_anatomy(seed), grid).volumes_ml() for seed in range(100_000, 100_000 + count)]


def generate(model: str, count: int) -> list[tuple[Volume, LabelMap]]:
    """``count`` pairs, a seed each, 40 deterministic steps."""
    pairs = []
    for seed in range(count):
        result = segment(None, Request(task="generate", model=model, preset="watch", seed=1000 + seed))
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
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--write-cards", action="store_true")
    names = [card.name for card in available_models()]
    parser.add_argument("--only", choices=names, help="one of the models; the others' figures are kept")
    arguments = parser.parse_args()
    results: dict[str, Any] = read_results("atlas") if arguments.only else {}
    for card in available_models():
        if arguments.only not in (None, card.name):
            continue
        reference = training_volumes(card.name, card.space, 60)
        if not reference:
            print(f"{card.name}: left out, its training data is not here")
            continue
        begin = time.perf_counter()
        pairs = generate(card.name, arguments.count)
        seconds = (time.perf_counter() - begin) / len(pairs)
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
        results[card.name] = {"n": len(made), "structures": rows}
        if arguments.write_cards:
            folder = shipped_folder() / card.name
            old = read_card(folder)
            write_card(replace(old, metrics=old.metrics | {"generated volumes": results[card.name]}), folder)
    write_results("atlas", results)


if __name__ == "__main__":
    main()
