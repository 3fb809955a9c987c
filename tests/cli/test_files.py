"""The commands that make and read files: generate, phantom, compare, models, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffatlas.cli.files import scheme_of_ids
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS
from tests.cli.helpers import Cli, files
from tests.fakes import FakeBackend


def test_generate_seeds_do_not_depend_on_the_batch(cli: Cli, backend: FakeBackend, tmp_path: Path) -> None:
    assert cli("generate", "-o", tmp_path / "ten", "--count", 10, "--seed", 4).code == 0
    assert [(r.task, r.seed, r.samples) for r in backend.requests] == [("generate", seed, 1) for seed in range(4, 14)]
    assert backend.volumes == [None] * 10
    assert len(files(tmp_path / "ten")) == 20
    assert cli("generate", "-o", tmp_path / "one", "--seed", 13).code == 0
    for half in ("image", "label"):
        one = (tmp_path / "one" / f"case-000_{half}.nii.gz").read_bytes()
        assert one == (tmp_path / "ten" / f"case-009_{half}.nii.gz").read_bytes()


def test_generate_stopped_leaves_no_folder(cli: Cli, backend: FakeBackend, tmp_path: Path) -> None:
    backend.fail_at, backend.error = 1, KeyboardInterrupt()
    assert cli("generate", "-o", tmp_path / "pairs").code == 130
    assert files(tmp_path) == set()


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--model", "auto"], ["--model", "nobody"], ["--seed", "-3"]])
def test_generate_bad_use(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    assert cli("generate", "-o", tmp_path / "pairs", *arguments).code == 2
    assert files(tmp_path) == set()


def test_phantom_cases_follow_their_seeds(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("phantom", "-o", tmp_path / "two", "--count", 2, "--seed", 7, "--json")
    assert outcome.code == 0, outcome.err
    assert [case["seed"] for case in json.loads(outcome.out)["cases"]] == [7, 8]
    assert cli("phantom", "-o", tmp_path / "one", "--seed", 8).code == 0
    names = {f"case-00{i}_{half}.nii.gz" for i in range(2) for half in ("image", "label")}
    assert files(tmp_path / "two") == names
    one = nib.Nifti1Image.from_filename(tmp_path / "one" / "case-000_label.nii.gz")
    two = nib.Nifti1Image.from_filename(tmp_path / "two" / "case-001_label.nii.gz")
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    assert set(np.unique(np.asarray(one.dataobj))) == {0, *MMWHS.ids}


def test_a_file_is_no_folder(cli: Cli, image: Path, tmp_path: Path) -> None:
    for command in ("phantom", "generate"):
        outcome = cli(command, "-o", image)
        assert outcome.code == 2
        assert "folder" in outcome.err
    assert cli("phantom", "-o", tmp_path / "absent" / "deep").code == 2


def save_ids(path: Path, ids: np.ndarray[Any, Any], spacing_mm: float = 1.0) -> Path:
    nib.save(nib.Nifti1Image(ids, np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])), path)
    return path


def boxes(ids: tuple[int, int], shift: int = 0) -> np.ndarray[Any, Any]:
    data = np.zeros((12, 12, 12), np.uint16)
    data[2 + shift : 6 + shift, 2:6, 2:6] = ids[0]
    data[2:6, 8:10, 2:6] = ids[1]
    return data


def test_compare_by_hand(cli: Cli, tmp_path: Path) -> None:
    """A 4^3 box moved by one of its four voxels: Dice 2 * 48 / 128; the second structure is the same in both."""
    a, b = save_ids(tmp_path / "a.nii.gz", boxes((1, 2))), save_ids(tmp_path / "b.nii.gz", boxes((1, 2), shift=1))
    outcome = cli("compare", a, b, "--model", "hippocampus-mri", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["scheme"] == "hippocampus"
    first, second = found["structures"]
    assert (first["name"], first["dice"]) == ("anterior hippocampus", 0.75)
    assert (second["dice"], second["surface_dice"], second["hd95_mm"]) == (1.0, 1.0, 0.0)
    assert first["volume_prediction_ml"] == pytest.approx(0.064)
    table = cli("compare", a, b).out
    assert "0.750" in table
    assert "mean" in table


def test_compare_names_unknown_ids_by_number(cli: Cli, tmp_path: Path) -> None:
    a, b = save_ids(tmp_path / "a.nii.gz", boxes((7, 300))), save_ids(tmp_path / "b.nii.gz", boxes((7, 0)))
    found = json.loads(cli("compare", a, b, "--json").out)
    assert [row["name"] for row in found["structures"]] == ["label 7", "label 300"]
    assert found["structures"][1]["hd95_mm"] is None
    outcome = cli("compare", a, b, "--model", "heart")
    assert outcome.code == 2
    assert "300" in outcome.err


def test_compare_refuses_other_grids(cli: Cli, tmp_path: Path) -> None:
    a = save_ids(tmp_path / "a.nii.gz", boxes((1, 2)))
    b = save_ids(tmp_path / "b.nii.gz", boxes((1, 2)), spacing_mm=2.0)
    outcome = cli("compare", a, b)
    assert outcome.code == 2
    assert "voxel size" in outcome.err


def test_without_a_model_ids_are_numbers_and_mean_nothing_else(cli: Cli, tmp_path: Path) -> None:
    """A user's label 1 is no structure of a model in the box."""
    a = save_ids(tmp_path / "a.nii.gz", boxes((1, 2)))
    found = json.loads(cli("compare", a, a, "--json").out)
    assert (found["scheme"], [row["name"] for row in found["structures"]]) == ("ids", ["label 1", "label 2"])
    assert "hippocampus" not in cli("compare", a, a).out


