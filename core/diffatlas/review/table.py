"""The table of a review, ``review.csv``, and the order in which its cases are shown."""

from __future__ import annotations

import csv
import io as text_io
import math
from pathlib import Path
from typing import Any

from diffatlas.io import atomic_write_bytes
from diffatlas.review.verdicts import Verdict, read

TABLE = "review.csv"


def doubt_of(report: dict[str, Any]) -> float:
    """How much the run itself doubts a case, 0 for none; larger is worse. Cases are shown in this order.

    The expected share of wrong labels where the report has one (``doubt``), else the last guidance residual (how far
    the generated image is from the patient's, model units); and 1 more for each structure that was not found and each
    note that says so of the place.
    """
    frames = report.get("frames") or [{}]
    residual = report.get("doubt", frames[-1].get("guidance_residual"))
    doubt = float(residual) if isinstance(residual, (int, float)) and math.isfinite(residual) else 0.0
    doubt += sum(1.0 for ml in dict(report.get("volumes_ml") or {}).values() if not ml)
    return doubt + sum(1.0 for note in report.get("notes") or () if "not found" in str(note))


def write_table(folder: Path, order: list[str], reports: dict[str, dict[str, Any]]) -> Path:
    """``review.csv``: a row for each case in ``order``, with the volumes of its kept labels, else of its run.

    Beside a volume stands the interval in which nine of ten true volumes lie, where the model's card has a calibration
    and nobody has changed the labels.
    """
    verdicts = read(folder)
    volumes, changed = {}, {}
    for case in order:
        said = verdicts.get(case)
        kept = said is not None and bool(said.volumes_ml)
        volumes[case] = said.volumes_ml if said and kept else dict(reports.get(case, {}).get("volumes_ml") or {})
        changed[case] = said.changed_dice if said else {}
    between = {case: _intervals(reports.get(case, {}), verdicts.get(case)) for case in order}
    names = list(dict.fromkeys(name for case in order for name in volumes[case]))
    out = text_io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    ends = [(name, end) for name in names if any(name in between[case] for case in order) for end in (0, 1)]
    heads = [f"{name}, ml" for name in names] + [f"{name}, {('low', 'high')[end]}, ml" for name, end in ends]
    heads += [f"{name}, Dice with the run" for name in names]
    rows.writerow(["case", "status", "reason", "who", "when", "model", "doubt", *heads])
    for case in order:
        said, report = verdicts.get(case, Verdict(case, "to do")), reports.get(case, {})
        model = said.run.get("model") or report.get("provenance", {}).get("model", {}).get("name", "")
        limits = [between[case][name][end] if name in between[case] else None for name, end in ends]
        figures = [volumes[case].get(name) for name in names], limits, [changed[case].get(name) for name in names]
        words = [case, said.state, said.reason, said.who, said.when, model, f"{doubt_of(report):.3f}" if report else ""]
        rows.writerow([*words, *("" if v is None else f"{v:.4f}" for part in figures for v in part)])
    atomic_write_bytes(folder / TABLE, out.getvalue().encode())
    return folder / TABLE


def _intervals(report: dict[str, Any], said: Verdict | None) -> dict[str, tuple[float, float]]:
    """Structure name to low and high volume, ml; empty where there is none, or it is of other labels."""
    if said is not None and said.state == "corrected":
        return {}
    try:
        return {str(k): (float(v[0]), float(v[1])) for k, v in dict(report.get("volumes_interval_ml") or {}).items()}
    except (TypeError, ValueError, IndexError, KeyError):
        return {}
