"""Small files in the layouts of public data sets, for the tests that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (20, 20, 20)
SPACING_MM = 2.0
# MM-WHS ids, each with the corner of its cube.
HEART_CORNERS = {500: (3, 3, 3), 600: (11, 3, 3), 420: (3, 11, 3), 550: (11, 11, 3), 205: (3, 3, 11), 820: (11, 3, 11)}
V1_NAMES = {
    500: "heart_ventricle_left",
    600: "heart_ventricle_right",
    420: "heart_atrium_left",
    550: "heart_atrium_right",
    205: "heart_myocardium",
    820: "aorta",
}


def affine(spacing_mm: float = SPACING_MM) -> NDArray[np.float64]:
    return np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])


def heart(*, without: tuple[int, ...] = ()) -> NDArray[np.int16]:
    """Cubes of five voxels with the ids of MM-WHS."""
    data = np.zeros(SHAPE, dtype=np.int16)
    for id_, (x, y, z) in HEART_CORNERS.items():
        if id_ not in without:
            data[x : x + 5, y : y + 5, z : z + 5] = id_
    return data


def picture(labels: NDArray[np.int16], seed: int = 0, air: int = -1000) -> NDArray[np.int16]:
    """An image that shows the labels, over air and with noise."""
    noise = np.random.default_rng(seed).integers(0, 20, labels.shape)
    return (np.where(labels > 0, labels % 300 + 50, air) + noise).astype(np.int16)


def save(path: Path, data: NDArray[np.generic], matrix: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine() if matrix is None else matrix), path)
    return path


def mmwhs(root: Path, cases: Mapping[str, NDArray[np.int16]]) -> Path:
    """The raw release: {"ct_train_1001": labels, ...} in a folder of each modality and part."""
    for number, (name, labels) in enumerate(cases.items()):
        folder = root / name.rpartition("_")[0]
        save(folder / f"{name}_image.nii.gz", picture(labels, number, -1000 if name.startswith("ct") else 0))
        if "train" in name:
            save(folder / f"{name}_label.nii.gz", labels)
        else:  # what the challenge's evaluation tool brings
            (folder / f"{name}_label_encrypt_1mm.nii.gz").write_bytes(b"secret")
    return root


def totalsegmentator(root: Path, splits: Mapping[str, str], names: Mapping[int, str] = V1_NAMES) -> Path:
    """Case folders with one mask a structure, and a meta.csv."""
    labels = heart()
    for number, case in enumerate(splits):
        save(root / case / "ct.nii.gz", picture(labels, number))
        for id_, name in names.items():
            save(root / case / "segmentations" / f"{name}.nii.gz", (labels == id_).astype(np.uint8))
        save(root / case / "segmentations" / "spleen.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    rows = [f"{case};61;m;{split}" for case, split in splits.items()]
    (root / "meta.csv").write_text("image_id;age;gender;split\n" + "\n".join(rows) + "\n")
    return root


def numbered() -> NDArray[np.int16]:
    """The five structures as 1 to 5 in the order of our MM-WHS scheme."""
    out = np.zeros(SHAPE, dtype=np.int16)
    for index, id_ in enumerate((500, 600, 420, 550, 205), start=1):
        out[heart() == id_] = index
    return out


def preprocessed(folder: Path, names: tuple[str, ...], *, sdf: bool = True) -> Path:
    """Images, labels and distances as the authors' loader globs them."""
    for number, name in enumerate(names):
        labels = numbered()
        save(folder / f"{name}_image.nii.gz", picture(labels * 100, number))
        save(folder / f"{name}_label.nii.gz", labels)
        if sdf:
            save(folder / f"{name}_sdf.nii.gz", np.zeros((*SHAPE, 5), dtype=np.float32))
    return folder


def decathlon(root: Path, names: tuple[str, ...], **changes: object) -> Path:
    """A task with two labels and one test image."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[4:9, 4:9, 4:9], labels[11:15, 11:15, 11:15] = 1, 2
    for number, name in enumerate(names):
        save(root / "imagesTr" / f"{name}.nii.gz", picture(labels * 100, number, 0))
        save(root / "labelsTr" / f"{name}.nii.gz", labels)
    save(root / "imagesTs" / "hippocampus_900.nii.gz", picture(labels * 100, 9, 0))
    (root / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"macOS was here")
    description: dict[str, object] = {
        "name": "Hippocampus",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/hippocampus_900.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps({**description, **changes}))
    return root


def pairs(root: Path, names: tuple[str, ...], suffix: str = ".nii.gz") -> Path:
    """A folder of one's own, ids 1 and 2."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[4:9, 4:9, 4:9], labels[11:15, 11:15, 11:15] = 1, 2
    for number, name in enumerate(names):
        save(root / "images" / f"{name}{suffix}", picture(labels * 100, number, 0))
        save(root / "labels" / f"{name}{suffix}", labels)
    return root
