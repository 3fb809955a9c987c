"""Verdicts: what a person said of each case, kept so that a crash loses nothing.

``review.jsonl`` in the folder of a cohort's results holds one verdict a line; lines are only ever added, the last one
of a case counts, and a line that a crash cut short is left out. Labels that were accepted or corrected stand under the
case's name in ``reviewed/``; the cohort's own files stay as the run left them.
"""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from diffatlas.metrics import dice
from diffatlas.values import load, plain, value

FILE, FOLDER = "review.jsonl", "reviewed"

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

    @property
    def agreement(self) -> float | None:
        """The mean over the structures of ``changed_dice``; None where no labels are kept."""
        return fmean(self.changed_dice.values()) if self.changed_dice else None


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


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a machine without an account for this user
        return "unknown"
