"""Writers, by `diffatlas.io`: a layer goes back onto the voxels, axes and header of the file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffatlas.io import write_label_map, write_volume
from napari_diffatlas.viewer.layers import read_image, read_labels


def write_labels(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write a labels layer with its ids; returns what was written. Raises `BadInput`."""
    labels, header = read_labels(data, state)
    write_label_map(labels, Path(path), header=header)
    return [path]


def write_image(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write an image layer as float32; returns what was written. Raises `BadInput`."""
    write_volume(read_image(data, state), Path(path))
    return [path]
