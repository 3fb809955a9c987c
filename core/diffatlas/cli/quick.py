"""A quick start: nibabel without pydicom.

nibabel imports pydicom to show DICOM headers that stand inside NIfTI files, which nothing here reads; that takes longer
than all the rest of nibabel. In processes of this command line alone nibabel is told that pydicom is not installed;
code that needs pydicom afterwards imports it as usual. A viewer or a notebook is
left alone: other code uses nibabel there.
"""

from __future__ import annotations

import sys

# Commands that run a model or read and write files, and do not open a program that has plugins.
QUICK = frozenset({"segment", "generate", "replay", "batch", "collect", "compare", "info", "phantom", "models"})


def begin(command: str | None) -> None:
    """Called as ``command`` begins, in a process that does nothing else."""
    if command in QUICK and not {"nibabel", "pydicom"} & sys.modules.keys():
        sys.modules["pydicom"] = None  # type: ignore[assignment]
        try:
            import nibabel  # noqa: F401
        finally:
            del sys.modules["pydicom"]
