"""The README's animation and the pictures of real hearts, from real runs.

    python docs/make_pictures/readme_gif.py [--hearts]     (--hearts: only those)

`docs/images/segment.gif`: a hippocampus MRI that was not trained on, published guidance (image as noisy as the mask),
60 deterministic steps. `docs/images/heart-ct-real.png`: what `heart`, which saw no patient's image, makes
of a real contrast CT. `docs/images/hearts-real.png`: a chest CT and two cine MR (Sunnybrook, public domain), the
reference above and the labels below. All read ../shared; without it a phantom heart stands in for the first and the
others are left out.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import LabelMap, LabelScheme, Structure
from diffatlas.io import read_volume
from diffatlas.io.images import read_label_ids
from diffatlas.render import frame_picture, montage, write_gif, write_png
from diffatlas.session import example, segment, stream

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SHARED = ROOT / ".." / "shared" / "data"
CASE = SHARED / "hippocampus" / "images" / "hippocampus_378.nii.gz"
HEART = SHARED / "ct_mr" / "heart_ct.nii.gz"
HEARTS = SHARED / "hearts"
SUNNYBROOK = ("SC-HF-I-11_ED", "SC-HYP-07_ED")


def main() -> None:
    if CASE.is_file():
        volume, planes = read_volume(CASE), ("sagittal", "coronal")
    else:
        volume, planes = example("heart-ct")[0], ("axial",)
    request = Request(preset="watch", steps=60, guidance_noise=1.0, seed=4)
    frames = list(stream(volume, request))
    where = frames[-1].grid.to_world(np.argwhere(frames[-1].labels > 0).mean(axis=0))
    pictures = [frame_picture(f, volume, at_mm=where, planes=planes, cell_px=160) for f in frames]  # type: ignore[arg-type]
    write_gif(pictures, IMAGES / "segment.gif", fps=10, hold_last_s=3)


def real_hearts() -> None:
    if HEART.is_file():
        heart = read_volume(HEART)
        result = segment(heart, Request(model="heart", preset="fast"))
        write_png(montage(heart, result.labels, height_px=300, window=(-250, 800)), IMAGES / "heart-ct-real.png")
        print("real heart CT, ml:", {k: round(v) for k, v in result.volumes_ml.items()}, *result.notes, sep="\n")
    if not HEARTS.is_dir():
        return
    rows = []
    for folder, name, modality, structure in (
        ("chest_ct", "chest_ct", "ct", "heart, by another network"),
        ("sunnybrook", SUNNYBROOK[0], "mr", "left ventricle, by hand"),
        ("sunnybrook", SUNNYBROOK[1], "mr", "left ventricle, by hand"),
    ):
        volume = replace(read_volume(HEARTS / folder / "images" / f"{name}.nii.gz"), modality=modality)
        ids, grid = read_label_ids(HEARTS / folder / "labels" / f"{name}.nii.gz")
        truth = LabelMap(
            (ids > 0).astype(np.uint8), grid, LabelScheme("truth", (Structure(structure, 1, (255, 200, 0)),))
        )
        labels = segment(volume, Request(model="heart", preset="fast")).labels
        window = (-250.0, 800.0) if modality == "ct" else None
        rows.append(np.concatenate([montage(volume, shown, height_px=150, window=window) for shown in (truth, labels)]))
    width = max(row.shape[1] for row in rows)
    same = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), mode="edge") for row in rows]
    write_png(np.concatenate(same), IMAGES / "hearts-real.png")


if __name__ == "__main__":
    if "--hearts" not in sys.argv:
        main()
    real_hearts()
