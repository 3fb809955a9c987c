"""DICOM series through SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality
from diffatlas.io.atomic import shown
from diffatlas.io.itk import LPS_TO_RAS, _affine, _array, _call, _described, _reader, _sitk
from diffatlas.io.source import Limits, Source, make_grid

# Slices may stand this share of their distance off an even row; a missing slice is a whole one off.
UNEVEN_SLICES = 0.1
MODALITY_TAG = "0008|0060"
MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mr"}


def read_dicom(path: Path, limits: Limits | None = None) -> Source:
    """A DICOM series: the folder that holds one, or any file of it; or `BadInput`.

    The affine comes from the slices' own positions, so that a tilted gantry stays a shear.
    """
    files = _series(path)
    readers = [_reader(Path(file), dicom=True) for file in files]
    for reader in readers:
        _call(path, reader.ReadImageInformation)
    first = readers[0]
    shape, _, dtype = _described(first, path)
    (limits or Limits()).check(path, (shape[0], shape[1], shape[2] * len(readers)), dtype)
    if len(readers) == 1:
        image = _call(path, first.Execute)
        affine = _affine(image)
    else:
        affine = _stack_affine(readers, path)
        series = _sitk().ImageSeriesReader()
        series.SetFileNames(files)
        image = _call(path, series.Execute)
    tag = first.GetMetaData(MODALITY_TAG).strip().upper() if first.HasMetaDataKey(MODALITY_TAG) else ""
    notes = (f"DICOM modality is {tag}, neither CT nor MR",) if tag and tag not in MODALITIES else ()
    data = _array(image)
    return Source(
        data, make_grid(path, data.shape, affine), "DICOM", modality=MODALITIES.get(tag, "unknown"), notes=notes
    )


def is_dicom(path: Path) -> bool:
    """Whether the file carries the DICOM preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom_folder(path: Path) -> bool:
    """Whether a folder's first files, by name, hold a DICOM file; looks at no more than ten."""
    try:
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError:
        return False
    return any(is_dicom(file) for file in files[:10])


def _series(path: Path) -> list[str]:
    """The files of one series, in the order of their positions."""
    folder = path if path.is_dir() else path.parent
    series_reader = _sitk().ImageSeriesReader
    ids: Sequence[str] = _call(path, partial(series_reader.GetGDCMSeriesIDs, str(folder)))
    series = [list(_call(path, partial(series_reader.GetGDCMSeriesFileNames, str(folder), i))) for i in ids]
    if not path.is_dir():
        for files in series:
            if any(Path(file).name == path.name for file in files):
                return files
        return [str(path)]
    if not series:
        raise BadInput(f"{shown(path)}: this folder holds no DICOM series; give the folder with the slices, or a file")
    if len(series) > 1:
        listed = ", ".join(f"{Path(files[0]).name} ({len(files)} slices)" for files in series[:6])
        raise BadInput(f"{shown(path)}: holds {len(series)} DICOM series; give one file of the one you mean: {listed}")
    return series[0]


def _stack_affine(readers: Sequence[Any], path: Path) -> NDArray[np.float64]:
    """Voxel index to RAS+ mm of a stack of slices, from the position of each; evenly spaced or `BadInput`."""
    name, first = shown(path), readers[0]
    for reader in readers:
        same = reader.GetSize() == first.GetSize() and np.allclose(
            reader.GetDirection(), first.GetDirection(), atol=1e-4
        )
        if not same or not np.allclose(reader.GetSpacing()[:2], first.GetSpacing()[:2], rtol=1e-3):
            raise BadInput(f"{name}: its slices differ in size or direction; give a folder with one stack of slices")
        if reader.GetSize()[2] != 1:
            raise BadInput(f"{name}: holds several multi-frame files; give one of these files")
    positions = np.array([reader.GetOrigin() for reader in readers])
    step = (positions[-1] - positions[0]) / (len(readers) - 1)
    even = positions[0] + np.arange(len(readers))[:, None] * step
    if not np.linalg.norm(step) > 0 or np.abs(positions - even).max() > UNEVEN_SLICES * np.linalg.norm(step):
        raise BadInput(f"{name}: its slices are not evenly spaced; one is missing, doubled or from another series")
    lps = np.eye(4)
    lps[:3, :3] = np.array(first.GetDirection()).reshape(3, 3) * np.array(first.GetSpacing())
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    return LPS_TO_RAS @ lps
