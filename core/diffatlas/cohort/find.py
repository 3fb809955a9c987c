"""The cases in files, folders, DICOM folders and patterns (``scans/*/T1.nii.gz``)."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from diffatlas.cohort.case import READABLE, Case, stem_of
from diffatlas.errors import BadInput
from diffatlas.io import is_dicom_folder, named_as_labels


def find_cases(inputs: Sequence[Path], output: Path) -> tuple[list[Case], list[str]]:
    """The cases in files, DICOM folders, folders of these and patterns, in the order of their names, and notes.

    Of a folder its own files are taken, not those of folders below, except that such a folder may hold a DICOM series.
    Files that are named as label maps (``_label``, ``_seg``, ``_mask``) are left out, which is noted. A link that leads
    nowhere is a case, which fails. Cases are called after their files, and after the folders in which they differ where
    two have one name. Raises `BadInput` where there is no case, or the output folder is one of the inputs.
    """
    paths: list[Path] = []
    notes: list[str] = []
    for path in _expanded(inputs):
        if _leads_nowhere(path) or path.is_file() or (path.is_dir() and _holds_dicom(path)):
            paths.append(path)
            continue
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder")
        if path.resolve() == output.resolve():
            raise BadInput(f"{output}: is the input folder; give the results a folder of their own")
        volumes = [p for p in _inside(path) if _is_case(p)]
        labels = [p for p in volumes if named_as_labels(p)]
        if labels:
            count = "1 file" if len(labels) == 1 else f"{len(labels)} files"
            notes.append(f"{path}: {count} named as label maps left out ({labels[0].name} ...)")
        left_out = set(labels)
        paths += [p for p in volumes if p not in left_out]
    if not paths:
        raise BadInput(f"{', '.join(map(str, inputs))}: no volume there; give {', '.join(READABLE)} or DICOM folders")
    return cases_of(paths, output), notes


def cases_of(paths: Sequence[Path], output: Path) -> list[Case]:
    """A case for every file, each named in its own way; `BadInput` where a result would replace an input."""
    paths = list(dict.fromkeys(paths))
    names = names_of(paths)
    problems = {path: "is a link that leads nowhere" for path in paths if _leads_nowhere(path)}
    cases = [
        Case(name, path, output, problem=f"{path}: {problems[path]}" if path in problems else "")
        for name, path in zip(names, paths, strict=True)
    ]
    check_results(cases)
    return cases


def check_results(cases: Sequence[Case]) -> None:
    """`BadInput` where a case would write over the volume of one."""
    folders = {os.path.realpath(case.output) for case in cases}
    inputs = {os.path.realpath(case.path) for case in cases if os.path.realpath(case.path.parent) in folders}
    if not inputs:
        return
    for case in cases:
        for written in (case.labels, case.report):
            if os.path.realpath(written) in inputs:
                raise BadInput(f"{written}: is also an input; give the results a folder of their own")


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name of its own for every path: its stem; with the folders in which they differ where stems are the same; with
    the suffix where only that differs."""
    names = [stem_of(path) for path in paths]
    clashing = _clashing(names)
    if clashing:
        common = Path(os.path.commonpath([paths[i].absolute().parent for i in clashing]))
        for i in clashing:
            above = paths[i].absolute().parent.relative_to(common).parts
            names[i] = "_".join((*above, names[i]))
    for i in _clashing(names):
        names[i] += paths[i].name[len(stem_of(paths[i])) :]
    for i in _clashing(names)[1:]:  # what is left: a_b/c and a/b_c
        names[i] += f"_{i}"
    return names


def _clashing(names: Sequence[str]) -> list[int]:
    """Where the names stand that occur more than once; file systems may not tell capital letters apart."""
    count: dict[str, int] = {}
    for name in names:
        count[name.casefold()] = count.get(name.casefold(), 0) + 1
    return [i for i, name in enumerate(names) if count[name.casefold()] > 1]


def _expanded(inputs: Sequence[Path]) -> list[Path]:
    """Patterns that the shell left alone (in quotes, or on Windows) become the paths that match them."""
    paths: list[Path] = []
    for path in inputs:
        text = os.fspath(path)
        if glob.has_magic(text) and not os.path.lexists(path):
            found = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207  (any root)
            if not found:
                raise BadInput(f"{path}: no file matches this pattern")
            paths += found
        else:
            paths.append(path)
    return paths


def _inside(folder: Path) -> list[Path]:
    try:
        return [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be listed ({(error.strerror or str(error)).lower()})") from error


def _is_case(path: Path) -> bool:
    has_suffix = stem_of(path) != path.name
    if _leads_nowhere(path):
        return has_suffix or not path.suffix
    try:
        return (path.is_file() and has_suffix) or (path.is_dir() and _holds_dicom(path))
    except OSError:  # what cannot be looked at fails when it is read, and says why
        return has_suffix


def _holds_dicom(folder: Path) -> bool:
    try:
        return is_dicom_folder(folder)
    except OSError:
        return False


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
