"""Writers, by `diffatlas.io`: a layer goes back onto the voxels, axes and header of the file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffatlas.io import IMAGE_SUFFIXES, write_label_map, write_volume
from napari_diffatlas import label_names
from napari_diffatlas.viewer.layers import KEY, read_image, read_labels


def write_labels(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write a labels layer with its ids; returns what was written. Raises `BadInput`."""
    labels, header = read_labels(data, state)
    file = _with_suffix(path)
    write_label_map(labels, file, header=header)
    ours = state.get("metadata", {}).get(KEY, {})
    names = label_names.write(file, ours.get("scheme"), _image_of(ours))
    return [str(file), *map(str, names)]


def write_image(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write an image layer as float32; returns what was written. Raises `BadInput`."""
    file = _with_suffix(path)
    write_volume(read_image(data, state), file)
    return [str(file)]


def _with_suffix(path: str) -> Path:
    """The path that napari's dialog offers is the layer's name: as it is, it names no format."""
    return Path(path if path.lower().endswith(IMAGE_SUFFIXES) else f"{path}.nii.gz")


def _image_of(ours: Mapping[str, Any]) -> str:
    """The image that labels belong to: its file's name where there is one, else its layer's."""
    origin = ours.get("origin")
    made_here = "provenance" in ours  # else the origin is the label file itself
    return str(origin.path.name if made_here and origin is not None and origin.path else ours.get("image", ""))
