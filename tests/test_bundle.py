"""A model as a MONAI bundle: MONAI's own command gives the labels that this program gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas.bundle import export_bundle
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_volume, write_volume
from diffatlas.models.store import read_card
from diffatlas.session import segment
from tests.geometry.test_space import ball_grid, two_balls


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two bright balls on an oblique grid whose axes are not the world's, in odd spacings."""
    grid = ball_grid((30, 26, 22), (1.5, 1.0, 2.0))
    path = tmp_path / "scan.nii.gz"
    data = np.array([20.0, 120.0, 200.0], np.float32)[two_balls(grid).data]
    write_volume(Volume(data, grid, "mr"), path)
    return path


@pytest.mark.weights
def test_monais_command_gives_our_labels(tmp_path: Path, image: Path) -> None:
    bundle = export_bundle("hippocampus-mri", tmp_path / "bundle")
    config = bundle / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    command += ["--bundle_root", str(bundle), "--image", str(image), "--seed", "3", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = nib.Nifti1Image.from_filename(tmp_path / "scan_labels.nii.gz")
    ours = segment(read_volume(image), model="hippocampus-mri", seed=3).labels
    assert ours.data.any()
    np.testing.assert_array_equal(np.asarray(made.dataobj), ours.to_ids())
    np.testing.assert_allclose(np.asarray(made.affine), ours.grid.affine, atol=1e-5)


def test_the_metadata_name_the_labels_as_the_card_does(tmp_path: Path, tiny_model: Path) -> None:
    bundle = export_bundle(str(tiny_model), tmp_path / "bundle")
    said = json.loads((bundle / "configs" / "metadata.json").read_text())
    card = read_card(tiny_model)
    pred = said["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background"} | {str(s.id): s.name for s in card.scheme.structures}
    assert said["network_data_format"]["inputs"]["image"]["num_channels"] == 1
    assert read_card(bundle / "models" / tiny_model.name).to_json() == card.to_json()


def test_nothing_is_written_over(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        export_bundle(str(tiny_model), tmp_path)
    with pytest.raises(BadInput, match="no model named"):
        export_bundle("nothing", tmp_path / "new")
    assert not (tmp_path / "new").exists()
