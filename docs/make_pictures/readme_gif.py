"""The README's animation and the picture of the real heart CT, from real runs.

    python docs/make_pictures/readme_gif.py

`docs/images/segment.gif`: a hippocampus MRI that was not trained on, published guidance (image as noisy as the mask),
60 deterministic steps. `docs/images/heart-ct-real.png`: what `heart-phantom`, which has only seen drawn hearts, makes
of a real contrast CT. Both read ../shared; without it a phantom heart stands in for the first and the second is left
out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffatlas.engine.request import Request
from diffatlas.io import read_volume
from diffatlas.render import frame_picture, montage, write_gif, write_png
from diffatlas.session import example, segment, stream

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SHARED = ROOT / ".." / "shared" / "data"
CASE = SHARED / "hippocampus" / "images" / "hippocampus_378.nii.gz"
HEART = SHARED / "ct_mr" / "heart_ct.nii.gz"


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
    if HEART.is_file():
        heart = read_volume(HEART)
        result = segment(heart, Request(model="heart-phantom", preset="fast"))
        write_png(montage(heart, result.labels, height_px=300, window=(-250, 800)), IMAGES / "heart-ct-real.png")
        print("real heart CT, ml:", {k: round(v) for k, v in result.volumes_ml.items()}, *result.notes, sep="\n")


if __name__ == "__main__":
    main()
