"""DICOM files made with pydicom for tests: a classic series, an enhanced file, and one slice's dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Tags = Callable[[int], dict[str, Any]]


def nothing(_: int) -> dict[str, Any]:
    return {}


def item(**values: Any) -> Dataset:
    out = Dataset()
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return out


def dataset(pixels: NDArray[Any], **tags: Any) -> Dataset:
    """A CT of 12 bits in 16 unless ``tags`` says otherwise; a tag of None is left out."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.4",
        "Modality": "CT",
        "PatientName": "Doe^Jane",
        "PatientID": "p-17",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "ImageOrientationPatient": list(FLAT),
        "PixelSpacing": [1.5, 1.25],
        "SliceThickness": 3,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    } | tags
    for keyword, value in values.items():
        if value is not None:
            setattr(out, keyword, value)
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID
    out.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    out.PixelData = np.ascontiguousarray(pixels).tobytes()
    return out


def save(out: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    out.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    stored: NDArray[Any],
    *,
    step: Sequence[float] = (0.0, 0.0, 3.0),
    origin: Sequence[float] = (-10.0, -20.0, 5.0),
    each: Tags = nothing,
    name: str = "{:03d}.dcm",
    **tags: Any,
) -> Path:
    """One file a slice of ``stored`` [Z, Y, X]; slice k lies ``step`` (LPS, mm) behind slice k - 1."""
    for k, pixels in enumerate(stored):
        position = [float(o + k * s) for o, s in zip(origin, step, strict=True)]
        values = {"InstanceNumber": k + 1, "ImagePositionPatient": position} | tags | each(k)
        save(dataset(pixels, **values), folder / name.format(k))
    return folder


def enhanced(
    stored: NDArray[Any],
    positions: Sequence[Sequence[float]],
    *,
    orientation: Callable[[int], Sequence[float]] = lambda _: FLAT,
    rescale: Callable[[int], tuple[float, float]] = lambda _: (1.0, 0.0),
    content: Tags = nothing,
    **tags: Any,
) -> Dataset:
    """An enhanced CT: one file, a frame for each of ``positions``."""
    frames = [
        item(
            FrameContentSequence=[item(**content(k))],
            PlanePositionSequence=[item(ImagePositionPatient=list(map(float, position)))],
            PlaneOrientationSequence=[item(ImageOrientationPatient=list(map(float, orientation(k))))],
            PixelValueTransformationSequence=[
                item(RescaleSlope=rescale(k)[0], RescaleIntercept=rescale(k)[1], RescaleType="HU")
            ],
        )
        for k, position in enumerate(positions)
    ]
    shared = [item(PixelMeasuresSequence=[item(PixelSpacing=[1.5, 1.25], SliceThickness=3)])]
    top = dict.fromkeys(("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"))
    return dataset(
        stored,
        **{
            "SOPClassUID": ENHANCED_CT,
            "NumberOfFrames": len(positions),
            "SharedFunctionalGroupsSequence": shared,
            "PerFrameFunctionalGroupsSequence": frames,
            "RescaleIntercept": None,
        }
        | top
        | tags,
    )
