"""A tree of DICOM files: one case a series, chosen by modality and description; only headers are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffatlas.cohort.case import Case
from diffatlas.cohort.find import check_results
from diffatlas.errors import BadInput
from diffatlas.io import is_dicom

_TAGS: list[str] = ["SeriesInstanceUID", "Modality", "SeriesDescription", "PatientID", "SeriesNumber"]
# Objects of these kinds hold no image of the patient.
_NOT_IMAGES = {"SR", "PR", "KO", "SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC"}


@dataclass
class Series:
    """What the headers of a series say, and where its files lie: folder to names."""

    uid: str
    modality: str
    description: str
    patient: str
    number: str
    files: dict[Path, list[str]] = field(default_factory=dict)


def find_dicom(
    roots: Sequence[Path], output: Path, modalities: Sequence[str] = (), description: str | None = None
) -> tuple[list[Case], list[str]]:
    """A case for every image series below ``roots``, in the order of patient and series, and notes.

    ``modalities``: DICOM's codes (CT, MR), none for all; ``description``: a regular expression that is looked for in
    the series' description, capital letters or not. A series whose files lie in several folders is a case that fails.
    """
    try:
        wanted = None if description is None else re.compile(description, re.IGNORECASE)
    except re.error as error:
        raise BadInput(f"the description {description!r} is not a regular expression ({error})") from error
    found: dict[str, Series] = {}
    alone: dict[Path, set[str]] = {}
    for root in roots:
        if not root.is_dir():
            raise BadInput(f"{root}: no such folder; give a folder of DICOM files")
        for path in _files(root):
            series = _header(path)
            if series is None:
                continue
            kept = found.setdefault(series.uid, series)
            kept.files.setdefault(path.parent, []).append(path.name)
            alone.setdefault(path.parent, set()).add(series.uid)
    codes = {code.upper() for code in modalities}
    chosen = [
        series
        for series in found.values()
        if series.modality not in _NOT_IMAGES
        and (not codes or series.modality in codes)
        and (wanted is None or wanted.search(series.description))
    ]
    if not chosen:
        have = sorted({f"{s.modality} {s.description}".strip() for s in found.values()})
        raise BadInput(f"{', '.join(map(str, roots))}: no such series; there are: {'; '.join(have[:8]) or 'none'}")
    cases = [_case(series, alone, output) for series in sorted(chosen, key=lambda s: (s.patient, s.number, s.uid))]
    check_results(cases)
    skipped = len(found) - len(chosen)
    return cases, [f"{skipped} other series left out"] if skipped else []


def _case(series: Series, alone: dict[Path, set[str]], output: Path) -> Case:
    """``patient_number_uid``: the end of the identifier tells series apart that say nothing else of themselves."""
    tail = series.uid.rpartition(".")[2][-12:] or "series"
    parts = [re.sub(r"[^A-Za-z0-9-]+", "-", part).strip("-") for part in (series.patient, series.number, tail)]
    name = "_".join(part for part in parts if part)
    folder, names = next(iter(series.files.items()))
    problem = ""
    if len(series.files) > 1:
        others = ", ".join(str(path) for path in list(series.files)[:3])
        problem = f"series {series.uid}: its files lie in {len(series.files)} folders ({others}); bring them together"
    path = folder if len(alone[folder]) == 1 else folder / min(names)
    return Case(name, path, output, problem=problem)


def _files(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and name != "DICOMDIR" and is_dicom(path):
                yield path


def _header(path: Path) -> Series | None:
    """What a file says of its series; None where it is no image or cannot be read."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError):
        return None
    uid = str(header.get("SeriesInstanceUID", "") or "")
    if not uid:
        return None
    text = {
        key: str(header.get(key, "") or "") for key in ("Modality", "SeriesDescription", "PatientID", "SeriesNumber")
    }
    return Series(uid, text["Modality"].upper(), text["SeriesDescription"], text["PatientID"], text["SeriesNumber"])
