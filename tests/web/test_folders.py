"""What a dead process left is removed at the next start; what a living one has stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffatlas_app.visitors import folders
from diffatlas_app.visitors.folders import ProcessFolder, sweep

HOLD = """
import sys, time
from diffatlas_app.visitors.folders import ProcessFolder
made = ProcessFolder()
(made.path / "patient.nii.gz").write_bytes(b"x")
print(made.path, flush=True)
time.sleep(120)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_killed_process_leaves_nothing_for_long(temporary: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    try:
        assert int((left / folders.OWNER).read_text()) == process.pid
        assert sweep() == []  # it lives
        assert (left / "patient.nii.gz").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert (left / "patient.nii.gz").exists()
        made = ProcessFolder()  # the next start
        assert not left.exists()
        assert made.path.exists()
        made.close()
        assert list(temporary.iterdir()) == []
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def test_two_processes_of_this_machine_leave_each_other_alone() -> None:
    first, second = ProcessFolder(), ProcessFolder()
    assert first.path.exists()
    assert second.path.exists()
    assert oct(first.path.stat().st_mode)[-3:] == "700"
    first.close()
    first.close()
    assert not first.path.exists()
    second.close()


def test_a_folder_that_is_being_made_is_left_alone_and_links_are_not_followed(temporary: Path) -> None:
    young, old, target = (temporary / name for name in ("diffatlas-app-young", "diffatlas-app-old", "elsewhere"))
    for folder in (young, old, target):
        folder.mkdir()
    (target / "file").write_text("kept")
    (temporary / "diffatlas-app-link").symlink_to(target)
    os.utime(old, (time.time() - 1000, time.time() - 1000))
    assert sweep() == [old]
    assert young.exists()
    assert (target / "file").exists()
