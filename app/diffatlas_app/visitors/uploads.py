"""Uploaded files: safe display names, archives checked while they are unpacked, files stored where no URL leads.

Names inside an archive are not used on the disk: its entries become a00000.dcm, a00001.dcm, b00002 and so on, in one
folder. What the names have in common is kept, so that a text beside the slices is not taken for a damaged slice.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas_app import limits

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")
FORMATS = (*VOLUMES, ".dcm", ".zip")
CHUNK_BYTES = 1024 * 1024
UNIX = 3
# Files that the zip programs of some systems add to every archive.
CLUTTER = ("__MACOSX/", ".DS_Store", "Thumbs.db")


def suffix_of(name: str, formats: tuple[str, ...] = FORMATS) -> str | None:
    """The extension of a file name as one of ``formats``, or None."""
    return next((s for s in formats if name.lower().endswith(s)), None)


def display_name(name: str) -> str:
    """A visitor's file name, safe to show and to offer for download: no folders, no markup, 60 characters."""
    base = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w.\- ]", "_", base).strip(". ") or "volume"
    if len(clean) <= 60:
        return clean
    suffix = suffix_of(clean) or ""
    return clean[: 59 - len(suffix)] + "…" + suffix


def stem_of(name: str) -> str:
    """A display name without its extension."""
    return name[: len(name) - len(suffix_of(name) or "")] or "volume"


def take(path: Path, folder: Path, kind: str, formats: tuple[str, ...] = FORMATS) -> Path:
    """Put a file of the inbox into ``folder`` as ``kind`` with its extension, replacing the one before.

    The file also stays in the inbox until that deletes it. A zip is unpacked into a folder of that name.
    Returns what to read. Raises `BadInput`.
    """
    name = display_name(path.name)
    suffix = suffix_of(path.name, formats)
    if suffix is None:
        raise BadInput(f"{name}: not a file this page reads; give one of {', '.join(formats)}")
    if path.is_symlink() or not path.is_file():
        raise BadInput(f"{name}: not a file")
    if path.stat().st_size > limits.MAX_UPLOAD_MB * 1024**2:
        raise BadInput(f"{name}: {path.stat().st_size / 1024**2:.0f} MB; the limit is {limits.MAX_UPLOAD_MB} MB")
    target = folder / (kind if suffix == ".zip" else kind + suffix)
    fresh = folder / f"new-{target.name}"
    try:
        if suffix == ".zip":
            unpack(path, fresh, name)
        else:
            _same_file(path, fresh)
    except BaseException as error:
        remove(fresh)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"{name}: the disk of this machine is full: try again later") from error
        raise
    for old in [folder / kind, *folder.glob(f"{kind}.*")]:
        remove(old)
    fresh.replace(target)
    return target


def _same_file(path: Path, target: Path) -> None:
    """A second name for a file (nothing is copied), or a copy where the file system has no such thing."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copyfile(path, target, follow_symlinks=False)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path, name: str) -> None:
    """The files of a zipped DICOM series into the new ``folder``, under names of our own.

    `BadInput` on too many entries, too many bytes (as declared and as they come), links, devices, encryption, names
    that lead out of the folder, damage.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened, name)
            folder.mkdir()
            left = limits.MAX_BYTES
            for entry, own in zip(entries, _own_names(entries), strict=True):
                left = _copy(opened, entry, folder / own, left, name)
    except BadInput:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        # zipfile's message may quote names of entries, which come from the sender.
        kind = type(error).__name__
        raise BadInput(f"{name}: a damaged or unusual zip file ({kind}); zip the series again") from error


def _own_names(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """A new name for every entry: a letter, which names that differ in numbers alone share, a number, and .dcm or
    nothing. A DICOMDIR keeps its name, by which it is recognised."""
    groups: dict[str, int] = {}
    names: list[str] = []
    for number, entry in enumerate(entries):
        path = PurePosixPath(entry.filename)
        if path.name.upper() == "DICOMDIR" and "DICOMDIR" not in names:
            names.append("DICOMDIR")
            continue
        group = groups.setdefault(re.sub(r"\d+", "#", entry.filename), len(groups))
        suffix = ".dcm" if path.suffix.lower() in io.DICOM_SUFFIXES else ""
        names.append(f"{_letters(group)}{number:05d}{suffix}")
    return names


def _letters(number: int) -> str:
    """a, b, ... z, ba, bb, ..."""
    return (_letters(number // 26) if number >= 26 else "") + chr(ord("a") + number % 26)


def _checked(opened: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
    entries = [e for e in opened.infolist() if not e.is_dir() and not e.filename.startswith(CLUTTER)]
    entries = [e for e in entries if PurePosixPath(e.filename).name not in CLUTTER]
    count = len(opened.infolist())
    if count > limits.MAX_ZIP_ENTRIES:
        raise BadInput(f"{name}: holds {count} entries, the limit is {limits.MAX_ZIP_ENTRIES}; zip one series only")
    if not entries:
        raise BadInput(f"{name}: the zip file is empty; give a zipped DICOM series")
    for entry in entries:
        parts = re.split(r"[/\\]", entry.filename)
        if ".." in parts or entry.filename.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", entry.filename):
            raise BadInput(f"{name}: an entry's name leads out of the archive; zip the folder of the series again")
        mode = entry.external_attr >> 16
        if entry.create_system == UNIX and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BadInput(f"{name}: holds a link or a device; zip the files themselves")
        if entry.flag_bits & 0x1:
            raise BadInput(f"{name}: is encrypted; zip it without a password")
    if (total := sum(entry.file_size for entry in entries)) > limits.MAX_BYTES:
        raise BadInput(_too_large(name, f"unpacks to {total / 1024**2:.0f} MB"))
    return entries


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, name: str) -> int:
    """Unpack one entry; the sizes that an archive declares may be wrong. Returns how many bytes may still come."""
    with opened.open(entry) as source, target.open("xb") as out:
        while chunk := source.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise BadInput(_too_large(name, "unpacks to more than it declares"))
            out.write(chunk)
    return left


def _too_large(name: str, what: str) -> str:
    return f"{name}: {what}; the limit is {limits.MAX_BYTES / 1024**2:.0f} MB unpacked"
