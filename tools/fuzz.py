"""Read damaged and hostile files by the thousand. Usage: fuzz.py [--count N] [--seed S] [--only FORMAT] [--keep FOLDER]

Small sound files of every format are changed at random, with a seed: bits, bytes, lengths, numbers, lines, ends, bombs.
Each mutant is read by a decoder of its own (`diffatlas.io.contained`), so that a crash is counted and no accident. A
mutant must become a volume or a refusal of one line, in time and memory; one whose header is whole must be refused or
give the very voxels of the sound file. The table counts the outcomes; the exit code is 1 if one of them is not allowed.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap

SHAPE = (7, 6, 5)
LIMITS = io.Limits(max_voxels=4_000_000, max_bytes=32 << 20, contained=True, max_seconds=20)
LINE = 600
# What stands where a number was.
NUMBERS = (
    "0", "-1", "1", "2", "7", "255", "65536", "2147483647", "4294967296", "9999999999999999999", "1e308", "-1e308",
    "1e-308", "nan", "inf", "1,5", "0x10", "1_0", "", "%s%n", "٣", "1.5.2", "none", "()", "(1,2)", "/etc/passwd",
    "../a", "LIST",
)  # fmt: skip
INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
# Outcomes that must not be: late, an error of ours, other voxels than the file's, a refusal nobody can read.
FORBIDDEN = ("late", "fault", "wrong", "unreadable")

FORMATS = ("NIfTI", "NRRD", "MetaImage", "DICOM", "compressed DICOM", "DICOM labels")
Rng = np.random.Generator


@dataclass(frozen=True)
class Seed:
    """A sound file: its bytes, its name, how many of them are header, and files that must lie beside it."""

    format: str
    name: str
    content: bytes
    header: int
    packed: bool = False
    beside: tuple[tuple[str, bytes], ...] = ()


def seeds(folder: Path) -> list[Seed]:
    """One sound file of each kind of storage."""
    import SimpleITK

    sitk: Any = SimpleITK  # which carries no types

    data = np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)
    grid = Grid(SHAPE, np.array([[-1.5, 0, 0, 3], [0, 2, 0.1, 4], [0, 0.1, 2.5, 5], [0, 0, 0, 1]]))
    straight = Grid(SHAPE, np.diag([1.5, 2, 2.5, 1]))
    found = []
    for format_, name in (("NIfTI", "a.nii"), ("NIfTI", "a.nii.gz"), ("NRRD", "a.nrrd"), ("MetaImage", "a.mha")):
        io.write_array(data, grid if format_ == "NIfTI" else straight, folder / name)
        content = (folder / name).read_bytes()
        header = {
            "a.nii": 352,
            "a.nrrd": content.find(b"\n\n") + 2,
            "a.mha": content.find(b"LOCAL\n") + 6,
        }.get(name, 0)
        found.append(Seed(format_, name, content, header, packed=name != "a.nii"))
    for format_, name in (("NRRD", "b.nrrd"), ("MetaImage", "b.mha")):
        image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
        sitk.WriteImage(image, str(folder / name), useCompression=False)
        content = (folder / name).read_bytes()
        found.append(Seed(format_, name, content, len(content) - data.nbytes))
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0))[:1])
    for tag, value in {
        "0008|0060": "CT",
        "0018|0050": "2.5",
        "0020|0032": "0\\0\\0",
        "0020|0037": "1\\0\\0\\0\\1\\0",
    }.items():
        image.SetMetaData(tag, value)
    sitk.WriteImage(image, str(folder / "a.dcm"))
    content = (folder / "a.dcm").read_bytes()
    found.append(Seed("DICOM", "a.dcm", content, len(content) - data[:, :, 0].nbytes))
    return [*found, *_compressed(folder), *_labels(folder)]


def _compressed(folder: Path) -> list[Seed]:
    """A slice for each codec that is native code; OpenJPEG's encoder wants 64 pixels."""
    from pydicom import dcmread
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    found = []
    for name, syntax in (("c.dcm", RLELossless), ("d.dcm", JPEGLSLossless), ("e.dcm", JPEG2000Lossless)):
        dataset = dcmread(folder / "a.dcm")
        pixels = np.random.default_rng(1).integers(0, 3000, (64, 64)).astype(np.uint16)
        dataset.Rows, dataset.Columns, dataset.PixelRepresentation = 64, 64, 0
        dataset.PixelData = pixels.tobytes()
        dataset.compress(syntax)
        dataset.save_as(folder / name)
        content = (folder / name).read_bytes()
        found.append(Seed("compressed DICOM", name, content, content.index(b"\xe0\x7f\x10\x00") + 12))
    return found


