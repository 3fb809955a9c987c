"""A table of cases: CSV with a header, or JSON lines, with the columns path, id, modality and roi.

``path`` is needed; relative ones are taken from the table's own folder. ``id`` names the case, ``modality`` is ct or
mr, ``roi`` X0:X1,Y0:Y1,Z0:Z1 in voxels (in JSON also three pairs of numbers). Other columns are noted and not read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffatlas.cohort.case import Case
from diffatlas.cohort.find import check_results, names_of
from diffatlas.engine.request import Roi
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality

COLUMNS = ("path", "id", "modality", "roi")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_ROI = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f/\\:*?\"<>|]")


def is_manifest(path: Path) -> bool:
    """Whether a file is a table of cases, by its name."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_manifest(path: Path, output: Path) -> tuple[list[Case], list[str]]:
    """The cases that a table lists, in its order, and notes. A line that makes no sense is a case that fails.

    Raises `BadInput` where it is no such table, or two lines have one id.
    """
    rows = list(_json_rows(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path))
    if not rows:
        raise BadInput(f"{path}: lists no case")
    unknown = sorted({key for _, row in rows for key in row if key and key not in COLUMNS})
    notes = [f"{path.name}: columns not read: {', '.join(unknown)}; known are {', '.join(COLUMNS)}"] if unknown else []
    files = [path.parent / str(row.get("path") or "") for _, row in rows]
    given = [str(row.get("id") or "").strip() for _, row in rows]
    made = iter(names_of([file for file, name in zip(files, given, strict=True) if not name]))
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for (line, row), file, name in zip(rows, files, given, strict=True):
        name = name or next(made)
        if _NOT_IN_NAMES.search(name) or name in (".", ".."):
            raise BadInput(f"{path}, line {line}: the id {name!r} cannot be part of a file name")
        if name.casefold() in seen:
            raise BadInput(f"{path}: lines {seen[name.casefold()]} and {line} have the id {name}; give each its own")
        seen[name.casefold()] = line
        problem, roi, modality = _checked(row, file)
        where = f"{path.name}, line {line}: {problem}" if problem else ""
        cases.append(Case(name, file, output, problem=where, roi=roi, modality=modality))
    check_results(cases)
    return cases, notes


def _checked(row: Mapping[str, Any], file: Path) -> tuple[str, Roi | None, Modality | None]:
    """What is wrong with a line, its region and its modality."""
    named: dict[str, Modality | None] = {"": None, "ct": "ct", "mr": "mr", "mri": "mr"}
    text = str(row.get("modality") or "").strip().lower()
    if not row.get("path"):
        return "names no path", None, None
    if not file.exists():
        return f"{file}: no such file", None, None
    if text not in named:
        return f"the modality {text[:40]!r} is neither ct nor mr", None, None
    try:
        return "", _roi(row.get("roi")), named[text]
    except (TypeError, ValueError):
        return f"the roi {row['roi']!r} is not X0:X1,Y0:Y1,Z0:Z1 in voxels", None, None


def _roi(value: Any) -> Roi | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        match = _ROI.fullmatch(re.sub(r"\s", "", value))
        if match is None:
            raise ValueError
        value = [(match[i], match[i + 1]) for i in (1, 3, 5)]
    (x0, x1), (y0, y1), (z0, z1) = ((int(low), int(high)) for low, high in value)
    if x0 >= x1 or y0 >= y1 or z0 >= z1 or min(x0, y0, z0) < 0:
        raise ValueError
    return (x0, x1), (y0, y1), (z0, z1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a text file; save the table as CSV (UTF-8)") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = _text(path).splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    columns = [column.strip().lower() for column in next(csv.reader([header], delimiter=delimiter), [])]
    if "path" not in columns:
        raise BadInput(f"{path}: the header needs the column path (and may have {', '.join(COLUMNS[1:])})")
    reader = csv.reader(lines[1:], delimiter=delimiter)
    for cells in reader:
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if any(row.values()):
            yield reader.line_num + 1, row


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}, line {number}: not JSON; give one object a line") from error
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number}: is not an object with the key path")
        yield number, row
