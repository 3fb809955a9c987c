"""What Python users have at hand as volumes and label maps: paths, nibabel images, arrays with an affine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, LabelScheme, Modality, Volume
from diffatlas.io.images import read_label_ids, read_volume
from diffatlas.io.intensity import judge_modality

ImageLike = str | os.PathLike[str] | SpatialImage | Volume | ArrayLike
LabelsLike = str | os.PathLike[str] | SpatialImage | LabelMap


def as_volume(image: ImageLike, *, affine: ArrayLike | None = None, modality: Modality | None = None) -> Volume:
    """A path, a nibabel image, a `Volume`, or an array [X, Y, Z] with its ``affine`` [4, 4], as a volume.

    ``modality``: "ct", "mr" or "unknown"; None keeps what a volume says, and is guessed from the values otherwise.
    """
    if affine is not None and not _is_array(image):
        raise BadInput("affine belongs to an array; a path, a nibabel image and a Volume bring their own")
    if isinstance(image, Volume):
        volume = image
    elif isinstance(image, (str, os.PathLike)):
        volume = read_volume(Path(image))
    elif isinstance(image, SpatialImage):
        volume = Volume.from_nibabel(image)
    elif not _is_array(image):
        raise BadInput(
            f"an image is a path, a nibabel image, a diffatlas.Volume, or an array with affine=; not {_kind(image)}"
        )
    elif affine is None:
        raise BadInput("an array does not say where its voxels lie: give affine=, 4 x 4, voxel indices to RAS+ mm")
    else:
        volume = Volume.from_array(image, affine)
    if modality is not None:
        return replace(volume, modality=modality, modality_reason="named by modality")
    if not isinstance(image, (Volume, str, os.PathLike)):
        guessed, reason = judge_modality(volume.data)
        return replace(volume, modality=guessed, modality_reason=reason)
    return volume


def as_label_maps(*labels: LabelsLike) -> tuple[LabelMap, ...]:
    """Paths, nibabel images and label maps as label maps of one scheme.

    The scheme is that of the first `LabelMap`; where there is none the structures are named by their ids.
    """
    ids = [_ids(one) for one in labels]
    schemes = [one.scheme for one in labels if isinstance(one, LabelMap)]
    scheme = schemes[0] if schemes else LabelScheme.of_ids({int(i) for one, _ in ids for i in np.unique(one)})
    return tuple(
        one if isinstance(one, LabelMap) else LabelMap.from_ids(array, grid, scheme)
        for one, (array, grid) in zip(labels, ids, strict=True)
    )


def _ids(labels: LabelsLike) -> tuple[Any, Any]:
    if isinstance(labels, (str, os.PathLike)):
        return read_label_ids(Path(labels))
    if isinstance(labels, SpatialImage):
        labels = LabelMap.from_nibabel(labels)
    if isinstance(labels, LabelMap):
        return labels.to_ids(), labels.grid
    raise BadInput(f"labels are a path, a nibabel image or a diffatlas.LabelMap; not {_kind(labels)}")


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, SpatialImage)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
