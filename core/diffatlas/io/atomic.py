"""Files that are there whole or not at all.

What is written goes to a hidden temporary file in the target's own folder, is flushed to the disk, and then takes the
target's name in one step. A full disk, an exception or a kill leaves the earlier file as it was.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diffatlas.errors import BadInput

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


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
        # A name the file system refuses (too long, characters it does not know) shows here and not after the work.
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
    # A link keeps pointing where it did: the file behind it is replaced.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".diffatlas-{secrets.token_hex(8)}{suffix_of(target)}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise BadInput(
            f"{shown(path)}: could not be written ({_reason(error)}); what was there before is unchanged"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


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


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
