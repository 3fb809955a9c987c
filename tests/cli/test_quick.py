"""A quick start leaves out what no command here needs, and nothing that one does."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from diffatlas.cli import quick
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.io import write_volume

PROGRAM = """
import sys
from diffatlas.__main__ import main

try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "nibabel" in sys.modules
print("pydicom" in sys.modules, "scipy.spatial" in sys.modules)
import pydicom  # whoever needs it afterwards has it
pydicom.Dataset()
"""


def test_a_command_on_nifti_files_imports_no_pydicom(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    data = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    write_volume(Volume(data, Grid((6, 5, 4), np.eye(4)), "mr"), path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "info", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize("command", ["napari", "app", "train", None])
def test_programs_that_others_extend_get_all_of_nibabel(command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nibabel", "pydicom"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    quick.begin(command)
    assert "nibabel" not in sys.modules
    assert "pydicom" not in sys.modules


def test_what_is_imported_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    there = object()
    monkeypatch.setitem(sys.modules, "pydicom", there)
    monkeypatch.delitem(sys.modules, "nibabel", raising=False)
    quick.begin("segment")
    assert sys.modules["pydicom"] is there
    assert "nibabel" not in sys.modules


@pytest.mark.parametrize(("large", "started"), [(1, ["torch"]), (1000, [])])
def test_torch_is_imported_beside_the_reading_of_large_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, started: list[str]
) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(bytes(10))
    asked: list[str] = []
    monkeypatch.setattr(quick, "LARGE", large)
    monkeypatch.setattr(quick, "import_module", asked.append)
    before = threading.enumerate()
    quick.torch_beside(path)
    for thread in set(threading.enumerate()) - set(before):
        thread.join()
    assert asked == started
