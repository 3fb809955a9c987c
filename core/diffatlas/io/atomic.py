"""Atomic writes: a file is complete, or it is not there.

What is written goes to a hidden temporary file in the target's own folder, is flushed to the disk, and then takes the
target's name in one step. A full disk, an exception or a kill leaves the earlier file as it was. What a killed process
leaves is hidden, carries the process's machine and id in its name, and is removed by `sweep`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffatlas.errors import BadInput

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
PREFIX = ".diffatlas-"
# Temporary files of another machine, or of a process id in use again, are removed when unchanged for this long.
ABANDONED_S = 7 * 24 * 3600.0
# Rust libraries (safetensors) put the system's error number into the text of an exception of their own.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The extension in lower case, ``.nii.gz`` taken as one; empty when there is none."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def shown(path: str | os.PathLike[str]) -> str:
    """The file's name as an error message shows it: one line, nothing a terminal would obey."""
    name = Path(path).name or str(path)
    return "".join(c if c.isprintable() else "?" for c in name)


def check_output(path: str | os.PathLike[str], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Path:
    """The path, if a file of one of the ``suffixes`` can be written there; else `BadInput`. Call before any work."""
    path = Path(path)
    try:
        if path.is_dir():
            raise BadInput(f"{shown(path)}: is a folder; give the name of a file to write")
        if suffix_of(path) not in suffixes:
            raise BadInput(f"{shown(path)}: cannot write this format; choose a name ending in {', '.join(suffixes)}")
        if not path.parent.is_dir():
            raise BadInput(f"{path}: the folder {path.parent} does not exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise BadInput(f"{path}: no permission to write in {path.parent}; choose another folder")
        if path.is_file() and not os.access(path, os.W_OK):
            # Renaming would replace it, but its owner has protected it.
            raise BadInput(f"{shown(path)}: is write-protected; give another name, or lift the protection")
        # A name that the file system refuses fails here, before the work.
        with suppress(FileNotFoundError):
            path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{shown(path)}: not a usable file name ({_reason(error)})") from error
    return path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path of the same extension; when the block ends well, the file there becomes ``path``.

    An exception in the block removes the temporary file and leaves ``path`` untouched; an `OSError` (disk full, no
    permission) comes out as `BadInput`.
    """
    with atomic_paths([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[Path]]:
    """`atomic_path` for files that belong together: all are whole on the disk before the first takes its name.

    They take their names in the order given. The last one vouches for the others: its earlier file is removed before
    any other is replaced, so that a kill at any moment leaves no old report beside new labels.
    """
    # A link stays; the file that it points to is replaced.
    targets = [Path(os.path.realpath(path)) for path in paths]
    temporaries = [temporary_beside(target) for target in targets]
    current = paths[0]
    try:
        yield temporaries
        for current, temporary in zip(paths, temporaries, strict=True):  # noqa: B007  (named in the error below)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if len(targets) > 1:
            targets[-1].unlink(missing_ok=True)
        for current, temporary, target in zip(paths, temporaries, targets, strict=True):  # noqa: B007
            temporary.replace(target)
        for folder in {target.parent for target in targets}:
            _sync_folder(folder)
    except BadInput as error:
        text = str(error)
        for temporary, target in zip(temporaries, targets, strict=True):  # of a writer within the block
            text = text.replace(temporary.name, target.name)
        raise (error if text == str(error) else BadInput(text)) from error
    except Exception as error:
        reason = _write_error(error)
        if reason is None:
            raise
        filename = str(getattr(error, "filename", None) or "")
        named = shown(next((p for p, t in zip(paths, temporaries, strict=True) if t.name in filename), current))
        raise BadInput(f"{named}: could not be written ({reason}); what was there before is unchanged") from error
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def temporary_beside(target: Path) -> Path:
    """A hidden path in the target's folder that no other process uses and that `sweep` knows; nothing is made."""
    return target.with_name(f"{PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(8)}{suffix_of(target)}")


def temporary_folder_in(parent: Path) -> Path:
    """A new hidden folder in ``parent``, which `sweep` knows; who makes it removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_host()}-{os.getpid()}-", dir=parent))


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left half-written in ``folder``; files in use stay, errors are ignored."""
    with suppress(OSError):
        for path in folder.glob(f"{PREFIX}*"):
            if _abandoned(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)


def process_runs(pid: int) -> bool:
    """Whether a process of this id runs on this machine; True where the system does not say."""
    if os.name != "posix":  # elsewhere os.kill(pid, 0) is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


_NAME = re.compile(re.escape(PREFIX) + r"(?P<host>\w+)-(?P<pid>\d+)-[0-9a-z_]+(\..*)?")


def _abandoned(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    if match is not None and match["host"] == _host() and not process_runs(int(match["pid"])):
        return True
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_S
    except OSError:
        return False


def _host() -> str:
    """This machine's name, as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:40] or "host"


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can (POSIX); the data are already safe."""
    if os.name != "posix":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(error: Exception) -> str | None:
    """Why the system could not write, also where a library wraps the system's error; None for any other exception."""
    if isinstance(error, OSError):
        return _reason(error)
    match = _OS_ERROR.search(str(error))
    return None if match is None else os.strerror(int(match[1])).lower()


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
