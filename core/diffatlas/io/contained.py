"""Decoding in another process: a crash, a hang or a flood of memory inside a decoder ends that process and no other.

A decoder (`diffatlas.io.decode`) is a child process that waits for file names. For every file it forks, limits the
fork's memory, reads and answers; where the system cannot fork (Windows) a decoder reads one file and ends. So each file
is read in a process that never held another file. The answer is one line of JSON and then the voxels as bytes, over a
pipe. Nothing is unpickled, and every field is checked here again, because a file that has taken over its decoder also
writes its answer.

Limits of the containment: time on every system, memory on Linux only. It is no sandbox: code that a file gets to run in
a decoder has the rights of this user.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.geometry.volume import DicomSeries, Modality, NiftiHeader, Structure
from diffatlas.io.atomic import shown
from diffatlas.io.source import MAX_CHOICES, Limits, Source, make_grid

# Idle decoders that are kept; each uses some 60 MB.
IDLE_DECODERS = 2
COMMAND = [sys.executable, "-P", "-m", "diffatlas.io.decode"]
LINE_BYTES = 1 << 24  # the answer for a series names every slice
# Environment variables that a decoder gets: search paths, no tokens.
ENVIRONMENT = {"PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}

Size = Annotated[int, Field(ge=1, le=2**31)]


class Answer(BaseModel):
    """The line before the voxels; either ``refused`` (with the volumes to choose from) or the rest of a `Source`.

    ``affine``: 16 numbers, by rows.
    """

    model_config = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="constants")

    refused: str | None = Field(default=None, max_length=2000)
    choices: tuple[Annotated[str, Field(max_length=500)], ...] = Field(default=(), max_length=MAX_CHOICES)
    fault: str | None = Field(default=None, max_length=2000)
    shape: tuple[Size, Size, Size] = (1, 1, 1)
    dtype: str = Field(default="u1", pattern="^([iu][1248]|f[48])$")
    affine: list[float] = Field(default_factory=list, max_length=16)
    format: str = Field(default="", max_length=40)
    scale: tuple[float, float] = (1.0, 0.0)
    header: NiftiHeader | None = None
    modality: Modality | None = None
    padding: float | None = None
    series: DicomSeries | None = None
    structures: tuple[Structure, ...] = Field(default=(), max_length=65535)
    known: tuple[Annotated[str, Field(max_length=100)], ...] = Field(default=(), max_length=65535)
    volumes: int = Field(default=1, ge=1)
    notes: tuple[Annotated[str, Field(max_length=500)], ...] = Field(default=(), max_length=50)


def read_contained(path: Path, volume_index: int | None, limits: Limits, *, series_first: bool = False) -> Source:
    """What ``path`` holds, read by a decoder; `BadInput` also where the decoder crashed or reached a limit."""
    decoder = _pool.take()
    decoder.wait_until_started()
    late = threading.Event()

    def stop() -> None:
        late.set()
        decoder.stop()

    timer = threading.Timer(limits.max_seconds, stop)
    timer.daemon = True
    timer.start()
    request: dict[str, object] = {
        # As bytes: the two processes may decode file names differently.
        "path": os.fsencode(path.absolute()).hex(),
        "volume_index": volume_index,
        "series_first": series_first,
        "max_voxels": limits.max_voxels,
        "max_bytes": limits.max_bytes,
        "max_seconds": limits.max_seconds,
    }
    try:
        return decoder.read(request, path, limits)
    except (EOFError, BrokenPipeError, ValidationError) as error:
        name = shown(path)
        if late.is_set():
            raise BadInput(
                f"{name}: reading it took longer than {limits.max_seconds:g} s and was stopped; convert it to .nii.gz"
            ) from error
        raise BadInput(f"{name}: the decoder crashed on it; it is damaged, convert the original again") from error
    finally:
        timer.cancel()
        _pool.give_back(decoder)


class _Decoder:
    """One child process and the two pipes to it."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k in ENVIRONMENT}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        # A process with other threads must not fork.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # native decoders write to it past Python
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._greeted = False
        self._in_step = True

    def wait_until_started(self) -> None:
        if not self._greeted and self._from.readline(LINE_BYTES) != b"ready\n":
            self.close()
            raise RuntimeError("the process that decodes files did not start")
        self._greeted = True

    def usable(self) -> bool:
        """Whether it runs and waits for the next request."""
        return self._in_step and self._process.poll() is None

    def read(self, request: dict[str, object], path: Path, limits: Limits) -> Source:
        """Send one request and check every field of the answer; EOFError where the decoder ends instead."""
        self._in_step = False
        self._to.write(json.dumps(request).encode() + b"\n")
        self._to.flush()
        line = self._from.readline(LINE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        answer = Answer.model_validate_json(line)
        self._in_step = answer.fault is not None or answer.refused is not None
        if answer.fault is not None:
            raise RuntimeError(f"{shown(path)}: {_printable(answer.fault)}")
        if answer.refused is not None and answer.choices:
            raise SeveralVolumes(_printable(answer.refused), tuple(map(_printable, answer.choices)))
        if answer.refused is not None:
            raise BadInput(_printable(answer.refused))
        dtype = np.dtype(answer.dtype)
        if len(answer.affine) != 16:
            raise EOFError
        limits.check(path, answer.shape, dtype)
        grid = make_grid(path, answer.shape, np.array(answer.affine).reshape(4, 4))
        voxels = np.empty(int(np.prod(answer.shape, dtype=np.int64)) * dtype.itemsize, dtype=np.uint8)
        view, at = voxels.data, 0
        while at < len(view):
            # Into our own memory: a shared mapping could change, or be cut, after it was checked.
            count = self._from.readinto(view[at:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            at += count
        self._in_step = True
        return Source(
            voxels.view(dtype).reshape(answer.shape, order="F"),
            grid,
            _printable(answer.format),
            answer.scale,
            answer.header,
            answer.modality,
            answer.volumes,
            tuple(_printable(note) for note in answer.notes),
            answer.padding,
            answer.series,
            answer.structures,
            answer.known,
        )

    def stop(self) -> None:
        """End the process and its forks, whatever they do."""
        with suppress(OSError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.stop()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()


class _Pool:
    """Decoders that wait. Each serves one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []

    def take(self) -> _Decoder:
        while True:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
            if decoder is None:
                return _Decoder()
            if decoder.usable():
                return decoder
            decoder.close()

    def give_back(self, decoder: _Decoder) -> None:
        with self._lock:
            if keep := decoder.usable() and len(self._idle) < IDLE_DECODERS:
                self._idle.append(decoder)
        if not keep:
            decoder.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.close()

    def forget(self) -> None:
        """In a fork of this process: the decoders belong to the parent."""
        self.__init__()  # type: ignore[misc]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


_pool = _Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)
