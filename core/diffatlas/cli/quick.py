"""A quick start: nibabel without pydicom, and torch while a large file is read.

nibabel imports pydicom to show DICOM headers that stand inside NIfTI files, which nothing here reads; that takes longer
than all the rest of nibabel. In processes of this command line alone nibabel is told that pydicom is not installed;
code that needs pydicom afterwards imports it as usual. A viewer or a notebook is
left alone: other code uses nibabel there.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread

# Commands that run a model or read and write files, and do not open a program that has plugins.
QUICK = frozenset({"segment", "generate", "replay", "batch", "collect", "compare", "info", "phantom", "models"})

# Bytes of a file that takes some time to read.
LARGE = 16 << 20


def begin(command: str | None) -> None:
    """Called as ``command`` begins, in a process that does nothing else."""
    if command in QUICK and not {"nibabel", "pydicom"} & sys.modules.keys():
        sys.modules["pydicom"] = None  # type: ignore[assignment]
        try:
            import nibabel  # noqa: F401
        finally:
            del sys.modules["pydicom"]


def torch_beside(path: Path) -> None:
    """Import torch in another thread while a large file is read: its bytes are unpacked and turned without the lock
    that Python holds while it imports."""

    def run() -> None:
        with suppress(ImportError):  # whoever needs it says so
            import_module("torch")

    if path.is_file() and path.stat().st_size >= LARGE:
        Thread(target=run).start()
