"""Pictures to files: PNG, and GIF films with one palette and a size that fits a README."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffatlas.errors import BadInput
from diffatlas.io import atomic_path, atomic_write_bytes

Path = str | os.PathLike[str]

MAX_FRAMES = 120
COLORS = 192
# Share of the palette kept for saturated colours: thin outlines would lose theirs to a sea of grays.
VIVID_SHARE = 0.4


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] as a PNG file in memory."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture uint8 [H, W, 3] as PNG, whole or not at all."""
    atomic_write_bytes(path, png_bytes(picture))


def write_gif(frames: Iterable[NDArray[np.uint8]], path: Path, fps: float = 12.0, hold_last_s: float = 2.0) -> None:
    """Write pictures uint8 [H, W, 3] of one size as an endless GIF, whole or not at all.

    ``fps``: pictures a second, 1 to 50 (GIF counts in hundredths of a second). ``hold_last_s``: how much longer the
    last one stays. Of a long run no more than `MAX_FRAMES` pictures are kept, evenly spaced, first and last among them,
    so that neither memory nor the file grows with the number of steps. Equal neighbours are stored once, with their
    time added up.
    """
    if not 1 <= fps <= 50:
        raise BadInput(f"frames per second must be between 1 and 50, not {fps}")
    if not 0 <= hold_last_s <= 600:
        raise BadInput(f"the last picture can be held for 0 to 600 seconds, not {hold_last_s}")
    kept = thinned(frames, MAX_FRAMES)
    if not kept:
        raise BadInput("there are no pictures to make a GIF of")
    if any(f.shape != kept[0].shape for f in kept):
        raise ValueError("all pictures of a GIF must have one size")
    palette = shared_palette(kept)
    images = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in kept]
    step_ms = max(20, round(100 / fps) * 10)
    durations = [step_ms] * len(images)
    durations[-1] += round(hold_last_s * 100) * 10
    with atomic_path(path) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
            optimize=True,
            disposal=1,
        )


def thinned(items: Iterable[Any], at_most: int) -> list[Any]:
    """At most ``at_most`` of ``items``, evenly spaced, first and last among them; holds at most twice as many."""
    kept: list[Any] = []
    stride, count, last = 1, 0, None
    for last in items:
        if count % stride == 0:
            kept.append(last)
            if len(kept) > 2 * at_most:
                kept, stride = kept[::2], stride * 2
        count += 1
    if count and (count - 1) % stride:
        kept.append(last)
    if len(kept) <= at_most:
        return kept
    return [kept[i] for i in np.linspace(0, len(kept) - 1, at_most).round().astype(int)]


def shared_palette(frames: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """A palette image of up to `COLORS` colours for all pictures, taken from a few of them.

    Grays and saturated colours are quantised apart, each with its share: by count alone, noise would take every entry.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(frames) - 1, 8)})
    pixels = np.concatenate([frames[i][::2, ::2].reshape(-1, 3) for i in chosen])
    vivid = np.ptp(pixels.astype(np.int16), axis=1) > 24
    colors = [_reduce(pixels[~vivid], COLORS - math.ceil(COLORS * VIVID_SHARE))]
    colors.append(_reduce(pixels[vivid], COLORS - len(colors[0])))
    table = np.concatenate(colors)
    palette = Image.new("P", (1, 1))
    palette.putpalette(table.tobytes())
    return palette


def _reduce(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Up to ``count`` colours [n, 3] that stand for ``pixels`` [N, 3] (none for none)."""
    distinct = np.unique(pixels, axis=0)
    if len(distinct) <= count:
        return distinct
    image = Image.fromarray(pixels[None]).quantize(count, method=Image.Quantize.MEDIANCUT, kmeans=1)
    flat = np.array(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
    return np.unique(flat[:count], axis=0)
