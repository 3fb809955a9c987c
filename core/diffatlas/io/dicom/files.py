"""Which files make up what the user named: a folder with all below it, a DICOMDIR, or one file and its series."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas.errors import BadInput
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.header import (
    DERIVED,
    DIRECTORY,
    MALFORMED,
    Header,
    NotAnImage,
    damaged,
    open_header,
    read_header,
)
from diffatlas.io.source import Limits

MAX_FILES = 50_000
# Names that only DICOM files carry: one of these that is no DICOM is a damaged slice.
SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")


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


@dataclass(frozen=True)
class Found:
    """The headers of all images, and the file that the user named, None for a folder."""

    headers: tuple[Header, ...]
    chosen: Path | None


def find(path: Path, limits: Limits) -> Found:
    """Headers of the images in a folder and below it, or of the series that one file belongs to.

    Files of other formats, reports, and pictures computed from the slices (segmentations, doses) are left out.
    A damaged slice raises `BadInput`, wherever it lies: what cannot be read may be a part of the volume.
    """
    if path.is_dir():
        return Found(_in_folder(path, limits), None)
    try:
        header = read_header(path, limits)
    except NotAnImage as error:
        if error.sop_class == DIRECTORY:
            return Found(_in_folder(path.parent, limits), None)
        what = "is a DICOM file without an image" if error.sop_class else "is not a DICOM file, whatever its name says"
        raise BadInput(f"{shown(path)}: {what}; give a slice or the folder of the series") from error
    if len(header.frames) > 1:
        return Found((header,), path)
    beside = [p for p in _listed(path.parent) if p != path]
    others = _headers(beside, limits, lambda p: _pattern(p) == _pattern(path))
    return Found((header, *(h for h in others if (h.study, h.series) == (header.study, header.series))), path)


def _in_folder(folder: Path, limits: Limits) -> tuple[Header, ...]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        files += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
        if len(files) > MAX_FILES:
            raise BadInput(f"{shown(folder)}: holds more than {MAX_FILES} files; give the folder of one study")
    headers = _headers(files, limits, lambda p: p.suffix.lower() in SUFFIXES)
    if not headers:
        raise BadInput(
            f"{shown(folder)}: this folder holds no DICOM series; give the folder with the slices, or a file"
        )
    _check_directory(folder, headers, limits)
    return headers


def _listed(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir())
    if len(files) > MAX_FILES:
        raise BadInput(f"{shown(folder)}: holds more than {MAX_FILES} files; move the series into a folder of its own")
    return files


def _headers(files: Iterable[Path], limits: Limits, is_slice: Any) -> tuple[Header, ...]:
    """Headers of all images among the files; ``is_slice(path)``: whether a file that is no DICOM should be one."""
    headers: list[Header] = []
    strangers: list[Path] = []
    for path in files:
        try:
            header = read_header(path, limits)
        except NotAnImage as error:
            if not error.sop_class:
                strangers.append(path)
            continue
        if header.sop_class not in DERIVED:
            headers.append(header)
    patterns = {_pattern(header.path) for header in headers}
    for path in strangers:
        if is_slice(path) or _pattern(path) in patterns:
            raise BadInput(
                f"{shown(path)}: is named as a slice but holds no DICOM; copy it again, or move it elsewhere"
            )
    return tuple(headers)


def _pattern(path: Path) -> tuple[Path, str]:
    """What the names of the slices of a series have in common: all but their numbers."""
    return path.parent, re.sub(r"\d+", "#", path.name)


def _check_directory(folder: Path, headers: tuple[Header, ...], limits: Limits) -> None:
    """A DICOMDIR lists every file of its medium: a slice that it names in a series at hand must be there."""
    path = next((p for p in sorted(folder.iterdir()) if p.name.upper() == "DICOMDIR" and p.is_file()), None)
    if path is None:
        return
    there = {header.sop_instance for header in headers}
    series = {header.series for header in headers}
    try:
        opened = open_header(path, limits)
        missing = [name for uid, name in _listed_slices(opened.dataset, series) if uid not in there]
    except NotAnImage:
        return
    except BadInput:
        raise
    except MALFORMED as error:
        raise damaged(path, error) from error
    if missing:
        printable = "".join(c if c.isprintable() else "?" for c in missing[0])[:80]
        raise BadInput(
            f"{shown(path)}: names {printable}, which is not there; {len(missing)} missing, copy the disc again"
        )


def _listed_slices(dataset: Any, series: set[str]) -> list[tuple[str, str]]:
    """(SOP instance, file) of the images that a DICOMDIR lists below these series (PS3.3 F.3)."""
    records = {item.seq_item_tell: item for item in dataset.DirectoryRecordSequence}
    found: list[tuple[str, str]] = []
    for record in records.values():
        if record.get("DirectoryRecordType") != "SERIES" or str(record.get("SeriesInstanceUID", "")) not in series:
            continue
        at, seen = int(record.get("OffsetOfReferencedLowerLevelDirectoryEntity", 0)), set[int]()
        while at in records and at not in seen:
            seen.add(at)
            image = records[at]
            if image.get("DirectoryRecordType") == "IMAGE":
                file = image.get("ReferencedFileID", "")
                name = file if isinstance(file, str) else "/".join(map(str, file))
                found.append((str(image.get("ReferencedSOPInstanceUIDInFile", "")), name))
            at = int(image.get("OffsetOfTheNextDirectoryRecord", 0))
    return found
