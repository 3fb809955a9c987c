"""The folder of this process for visitors' files, and the removal of what dead processes left.

Each process makes ``diffatlas-app-XXXX`` in the temporary folder and holds a lock on the file ``owner`` in it, which
contains its process id. The operating system releases the lock when the process ends, however it ends (kill -9, a
crash, a power cut). The next start removes every such folder whose lock is free.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

if sys.platform != "win32":
    import fcntl

PREFIX = "diffatlas-app-"
OWNER = "owner"
YOUNG_S = 60.0
"""A folder without ``owner`` is left alone for this time: another process may be making it."""


class ProcessFolder:
    """A new folder that no other user of the machine can read; ``close`` removes it, and so does the next start."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        new, owner = self.path / f"{OWNER}.new", self.path / OWNER
        self._owner: TextIO | None = (owner if sys.platform == "win32" else new).open("w", encoding="ascii")
        self._owner.write(f"{os.getpid()}\n")
        self._owner.flush()
        if sys.platform != "win32":
            fcntl.flock(self._owner, fcntl.LOCK_EX)
            # Renamed only once it is locked: another start never sees an ``owner`` whose lock is free by accident.
            new.rename(owner)

    def close(self) -> None:
        if self._owner is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self._owner.close()
            self._owner = None
            shutil.rmtree(self.path, ignore_errors=True)


def sweep() -> list[Path]:
    """Remove the folders of dead processes of this user; returns those that are gone."""
    gone = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or not folder.is_dir() or not _is_ours(folder) or _is_alive(folder):
                continue
        except OSError:  # another start sweeps at the same time
            continue
        shutil.rmtree(folder, ignore_errors=True)
        gone.append(folder)
    return gone


def _is_ours(folder: Path) -> bool:
    return sys.platform == "win32" or folder.stat().st_uid == os.getuid()


def _is_alive(folder: Path) -> bool:
    owner = folder / OWNER
    if not owner.is_file() or owner.is_symlink():
        return time.time() - folder.stat().st_mtime < YOUNG_S
    if sys.platform == "win32":  # a file that a process holds open cannot be deleted there: that is the lock
        try:
            owner.unlink()
        except PermissionError:
            return True
        return False
    with owner.open("r+", encoding="ascii") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
