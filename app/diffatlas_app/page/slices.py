"""Slices for browsers without WebGL: the browser cuts them out of its volumes, the server draws and keeps nothing."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas import render
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelScheme, Structure

MAX_SIDE = 1024
"""Largest slice and largest picture drawn, voxels and pixels a side."""


def drawn_slices(asked: Any) -> dict[str, Any]:
    """Draw slices as `diffatlas.render` draws them.

    ``asked``: {"opacity": 0 to 1, "colors": [[r, g, b] a structure], "slices": [{"plane": its name, "shape": [rows,
    columns], "size": [width, height] of the picture in pixels, "gray" and "labels": bytes, zlib and base64}]}.
    Returns {"pictures": [PNG as a data URL]} or {"error": one line}.
    """
    try:
        opacity = float(asked["opacity"])
        colors = [tuple(int(c) for c in color) for color in asked["colors"]]
        if (
            not 0 <= opacity <= 1
            or len(colors) > 255
            or any(len(c) != 3 or not set(c) <= set(range(256)) for c in colors)
        ):
            raise BadInput("opacity is 0 to 1, a colour three bytes")
        scheme = LabelScheme("shown", tuple(Structure(str(i), i, (c[0], c[1], c[2])) for i, c in enumerate(colors, 1)))
        if not 1 <= len(asked["slices"]) <= 3:
            raise BadInput("one to three slices at a time")
        return {"pictures": [_picture(part, scheme, opacity) for part in asked["slices"]]}
    except BadInput as error:
        return {"error": str(error)}
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, zlib.error):
        return {"error": "these are no slices"}


def _picture(part: dict[str, Any], scheme: LabelScheme, opacity: float) -> str:
    rows, columns = (int(n) for n in part["shape"])
    width, height = (int(n) for n in part["size"])
    if not all(1 <= n <= MAX_SIDE for n in (rows, columns, width, height)):
        raise BadInput(f"a slice is 1 to {MAX_SIDE} a side")
    gray, labels = (_bytes(part[key], (rows, columns)) for key in ("gray", "labels"))
    if labels.max(initial=0) > len(scheme):
        raise BadInput("a label without a colour")
    picture = render.slice_picture(gray, labels, scheme, str(part["plane"]), (width, height), opacity=opacity)
    return "data:image/png;base64," + base64.b64encode(render.png_bytes(picture)).decode("ascii")


def _bytes(packed: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Bytes of a slice; no more are inflated than it has."""
    size = shape[0] * shape[1]
    data = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    if len(data) != size:
        raise BadInput("a slice of another size than its shape")
    return np.frombuffer(data, np.uint8).reshape(shape)
