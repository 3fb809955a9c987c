"""Bytes of a file, exactly as many as its header says: packed streams read through their checksums, never past a limit.

All formats but DICOM read their voxels here. Deflate is done by ISA-L (package isal), which takes a third of zlib's
time to read.
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from diffatlas.errors import BadInput

CHUNK_BYTES = 1 << 20
# Packed bytes read at a time; the inflater copies the rest of them at every call.
PACKED_BYTES = 1 << 17
# Some writers pad; anything longer than this behind the voxels is not padding.
TRAILING_BYTES = 1 << 20
# Of ISA-L's levels 0 to 3. Label maps are 9 % larger than at zlib's level 4, and take a twentieth of its time; level 3
# is slower and larger on them, level 0 seven times the size.
DEFLATE_LEVEL = 1
GZIP_MAGIC = b"\x1f\x8b"
# A gzip member: its first bytes, and deflate as its only method.
GZIP_MEMBER = GZIP_MAGIC + b"\x08"


class Readable(Protocol):
    """What bytes come from: a file, or a stream that is unpacked."""

    def read(self, size: int, /) -> bytes: ...


class Inflated:
    """A zlib stream or gzip members one after another, unpacked; every checksum is compared.

    ``stray``: whether something else follows the last member, as some programs leave it; it is not read.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._input = b""
        self._inflater: Any = isal_zlib.decompressobj(wbits=47)  # 32 + 15: zlib or gzip, told by its header
        self.stray = False

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        while not self.stray:
            if self._inflater.eof:
                if len(self._input) < len(GZIP_MEMBER):
                    self._input += self._file.read(PACKED_BYTES)
                if not self._input:
                    break
                if not self._input.startswith(GZIP_MEMBER):
                    self.stray = True
                    break
                self._inflater = isal_zlib.decompressobj(wbits=31)
            self._input = self._input or self._file.read(PACKED_BYTES)
            # Also without input: the inflater may hold back what did not fit into the answer before.
            out: bytes = self._inflater.decompress(self._input, size)
            if not self._input and not out and not self._inflater.eof:
                raise BadInput(f"{self._name}: the compressed data end early; copy or download it again")
            self._input = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if out:
                return out
        return b""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What fails in the block while ``name`` is read, as `BadInput`."""
    try:
        yield
    except EOFError as error:
        raise BadInput(f"{name}: the compressed data end early; copy or download it again") from error
    except IsalError as error:  # type: ignore[misc]  # typed as a value
        raise BadInput(f"{name}: the compressed data are damaged ({error}); copy or download it again") from error
    except OSError as error:
        raise BadInput(f"{name}: could not be read ({error.strerror or error}); copy or download it again") from error
    except MemoryError as error:
        raise BadInput(f"{name}: not enough memory to read it; crop it or resample it to larger voxels") from error


def unpacked(file: BinaryIO, encoding: str, name: str) -> Readable:
    """The bytes of ``file`` from where it stands; ``encoding``: raw, gzip (or zlib) or bzip2."""
    if encoding == "gzip":
        return Inflated(file, name)
    return bz2.BZ2File(file) if encoding == "bzip2" else file


def take(stream: Readable, count: int, name: str) -> NDArray[np.uint8]:
    """Exactly ``count`` bytes."""
    # np.empty commits no memory before it is written to: a false size costs nothing.
    buffer = np.empty(count, dtype=np.uint8)
    view, at = buffer.data, 0
    while at < count:
        part = stream.read(min(CHUNK_BYTES, count - at))
        if not part:
            raise BadInput(f"{name}: ends early ({at} of {count} bytes); it was cut off, copy or download it again")
        view[at : at + len(part)] = part
        at += len(part)
    return buffer


def skip(stream: Readable, count: int, name: str) -> None:
    """Read ``count`` bytes and forget them."""
    while count > 0:
        part = stream.read(min(CHUNK_BYTES, count))
        if not part:
            raise BadInput(f"{name}: ends early; it was cut off, copy or download it again")
        count -= len(part)


def finish(stream: Readable, name: str) -> tuple[str, ...]:
    """Read what follows the voxels, so that the last checksum is compared; notes, or `BadInput` where it is much."""
    left = TRAILING_BYTES
    while part := stream.read(CHUNK_BYTES):
        left -= len(part)
        if left < 0:
            raise BadInput(f"{name}: goes on long after the voxels its header describes; it is damaged")
    notes = []
    if left < TRAILING_BYTES:
        notes.append(f"{TRAILING_BYTES - left} bytes follow the voxels that the header describes: they are not used")
    if isinstance(stream, Inflated) and stream.stray:
        notes.append("something that is not compressed follows the compressed data: it is not used")
    return tuple(notes)


def native(buffer: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bytes as numbers of ``dtype``, in this machine's byte order."""
    data = buffer.view(dtype)
    return data if data.dtype.isnative else data.byteswap().view(data.dtype.newbyteorder("="))


def in_file_order(data: NDArray[Any], table: NDArray[Any] | None = None) -> Iterator[NDArray[Any]]:
    """``data`` [X, Y, Z] in blocks whose bytes, one after another, have the first axis fastest.

    ``table``: what is written for each of uint8 ``data``, looked up block by block, which the cache can hold.
    """
    # The file's fastest axis is the array's slowest. Blocks of both use all of the memory that is fetched for them.
    for k in range(0, data.shape[2], 32):
        part = data[:, :, k : k + 32]
        block = np.zeros(part.shape[::-1], dtype=data.dtype)
        empty = True
        for i in range(0, len(part), 16):
            rows = part[i : i + 16]
            # Labels are background nearly everywhere, and looking is cheaper than turning.
            if table is None or rows.any():
                block[:, :, i : i + 16] = rows.T
                empty = False
        if table is not None:
            block = np.full(block.shape, table[0], table.dtype) if empty else table[block]
        yield block


@contextmanager
def gzip_writer(file: BinaryIO) -> Iterator[BinaryIO]:
    """A stream whose bytes are packed into ``file``; they depend on nothing else: no time, no name inside."""
    with igzip.IGzipFile(  # type: ignore[no-untyped-call]
        filename="", fileobj=file, mode="wb", compresslevel=DEFLATE_LEVEL, mtime=0
    ) as stream:
        yield cast(BinaryIO, stream)
