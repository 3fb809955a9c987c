"""A case of a cohort: one volume, and the names of the files that it leaves."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffatlas.engine.request import Roi
from diffatlas.geometry.volume import Modality
from diffatlas.io import LabelFormat

READABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

State = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One volume. ``name`` is unique in a cohort; ``labels`` and ``report`` (.json) are what it leaves in ``output``,
    under ``stem`` where they are not called after the case.

    ``problem``: why it cannot be read, known before it is tried (a link that leads nowhere). ``roi`` and ``modality``
    are the case's own, from a manifest, or named for all. ``format``: of the labels, .nii.gz or .dcm.
    """

    name: str
    path: Path
    output: Path
    stem: str = ""
    problem: str = ""
    roi: Roi | None = None
    modality: Modality | None = None
    format: LabelFormat = "nifti"

    @property
    def labels(self) -> Path:
        suffix = ".nii.gz" if self.format == "nifti" else ".dcm"
        return self.output / f"{self.stem or f'{self.name}_labels'}{suffix}"

    @property
    def report(self) -> Path:
        return self.output / f"{self.stem or self.name}.json"

    @property
    def key(self) -> str:
        """A file name for what is kept of the case beside its results, whatever characters the name has."""
        if re.fullmatch(r"[\w+= -][\w.+= -]{0,99}", self.name, re.ASCII):
            return self.name
        return "case-" + hashlib.sha256(self.name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Status:
    """How far a case is. ``reason``: one line, why it failed or that it was left out as done; ``fault``: the failure is
    the program's and not the file's. ``step`` of ``total`` steps are made; ``seconds`` it took, once it is done.
    """

    name: str
    state: State = "pending"
    reason: str = ""
    fault: bool = False
    step: int = 0
    total: int = 0
    seconds: float | None = None


def stem_of(path: Path) -> str:
    """The name without the suffix of a volume; the whole name where it has none."""
    lower = path.name.lower()
    return next((path.name[: -len(suffix)] for suffix in READABLE if lower.endswith(suffix)), path.name)
