"""Standard output and error that cannot turn a finished run into a failure.

A terminal that lacks a character gets an escape (``\\u2588``) instead of it. When the reader of a pipe has gone
(``| head``), the rest is dropped: the run and its exit code stay what they are. Any other failure to write to standard
output (a full disk behind ``>``) is remembered and reported at the end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

# What a write to a pipe without a reader gives: EPIPE, and EINVAL on Windows.
_NO_READER = {errno.EPIPE, errno.EINVAL} if os.name == "nt" else {errno.EPIPE}


class TolerantStream:
    """A text stream as `sys.stdout`; ``failure`` is the first error that lost text, None while there is none."""

    def __init__(self, stream: TextIO | None) -> None:
        # Python has no stream at all where the descriptor was closed before it started.
        self._stream: TextIO = stream if stream is not None else io.StringIO()
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, with an escape for every character that the stream's encoding does not have."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush; text that nobody can receive any more is dropped."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in _NO_READER and self.failure is None:
            self.failure = error
        # Discard what is still buffered, also when Python flushes it at exit.
        with suppress(OSError, ValueError, AttributeError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(descriptor, self._stream.fileno())
            finally:
                os.close(descriptor)


@contextmanager
def tolerant_streams() -> Iterator[TolerantStream]:
    """`sys.stdout` and `sys.stderr` are `TolerantStream`s inside the block; yields the one of standard output."""
    before = sys.stdout, sys.stderr
    out, err = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
