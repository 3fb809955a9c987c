"""MM-WHS 2017, the raw release (Zhuang and Shen 2016, Zhuang et al. 2019).

``ct_train/ct_train_1001_image.nii.gz`` with ``..._label.nii.gz``, the same for ``mr``;
``ct_test/ct_test_2001_image.nii.gz`` without labels (the challenge keeps them; the encrypted ones that its evaluation
tool ships are not readable labels). The folders in between do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from diffatlas.data.case import Case, Collection, LabelFile, Refused, collect, stem, walk
from diffatlas.geometry.volume import Modality

LAYOUT = "mmwhs"
WHAT = "MM-WHS, raw release: (ct|mr)_train_1001_image.nii.gz with ..._label.nii.gz"

# The release's ids. Its aorta is the ascending part only.
NAMES: Mapping[int, str] = {
    500: "left ventricle",
    600: "right ventricle",
    420: "left atrium",
    550: "right atrium",
    205: "myocardium",
    820: "aorta",
    850: "pulmonary artery",
}
# A few voxels of one training case carry 421, which is no structure.
TYPOS: Mapping[int, int] = {421: 420}

_NAME = re.compile(r"(ct|mr)_(train|test)_\d+_image", re.IGNORECASE)


def looks_like(root: Path) -> bool:
    """Whether at least one file is named as in the release."""
    return root.is_dir() and any(_NAME.fullmatch(stem(path)) for path in walk(root))


def scan(root: Path) -> Collection:
    """List the release below ``root``."""
    cases, refused = collect(_cases(root))
    structures = tuple((name, id_) for id_, name in NAMES.items())
    return Collection(LAYOUT, root, cases, refused, structures=structures)


def _cases(root: Path) -> Iterator[Case | Refused]:
    for image in walk(root):
        match = _NAME.fullmatch(stem(image))
        if match is None:
            continue
        case = stem(image)[: -len("_image")]
        modality: Modality = "ct" if match[1].lower() == "ct" else "mr"
        split = match[2].lower()
        found = [path for ending in (".nii.gz", ".nii") if (path := image.with_name(f"{case}_label{ending}")).is_file()]
        if not found and split == "train":
            yield Refused(case, f"{image}: no {case}_label.nii.gz beside it")
            continue
        labels = tuple(LabelFile(path, NAMES, TYPOS) for path in found[:1])
        yield Case(case, image, labels, modality, split)
