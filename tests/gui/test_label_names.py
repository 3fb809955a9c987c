"""Names beside a label file: a help where they can be read, nothing else where they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas.geometry.volume import MMWHS
from napari_diffatlas import label_names

IDS = np.array([0, 500, 600])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    label_names.write(tmp_path / "a_labels.nii.gz", MMWHS, "a.nii.gz")
    names = label_names.read(tmp_path / "a_labels.nii.gz", IDS)
    assert names is not None
    assert (names.scheme.structures, names.image) == (MMWHS.structures, "a.nii.gz")


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", "[" * 100_000, '{"structures": 3}', '{"structures": [3]}', '{"structures": [{}]}',
        '{"structures": [{"id": 1e999, "name": "x", "color": [0, 0, 0]}]}',
        '{"structures": [{"id": 500, "name": "x", "color": [0, 0]}]}',
        '{"structures": [{"id": 500, "name": "x", "color": [0, 0, 999]}]}',
        '{"provenance": []}', '{"provenance": {"model": "x"}}', '{"provenance": {"model": {"name": {}}, "source": 4}}',
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_ours_names_nothing(tmp_path: Path, text: str) -> None:
    labels = tmp_path / "a_labels.nii.gz"
    for name in ("a_labels.structures.json", "a.json"):
        (tmp_path / name).write_text(text)
    assert label_names.read(labels, IDS) is None
