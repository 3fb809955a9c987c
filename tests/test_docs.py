"""The documentation: the site builds without warnings, names everything public, and its Python examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffatlas

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference.md"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "search" / "search_index.json").is_file()
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert not [page for page in pages if re.search(r'(src|href)="https?://fonts', page)]


def test_the_reference_names_everything_public() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    public = [*diffatlas.__all__, *(f"plot.{name}" for name in diffatlas.plot.__all__ if name != "Plot")]
    missing = [name for name in public if not re.search(rf"diffatlas\.{name}\b", text)]
    assert missing == []


@pytest.mark.weights
def test_the_examples_of_the_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(REFERENCE), "exec"), names)
    assert (tmp_path / "truth.nii.gz").is_file()
