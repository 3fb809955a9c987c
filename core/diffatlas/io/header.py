"""What the text headers of NRRD and MetaImage have in common: lines, numbers, the file that holds the voxels.

Python parses the numbers, whatever the locale. No other parser reads the header afterwards, so what was checked is what
is decoded.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.io.atomic import shown
from diffatlas.io.stream import Readable, finish, native, skip, take, unpacked

HEADER_BYTES = 1 << 20
# Limit for voxels written as text: programs write only small images so.
TEXT_BYTES = 64 << 20
# ITK's world is LPS+, ours RAS+: the first two world axes change sign, oblique directions stay as they are.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NO_ORIENTATION = "no orientation in the file: assumed axes running to the left, to the back and upwards"
NO_SPACING = "no spacing in the file: assumed voxels of 1 mm"
NO_ORIGIN = "no position in the file: assumed that the first voxel lies at 0"


def header_lines(file: BinaryIO, name: str) -> list[str]:
    """All lines up to an empty one, which ends an NRRD header, or to ElementDataFile, which ends a MetaImage's."""
    lines: list[str] = []
    left = HEADER_BYTES
    while raw := file.readline(left):
        left -= len(raw)
        if left <= 0:
            raise BadInput(f"{name}: its header is longer than {HEADER_BYTES} bytes; it is damaged")
        line = raw.decode("utf-8", errors="replace").strip()
        if not line:
            break
        lines.append(line)
        if re.match(r"ElementDataFile\s*[=:]", line):
            break
    return lines


class Fields:
    """The fields of a header, keys in lower case; every number that is asked for is checked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[str, str] = {}

    def add(self, key: str, value: str) -> None:
        if key in self._values:
            raise BadInput(f"{self.name}: its header names '{key[:40]}' twice; save it again")
        self._values[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        return self._values.get(key, default)

    def integers(self, key: str, default: str = "") -> list[int]:
        words = self.text(key, default).split()
        if not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words):
            raise self.broken(key)
        return [int(word) for word in words]

    def integer(self, key: str, default: int) -> int:
        values = self.integers(key, str(default))
        if len(values) != 1:
            raise self.broken(key)
        return values[0]

    def numbers(self, key: str, count: int) -> list[float]:
        """``count`` real numbers, separated by blanks."""
        return numbers(self.text(key).split(), count, self.broken(key))

    def broken(self, key: str) -> BadInput:
        return BadInput(f"{self.name}: its header says {key}: {self.text(key)[:60]!r}, which is broken; save it again")


def numbers(words: list[str], count: int, error: BadInput) -> list[float]:
    """``count`` finite numbers, or ``error``."""
    # Python would also accept 1_000 and digits of other scripts.
    if len(words) != count or not all(word.isascii() and "_" not in word for word in words):
        raise error
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise error from None
    if not np.isfinite(values).all():
        raise error
    return values


def data_beside(path: Path, value: str) -> Path:
    """The file that a header names for its voxels. It may only be one beside the header: anything else could read any
    file of this machine."""
    name = re.sub(r"^(\./)+", "", value)
    beside = path.parent / name
    elsewhere = f"{shown(path)}: its voxels lie elsewhere ({value[:80]!r})"
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or Path(name).drive or Path(name).root:
        raise BadInput(f"{elsewhere}; save it as one file")
    try:
        if beside.is_file():
            return beside
    except OSError:  # a name that no file can have
        pass
    if name.upper().startswith("LIST") or re.search(r"%0?[0-9]*[du]", name):
        raise BadInput(f"{elsewhere}, in several files; save it as one file")
    raise BadInput(f"{elsewhere}: the data file {name[:80]!r} is missing; put it into the same folder")


@dataclass(frozen=True)
class Voxels:
    """Where the numbers of a file lie: in the file ``path`` from byte ``start`` on, ``lines`` lines further, and, once
    unpacked, ``skipped`` bytes further; -1: at the end of the file. ``encoding``: raw, gzip, bzip2, hex or ascii."""

    path: Path
    start: int
    dtype: np.dtype[Any]
    encoding: str
    lines: int = 0
    skipped: int = 0

    def read(self, name: str, before: int, count: int, after: int) -> tuple[NDArray[Any], tuple[str, ...]]:
        """``count`` numbers after ``before`` others, of which ``after`` more follow; and notes."""
        size = self.dtype.itemsize
        with self.path.open("rb") as file:
            total = (before + count + after) * size
            cut = f"{name}: is shorter than its header says; it was cut off, copy or download it again"
            end = file.seek(0, 2)
            if self.encoding == "raw" and end - self.start < total:
                raise BadInput(cut)
            file.seek(end - total if self.skipped < 0 else self.start)
            self._skip_lines(file, name)
            if self.encoding == "ascii":
                return self._from_text(file, name, before, count, after), ()
            stream: Readable = _Hex(file, name) if self.encoding == "hex" else unpacked(file, self.encoding, name)
            skip(stream, max(0, self.skipped) + before * size, name)
            buffer = take(stream, count * size, name)
            if self.encoding == "raw":
                left = end - file.tell() - after * size
                if left < 0:
                    raise BadInput(
                        f"{name}: is shorter than its header says; it was cut off, copy or download it again"
                    )
                notes = (f"{left} bytes follow the voxels that the header describes: they are not used",) * (left > 0)
            else:
                skip(stream, after * size, name)
                notes = finish(stream, name)
        return native(buffer, self.dtype), notes

    def _skip_lines(self, file: BinaryIO, name: str) -> None:
        left = HEADER_BYTES
        for _ in range(self.lines):
            line = file.readline(left)
            left -= len(line)
            if not line.endswith(b"\n") or left <= 0:
                raise BadInput(f"{name}: has fewer lines before its voxels than its header says; save it as one file")

    def _from_text(self, file: BinaryIO, name: str, before: int, count: int, after: int) -> NDArray[Any]:
        text = file.read(TEXT_BYTES + 1)
        if len(text) > TEXT_BYTES:
            raise BadInput(f"{name}: its voxels are more than {TEXT_BYTES >> 20} MB of text; save it with compression")
        words = text.split()
        if len(words) != before + count + after:
            raise BadInput(f"{name}: holds {len(words)} numbers, its header says {before + count + after}")
        try:
            if self.dtype.kind == "f":
                return np.array([float(word) for word in words[before : before + count]], dtype=self.dtype)
            values = [int(word) for word in words[before : before + count]]
        except ValueError as error:
            raise BadInput(
                f"{name}: its voxels are no numbers ({str(error)[:60]}); save it with compression"
            ) from error
        limits = np.iinfo(self.dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise BadInput(f"{name}: holds numbers that its type does not; save it again")
        return np.array(values, dtype=self.dtype)


class _Hex:
    """Bytes written as pairs of hexadecimal digits, with blanks and line ends anywhere between them."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._digits = b""

    def read(self, size: int, /) -> bytes:
        while len(self._digits) < 2 and (block := self._file.read(min(2 * size, 1 << 20))):
            self._digits += b"".join(block.split())
        pairs, self._digits = self._digits[: 2 * size], self._digits[2 * size :]
        if len(pairs) % 2:
            pairs, self._digits = pairs[:-1], pairs[-1:] + self._digits
        try:
            return binascii.unhexlify(pairs)
        except binascii.Error as error:
            raise BadInput(f"{self._name}: its voxels are no hexadecimal digits; save it with compression") from error
