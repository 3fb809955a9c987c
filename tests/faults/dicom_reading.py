"""Reading DICOM in tests: voxels as DICOM orders them, refusals as one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io.dicom import read_dicom
from diffatlas.io.source import Limits
from tests.dicom_files import FLAT

STORED: NDArray[np.uint16] = np.random.default_rng(5).integers(0, 2000, (6, 5, 7)).astype(np.uint16)

# OpenJPEG's encoder wants more than its number of resolutions.
LARGE: NDArray[np.uint16] = np.random.default_rng(6).integers(0, 2000, (3, 64, 64)).astype(np.uint16)


ORIENTATIONS = {
    "axial": FLAT,
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (0.8, 0.6, 0.0, -0.48, 0.64, 0.6),
}


def read(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Volume:
    return io.read_volume(path, volume_index=volume_index, limits=limits)


def values(volume: Volume) -> NDArray[np.float32]:
    """As DICOM has them: [slice, row, column]."""
    return volume.data.transpose(2, 1, 0)


def refused(path: Path, match: str, volume_index: int | None = None, limits: Limits | None = None) -> str:
    with pytest.raises(BadInput, match=match) as caught:
        read_dicom(path, volume_index, limits)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 400
    return message
