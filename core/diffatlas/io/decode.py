"""The process that `diffatlas.io.contained` starts: file names come in, one a line, voxels go out.

Started as ``python -m diffatlas.io.decode``; two pipes are all that it shares with the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas.io.contained import Answer
from diffatlas.io.images import read_source
from diffatlas.io.source import Limits, Source


def main() -> None:
    """Serve until the other end closes the pipe, or one file where the system cannot fork."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Imported once here and not in every fork.
    import pydicom.pixels  # noqa: F401

    # Nothing that a library prints may get between the voxels.
    os.dup2(2, 1)
    answers.write(b"ready\n")
    answers.flush()
    for line in requests:
        if sys.platform == "win32":
            _serve(json.loads(line), answers)
            return
        pid = os.fork()
        if pid == 0:
            # Not sys.exit: the parent's exit handlers must not run in a fork.
            with suppress(BrokenPipeError):
                _serve(json.loads(line), answers)
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            # A part of the answer may be written; the closed pipe tells the reader.
            os._exit(1)


def _serve(request: dict[str, Any], answers: BinaryIO) -> None:
    limits = Limits(request["max_voxels"], request["max_bytes"], compressed=True)
    _limit(limits.decoder_bytes, request["max_seconds"])
    path = Path(os.fsdecode(bytes.fromhex(request["path"])))
    source: Source | None = None
    try:
        source = read_source(path, request["volume_index"], limits, series_first=request["series_first"])
        answer = _described(source)
    except SeveralVolumes as error:
        answer = Answer(refused=str(error)[:2000], choices=tuple(choice[:500] for choice in error.choices))
    except BadInput as error:
        answer = Answer(refused=str(error)[:2000])
    except MemoryError:
        answer = Answer(refused=f"{path.name}: not enough memory to read it; crop it or resample it to larger voxels")
    except Exception as error:
        answer = Answer(fault=f"{type(error).__name__}: {error}"[:2000])
    answers.write(answer.model_dump_json().encode() + b"\n")
    if source is not None and answer.refused is None and answer.fault is None:
        # The first axis fastest, as all formats have it: no copy.
        answers.write(np.ascontiguousarray(source.data.T).data)
    answers.flush()


def _described(source: Source) -> Answer:
    return Answer(
        shape=source.grid.shape,
        dtype=source.data.dtype.str[1:],
        affine=source.grid.affine.ravel().tolist(),
        format=source.format,
        scale=source.scale,
        header=source.header,
        modality=source.modality,
        padding=source.padding,
        series=source.series,
        structures=source.structures,
        known=source.known,
        volumes=source.volumes,
        notes=source.notes,
    )


def _limit(more: int, seconds: float) -> None:
    """Let this process allocate ``more`` bytes from now on, write no file and leave no core dump."""
    if sys.platform == "win32":
        return
    import resource

    # The parent stops a slow decoder; the alarm stops it where the parent has died.
    signal.alarm(int(seconds) + 5)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        # The sixth number is the size of data and stack, in pages (man 5 proc).
        now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))


if __name__ == "__main__":
    main()
