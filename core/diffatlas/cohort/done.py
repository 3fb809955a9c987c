"""Whether what a case has left is what a request would give: sizes and times first, hashes where these differ.

A report is written last and vouches for its labels. Its part ``cohort`` holds the request, the size and time of the
volume's files and of the labels, and the hash of the labels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffatlas import session
from diffatlas.cohort.case import Case
from diffatlas.engine.frame import Result
from diffatlas.engine.request import Request
from diffatlas.engine.run_record import read_report, report_of, to_json
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import UNREFERENCED, atomic_path, atomic_paths, read_volume, write_label_map

MARK = "cohort"


class Results:
    """The results of requests: whether they are there, and how they are written. ``weights_of``: as `Cohort`'s."""

    def __init__(self, weights_of: Callable[[str], str] | None = None) -> None:
        self._ask = weights_of or (lambda name: session.model_card(name).sha256)
        self._weights: dict[str, str] = {}

    def are_there(self, case: Case, request: Request) -> bool:
        """Whether labels and report stand there as ``request`` would give them: same volume, place, weights, options.

        The volume is read only where the size or time of its files has changed.
        """
        try:
            record = read_report(case.report)
            mark, provenance = record[MARK], record["provenance"]
            if mark["request"] != request.to_json() or mark.get("modality") != case.modality:
                return False
            if mark.get("format", "nifti") != case.format:
                return False
            model = provenance["model"]
            if model["sha256"] != self._weights_of(str(model["name"]), request):
                return False
            labels, source = stamp_of(case.labels), stamp_of(case.path)
            same_labels, same_source = mark.get("labels_stamp") == labels, mark.get("source_stamp") == source
            if same_labels and same_source:
                return True
            if not same_labels and mark["labels_sha256"] != file_sha256(case.labels):
                return False
            if not same_source:
                volume = read_volume(case.path)
                if provenance["source"]["sha256"] != volume.sha256() or mark["affine"] != volume.grid.affine.tolist():
                    return False
            with suppress(BadInput):  # so that the next look is quick again
                write_text(case.report, {**record, MARK: {**mark, "labels_stamp": labels, "source_stamp": source}})
            return True
        except (BadInput, OSError, KeyError, TypeError):
            return False

    def write(self, case: Case, volume: Volume, request: Request, result: Result, source_stamp: list[int]) -> None:
        """The labels, and the report that vouches for them; an older report does not outlive its labels.

        ``source_stamp``: `stamp_of` the volume's files before they were read.
        """
        if case.format != "nifti" and volume.series is None:
            result = replace(result, notes=(*result.notes, UNREFERENCED))
        with atomic_paths([case.labels, case.report]) as (labels, report):
            write_label_map(result.labels, labels, source=volume, format=case.format)
            stat = labels.stat()  # renaming changes neither size nor time
            mark = {
                "case": case.name,
                "request": request.to_json(),
                "modality": case.modality,
                "format": case.format,
                "labels": case.labels.name,
                "affine": volume.grid.affine.tolist(),
                "labels_sha256": file_sha256(labels),
                "labels_stamp": [1, stat.st_size, stat.st_mtime_ns],
                "source_stamp": source_stamp,
            }
            text = to_json({**report_of(result, case.path), MARK: mark}) + "\n"
            report.write_text(text, encoding="utf-8")

    def _weights_of(self, name: str, request: Request) -> str:
        """The hash in the card of the model that a run of ``request`` chose; cards are read once in a run."""
        wanted = name if request.model == "auto" else request.model
        if wanted not in self._weights:
            self._weights[wanted] = self._ask(wanted)
        return self._weights[wanted]


def stamp_of(path: Path) -> list[int]:
    """Files, bytes and newest time (ns) of a volume: of one file, or of all in a DICOM folder."""
    if not path.is_dir():
        stat = path.stat()
        return [1, stat.st_size, stat.st_mtime_ns]
    with os.scandir(path) as entries:
        stats = [entry.stat() for entry in entries if entry.is_file()]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, record: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(record) + "\n", encoding="utf-8")
