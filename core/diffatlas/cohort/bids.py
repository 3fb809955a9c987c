"""BIDS in, BIDS out: anatomical images of a data set, and results as a derivative data set.

Input: ``sub-<label>/[ses-<label>/]anat/<entities>_<suffix>.nii[.gz]``. Output, after the Brain Imaging Data Structure's
chapter on imaging derivatives: ``<source entities>_desc-<suffix>_dseg.nii.gz`` in the same folders, the report as its
``.json``, one lookup table ``dseg.tsv`` for all, and ``dataset_description.json`` with ``DatasetType: derivative``.
``desc`` carries the suffix of the source, so that the T1w and the T2w image of a session do not share a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffatlas.cohort.case import Case, stem_of
from diffatlas.cohort.run import make_folder
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelScheme
from diffatlas.io import atomic_path
from diffatlas.values import program_version

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
TABLE = "dseg.tsv"
DATATYPES = ("anat", "ct")
_NAME = re.compile(r"(?P<entities>sub-[A-Za-z0-9+]+(?:_[A-Za-z0-9]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)")
# Images of an anatomy folder that show no intensities, and derivatives that some keep there.
_NOT_IMAGES = {"dseg", "probseg", "mask", "defacemask"}


def find_bids(
    root: Path, output: Path, participants: Sequence[str] = (), suffixes: Sequence[str] = ()
) -> tuple[list[Case], list[str]]:
    """The anatomical images of a data set, in the order of their names, and notes.

    ``participants``: labels with or without ``sub-``, none for all; ``suffixes``: ("T1w",), none for all. Raises
    `BadInput` where it is no BIDS data set, a participant is not in it, or nothing is left.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; give the root of a BIDS data set")
    if not (root / DESCRIPTION).is_file():
        raise BadInput(f"{root}: no {DESCRIPTION} in it; give the root of a BIDS data set")
    folders = {path.name[4:]: path for path in sorted(root.glob("sub-*")) if path.is_dir()}
    wanted = [label.removeprefix("sub-") for label in participants] or list(folders)
    if missing := [label for label in wanted if label not in folders]:
        raise BadInput(f"{root}: no participant {', '.join(missing[:5])}; there are: {_some(list(folders))}")
    cases: list[Case] = []
    left_out: list[str] = []
    for label in sorted(set(wanted)):
        for path in _images(folders[label]):
            match = _NAME.fullmatch(stem_of(path))
            if match is None or match["suffix"] in _NOT_IMAGES:
                left_out.append(path.name)
            elif not suffixes or match["suffix"] in suffixes:
                stem = f"{_without_desc(match['entities'])}_desc-{match['suffix']}_dseg"
                cases.append(
                    Case(
                        name=stem_of(path),
                        path=path,
                        output=output / path.parent.relative_to(root),
                        stem=stem,
                        problem=f"{path}: is a link that leads nowhere" if not path.exists() else "",
                    )
                )
    if not cases:
        kinds = f" with the suffix {' or '.join(suffixes)}" if suffixes else ""
        raise BadInput(f"{root}: no anatomical image{kinds} of {_some(wanted)}; looked in {', '.join(DATATYPES)}")
    if not left_out:
        return cases, []
    return cases, [f"{root}: {len(left_out)} files left out that BIDS does not name as images ({left_out[0]} ...)"]


def write_description(output: Path, root: Path, scheme: LabelScheme | None) -> None:
    """What makes ``output`` a derivative data set: its description, and what the ids in its segmentations mean."""
    make_folder(output)
    description = {
        "Name": "DiffAtlas segmentations",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "diffatlas", "Version": program_version()}],
        "SourceDatasets": [{"URL": root.resolve().as_uri()}],
    }
    with atomic_path(output / DESCRIPTION) as part:
        part.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if scheme is not None:
        rows = [f"{s.id}\t{s.name}\t#{s.color[0]:02x}{s.color[1]:02x}{s.color[2]:02x}" for s in scheme.structures]
        with atomic_path(output / TABLE) as part:
            part.write_text("\n".join(["index\tname\tcolor", *rows]) + "\n", encoding="utf-8")


def _images(participant: Path) -> Iterator[Path]:
    for session in (participant, *sorted(participant.glob("ses-*"))):
        for kind in DATATYPES:
            for path in sorted((session / kind).glob("*.nii*")):
                if stem_of(path) != path.name and not path.name.startswith("."):
                    yield path


def _without_desc(entities: str) -> str:
    return "_".join(part for part in entities.split("_") if not part.startswith("desc-"))


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "") or "none"
