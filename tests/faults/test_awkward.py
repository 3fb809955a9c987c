"""The inputs of shared/tools/awkward_inputs.py that are not DICOM, against the right values beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas import io

TOOL = Path(__file__).resolve().parents[2] / "../shared/tools/awkward_inputs.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="the tool that makes these inputs is not here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("awkward")
    done = subprocess.run([sys.executable, str(TOOL), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def truth(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "truth.json").read_text())[name]
    return found


@pytest.mark.parametrize("name", ["units.nrrd", "my scan.nhdr", "list_of_one.nrrd"])
def test_spacing(made: Path, name: str) -> None:
    volume = io.read_volume(made / name)
    np.testing.assert_allclose(volume.grid.spacing_mm, truth(made, name)["spacing_mm"], rtol=1e-6)
    stored = np.random.default_rng(0).integers(0, 2000, (8, 10, 12))  # z, y, x, as the tool draws them
    np.testing.assert_array_equal(volume.data, stored.T)


def test_stray_byte(made: Path) -> None:
    volume = io.read_volume(made / "stray_byte.nii.gz")
    right = truth(made, "stray_byte.nii.gz")
    assert (volume.data.min(), volume.data.max()) == (right["min"], right["max"])
    assert float(volume.data.mean(dtype=np.float64)) == pytest.approx(right["mean"])
    assert volume.notes


def test_labels_with_a_slope(made: Path) -> None:
    notes: list[str] = []
    ids, _ = io.read_label_ids(made / "labels_with_a_slope.nii.gz", notes=notes)
    assert np.unique(ids).tolist() == truth(made, "labels_with_a_slope.nii.gz")["ids"]
    assert any("rounded" in note for note in notes)


def test_ct_padding(made: Path) -> None:
    volume = io.read_volume(made / "ct_padding.nii.gz")
    assert volume.modality == truth(made, "ct_padding.nii.gz")["modality"]
    assert volume.unknown is not None
    assert volume.data.min() >= -1000
