"""The command line on a fake backend, models of the test's own, and an image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from diffatlas import session
from diffatlas.cli import app
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS
from diffatlas.models import store
from tests.cli.helpers import Cli, Outcome, card, save_card
from tests.fakes import FakeBackend


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models in the box are these, whatever else is installed."""
    folder = tmp_path_factory.mktemp("weights")
    for value in (card("hippocampus-mri", HIPPOCAMPUS), card("heart", MMWHS)):
        save_card(folder, value)
    monkeypatch.setattr(store, "shipped_folder", lambda: folder)
    monkeypatch.delenv("DIFFATLAS_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def backend(weights: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """The backend that the command line will find."""
    fake = FakeBackend()
    monkeypatch.setattr(session, "local_backend", lambda: fake)
    return fake


@pytest.fixture
def cli(backend: FakeBackend) -> Cli:
    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="diffatlas")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An LPS int16 volume with anisotropic voxels and distinct orientation codes."""
    data = np.random.default_rng(0).integers(-500, 900, (20, 24, 12)).astype(np.int16)
    nifti = nib.Nifti1Image(data, np.diag([-1.5, -1.25, 2.5, 1.0]))
    nifti.set_sform(nifti.affine, code=4)
    nifti.set_qform(nifti.affine, code=1)
    path = tmp_path / "heart.nii.gz"
    nib.save(nifti, path)
    return path


@pytest.fixture
def report(cli: Cli, image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    options = ("--report", path, "--seed", 3, "--steps", 5)
    assert cli("segment", image, "-o", tmp_path / "first.nii.gz", *options).code == 0
    return path
