"""A model as a MONAI bundle: a folder that MONAI's own command runs on a NIfTI file.

    python -m monai.bundle run --config_file DIR/configs/inference.json --bundle_root DIR --image IMAGE.nii.gz

    DIR/configs/inference.json   load, segment, save: MONAI's transforms around `Segmentd`
    DIR/configs/metadata.json    what goes in and comes out; ``channel_def`` names the labels
    DIR/models/NAME/             the model as this program keeps it, which is what `Segmentd` loads
    DIR/docs/README.md, DIR/LICENSE

The bundle holds no code: it needs this package where it runs. The labels are those of ``diffatlas segment``.
Layout: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.errors import BadInput
from diffatlas.io import atomic_path
from diffatlas.models.card import ModelCard
from diffatlas.models.store import CARD_FILE, WEIGHTS_FILE, find_model, load_model
from diffatlas.values import program_version

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
INFERENCE: dict[str, Any] = {
    "imports": ["$import diffatlas.bundle"],
    "bundle_root": ".",
    "image": "image.nii.gz",
    "output_dir": "$@bundle_root + '/eval'",
    "preset": "fast",
    "seed": 0,
    "device": "auto",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}],
    },
    "inferer": {
        "_target_": "diffatlas.bundle.Segmentd",
        "model": "$@bundle_root + '/models/' + @name",
        "preset": "@preset",
        "seed": "@seed",
        "device": "@device",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "SaveImaged",
                "keys": "pred",
                "output_dir": "@output_dir",
                "output_postfix": "labels",
                "output_ext": ".nii.gz",
                "output_dtype": "uint16",
                "resample": False,
                "separate_folder": False,
            }
        ],
    },
    "run": ["$@postprocessing(@inferer(@preprocessing({'image': @image})))"],
}


class Segmentd:
    """MONAI dictionary transform: ``data["image"]`` [1, X, Y, Z] to ``data["pred"]``, label ids on the same voxels.

    ``model``: a name or a folder; ``options``: fields of `diffatlas.Request`.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self.model, self.options = model, options

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        import nibabel as nib
        from monai.data.meta_tensor import MetaTensor

        from diffatlas.session import segment

        image = data["image"]
        if image.ndim != 4 or len(image) != 1:
            raise BadInput(f"the image has shape {tuple(image.shape)}; give one channel of three axes")
        affine = np.asarray(image.affine, dtype=np.float64)
        labels = segment(nib.Nifti1Image(image.numpy()[0], affine), model=self.model, **self.options).labels
        ids = labels.to_ids().astype(np.int32)[None]
        return {**data, "pred": MetaTensor(ids, affine=image.affine, meta=image.meta)}


def metadata(card: ModelCard) -> dict[str, Any]:
    """The content of ``metadata.json``."""
    shape = list(card.space.shape)
    common = {"spatial_shape": shape, "is_patch_data": False}
    modality = "/".join(card.modalities).upper()
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": 1,
        "dtype": "float32",
        "value_range": [],
        "channel_def": {"0": "image"},
    }
    names = {str(s.id): s.name for s in card.scheme.structures}
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": 1,
        "dtype": "uint16",
        "value_range": [0, max(card.scheme.ids)],
        "channel_def": {"0": "background", **names},
    }
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported from {card.name}, sha256 {card.sha256}"},
        "monai_version": "1.5.0",
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"napari-diffatlas": program_version()},
        "name": card.title,
        "task": f"Segmentation of {', '.join(card.scheme.names)}",
        "description": card.summary,
        "authors": "see data and training in docs/README.md",
        "copyright": card.licence,
        "data_source": card.data,
        "data_type": "nifti",
        "intended_use": card.intended_use,
        "limits": list(card.limits),
        "network_data_format": {"inputs": {"image": image | common}, "outputs": {"pred": pred | common}},
    }


def export_bundle(model: str, folder: Path) -> Path:
    """Write the bundle of a model (a name or a folder) into ``folder``, which must be new or empty; returns it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: is there already; give the name of a new folder")
    source, card = find_model(model), load_model(model).card  # the weights are checked before they are handed on
    folder.mkdir(parents=True, exist_ok=True)
    name = source.name
    for inner in ("configs", "docs", f"models/{name}"):
        (folder / inner).mkdir(parents=True)
    for file in (CARD_FILE, WEIGHTS_FILE):
        shutil.copyfile(source / file, folder / "models" / name / file)
    shutil.copyfile(source / "README.md", folder / "docs" / "README.md")
    texts = {
        "LICENSE": f"{card.licence}\n",
        "configs/metadata.json": json.dumps(metadata(card), indent=4, ensure_ascii=False) + "\n",
        "configs/inference.json": json.dumps({"name": name, **INFERENCE}, indent=4) + "\n",
    }
    for place, text in texts.items():
        with atomic_path(folder / place) as part:
            part.write_text(text, encoding="utf-8")
    return folder
