"""One table of what a cohort left: a row a case, with volumes, seconds and outliers.

A structure's volume is an outlier where its robust z exceeds `OUTLIER_Z`: z = 0.6745 (x - median) / MAD, with MAD the
median absolute deviation, so that z of a normal distribution has the usual meaning (Iglewicz and Hoaglin 1993).
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.cohort.attempts import FOLDER
from diffatlas.cohort.done import MARK
from diffatlas.errors import BadInput
from diffatlas.io import atomic_path

OUTLIER_Z = 3.5
# Fewer values than this have no spread worth the name.
MIN_CASES = 8
_NORMAL = 0.6745


@dataclass
class Row:
    """One case. ``state``: done or failed; ``more``: columns that only some reports have (confidence, doubt)."""

    case: str
    state: str
    reason: str = ""
    image: str = ""
    labels: str = ""
    model: str = ""
    seed: int | None = None
    steps: int | None = None
    seconds: float | None = None
    volumes_ml: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def collect(folder: Path) -> list[Row]:
    """A row for every case of which ``folder`` (or one below it) holds a report or a failed attempt, by name."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; give the folder that diffatlas batch wrote to")
    rows = {(row.labels or row.case): row for row in _done(folder)}
    done = {row.case for row in rows.values()}
    for row in _failed(folder):
        if row.case not in done:
            rows[f"failed {row.case}"] = row
    if not rows:
        raise BadInput(f"{folder}: holds no report of diffatlas batch")
    return sorted(rows.values(), key=lambda row: row.case)


def structures_of(rows: Iterable[Row]) -> list[str]:
    """The structures that any case has, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.volumes_ml))


def robust_z(values: Iterable[float]) -> NDArray[np.float64]:
    """Robust z of each value; NaN for values that are NaN, and for all where there are fewer than `MIN_CASES`.

    Where more than half of the values are the same, the mean absolute deviation takes the place of the median one.
    """
    data = np.array(list(values), dtype=np.float64)
    known = data[~np.isnan(data)]
    out = np.full(data.shape, np.nan)
    if len(known) < MIN_CASES:
        return out
    middle = float(np.median(known))
    apart = np.abs(known - middle)
    spread = float(np.median(apart)) / _NORMAL or 1.2533 * float(apart.mean())
    out = np.where(np.isnan(data), np.nan, 0.0) if spread == 0 else (data - middle) / spread
    return np.asarray(out, dtype=np.float64)


def table_of(rows: list[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines: the case, volumes (ml) and robust z of every structure, and which of them are outliers."""
    names = structures_of(rows)
    zs = {name: robust_z(row.volumes_ml.get(name, math.nan) for row in rows) for name in names}
    more = sorted({key for row in rows for key in row.more})
    columns = ["case", "state", "outliers", *(f"{name} ml" for name in names), *(f"{name} z" for name in names), *more]
    columns += ["model", "seed", "steps", "seconds", "image", "labels", "reason"]
    lines = []
    for at, row in enumerate(rows):
        far = [name for name in names if abs(zs[name][at]) > OUTLIER_Z]
        volumes = [_cell(row.volumes_ml.get(name, math.nan), ".4g") for name in names]
        z = [_cell(float(zs[name][at]), ".2f") for name in names]
        seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
        rest = [row.model, row.seed, row.steps, seconds, row.image, row.labels, row.reason]
        extra = [row.more.get(key, "") for key in more]
        lines.append([row.case, row.state, "; ".join(far), *volumes, *z, *extra, *rest])
    return columns, [["" if cell is None else cell for cell in line] for line in lines]


def write_table(rows: list[Row], path: Path) -> None:
    """The table as CSV (UTF-8), whole or not at all."""
    columns, lines = table_of(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    with atomic_path(path) as part:
        part.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))


def _cell(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _done(folder: Path) -> Iterator[Row]:
    for path in _files(folder, ".json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if MARK not in record:
                continue
            provenance = record["provenance"]
            request, source = provenance["request"], provenance.get("source") or {}
            volumes = {str(k): float(v) for k, v in record["volumes_ml"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # another kind of JSON file
        segmentation = path.name.removesuffix(".json").endswith("_dseg")
        usual = f"{path.stem}.nii.gz" if segmentation else f"{path.stem}_labels.nii.gz"
        labels = path.with_name(Path(str(record[MARK].get("labels") or usual)).name)
        yield Row(
            case=str(record[MARK].get("case") or path.name.removesuffix(".json")),
            state="done",
            image=str(source.get("path") or ""),
            labels=os.path.relpath(labels, folder),
            model=str(provenance.get("model", {}).get("name", "")),
            seed=request.get("seed"),
            steps=len(record.get("frames") or []) or None,
            seconds=provenance.get("seconds"),
            volumes_ml=volumes,
            more=_numbers(record, volumes),
        )


def _numbers(record: dict[str, Any], volumes: dict[str, float]) -> dict[str, Any]:
    """What some reports have beside: one number (``confidence``, ``doubt``), or one or an interval a structure."""
    found: dict[str, Any] = {}
    for key in ("confidence", "doubt", "cut_off", "volumes_interval_ml", "volume_intervals_ml"):
        value = record.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[key] = f"{value:.4g}"
        elif isinstance(value, dict):
            for name, item in value.items():
                if name in volumes and isinstance(item, (int, float)):
                    found[f"{name} {key}"] = f"{item:.4g}"
                elif name in volumes and isinstance(item, (list, tuple)) and len(item) == 2:
                    found[f"{name} ml low"], found[f"{name} ml high"] = (f"{float(v):.4g}" for v in item)
    return found


def _failed(folder: Path) -> Iterator[Row]:
    """The last attempt at every case, where that failed."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in _files(folder, ".jsonl", records=True):
        key, _, number = path.name.removesuffix(".jsonl").rpartition(".")
        if key and number.isdigit():
            at = f"{path.parent}/{key}"
            if int(number) >= newest.get(at, (-1, path))[0]:
                newest[at] = (int(number), path)
    for _, path in newest.values():
        try:
            last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        except (OSError, ValueError, IndexError):
            continue
        if isinstance(last, dict) and last.get("state") == "failed":
            yield Row(
                str(last.get("name", path.stem)), "failed", str(last.get("reason", "")), seconds=last.get("seconds")
            )


def _files(folder: Path, suffix: str, *, records: bool = False) -> Iterator[Path]:
    """Files below ``folder``, those in folders of attempts only with ``records``."""
    for here, below, names in os.walk(folder):
        below.sort()
        inside = Path(here).name == FOLDER
        if not records:
            below[:] = [name for name in below if name != FOLDER]
        if inside == records:
            yield from (Path(here, name) for name in sorted(names) if name.endswith(suffix))
