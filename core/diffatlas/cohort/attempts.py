"""Which process does which case, and how it ended: one small file an attempt, in a folder that any processes share.

Attempt N at a case is the file ``KEY.N.jsonl``. It is made with ``O_EXCL``, which one process alone succeeds in, also
on NFS: that process holds the case. Its first line names the process, its last one, appended, says how the attempt
ended. While it runs the holder touches the file every `HEARTBEAT_S`.

Attempt N + 1 may be made when attempt N has ended, when its process is known to be dead, or when nobody touched it for
`STALE_S`. Of several processes that try, one succeeds. Nothing is renamed, rewritten or removed, so there is no moment
at which two hold a case or a dead one keeps it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffatlas.io.atomic import process_runs

HEARTBEAT_S = 20.0
STALE_S = 180.0
FOLDER = ".cohort"
_MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest attempt at a case: ``end`` is its last line, None while it is held; ``at_s``: when it was written."""

    number: int
    held: bool
    end: dict[str, Any] | None
    at_s: float


@dataclass(frozen=True)
class Attempt:
    """An attempt that this process makes. Append its end with `Attempts.end`."""

    key: str
    number: int
    began_s: float = field(default_factory=time.monotonic)


class Attempts:
    """The attempts of one process in ``folder``; use it as a context, in which they are kept alive."""

    def __init__(self, folder: Path, *, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> None:
        self.folder = folder
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._held: set[Attempt] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._me = (
            json.dumps({"machine": machine(), "pid": os.getpid(), "started": started(os.getpid())}) + "\n"
        ).encode()

    def __enter__(self) -> Attempts:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._beat, name="diffatlas-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for attempt in list(self._held):
            self.end(attempt, {"state": "stopped"})

    def newest(self, key: str) -> Seen | None:
        """The newest attempt at a case, None where there was none."""
        number = -1
        while os.path.lexists(self._file(key, number + 1)):
            number += 1
        return None if number < 0 else self._seen(key, number)

    def take(self, key: str) -> Attempt | None:
        """A new attempt at a case, or None while another one is held.

        Who takes it looks again whether the case is done: the last holder may have finished a moment ago.
        """
        while True:
            seen = self.newest(key)
            if seen is not None and seen.held:
                return None
            number = 0 if seen is None else seen.number + 1
            try:
                handle = os.open(self._file(key, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
            except FileExistsError:
                continue  # another process was faster; see what it does
            try:
                os.write(handle, self._me)
            finally:
                os.close(handle)
            attempt = Attempt(key, number)
            with self._lock:
                self._held.add(attempt)
            return attempt

    def holds(self, attempt: Attempt) -> bool:
        """Whether nobody took the case over, as happens to a process that was asleep for longer than `STALE_S`."""
        return not os.path.lexists(self._file(attempt.key, attempt.number + 1))

    def end(self, attempt: Attempt, outcome: dict[str, Any]) -> None:
        """Append how the attempt ended; the case is free again."""
        line = (
            json.dumps({**outcome, "seconds": round(time.monotonic() - attempt.began_s, 3)}, ensure_ascii=True) + "\n"
        )
        with suppress(OSError):  # a full disk: the process's end frees the case
            handle = os.open(self._file(attempt.key, attempt.number), os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        with self._lock:
            self._held.discard(attempt)

    def now_s(self) -> float:
        """The time by the clock of the folder's file system, which may not be this machine's."""
        probe = self.folder / f".clock-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    # -- inside ------------------------------------------------------------------------------------------------------
    def _file(self, key: str, number: int) -> str:
        return f"{self.folder}{os.sep}{key}.{number}.jsonl"

    def _seen(self, key: str, number: int) -> Seen:
        with open(self._file(key, number), "rb") as file:  # noqa: PTH123  (opened: NFS then asks for the newest times)
            text, touched_s = file.read(_MAX_BYTES), os.fstat(file.fileno()).st_mtime
        lines = text.splitlines()
        holder = _parsed(lines[0]) if lines else None
        end = _parsed(lines[-1]) if len(lines) > 1 and text.endswith(b"\n") else None
        held = end is None and not self._is_dead(holder, touched_s)
        return Seen(number, held, end, touched_s)

    def _is_dead(self, holder: dict[str, Any] | None, touched_s: float) -> bool:
        """Whether an attempt's process has ended, or has not touched it for so long that it must have."""
        if holder is not None and holder.get("machine") == machine() and isinstance(pid := holder.get("pid"), int):
            if not process_runs(pid):
                return True
            now = started(pid)
            if holder.get("started") is not None and now is not None and now != holder["started"]:
                return True  # another process has its number now
        # This machine's clock first: the file system's is asked only where it could matter.
        return time.time() - touched_s > self._stale_s / 2 and self.now_s() - touched_s > self._stale_s

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            with self._lock:
                held = list(self._held)
            for attempt in held:
                with suppress(OSError):
                    os.utime(self._file(attempt.key, attempt.number))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@lru_cache(maxsize=1)
def machine() -> str:
    """This machine, as far as process ids mean something on it: name, boot, and the namespace of the ids."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  (not a path)
    return "/".join(parts)


def started(pid: int) -> str | None:
    """When a process began, in the system's own units, which tells it from a later one of the same id; None where the
    system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
