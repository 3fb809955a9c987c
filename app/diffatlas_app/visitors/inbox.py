"""Files as they arrive from visitors: each in a folder of its own with a random name, until it is used or too old.

A visitor knows a file by its reference ``TOKEN/NAME``. TOKEN is random (128 bits) and told only to who sent the file;
NAME is the sender's file name, made safe to show. Any other reference is refused: paths of the machine, ``..``, URLs
and links, whatever they point to.
"""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from diffatlas.errors import BadInput
from diffatlas_app import limits

TOKEN = re.compile(r"[0-9a-f]{32}")


class TooMuch(BadInput):
    """A quota is used up; ``status``: the HTTP status of the answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Arrival:
    address: str
    size: int = 0
    used: bool = False
    complete: bool = False
    since: float = field(default_factory=time.monotonic)


class Inbox:
    """The folder that uploads go to; thread-safe."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder.resolve()
        self._arrivals: dict[str, _Arrival] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrivals)

    def receive(self, name: str, address: str) -> Receiving:
        """Open a new file for what arrives from ``address`` under the display name ``name``. Raises `TooMuch`."""
        token = secrets.token_hex(16)
        with self._lock:
            while self._too_many(address) and (used := [t for t, a in self._arrivals.items() if a.used]):
                self._drop(min(used, key=lambda t: self._arrivals[t].since))
            if self._too_many(address):
                raise TooMuch("too many files are waiting to be used on this page: try again in a few minutes", 429)
            open_now = sum(not a.complete for a in self._arrivals.values())
            if open_now >= limits.UPLOADS_AT_ONCE:
                raise TooMuch(f"{open_now} files are arriving already: try again in a minute", 503)
            self._arrivals[token] = _Arrival(address)
        try:
            (self.folder / token).mkdir()
            opened = (self.folder / token / name).open("xb")
        except OSError as error:
            self.discard(token)
            raise _disk(error) from error
        return Receiving(self, token, name, opened)

    def grow(self, token: str, count: int) -> None:
        """Count ``count`` more bytes of an arriving file. Raises `TooMuch`."""
        with self._lock:
            arrival = self._arrivals[token]
            arrival.size += count
            if arrival.size > limits.MAX_UPLOAD_MB * 1024**2:
                raise TooMuch(f"the file is larger than {limits.MAX_UPLOAD_MB} MB, the limit", 413)
            self._make_room(arrival.address)
            mine = sum(a.size for a in self._arrivals.values() if a.address == arrival.address)
            if mine > limits.INBOX_MB_PER_ADDRESS * 1024**2:
                raise TooMuch(
                    f"more than {limits.INBOX_MB_PER_ADDRESS} MB from your address are waiting to be used: try again "
                    f"in {limits.INBOX_AGE_S / 60:.0f} minutes",
                    429,
                )
            if sum(a.size for a in self._arrivals.values()) > limits.INBOX_MB * 1024**2:
                raise TooMuch("too many files are waiting on this page: try again in a few minutes", 503)

    def complete(self, token: str) -> None:
        with self._lock:
            self._arrivals[token].complete = True

    def find(self, reference: object) -> Path:
        """The file of a reference ``TOKEN/NAME``; `BadInput`, which names no path, for anything else."""
        refused = BadInput("this is no file that was sent to this page (or not any more): upload it again")
        if not isinstance(reference, str) or len(reference) > 500:
            raise refused
        token, slash, name = reference.partition("/")
        with self._lock:
            arrival = self._arrivals.get(token)
            if not TOKEN.fullmatch(token) or not slash or arrival is None or not arrival.complete:
                raise refused
        path = self.folder / token / name
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or not self.holds(path):
            raise refused
        return path

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is a complete file of this folder; links are not followed."""
        try:
            inside = path.resolve(strict=True) == path and path.parent.parent == self.folder
            return inside and not path.is_symlink() and path.is_file() and path.parent.name in self._arrivals
        except (OSError, ValueError, RuntimeError):
            return False

    def mark_used(self, path: Path) -> None:
        """The file was copied and may be deleted when room is needed."""
        with self._lock:
            if path.parent.name in self._arrivals:
                self._arrivals[path.parent.name].used = True

    def discard(self, token: str) -> None:
        """Remove a file."""
        with self._lock:
            self._drop(token)

    def expire(self) -> None:
        """Remove uploads that are too old, and everything in the folder that is not an upload."""
        with self._lock:
            now = time.monotonic()
            for token, arrival in list(self._arrivals.items()):
                if now - arrival.since > limits.INBOX_AGE_S:
                    self._drop(token)
            for path in self.folder.iterdir():  # gradio leaves an empty file beside every one that it hands over
                if path.is_file():
                    path.unlink(missing_ok=True)
                elif path.name not in self._arrivals:
                    shutil.rmtree(path, ignore_errors=True)

    def _too_many(self, address: str) -> bool:
        mine = sum(a.address == address for a in self._arrivals.values())
        return mine >= limits.INBOX_FILES_PER_ADDRESS or len(self._arrivals) >= limits.INBOX_FILES

    def _make_room(self, address: str) -> None:
        """Drop used files, the oldest first, while a quota is exceeded. The lock is held."""
        while True:
            mine = sum(a.size for a in self._arrivals.values() if a.address == address)
            everyone = sum(a.size for a in self._arrivals.values())
            crowded = everyone > limits.INBOX_MB * 1024**2
            if not crowded and mine <= limits.INBOX_MB_PER_ADDRESS * 1024**2:
                return
            used = [t for t, a in self._arrivals.items() if a.used and (crowded or a.address == address)]
            if not used:
                return
            self._drop(min(used, key=lambda t: self._arrivals[t].since))

    def _drop(self, token: str) -> None:
        self._arrivals.pop(token, None)
        shutil.rmtree(self.folder / token, ignore_errors=True)


class Receiving:
    """A file that arrives: `write` its bytes in a ``with`` block; it is removed if the block fails."""

    def __init__(self, inbox: Inbox, token: str, name: str, opened: BinaryIO) -> None:
        self._inbox, self._token, self._opened = inbox, token, opened
        self.reference = f"{token}/{name}"

    def write(self, chunk: bytes) -> None:
        self._inbox.grow(self._token, len(chunk))
        try:
            self._opened.write(chunk)
        except OSError as error:
            raise _disk(error) from error

    def __enter__(self) -> Receiving:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._opened.close()  # writes what is still buffered
        except OSError as failed:
            self._inbox.discard(self._token)
            if kind is None:
                raise _disk(failed) from failed
            return
        if kind is None:
            self._inbox.complete(self._token)
        else:
            self._inbox.discard(self._token)


def _disk(error: OSError) -> BadInput:
    """`TooMuch` where the disk is full; other errors are faults of ours and are raised again."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TooMuch("the disk of this machine is full: try again later", 507)
    raise error
