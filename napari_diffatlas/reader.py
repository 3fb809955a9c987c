"""Reader of medical volumes, by `diffatlas.io`: NIfTI, NRRD, MetaImage and DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.volume import LabelMap
from diffatlas.io import is_dicom_folder, named_as_labels, read_volume
from napari_diffatlas.viewer.layers import LayerTuple, label_map_to_layer, scheme_of, volume_to_layer

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
MAX_ID = 65535
MAX_IDS = 256  # background and 255 structures

Paths = str | Sequence[str]


def get_reader(path: Paths) -> Callable[[Paths], list[LayerTuple]] | None:
    """The reader for ``path``, or None where it is none of ours: files are known by name, a DICOM folder by a look."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if paths and all(_is_ours(p) for p in paths) else None


def read(path: Paths) -> list[LayerTuple]:
    """A layer for each file: labels where the name says so and every value is a whole number, an image otherwise.

    Raises `BadInput`, which napari shows as a message.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [_read_one(Path(p)) for p in paths]


def _is_ours(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) or (Path(path).is_dir() and is_dicom_folder(Path(path)))


def _read_one(path: Path) -> LayerTuple:
    volume = read_volume(path)
    if named_as_labels(path) and _are_ids(volume.data):
        ids = volume.data.astype(np.uint16)
        scheme = scheme_of(ids)
        labels = LabelMap.from_ids(ids, volume.grid, scheme)
        return label_map_to_layer(labels, volume.name, volume.header, path.absolute())
    return volume_to_layer(volume, path.absolute())


def _are_ids(data: NDArray[np.float32]) -> bool:
    whole = data.min() >= 0 and data.max() <= MAX_ID and np.array_equal(data, np.rint(data))
    return bool(whole) and np.unique(data).size <= MAX_IDS
