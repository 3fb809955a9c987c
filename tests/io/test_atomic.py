"""Files that are there whole or not at all, several at once, and what a killed process left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffatlas.errors import BadInput
from diffatlas.io import atomic as atomic_module
from diffatlas.io import atomic_path, atomic_paths, sweep, temporary_folder_in

posix = pytest.mark.skipif(os.name != "posix", reason="asks the system about processes")


def write(paths: list[Path], text: str) -> None:
    for path in paths:
        path.write_text(text)


def broken(paths: list[Path]) -> None:
    write(paths[:1], "third")
    raise ValueError("broken")


def test_several_files_take_their_names_together_and_the_last_vouches(tmp_path: Path) -> None:
    labels, report = tmp_path / "l.nii.gz", tmp_path / "r.json"
    for text in ("first", "second"):
        with atomic_paths([labels, report]) as paths:
            write(paths, text)
        assert (labels.read_text(), report.read_text()) == (text, text)
    with pytest.raises(ValueError, match="broken"), atomic_paths([labels, report]) as paths:
        broken(paths)
    assert (labels.read_text(), report.read_text()) == ("second", "second")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.nii.gz", "r.json"]


def test_a_kill_between_two_names_leaves_no_report_beside_other_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, report = tmp_path / "l.nii.gz", tmp_path / "r.json"
    labels.write_text("old")
    report.write_text("old")
    renamed = Path.replace
    order: list[str] = []

    def killed(self: Path, target: Path) -> Path:
        order.append(target.name)
        if len(order) > 1:
            raise KeyboardInterrupt
        return renamed(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt), atomic_paths([labels, report]) as paths:
        write(paths, "new")
    assert order == ["l.nii.gz", "r.json"]
    assert labels.read_text() == "new"
    assert not report.exists()


@posix
def test_a_full_disk_behind_safetensors_is_bad_input(tmp_path: Path) -> None:
    """`RLIMIT_FSIZE` stands for the full disk: the system refuses the bytes beyond it."""
    import resource

    target = tmp_path / "x.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(BadInput, match=r"x\.safetensors: could not be written \(file too large\)"):  # noqa: SIM117
            with atomic_path(target) as part:
                save_file({"x": np.zeros(10_000)}, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@posix
def test_what_a_killed_process_left_is_swept_and_what_is_in_use_stays(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from diffatlas.io import atomic_path, temporary_folder_in\n"
        "folder = Path(sys.argv[1]); (temporary_folder_in(folder) / 'frame').write_text('x')\n"
        "with atomic_path(folder / 'l.nii.gz') as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    left = list(tmp_path.iterdir())
    assert len(left) == 2
    assert all(path.name.startswith(".diffatlas-") for path in left)
    ours = temporary_folder_in(tmp_path)
    with atomic_path(tmp_path / "l.nii.gz") as part:
        part.write_text("whole")
        sweep(tmp_path)
        assert part.is_file()
    assert sorted(tmp_path.iterdir()) == sorted([ours, tmp_path / "l.nii.gz"])


def test_leftovers_of_other_machines_go_when_they_are_old(tmp_path: Path) -> None:
    other = tmp_path / ".diffatlas-elsewhere-12-0123456789abcdef.nii.gz"
    other.write_text("x")
    sweep(tmp_path)
    assert other.exists()
    then = other.stat().st_mtime - atomic_module.ABANDONED_S - 1
    os.utime(other, (then, then))
    sweep(tmp_path)
    assert not other.exists()