def _labels(folder: Path) -> list[Seed]:
    """A SEG, and an RTSTRUCT with the series that it was drawn on beside it."""
    from pydicom import dcmread

    for k in range(SHAPE[2]):
        dataset: Any = dcmread(folder / "a.dcm")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.99"
        dataset.ImagePositionPatient = [0, 0, 2.5 * k]
        dataset.save_as(folder / f"slice{k}.dat")
    (folder / "series").mkdir()
    beside = [path.rename(folder / "series" / path.name) for path in sorted(folder.glob("slice*.dat"))]
    volume = io.read_volume(folder / "series")
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[1:4, 1:5, 1:3], labels[4:6, 2:5, 2:5] = 1, 2
    found = []
    for name, format_ in (("s.dcm", "seg"), ("r.dcm", "rtstruct")):
        path = folder / "series" / name
        io.write_label_map(LabelMap(labels, volume.grid, MMWHS), path, source=volume, format=format_)  # type: ignore[arg-type]
        content = path.rename(folder / name).read_bytes()
        pixels = content.find(b"\xe0\x7f\x10\x00")
        files = tuple((file.name, file.read_bytes()) for file in beside) if format_ == "rtstruct" else ()
        for file_name, bytes_ in files:  # also beside the sound file, which is read too
            (folder / file_name).write_bytes(bytes_)
        found.append(Seed("DICOM labels", name, content, pixels + 12 if pixels > 0 else len(content) - 1, beside=files))
    shutil.rmtree(folder / "series")
    return found


# --- mutations: header and whole file -> bytes, and whether the header is still whole ---------------------------------


