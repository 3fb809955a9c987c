"""A folder of label maps as training data: what is drawn from it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas.anatomies.source import NAMES
from diffatlas.data import DrawnAnatomy, PreparedCase, prepare_case, scan_anatomies
from diffatlas.data.resample import REACH
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.train.config import DataConfig
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.sources import collection_of
from tests.anatomies.test_anatomies import drawn_labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heart, data, ids = drawn_labels()
    folder = tmp_path_factory.mktemp("anatomies")
    for name in ("a", "b", "c"):
        nib.save(nib.Nifti1Image(data, heart.grid.affine), folder / f"{name}.nii.gz")
    (folder / "labels.json").write_text(json.dumps({str(ids[k]): name for k, name in NAMES.items()}))
    return folder


def config(folder: Path, **changes: object) -> DataConfig:
    settings = {"source": "anatomies", "path": folder, "scheme": "mmwhs", "cases": 3, "holdout": 1, "margin": 1}
    return DataConfig.model_validate(settings | {"looks": 2, "cache": folder / "cache.safetensors"} | changes)


SPACE = ModelSpace((16, 16, 16), (10.0, 10.0, 10.0), 15.0, {"unknown": Window("percentile", 0.5, 99.5)})


def test_cases_are_drawn_from_label_maps_alone(folder: Path) -> None:
    data = load_or_prepare(config(folder), SPACE)
    assert data.image.shape == (3, 2, 18, 18, 18)
    assert data.sdf.shape == (3, 5, 18, 18, 18)
    assert data.known is not None
    assert ((data.known == 0) | (data.known == 1)).all()
    assert (data.image[data.known == 0] == 0).all()
    assert data.subset([1]).known is not None
    assert int(data.sdf.min()) < 0 < int(data.sdf.max())


def test_held_out_cases_come_from_maps_of_their_own(folder: Path) -> None:
    collection, plan = collection_of(config(folder, cases=6, holdout=2), SPACE)
    names = [case.image.name for case in collection.cases if isinstance(case.image, DrawnAnatomy)]
    assert set(names[:4]) == {"a", "b"}
    assert set(names[4:]) == {"c"}
    one = prepare_case(collection.cases[0], plan)
    assert isinstance(one, PreparedCase)
    assert one.known is not None
    assert np.abs(one.sdf).max() <= 127
    assert REACH > 1


def test_a_folder_without_maps_or_names_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least two"):
        scan_anatomies(tmp_path, 2, 0, 1, 1, tmp_path / "s.safetensors")
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())
    with pytest.raises(BadInput, match=r"labels\.json"):
        scan_anatomies(tmp_path, 2, 0, 1, 1, tmp_path / "s.safetensors")
    with pytest.raises(BadInput, match="at least one case"):
        scan_anatomies(folder, 0, 0, 1, 1, tmp_path / "s.safetensors")
