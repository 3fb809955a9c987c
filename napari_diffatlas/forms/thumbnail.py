"""A small picture of an image-mask pair: three planes side by side, structures in their colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtGui import QImage, QPixmap

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelScheme
from diffatlas.render.planes import PLANES, Canonical, Overlay, cut, size_px, to_gray

WIDTH, HEIGHT, GAP = 264, 88, 4


def picture(
    image: NDArray[np.floating[Any]], labels: NDArray[np.uint8], grid: Grid, scheme: LabelScheme
) -> NDArray[np.uint8]:
    """Axial, coronal and sagittal plane through the middle of the structures: uint8 [HEIGHT, WIDTH, 3].

    ``image``: [X, Y, Z] in [-1, 1]; ``labels``: indices into ``scheme``.
    """
    onto = Canonical.of(grid)
    voxel = onto.centre_of(labels)
    data, mask = onto.view(image), onto.view(labels)
    out = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    tile = (WIDTH - 2 * GAP) // 3
    largest = max(max(onto.size_mm(plane)) for plane in PLANES.values())
    for column, plane in enumerate(PLANES.values()):
        size = size_px(onto.size_mm(plane), min(tile, HEIGHT) / largest)
        gray = to_gray(cut(data, plane, voxel), (-1.0, 1.0), size)
        part = Overlay.of(cut(mask, plane, voxel), size).on(gray, scheme)
        left, top = column * (tile + GAP) + (tile - size[0]) // 2, (HEIGHT - size[1]) // 2
        out[top : top + size[1], left : left + size[0]] = part
    return out


def pixmap(rgb: NDArray[np.uint8], scale: float = 1.0) -> QPixmap:
    """For Qt; ``scale``: pixels of the screen a pixel."""
    if scale != 1.0:
        rgb = np.asarray(Image.fromarray(rgb).resize((round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))))
    rgb = np.ascontiguousarray(rgb)
    height, width, _ = rgb.shape
    return QPixmap.fromImage(QImage(rgb.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy())