def cut(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    at = int(rng.integers(0, len(seed.content)))
    return seed.content[:at], at >= seed.header


def flip_data(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    content = bytearray(seed.content)
    for _ in range(int(rng.integers(1, 4))):
        content[int(rng.integers(seed.header, len(content)))] ^= 1 << int(rng.integers(8))
    # Without a checksum nothing tells a flipped bit from a measurement.
    return bytes(content), seed.packed


def flip_header(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    content = bytearray(_plain(seed))
    for _ in range(int(rng.integers(1, 6))):
        content[int(rng.integers(0, _header(seed)))] ^= 1 << int(rng.integers(8))
    return _pack(seed, bytes(content)), False


def binary_number(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    content = bytearray(_plain(seed))
    size = int(rng.choice([1, 2, 4, 8]))
    at = int(rng.integers(0, max(1, _header(seed) - size)))
    number = int(rng.choice(INTEGERS)) % (1 << (8 * size))
    content[at : at + size] = number.to_bytes(size, "little" if rng.random() < 0.8 else "big")
    return _pack(seed, bytes(content)), False


def text_number(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    head, rest = seed.content[: seed.header], seed.content[seed.header :]
    lines = head.split(b"\n")
    k = int(rng.integers(0, len(lines)))
    words = lines[k].replace(b",", b" , ").replace(b"(", b" ( ").replace(b")", b" ) ").split(b" ")
    words[int(rng.integers(0, len(words)))] = str(rng.choice(NUMBERS)).encode()
    lines[k] = b" ".join(words)
    return b"\n".join(lines) + rest, False


def lines_changed(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    head, rest = seed.content[: seed.header], seed.content[seed.header :]
    lines = head.split(b"\n")
    k, kind = int(rng.integers(0, len(lines))), int(rng.integers(0, 5))
    if kind == 0:
        del lines[k]
    elif kind == 1:
        lines.insert(k, lines[int(rng.integers(0, len(lines)))])
    elif kind == 2:
        lines[k] += b" 1" * int(rng.integers(1, 20_000))
    elif kind == 3:
        lines.insert(k, b"x" * int(rng.integers(1, 2_000_000)))
    else:
        lines[k] = bytes(rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8))
    return b"\n".join(lines) + rest, False


def bytes_moved(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    content = seed.content
    a, b = sorted(int(v) for v in rng.integers(0, len(content), 2))
    kind = int(rng.integers(0, 3))
    piece = bytes(rng.integers(0, 256, int(rng.integers(1, 300)), dtype=np.uint8))
    return (content[:a] + content[b:], content[:a] + piece + content[a:], content[:b] + content[a:])[kind], False


def bomb(seed: Seed, rng: Rng) -> tuple[bytes, bool]:
    zeros = bytes(int(rng.integers(1, 64)) << 20)
    if seed.name == "a.nii.gz":
        return gzip.compress(gzip.decompress(seed.content) + zeros, 9), False
    if seed.packed:
        pack: Callable[[bytes], bytes] = gzip.compress if seed.format == "NRRD" else zlib.compress
        return seed.content[: seed.header] + pack(zeros), False
    return seed.content + zeros, False


def _plain(seed: Seed) -> bytes:
    """The bytes that hold the header, unpacked where the whole file is packed."""
    return gzip.decompress(seed.content) if seed.name == "a.nii.gz" else seed.content


def _header(seed: Seed) -> int:
    return 352 if seed.format == "NIfTI" else seed.header


def _pack(seed: Seed, content: bytes) -> bytes:
    return gzip.compress(content, 1) if seed.name == "a.nii.gz" else content


BINARY = (cut, flip_data, flip_header, flip_header, binary_number, binary_number, bytes_moved, bomb)
TEXT = (cut, flip_data, flip_header, text_number, text_number, text_number, lines_changed, bytes_moved, bomb)


def mutants(folder: Path, count: int, seed: int, only: str | None = None) -> Iterator[tuple[Seed, int, bytes, bool]]:
    """``count`` mutants of all seeds in turn; each depends on ``seed`` and its own number only."""
    sound = [s for s in seeds(folder) if only in (None, s.format)]
    for number in range(count):
        source = sound[number % len(sound)]
        rng = np.random.default_rng([seed, number])
        kinds = TEXT if source.format in ("NRRD", "MetaImage") else BINARY
        content, whole = kinds[int(rng.integers(0, len(kinds)))](source, rng)
        yield source, number, content, whole


def outcome(path: Path, expected: NDArray[np.float32] | None) -> tuple[str, str]:
    """What became of one mutant, and a line about it; ``expected``: the voxels that it must have, if any."""
    begin = time.monotonic()
    notes: list[str] = []
    try:
        data = voxels_of(path, notes)
    except BadInput as error:
        message = str(error)
        if "the decoder crashed" in message:
            return "crash", message
        if "was stopped" in message:
            return "late", message
        readable = "\n" not in message and len(message) <= LINE and path.name in message
        return ("refused" if readable else "unreadable"), message
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"
    if time.monotonic() - begin > LIMITS.max_seconds:
        return "late", "read, but late"
    if not np.isfinite(data).all():
        return "wrong", "not finite"
    if expected is not None and not np.array_equal(data, expected):
        return "wrong", "other voxels than the sound file's"
    return "volume", ", ".join(notes)


def voxels_of(path: Path, notes: list[str]) -> NDArray[Any]:
    """What a file holds, as its own reader gives it."""
    if path.name in ("s.dcm", "r.dcm"):
        return io.read_label_ids(path, limits=LIMITS, notes=notes)[0]
    volume = io.read_volume(path, limits=LIMITS)
    notes += volume.notes
    return volume.data


def fuzz(count: int, seed: int, only: str | None = None, keep: Path | None = None) -> dict[str, Counter[str]]:
    """Counts of outcomes by format; what is forbidden, and crashes, are printed and kept in ``keep``."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "seeds").mkdir()
        (folder / "mutant").mkdir()
        voxels: dict[str, Any] = {}
        for source, number, content, whole in mutants(folder / "seeds", count, seed, only):
            if source.name not in voxels:
                voxels[source.name] = voxels_of(folder / "seeds" / source.name, [])
                for name, bytes_ in source.beside:
                    (folder / "mutant" / name).write_bytes(bytes_)
            path = folder / "mutant" / source.name
            path.write_bytes(content)
            kind, line = outcome(path, voxels[source.name] if whole else None)
            counts.setdefault(source.format, Counter())[kind] += 1
            if kind in (*FORBIDDEN, "crash"):
                print(f"{source.name} {number}: {kind}: {line}", file=sys.stderr)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}-{source.name}").write_bytes(content)
            path.unlink()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    begin = time.monotonic()
    counts = fuzz(given.count, given.seed, given.only, given.keep)
    kinds = ("volume", "refused", "crash", *FORBIDDEN)
    print("| format | mutants | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 2) + "|")
    for format_, counter in sorted(counts.items()):
        print(f"| {format_} | {sum(counter.values())} | " + " | ".join(str(counter[k]) for k in kinds) + " |")
    print(f"{given.count} mutants, seed {given.seed}, {time.monotonic() - begin:.0f} s")
    return int(any(counter[kind] for counter in counts.values() for kind in FORBIDDEN))


if __name__ == "__main__":
    sys.exit(main())
