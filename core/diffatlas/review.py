"""The review of a cohort: what a person said of each case, kept so that a crash loses nothing.

``review.jsonl`` in the folder of a cohort's results holds one verdict a line; lines are only ever added, the last one
of a case counts, and a line that a crash cut short is left out. Labels that were accepted or corrected stand under the
case's name in ``reviewed/``; the cohort's own files stay as the run left them. ``review.csv`` is the table of it all.
"""

from __future__ import annotations

import csv
import getpass
import io as text_io
import json
import math
import os
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from diffatlas.io import atomic_write_bytes
from diffatlas.metrics import dice
from diffatlas.values import load, plain, value

FILE, TABLE, FOLDER = "review.jsonl", "review.csv", "reviewed"

State = Literal["to do", "accepted", "corrected", "rejected"]


@value(frozen=True)
class Verdict:
    """What was said of a case.

    ``labels``: the file in ``reviewed/``, "" where none is kept. ``run``: model, sha256 of its weights, and the report
    that the labels came from. ``volumes_ml``: of the kept labels. ``changed_dice``: structure name to the Dice of the
    kept labels with those of the run: 1 where nothing was changed by hand.
    """

    case: str
    state: State
    reason: str = ""
    who: str = ""
    when: str = ""
    labels: str = ""
    run: dict[str, str] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    changed_dice: dict[str, float] = field(default_factory=dict)


def read(folder: Path) -> dict[str, Verdict]:
    """The last verdict of each case in ``folder``; empty where nobody has reviewed yet."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"{folder / FILE}: cannot be read ({error.strerror or error})") from error
    verdicts: dict[str, Verdict] = {}
    for line in lines:
        try:
            verdict = load(Verdict, json.loads(line), FILE)
        except ValueError:
            continue  # cut short
        verdicts[verdict.case] = verdict
    return verdicts


def add(folder: Path, verdict: Verdict) -> None:
    """Write a verdict behind those that are there, and see it onto the disk."""
    line = json.dumps(plain(verdict), ensure_ascii=False) + "\n"
    path = folder / FILE
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line  # after a line that was cut short
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from error


def verdict(
    case: str, state: State, labels: LabelMap | None, made: LabelMap | None, report: dict[str, Any], reason: str = ""
) -> Verdict:
    """A verdict of now, by the user of this machine. ``labels``: those that are kept; ``made``: those of the run."""
    model = report.get("provenance", {}).get("model", {})
    run = {"model": str(model.get("name", "")), "sha256": str(model.get("sha256", "")), "report": f"{case}.json"}
    changed: dict[str, float] = {}
    if labels is not None and made is not None:
        for index, name in enumerate(labels.scheme.names, start=1):
            a, b = labels.data == index, made.data == index
            changed[name] = dice(a, b) if a.any() or b.any() else 1.0
    return Verdict(
        case,
        state,
        reason,
        who=_who(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        labels="" if labels is None else f"{FOLDER}/{case}_labels.nii.gz",
        run=run if report else {},
        volumes_ml={} if labels is None else labels.volumes_ml(),
        changed_dice=changed,
    )


def doubt_of(report: dict[str, Any]) -> float:
    """How much the run itself doubts a case, 0 for none; larger is worse. Cases are shown in this order.

    The last guidance residual (how far the generated image is from the patient's, model units), and 1 more for each
    structure that was not found and each note that says so of the place.
    """
    frames = report.get("frames") or [{}]
    residual = frames[-1].get("guidance_residual")
    doubt = float(residual) if isinstance(residual, (int, float)) and math.isfinite(residual) else 0.0
    doubt += sum(1.0 for ml in dict(report.get("volumes_ml") or {}).values() if not ml)
    return doubt + sum(1.0 for note in report.get("notes") or () if "not found" in str(note))


def write_table(folder: Path, order: list[str], reports: dict[str, dict[str, Any]]) -> Path:
    """``review.csv``: a row for each case in ``order``, with the volumes of its kept labels, else of its run."""
    verdicts = read(folder)
    volumes, changed = {}, {}
    for case in order:
        said = verdicts.get(case)
        kept = said is not None and bool(said.volumes_ml)
        volumes[case] = said.volumes_ml if said and kept else dict(reports.get(case, {}).get("volumes_ml") or {})
        changed[case] = said.changed_dice if said else {}
    names = list(dict.fromkeys(name for case in order for name in volumes[case]))
    out = text_io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    heads = [f"{name}, ml" for name in names] + [f"{name}, Dice with the run" for name in names]
    rows.writerow(["case", "status", "reason", "who", "when", "model", "doubt", *heads])
    for case in order:
        said, report = verdicts.get(case, Verdict(case, "to do")), reports.get(case, {})
        model = said.run.get("model") or report.get("provenance", {}).get("model", {}).get("name", "")
        figures = [volumes[case].get(name) for name in names], [changed[case].get(name) for name in names]
        words = [case, said.state, said.reason, said.who, said.when, model, f"{doubt_of(report):.3f}" if report else ""]
        rows.writerow([*words, *("" if v is None else f"{v:.4f}" for part in figures for v in part)])
    atomic_write_bytes(folder / TABLE, out.getvalue().encode())
    return folder / TABLE


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a machine without an account for this user
        return "unknown"
