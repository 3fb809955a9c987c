"""Writers, by `diffatlas.io`: a layer is saved on the voxels, axes and header of the file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info

from diffatlas.io import IMAGE_SUFFIXES, LABEL_SUFFIXES, UNREFERENCED, LabelFormat, write_label_map, write_volume
from napari_diffatlas import label_names
from napari_diffatlas.viewer.layers import KEY, read_image, read_labels


def write_labels(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write a labels layer with its ids; returns what was written. Raises `BadInput`."""
    return _write(_with_suffix(path, LABEL_SUFFIXES), data, state, None)


def write_seg(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as DICOM SEG, with references to the series of its image where that was DICOM."""
    return _write(_with_suffix(path, (".dcm",)), data, state, "seg")


def write_rtstruct(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as RTSTRUCT, with references likewise."""
    return _write(_with_suffix(path, (".dcm",)), data, state, "rtstruct")


def _write(file: Path, data: Any, state: Mapping[str, Any], format_: LabelFormat | None) -> list[str]:
    labels, origin = read_labels(data, state)
    header, series = (None, None) if origin is None else (origin.header, origin.series)
    write_label_map(labels, file, header=header, series=series, format=format_)
    if file.suffix.lower() == ".dcm":  # a .dcm file names its structures itself
        if series is None:
            show_info(f"{file.name}: {UNREFERENCED}")
        return [str(file)]
    ours = state.get("metadata", {}).get(KEY, {})
    names = label_names.write(file, ours.get("scheme"), _image_of(ours))
    return [str(file), *map(str, names)]


def write_image(path: str, data: Any, state: Mapping[str, Any]) -> list[str]:
    """Write an image layer as float32; returns what was written. Raises `BadInput`."""
    file = _with_suffix(path, IMAGE_SUFFIXES)
    write_volume(read_image(data, state), file)
    return [str(file)]


def _with_suffix(path: str, suffixes: tuple[str, ...]) -> Path:
    """The path with an extension: napari's dialog offers the layer's name, which has none."""
    return Path(path if path.lower().endswith(suffixes) else f"{path}{suffixes[0]}")


def _image_of(ours: Mapping[str, Any]) -> str:
    """The image that labels belong to: its file's name where there is one, else its layer's."""
    origin = ours.get("origin")
    made_here = "provenance" in ours  # without it, the origin is the label file itself
    return str(origin.path.name if made_here and origin is not None and origin.path else ours.get("image", ""))
