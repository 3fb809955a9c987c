"""One volume of a DICOM series: found, checked from the headers alone, and only then decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.geometry.volume import DicomSeries, Modality
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.files import find
from diffatlas.io.dicom.header import SEGMENTATION, STRUCTURE_SET, Frame, Header, NotAnImage, damaged, sop_class_of
from diffatlas.io.dicom.pixels import check_place, decoded
from diffatlas.io.dicom.rtstruct import read_rtstruct
from diffatlas.io.dicom.seg import read_seg
from diffatlas.io.dicom.volumes import FrameVolume, affine_of, choose, volumes_of
from diffatlas.io.source import Limits, Source, make_grid

MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mr"}


def read_dicom(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Source:
    """A volume of a DICOM series: a folder with all below it, a DICOMDIR, or any file of the series; or `BadInput`.

    A SEG or RTSTRUCT file gives its label ids. Raises `InDecoder` for compressed pixels that ``limits`` keep out of
    this process.

    ``volume_index`` chooses where there are several volumes: series, stacks, phases. The affine comes from the slices'
    own positions, so that a tilted gantry stays a shear; each slice is rescaled by its own slope and intercept.
    """
    try:
        return _read(path, volume_index, limits or Limits(compressed=True))
    except NotAnImage as error:
        raise damaged(path, "it ends before its pixels") from error
    except BadInput as error:
        # A damaged slice is named; so is the folder that it lies in.
        if shown(path) in str(error) or isinstance(error, SeveralVolumes):
            raise
        raise BadInput(f"{shown(path)}: {error}") from error


def is_dicom_labels(path: Path) -> bool:
    """Whether a file is a SEG or an RTSTRUCT, by its header; False for all else."""
    try:
        return path.is_file() and sop_class_of(path, Limits()) in (*SEGMENTATION, STRUCTURE_SET)
    except (BadInput, OSError):
        return False


def _read(path: Path, volume_index: int | None, limits: Limits) -> Source:
    if path.is_file():
        kind = sop_class_of(path, limits)
        if kind in SEGMENTATION:
            return read_seg(path, limits)
        if kind == STRUCTURE_SET:
            return read_rtstruct(path, limits)
    found = find(path, limits)
    volumes, files = volumes_of(found.headers, path)
    volume = choose(volumes, volume_index, found.chosen, path)
    frames, header = volume.frames, volume.header
    rows, columns = header.shape
    own = [files[frame.path] for frame in frames]
    scales = _scales(frames, path)
    alike = len(set(scales)) == 1 and len({h.dtype for h in own}) == 1
    dtype = header.dtype if alike else np.dtype(np.float32)
    limits.check(path, (columns, rows, len(frames)), dtype)
    check_place(own, limits)
    grid = make_grid(path, (columns, rows, len(frames)), affine_of(frames, path))
    data = np.empty((len(frames), rows, columns), dtype)
    paddings = {h.padding for h in own}
    padding = paddings.pop() if len(paddings) == 1 and alike else None
    for k, pixels in _pixels(frames, files):
        slope, intercept = scales[k]
        if alike:
            if padding is not None and padding[0] != padding[1]:
                pixels[(pixels >= padding[0]) & (pixels <= padding[1])] = padding[0]
            data[k] = pixels
        else:
            with np.errstate(over="ignore"):
                data[k] = pixels.astype(np.float64) * slope + intercept
    return Source(
        data.transpose(2, 1, 0),
        grid,
        "DICOM",
        scale=scales[0] if alike else (1.0, 0.0),
        modality=MODALITIES.get(header.modality, "unknown"),
        volumes=len(volumes),
        notes=_notes(volume, scales, paddings | ({padding} if padding else set()), padding is not None),
        padding=padding[0] if padding else None,
        series=_series(volume, own),
    )


def _scales(frames: Sequence[Frame], path: Path) -> list[tuple[float, float]]:
    given = [frame.rescale for frame in frames]
    without = next((frame for frame in frames if frame.rescale is None), None)
    if without is not None and any(given):
        raise BadInput(
            f"{shown(path)}: {shown(without.path)} has no rescale slope and intercept, others have; it is damaged"
        )
    return [scale or (1.0, 0.0) for scale in given]


def _pixels(frames: Sequence[Frame], files: dict[Path, Header]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(slice, stored pixels [rows, columns]) of every frame, file by file."""
    order = sorted(range(len(frames)), key=lambda k: (str(frames[k].path), frames[k].index))
    for path, numbers in groupby(order, key=lambda k: frames[k].path):
        slices = list(numbers)
        yield from zip(slices, decoded(files[path], [frames[k].index for k in slices]), strict=True)


def _notes(
    volume: FrameVolume, scales: Sequence[tuple[float, float]], paddings: set[Any], padded: bool
) -> tuple[str, ...]:
    header, first = volume.header, volume.frames[0]
    notes: list[str] = []
    if header.modality and header.modality not in MODALITIES:
        notes.append(f"DICOM modality is {header.modality[:16]}, neither CT nor MR")
    if first.spacing_from != "PixelSpacing":
        notes.append(
            f"no PixelSpacing: the size of pixels is {first.spacing_from}, which may not be that in the patient"
        )
    if len(volume.frames) == 1:
        notes.append(f"one slice: its thickness of {first.thickness_mm:g} mm is SliceThickness")
    if header.lossy:
        notes.append("lossy compression: intensities are not those that were measured")
    if not header.series:
        notes.append("no SeriesInstanceUID: all slices without one were taken for one series")
    if header.modality == "CT" and first.rescale is None:
        notes.append("CT without rescale slope and intercept: stored numbers were taken as HU")
    if len(set(scales)) > 1:
        notes.append("rescale slope or intercept differ between slices: each slice was rescaled by its own")
    if paddings - {None} and not padded:
        notes.append("padding (PixelPaddingValue) differs between slices and was taken as intensities")
    return tuple(notes)


def _series(volume: FrameVolume, own: Sequence[Header]) -> DicomSeries | None:
    """References to the slices, or None where an identifier is missing or stands for several."""
    header = volume.header
    many = len(volume.frames) > len({h.path for h in own}) or len(header.frames) > 1
    slices = tuple(
        (h.sop_instance, frame.index + 1 if many else 0) for h, frame in zip(own, volume.frames, strict=True)
    )
    needed = (header.study, header.series, header.sop_class, *(uid for uid, _ in slices))
    if not all(needed) or len(set(slices)) < len(slices):
        return None
    return DicomSeries(
        study=header.study,
        series=header.series,
        frame_of_reference=header.frame_of_reference,
        modality=header.modality[:16],
        sop_class=header.sop_class,
        slices=slices,
        patient=header.patient,
    )
