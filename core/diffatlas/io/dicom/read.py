"""One volume of a DICOM series: found, checked from the headers alone, and only then decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import DicomSeries, Modality
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.files import find
from diffatlas.io.dicom.header import Frame, Header, damaged
from diffatlas.io.dicom.volumes import FrameVolume, affine_of, choose, volumes_of
from diffatlas.io.source import Limits, Source, make_grid

MODALITIES: dict[str, Modality] = {"CT": "ct", "MR": "mr"}


def read_dicom(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Source:
    """A volume of a DICOM series: a folder with all below it, a DICOMDIR, or any file of the series; or `BadInput`.

    ``volume_index`` chooses where there are several volumes: series, stacks, phases. The affine comes from the slices'
    own positions, so that a tilted gantry stays a shear; each slice is rescaled by its own slope and intercept.
    """
    try:
        return _read(path, volume_index, limits or Limits())
    except BadInput as error:
        # A damaged slice is named; so is the folder that it lies in.
        if shown(path) in str(error):
            raise
        raise BadInput(f"{shown(path)}: {error}") from error


def _read(path: Path, volume_index: int | None, limits: Limits) -> Source:
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
        yield from zip(slices, _decoded(files[path], [frames[k].index for k in slices]), strict=True)


def _decoded(header: Header, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Stored pixels of the frames of one file; whatever the decoder says is the file's fault."""
    from pydicom.pixels.utils import iter_pixels

    count = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # pydicom would clear unused bits as if they always lay at the upper end.
            for pixels in iter_pixels(_readable(header), indices=list(indices), raw=True, correct_unused_bits=False):
                if pixels.shape != header.shape:
                    raise ValueError(f"a frame decodes to {pixels.shape}, not {header.shape}")
                count += 1
                yield _significant(pixels, header)
    except BadInput:
        raise
    except Exception as error:  # decoders raise all kinds
        reason = str(error)
        if "missing required dependencies" in reason or "plugins are missing" in reason:
            from pydicom.uid import UID

            what = UID(header.transfer_syntax).name
            raise BadInput(
                f"{shown(header.path)}: its compression ({what}) is not read; export it uncompressed"
            ) from error
        raise damaged(header.path, error) from error
    if count != len(indices):
        raise damaged(header.path, f"it holds {count} of {len(indices)} frames")


def _readable(header: Header) -> Any:
    """What pydicom decodes frames of: the file, or its dataset where the pixels cannot be found by seeking."""
    from pydicom import dcmread
    from pydicom.uid import UID

    syntax = UID(header.transfer_syntax)
    if syntax.is_deflated or not _has_preamble(header.path):
        dataset = dcmread(header.path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = syntax
        return dataset
    return header.path


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _significant(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    """The stored bits of each pixel alone, with their sign: others may hold an overlay (PS3.5 8.1)."""
    from pydicom.uid import UID

    allocated, stored, highest = header.bits
    if header.dtype.kind == "f" or stored == allocated:
        return pixels.astype(header.dtype)
    native = not UID(header.transfer_syntax).is_encapsulated
    # Up to the sign, then down again with it. Decoders leave their numbers at the low end.
    up = allocated - 1 - highest if native else allocated - stored
    return (pixels.astype(header.dtype) << up) >> (allocated - stored)


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
    """References to the slices, or None where an identifier is missing."""
    header = volume.header
    many = len(volume.frames) > len({h.path for h in own}) or len(header.frames) > 1
    slices = tuple(
        (h.sop_instance, frame.index + 1 if many else 0) for h, frame in zip(own, volume.frames, strict=True)
    )
    needed = (header.study, header.series, header.sop_class, *(uid for uid, _ in slices))
    if not all(needed):
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