def test_schemes_of_ids() -> None:
    assert scheme_of_ids({500, 1}).names == ("label 1", "label 500")
    with pytest.raises(BadInput, match="empty"):
        scheme_of_ids(set())
    with pytest.raises(BadInput, match="different labels"):
        scheme_of_ids(set(range(1, 300)))


def test_models(cli: Cli) -> None:
    assert [model["name"] for model in json.loads(cli("models", "--json").out)] == ["heart", "hippocampus-mri"]
    assert "heart" in cli("models").out


def test_info_of_a_model(cli: Cli, weights: Path) -> None:
    what = json.loads(cli("info", weights / "heart", "--json").out)
    assert [structure["id"] for structure in what["scheme"]["structures"]] == list(MMWHS.ids)
    assert "myocardium" in cli("info", weights / "heart").out


def test_info_of_a_volume_and_a_report(cli: Cli, image: Path, report: Path) -> None:
    what = json.loads(cli("info", image, "--json").out)
    assert what["shape"] == [20, 24, 12]
    assert what["axis_codes"] == "LPS"
    assert "LPS" in cli("info", image).out
    assert json.loads(cli("info", report, "--json").out)["frames"] == 5
    assert cli("info", image.parent / "absent.nii.gz").code == 2


def test_compare_and_prepare_share_one_tolerance(cli: Cli, tmp_path: Path) -> None:
    """Headers that differ in their last digits are one grid for both; a third of a voxel is another place for both."""
    from diffatlas.data.labels import same_grid
    from diffatlas.geometry.grid import Grid

    a = save_ids(tmp_path / "a.nii.gz", boxes((1, 2)))
    for shift_mm, code in ((0.05, 0), (0.3, 2)):
        affine = np.eye(4)
        affine[0, 3] = shift_mm
        b = tmp_path / "b.nii.gz"
        nib.save(nib.Nifti1Image(boxes((1, 2)), affine), b)
        assert cli("compare", a, b).code == code
        refused = False
        try:
            same_grid(a, Grid((12, 12, 12), np.eye(4)), b, Grid((12, 12, 12), affine))
        except BadInput:
            refused = True
        assert refused == bool(code)
