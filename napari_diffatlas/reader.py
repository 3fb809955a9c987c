"""Reader of medical volumes, by `diffatlas.io`: NIfTI, NRRD, MetaImage and DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.volume import LabelMap, LabelScheme
from diffatlas.io import (
    is_dicom_folder,
    is_dicom_labels,
    named_as_labels,
    read_label_ids,
    read_structures,
    read_volume,
)
from napari_diffatlas import label_names
from napari_diffatlas.viewer.layers import KEY, LayerTuple, label_map_to_layer, scheme_of, volume_to_layer

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
MAX_ID = 65535
MAX_IDS = 256  # background and 255 structures

Paths = str | Sequence[str]

PLUGIN, BUILTIN = "napari-diffatlas", "napari"


def prefer_our_reader() -> None:
    """Make ours the default reader of medical volumes where napari would ask to choose between its own and ours.

    napari's own reader claims the same extensions, but ignores the position of a NIfTI file. A choice that the user has
    made in Preferences > Plugins stays, and where a third plugin reads a format napari still asks.
    """
    from napari.settings import get_settings
    from npe2 import PluginManager

    settings = get_settings().plugins
    chosen = dict(settings.extension2reader)
    for suffix in SUFFIXES:
        readers = {reader.plugin_name for reader in PluginManager.instance().iter_compatible_readers([f"a{suffix}"])}
        if readers == {PLUGIN, BUILTIN}:
            chosen.setdefault(f"*{suffix}", PLUGIN)
    if chosen != settings.extension2reader:
        settings.extension2reader = chosen


def get_reader(path: Paths) -> Callable[[Paths], list[LayerTuple]] | None:
    """The reader for ``path``, or None: files are recognised by name, a DICOM folder by its first files."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if paths and all(_is_ours(p) for p in paths) else None


def read(path: Paths) -> list[LayerTuple]:
    """A layer for each file: labels where the file is a DICOM SEG or RTSTRUCT, or where its name says so and every
    value is a whole number; an image otherwise.

    Raises `BadInput`, which napari shows as a message.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [_read_one(Path(p)) for p in paths]


def _is_ours(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) or (Path(path).is_dir() and is_dicom_folder(Path(path)))


def _read_one(path: Path) -> LayerTuple:
    if is_dicom_labels(path):
        scheme = LabelScheme("labels", read_structures(path))
        labels = LabelMap.from_ids(*read_label_ids(path), scheme)
        return label_map_to_layer(labels, path.stem, path=path.absolute())
    volume = read_volume(path)
    if named_as_labels(path) and _are_ids(volume.data):
        ids = volume.data.astype(np.uint16)
        known = label_names.read(path, ids)
        labels = LabelMap.from_ids(ids, volume.grid, known.scheme if known else scheme_of(ids))
        data, state, kind = label_map_to_layer(
            labels, volume.name, volume.header, path.absolute(), named=known is not None
        )
        if known is not None and known.image:
            state["metadata"][KEY]["image"] = known.image
        return data, state, kind
    return volume_to_layer(volume, path.absolute())


def _are_ids(data: NDArray[np.float32]) -> bool:
    whole = data.min() >= 0 and data.max() <= MAX_ID and np.array_equal(data, np.rint(data))
    return bool(whole) and np.unique(data).size <= MAX_IDS
