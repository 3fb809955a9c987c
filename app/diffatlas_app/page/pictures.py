"""Pictures as files in memory."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] to JPEG, colours of thin contours kept (no chroma subsampling)."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=88, subsampling=0)
    return out.getvalue()
