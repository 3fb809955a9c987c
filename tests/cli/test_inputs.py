"""What a command is told about its input: which volume of a series, which modality."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from diffatlas.cli.options import read_input
from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.geometry.volume import MMWHS, LabelMap
from tests.cli.helpers import Cli
from tests.dicom_files import write_series


def test_a_volume_of_a_series_is_chosen_with_the_option(tmp_path: Path) -> None:
    data = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(BadInput, match=r"2 volumes, 0 to 1.*--volume N") as caught:
        read_input(path)
    assert "volume_index" not in str(caught.value)
    np.testing.assert_array_equal(read_input(path, 1).data, data[..., 1])
    with pytest.raises(BadInput, match=r"no volume 2"):
        read_input(path, 2)
    # Elsewhere nothing is said of options that are not there.
    with pytest.raises(BadInput) as caught:
        io.read_volume(path)
    assert "--volume" not in str(caught.value)


def test_a_modality_that_is_named_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    assert (read_input(path).modality, read_input(path, None, "ct").modality) == ("mr", "ct")
    assert read_input(path, None, "ct").modality_reason == "as you named it"


def test_info_takes_the_modality_that_is_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    looks, named = (json.loads(cli("info", path, "--json", *more).out) for more in ((), ("--modality", "ct")))
    assert (looks["modality"], named["modality"]) == ("mr", "ct")
    assert named["modality_reason"] == "as you named it"
    assert cli("info", path, "--modality", "pet").code == 2


def test_info_of_what_is_no_volume_takes_no_modality(cli: Cli, report: Path) -> None:
    assert cli("info", report).code == 0
    outcome = cli("info", report, "--modality", "ct")
    assert outcome.code == 2
    assert "is no volume" in outcome.err


def test_a_folder_of_several_series_says_how_to_choose(cli: Cli, tmp_path: Path) -> None:
    for number in (1, 2):
        stored = np.full((3, 4, 5), number, np.uint16)
        write_series(
            tmp_path / "scan", stored, SeriesInstanceUID=f"1.{number}", SeriesNumber=number, name=f"{number}-{{}}.dcm"
        )
    for command in (("info", tmp_path / "scan"), ("segment", tmp_path / "scan", "-o", tmp_path / "l.nii.gz")):
        outcome = cli(*command)
        assert outcome.code == 2
        assert "2 DICOM series" in outcome.err
        assert outcome.err.count("--volume N") == 1
    assert json.loads(cli("info", tmp_path / "scan", "--volume", 1, "--json").out)["intensity"]["max"] == 2 - 1024


def test_what_a_volume_can_be_chosen_from_is_listed(tmp_path: Path) -> None:
    """Front ends offer the choices; a decoder of its own passes them on."""
    write_series(tmp_path / "scan", np.zeros((3, 4, 5), np.uint16), SeriesInstanceUID="1.5", SeriesDescription="late")
    write_series(tmp_path / "scan", np.zeros((2, 4, 5), np.uint16), SeriesInstanceUID="1.6", name="b{}.dcm")
    for contained in (False, True):
        with pytest.raises(SeveralVolumes) as caught:
            io.read_volume(tmp_path / "scan", limits=io.Limits(contained=contained))
        assert caught.value.choices == ("3 slices of 5x4 (late)", "2 slices of 5x4")
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 3), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(SeveralVolumes) as caught:
        io.read_volume(tmp_path / "a.nii.gz")
    assert caught.value.choices == ("volume 0", "volume 1", "volume 2")


def test_labels_are_no_image(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", np.zeros((3, 4, 5), np.uint16))
    volume = io.read_volume(folder)
    labels = LabelMap(np.ones(volume.grid.shape, np.uint8), volume.grid, MMWHS)
    for format_ in ("seg", "rtstruct"):
        io.write_label_map(labels, folder / "l.dcm", source=volume, format=format_)
        with pytest.raises(BadInput, match="holds labels and no image"):
            io.read_volume(folder / "l.dcm")
