"""What the header of a DICOM file says of its frames: where each lies, how its numbers become intensities.

Read with pydicom, without the pixels. Classic files hold one frame and its attributes at the top; enhanced files (DICOM
PS3.3 C.7.6.16) hold many, with attributes in functional groups, shared or of each frame. Both become `Frame` here, so
that other modules need not know the difference. Positions and directions are DICOM's own: LPS+, mm.
"""

from __future__ import annotations

import math
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffatlas.errors import BadInput
from diffatlas.io.atomic import shown
from diffatlas.io.source import Limits

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DIRECTORY = "1.2.840.10008.1.3.10"
# Pictures that are computed from others; a folder of slices may hold them beside the slices.
DERIVED = (*SEGMENTATION, "1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.30")
DEFLATED = "1.2.840.10008.1.2.1.99"
# JPEG baseline and extended, JPEG-LS near-lossless.
LOSSY = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81))
PIXELS = {0x7FE00008: "f4", 0x7FE00009: "f8", 0x7FE00010: ""}
MAX_FRAMES = 100_000
# Attributes of one file, those in sequences not counted; real files have some hundreds.
MAX_ELEMENTS = 50_000
# Exceptions from reading a dataset that does not follow the standard.
MALFORMED = (
    AttributeError, TypeError, ValueError, KeyError, IndexError, ArithmeticError, NotImplementedError, StopIteration,
)  # fmt: skip
DEFER_BYTES = 1 << 20
# Attributes that tell the volumes of a series apart, the most telling first; those of enhanced files with their group.
PHASES = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("", "TemporalPositionIdentifier"),
    ("", "TriggerTime"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("", "DiffusionBValue"),
    ("", "InversionTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("", "ImageType"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("", "AcquisitionNumber"),
    ("", "ConvolutionKernel"),
    ("", "AcquisitionTime"),
    ("", "ContentTime"),
)
# Spacing of pixels in the patient, and two attributes that may stand in for it with a note.
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip


class InDecoder(Exception):
    """The pixels are compressed: they are to be decoded in a process of its own."""


@dataclass(frozen=True, eq=False)
class Header:
    """One file: what all its frames share. ``bits``: (allocated, stored, highest); ``dtype``: of the stored pixels."""

    path: Path
    sop_class: str
    sop_instance: str
    study: str
    series: str
    frame_of_reference: str
    series_number: int
    instance_number: int
    description: str
    modality: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    bits: tuple[int, int, int]
    transfer_syntax: str
    padding: tuple[float, float] | None
    lossy: bool
    patient: tuple[tuple[str, str], ...]
    frames: tuple[Frame, ...] = field(default=(), repr=False)


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of one file.

    ``position``: centre of its first pixel; ``row``, ``column``: unit vectors along which the column and the row index
    grow; ``spacing_mm``: along these two, from the attribute ``spacing_from``; ``rescale``: (slope, intercept) or None
    where the file gives none; ``phase``: attributes that may tell it from another frame at the same place.
    """

    path: Path
    index: int
    position: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]
    spacing_mm: tuple[float, float]
    spacing_from: str
    thickness_mm: float | None
    rescale: tuple[float, float] | None
    stack: str
    phase: Mapping[str, Any]

    @cached_property
    def normal(self) -> tuple[float, ...]:
        return tuple(np.cross(self.row, self.column).tolist())


class NotAnImage(Exception):
    """A file that holds no picture: no DICOM, a report, a directory. ``sop_class`` is empty for no DICOM."""

    def __init__(self, sop_class: str = "") -> None:
        super().__init__(sop_class)
        self.sop_class = sop_class


@dataclass
class Opened:
    """A dataset without its pixels; ``pixels``: (tag, length in bytes or -1) of what follows, None for nothing."""

    dataset: Any
    transfer_syntax: str
    pixels: tuple[int, int] | None = None


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: the preamble, or, in files of before 1993, group 8 at once."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or bool(re.match(rb"\x08\x00[\x00-\x18]\x00(\w\w|..\x00\x00)", head, re.DOTALL))


def open_header(path: Path, limits: Limits) -> Opened:
    """Parse a DICOM file up to its pixels; `NotAnImage` for another format, `BadInput` for a damaged file."""
    try:
        if not looks_like_dicom(path):
            raise NotAnImage
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _parse(file, path, limits)
    except (NotAnImage, BadInput):
        raise
    except OSError as error:
        raise BadInput(f"{shown(path)}: could not be read ({error.strerror or error})") from error
    except Exception as error:  # pydicom raises all kinds; each of them is the file's fault
        raise damaged(path, error) from error


def sop_class_of(path: Path, limits: Limits) -> str:
    """What kind of DICOM object a file is; empty for no DICOM."""
    try:
        return _uid(open_header(path, limits).dataset, "SOPClassUID")
    except NotAnImage:
        return ""


def damaged(path: Path, error: Exception | str) -> BadInput:
    """One line for whatever a decoder says of a file."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    printable = "".join(c if c.isprintable() else "?" for c in reason.replace(str(path.parent), ""))
    return BadInput(f"{shown(path)}: is a damaged DICOM file ({printable}); copy it again")


def read_header(path: Path, limits: Limits) -> Header:
    """The frames of a DICOM image; `NotAnImage` or `BadInput` where it is none or cannot be used."""
    opened = open_header(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _header(opened, path)
    except (NotAnImage, BadInput):
        raise
    except Exception as error:
        raise damaged(path, error) from error


def _parse(file: BinaryIO, path: Path, limits: Limits) -> Opened:
    from pydicom.filereader import read_partial

    found: list[tuple[int, int]] = []

    elements = 0

    def at_pixels(tag: int, _: str | None, length: int) -> bool:
        nonlocal elements
        elements += 1
        if elements > MAX_ELEMENTS:
            raise damaged(path, f"it holds more than {MAX_ELEMENTS} attributes")
        if int(tag) in PIXELS:
            found.append((int(tag), -1 if length == 0xFFFFFFFF else int(length)))
        return int(tag) in PIXELS

    # A deflated file is inflated as a whole by pydicom: ask first how large it becomes.
    _check_deflated(file, path, limits)
    file.seek(0)
    dataset = read_partial(file, stop_when=at_pixels, defer_size=DEFER_BYTES, force=True)
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) or "1.2.840.10008.1.2"
    return Opened(dataset, syntax, found[0] if found else None)


def _check_deflated(file: BinaryIO, path: Path, limits: Limits) -> None:
    from pydicom.filereader import read_file_meta_info

    file.seek(128)
    if file.read(4) != b"DICM":
        return
    meta = read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return
    file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflater.eof and (block := inflater.unconsumed_tail or file.read(DEFER_BYTES)):
        size += len(inflater.decompress(block, DEFER_BYTES))
        if size > limits.max_bytes:
            raise BadInput(f"{shown(path)}: inflates to more than {limits.max_bytes:.3g} bytes; give a smaller file")
    if not inflater.eof:
        raise BadInput(f"{shown(path)}: its compressed data end early; copy it again")


def _header(opened: Opened, path: Path) -> Header:
    dataset, name = opened.dataset, shown(path)
    sop_class = _text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if sop_class == DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise NotAnImage(DIRECTORY)
    if "Rows" not in dataset:
        from pydicom.uid import UID

        if not sop_class or "Image" in UID(sop_class).name:
            raise damaged(path, "it ends before its pixels")
        raise NotAnImage(sop_class)
    shape = int(dataset.Rows), int(dataset.Columns)
    if min(shape) < 1:
        raise BadInput(f"{name}: the header claims {shape[1]}x{shape[0]} pixels; it is damaged")
    samples, kind = int(dataset.get("SamplesPerPixel", 1)), _text(dataset, "PhotometricInterpretation")
    if samples != 1 or (kind and not kind.startswith("MONOCHROME")):
        raise BadInput(
            f"{name}: holds {samples} values per voxel ({kind or 'color'}); give the slices, one intensity per voxel"
        )
    if opened.pixels is None:
        raise damaged(path, "it holds no pixels")
    dtype, bits = _stored(dataset, opened.pixels[0], path)
    count = int(dataset.get("NumberOfFrames", None) or 1)
    if not 1 <= count <= MAX_FRAMES:
        raise BadInput(f"{name}: the header claims {count} frames; it is damaged")
    _check_length(opened, count * shape[0] * shape[1] * bits[0], path)
    if "ModalityLUTSequence" in dataset:
        raise BadInput(f"{name}: its intensities follow a table (Modality LUT), which is not read; export it rescaled")
    frames = () if sop_class in DERIVED else tuple(frames_of(dataset, count, path))
    return Header(
        path=path,
        sop_class=_uid(dataset, "SOPClassUID"),
        sop_instance=_uid(dataset, "SOPInstanceUID"),
        study=_uid(dataset, "StudyInstanceUID"),
        series=_uid(dataset, "SeriesInstanceUID"),
        frame_of_reference=_uid(dataset, "FrameOfReferenceUID"),
        series_number=_whole(dataset, "SeriesNumber"),
        instance_number=_whole(dataset, "InstanceNumber"),
        description=_text(dataset, "SeriesDescription")[:40],
        modality=_text(dataset, "Modality").upper(),
        shape=shape,
        dtype=dtype,
        bits=bits,
        transfer_syntax=opened.transfer_syntax,
        padding=_padding(dataset),
        lossy=_text(dataset, "LossyImageCompression") == "01" or opened.transfer_syntax in LOSSY,
        patient=tuple((k, _text(dataset, k)) for k in PATIENT),
        frames=frames,
    )


def _stored(dataset: Any, tag: int, path: Path) -> tuple[np.dtype[Any], tuple[int, int, int]]:
    """Type of one stored pixel and its bits, which must make sense together."""
    allocated = int(dataset.BitsAllocated)
    if PIXELS[tag]:
        return np.dtype(PIXELS[tag]), (allocated, allocated, allocated - 1)
    stored = int(dataset.get("BitsStored", allocated))
    highest = int(dataset.get("HighBit", stored - 1))
    if allocated == 1:
        return np.dtype("u1"), (1, 1, 0)
    if allocated not in (8, 16, 32) or not 1 <= stored <= highest + 1 <= allocated:
        raise BadInput(f"{shown(path)}: stores {stored} of {allocated} bits up to bit {highest}; the header is damaged")
    signed = int(dataset.PixelRepresentation)
    return np.dtype(f"{'i' if signed else 'u'}{allocated // 8}"), (allocated, stored, highest)


def _check_length(opened: Opened, bits: int, path: Path) -> None:
    """Pixels stored as they are must be there in full; compressed ones are counted when they are decoded."""
    assert opened.pixels is not None
    length = opened.pixels[1]
    if length >= 0 and length < (bits + 7) // 8:
        raise damaged(path, "it holds fewer pixels than its header says")
    if length > path.stat().st_size and opened.transfer_syntax != DEFLATED:
        raise damaged(path, "it was cut off")


def frames_of(dataset: Any, count: int, path: Path) -> Iterator[Frame]:
    """Each frame of a file, in the order of the file; `BadInput` where one does not say where it lies."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence")
    if shared is None and each is None:
        if count > 1:
            raise BadInput(f"{shown(path)}: its {count} frames do not say where they lie; give a series of slices")
        yield _frame(_Groups(dataset, None, None), 0, path)
        return
    if each is None or len(each) != count:
        raise damaged(path, f"it describes {0 if each is None else len(each)} of its {count} frames")
    for index, item in enumerate(each):
        yield _frame(_Groups(dataset, shared, item), index, path)


class _Groups:
    """Attributes of one frame: its own functional groups, the shared ones, or the top of a classic file."""

    def __init__(self, dataset: Any, shared: Any, own: Any) -> None:
        self._top = dataset
        self._groups = [group for group in (own, shared) if group is not None]

    def get(self, sequence: str, keyword: str) -> Any:
        """The value, or None where it is absent or empty."""
        if not self._groups or not sequence:
            places = [self._top] if not sequence or not self._groups else []
        else:
            places = [items[0] for group in self._groups if (items := group.get(sequence))]
        values = (place.get(keyword) for place in places)
        return next((v for v in values if v is not None and not (isinstance(v, str) and not v.strip())), None)


def _frame(groups: _Groups, index: int, path: Path) -> Frame:
    name = shown(path)
    position = _numbers(groups.get("PlanePositionSequence", "ImagePositionPatient"), 3)
    direction = _numbers(groups.get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if position is None or direction is None:
        raise BadInput(
            f"{name}: does not say where its pixels lie (ImagePositionPatient, ImageOrientationPatient); "
            "give a series of slices"
        )
    row, column = np.array(direction[:3]), np.array(direction[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(row @ column) > 1e-2:
        raise BadInput(f"{name}: its direction (ImageOrientationPatient) is broken; export the series again")
    spacings = ((k, _numbers(groups.get("PixelMeasuresSequence", k), 2)) for k in SPACINGS)
    spacing_from, spacing = next(((k, s) for k, s in spacings if s), ("", None))
    if spacing is None or min(spacing) <= 0:
        raise BadInput(f"{name}: does not say how large its pixels are (PixelSpacing); export the series again")
    thickness = _numbers(groups.get("PixelMeasuresSequence", "SliceThickness"), 1)
    stack = groups.get("FrameContentSequence", "StackID")
    phase = {
        keyword: "/".join(map(str, v)) if not isinstance(v, str) and hasattr(v, "__iter__") else v
        for sequence, keyword in PHASES
        if (v := groups.get(sequence, keyword)) is not None
    }
    return Frame(
        path=path,
        index=index,
        position=position,
        row=tuple((row / lengths[0]).tolist()),
        column=tuple((column / lengths[1]).tolist()),
        # PixelSpacing is the distance of rows first, so of pixels down a column.
        spacing_mm=(spacing[1], spacing[0]),
        spacing_from=spacing_from,
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        rescale=_rescale(groups, name),
        stack=str(stack or ""),
        phase=phase,
    )


def _rescale(groups: _Groups, name: str) -> tuple[float, float] | None:
    pair = [groups.get("PixelValueTransformationSequence", f"Rescale{k}") for k in ("Slope", "Intercept")]
    if pair == [None, None]:
        return None
    slope, intercept = (default if v is None else float(v) for v, default in zip(pair, (1.0, 0.0), strict=True))
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise BadInput(f"{name}: a rescale slope of {slope:g}, intercept {intercept:g}, cannot be right")
    return slope, intercept


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None where there are none; ValueError for anything else."""
    if value is None:
        return None
    values = tuple(float(v) for v in (value if hasattr(value, "__iter__") else [value]))
    if not values:
        return None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError(f"{len(values)} numbers where {count} finite ones belong")
    return values


def _padding(dataset: Any) -> tuple[float, float] | None:
    """Lowest and highest stored number of pixels where nothing was acquired."""
    value = dataset.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    end = dataset.get("PixelPaddingRangeLimit")
    end = value if end is None or isinstance(end, bytes) else end
    return float(min(value, end)), float(max(value, end))


def _text(dataset: Any, keyword: str) -> str:
    value = dataset.get(keyword)
    return "".join(c if c.isprintable() else " " for c in str(value)).strip() if value is not None else ""


def _uid(dataset: Any, keyword: str) -> str:
    """A unique identifier, or nothing where it is none."""
    text = _text(dataset, keyword)
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else ""


def _whole(dataset: Any, keyword: str) -> int:
    try:
        return int(dataset.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0
