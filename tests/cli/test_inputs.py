"""What a command is told about its input: which volume of a series, which modality."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from diffatlas.cli.options import read_input
from diffatlas.errors import BadInput


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
    assert read_input(path, None, "ct").modality_reason == "named by --modality"
