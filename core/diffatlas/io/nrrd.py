"""NRRD files (.nrrd, and .nhdr with the voxels in a file beside it).

Format: teem.sourceforge.net/nrrd/format.html. Read here and not by ITK or pynrrd: ITK parses numbers in the process's
locale, crashes on long header lines and drops shear; pynrrd takes ``key:=value`` pairs for fields and opens whatever
file a header names (decision 0013).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.io.atomic import atomic_path, shown
from diffatlas.io.header import (
    LPS_TO_RAS,
    NO_ORIENTATION,
    NO_ORIGIN,
    NO_SPACING,
    Fields,
    Voxels,
    data_beside,
    header_lines,
    numbers,
)
from diffatlas.io.source import Limits, Source, make_grid, pick_volume
from diffatlas.io.stream import gzip_writer, in_file_order, reading

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
ENCODINGS = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "hex": "hex",
    "ascii": "ascii", "text": "ascii", "txt": "ascii",
}  # fmt: skip
# Signs that bring the first two axes of a space to RAS+; the spaces with a time axis are the same.
SPACES = {
    "right-anterior-superior": (1, 1), "ras": (1, 1), "left-anterior-superior": (-1, 1), "las": (-1, 1),
    "left-posterior-superior": (-1, -1), "lps": (-1, -1),
}  # fmt: skip
# These name no side of the patient.
OTHER_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
UNIT_MM = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimeters": 10.0, "m": 1000.0, "meter": 1000.0, "meters": 1000.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometers": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "nanometers": 1e-6,
}  # fmt: skip
# Kinds of axes along which whole volumes follow each other, and of those that run through space or are not named.
SERIES_KINDS = {"list", "time"}
SPACE_KINDS = {"domain", "space", "???", "none", ""}


def read_nrrd(path: Path, volume_index: int | None, limits: Limits) -> Source:
    """One volume of an .nrrd or .nhdr file, or `BadInput`."""
    name = shown(path)
    with reading(name):
        fields, start = _fields(path)
        sizes, dtype, encoding = _layout(fields, name)
        axes = _space_axes(fields, sizes, name)
        shape = (sizes[axes[0]], sizes[axes[1]], sizes[axes[2]])
        voxels = int(np.prod(shape, dtype=object))
        volumes = int(np.prod(sizes, dtype=object)) // voxels
        limits.check(path, shape, dtype, volumes)
        index = pick_volume(path, volumes, volume_index)
        affine, notes = _affine(fields, axes, shape, len(sizes))
        grid = make_grid(path, shape, affine)
        other = fields.text("datafile")
        stored = Voxels(
            data_beside(path, other) if other and other.upper() != "LOCAL" else path,
            0 if other and other.upper() != "LOCAL" else start,
            dtype,
            encoding,
            fields.integer("lineskip", 0),
            fields.integer("byteskip", 0),
        )
        if stored.lines < 0 or stored.skipped < -1 or (stored.skipped == -1 and encoding != "raw"):
            raise BadInput(f"{name}: its header puts the voxels where none can be; save it as one file")
        if axes == [0, 1, 2]:
            data, rest = stored.read(name, index * voxels, voxels, (volumes - 1 - index) * voxels)
            data = data.reshape(shape, order="F")
        else:
            # The volumes lie interleaved: all are read, and one is kept.
            limits.check(path, (*shape, volumes), dtype)
            everything, rest = stored.read(name, 0, voxels * volumes, 0)
            moved = np.moveaxis(everything.reshape(sizes, order="F"), axes, [0, 1, 2])
            data = np.asfortranarray(moved.reshape(*shape, volumes, order="F")[..., index])
    return Source(data, grid, "NRRD", volumes=volumes, notes=(*notes, *rest))


def write_nrrd(data: NDArray[Any], grid: Grid, path: Path, table: NDArray[Any] | None = None) -> None:
    """Write ``data`` [X, Y, Z] on ``grid``, packed by gzip, atomically; ``table``: as `in_file_order`."""
    lps = LPS_TO_RAS @ grid.affine
    direction = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise BadInput(
            f"{shown(path)}: this grid has sheared axes, which most programs drop from NRRD; write .nii.gz instead"
        )
    vectors = ["(" + ",".join(_exact(v) for v in vector) + ")" for vector in lps[:3].T]
    kind = {code: names.split(", ")[-1] for code, names in _TYPES.items()}[
        (data if table is None else table).dtype.str[1:]
    ]
    lines = [
        "NRRD0004",
        f"type: {kind.removesuffix('_t')}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, data.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        with gzip_writer(file) as stream:
            for block in in_file_order(data, table):
                stream.write(block.data)


def _exact(value: float) -> str:
    """The shortest decimals that are the same number; the point is a point in every locale."""
    return repr(float(value) + 0.0)


def _fields(path: Path) -> tuple[Fields, int]:
    """The header's fields, blanks taken out of their names, and the byte behind it."""
    name = shown(path)
    with path.open("rb") as file:
        lines = header_lines(file, name)
        start = file.tell()
    if not lines or not lines[0].startswith("NRRD"):
        raise BadInput(f"{name}: is not an NRRD file, whatever its name says")
    fields = Fields(name)
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        # "key:=value" is a free comment and no field, whatever its key.
        if line.startswith("#") or not colon or value.startswith("=") or (":=" in value and not value.startswith(" ")):
            continue
        fields.add(key.replace(" ", "").lower(), value.strip())
    if lacking := [key for key in ("type", "sizes", "encoding") if key not in fields]:
        raise BadInput(f"{name}: its NRRD header lacks '{lacking[0]}'; convert the original again")
    return fields, start


def _layout(fields: Fields, name: str) -> tuple[list[int], np.dtype[Any], str]:
    """The sizes of all axes, the type and the encoding."""
    sizes = fields.integers("sizes")
    if fields.integer("dimension", len(sizes)) != len(sizes) or not 1 <= len(sizes) <= 16:
        raise BadInput(f"{name}: its header names another number of axes than sizes; it is damaged")
    if min(sizes) < 1:
        raise BadInput(f"{name}: the header claims a size of {'x'.join(map(str, sizes))}; it is damaged")
    code = TYPES.get(fields.text("type").lower())
    if code is None:
        raise BadInput(f"{name}: its voxels are of type '{fields.text('type')[:20]}', no numbers; save one per voxel")
    encoding = ENCODINGS.get(fields.text("encoding").lower())
    if encoding is None:
        raise BadInput(f"{name}: encoding '{fields.text('encoding')[:20]}' is not read; save it again with gzip")
    dtype = np.dtype(code)
    if dtype.itemsize > 1 and encoding != "ascii":
        order = {"little": "<", "big": ">"}.get(fields.text("endian").lower())
        if order is None:
            raise BadInput(f"{name}: its header does not say the byte order (endian); convert the original again")
        dtype = dtype.newbyteorder(order)  # type: ignore[arg-type]  # one of two letters
    return sizes, dtype, encoding


def _rows(fields: Fields, axes: int) -> list[list[float] | None]:
    """The vector of each axis as the header gives it, None for an axis that does not run through space."""
    words = re.findall(r"\([^()]*\)|[^\s()]+", fields.text("spacedirections"))
    if len(words) != axes:
        raise fields.broken("spacedirections")
    rows: list[list[float] | None] = []
    for word in words:
        if word.lower() == "none" or set(re.split(r"[\s,()]+", word.lower())) <= {"", "none", "nan"}:
            rows.append(None)
            continue
        parts = word.strip("()").split(",")
        rows.append(numbers([p.strip() for p in parts], len(parts), fields.broken("spacedirections")))
    return rows


def _space_axes(fields: Fields, sizes: list[int], name: str) -> list[int]:
    """Which three axes run through space. The others must be series of volumes, or of length one."""
    kinds = fields.text("kinds").lower().split() or [""] * len(sizes)
    if len(kinds) != len(sizes):
        raise fields.broken("kinds")
    if "spacedirections" in fields:
        rows = _rows(fields, len(sizes))
        # In a space with time, vectors have a fourth number; the time axis has only that one.
        axes = [k for k, row in enumerate(rows) if row is not None and (len(row) == 3 or any(row[:3]))]
    else:
        axes = [k for k, kind in enumerate(kinds) if kind in SPACE_KINDS]
        if len(axes) > 3 and not fields.text("kinds"):
            axes = axes[:3]
    for k, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        if k not in axes and size > 1 and kind not in SERIES_KINDS | SPACE_KINDS:
            raise BadInput(
                f"{name}: holds {size} values per voxel (color, vectors or a series); save one intensity per voxel"
            )
    if len(axes) < 3:
        raise BadInput(f"{name}: is a {len(axes)}-D image; a volume with three axes is needed")
    if len(axes) > 3:
        raise BadInput(f"{name}: has shape {'x'.join(map(str, sizes))}; save one volume with three axes")
    return axes


def _affine(
    fields: Fields, axes: list[int], shape: tuple[int, int, int], dimension: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel index to RAS+ mm, and what was assumed."""
    notes: list[str] = []
    space = re.sub("-?(time|t)$", "", fields.text("space").lower())
    signs = SPACES.get(space, (-1, -1))
    if "space" in fields and space not in SPACES:
        if space not in OTHER_SPACES:
            raise BadInput(f"{fields.name}: its space '{fields.text('space')[:40]}' is not known; save it again as LPS")
        side = ", and left may be right" if space == "3d-left-handed" else ""
        notes.append(
            f"space '{space}' names no side of the patient: assumed axes to the left, to the back and upwards{side}"
        )
    elif "space" not in fields and "spacedirections" in fields:
        notes.append("no space in the file: assumed axes running to the left, to the back and upwards")
    affine = np.eye(4)
    if "spacedirections" in fields:
        rows = _rows(fields, dimension)
        vectors = [row[:3] for k in axes if (row := rows[k]) is not None]
        if any(len(vector) != 3 for vector in vectors):
            raise fields.broken("spacedirections")
        affine[:3, :3] = np.array(vectors).T
        unit, unit_notes = _units(fields, "spaceunits", 3)
        with np.errstate(over="ignore"):  # what becomes infinite is refused with the grid
            affine[:3, :3] *= np.array(unit)[:, None]
    else:
        notes.append(NO_ORIENTATION)
        steps, middles, unit_notes = _steps(fields, axes, shape, dimension)
        affine[:3, :3] = np.diag(steps)
        affine[:3, 3] = middles
        unit, _ = _units(fields, "spaceunits", 3)
    if "spaceorigin" in fields:
        origin = re.split(r"\s*,\s*", fields.text("spaceorigin").strip("() "))
        if len(origin) not in (3, 4):
            raise fields.broken("spaceorigin")
        affine[:3, 3] = np.array(numbers(origin, len(origin), fields.broken("spaceorigin"))[:3]) * unit
    elif "spacedirections" in fields:
        notes.append(NO_ORIGIN)
    affine[:2] *= np.array(signs)[:, None]
    return affine, notes + unit_notes


def _steps(
    fields: Fields, axes: list[int], shape: tuple[int, int, int], dimension: int
) -> tuple[list[float], list[float], list[str]]:
    """Voxel sizes and the first voxel's middle, mm, of a file without directions; from spacings, or from the axes'
    limits: a node lies on them, a cell's border does."""
    steps, first, notes = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], []
    unit, unit_notes = _units(fields, "units", dimension)
    if "spacings" in fields:
        words = fields.text("spacings").split()
        # NaN stands for an axis that has none.
        values = [float("nan") if w.lower() == "nan" else numbers([w], 1, fields.broken("spacings"))[0] for w in words]
        if len(values) != dimension or not np.isfinite([values[a] for a in axes]).all():
            raise fields.broken("spacings")
        steps = [values[a] * unit[a] for a in axes]
    elif "axismins" in fields and "axismaxs" in fields:
        lows, highs = fields.numbers("axismins", dimension), fields.numbers("axismaxs", dimension)
        centers = fields.text("centerings", fields.text("centers")).lower().split() or ["cell"] * dimension
        for k, (axis, size) in enumerate(zip(axes, shape, strict=True)):
            node = centers[axis : axis + 1] == ["node"]
            steps[k] = (highs[axis] - lows[axis]) / max(1, size - node) * unit[axis]
            first[k] = lows[axis] * unit[axis] + (0 if node else steps[k] / 2)
    else:
        return steps, first, [NO_SPACING]
    if min(steps) <= 0:
        raise BadInput(f"{fields.name}: its header says voxels of {min(steps):g} mm; mend the header")
    notes += unit_notes
    return steps, first, notes


def _units(fields: Fields, key: str, count: int) -> tuple[list[float], list[str]]:
    """Millimetres of each axis' unit; a unit that is not known is taken as mm, and a note says so."""
    if key not in fields:
        return [1.0] * count, []
    words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', fields.text(key))]
    if len(words) < count:
        words += [""] * (count - len(words))
    unknown = sorted({word for word in words[:count] if word.lower() not in UNIT_MM and word not in ("", "???")})
    factors = [UNIT_MM.get(word.lower(), 1.0) for word in words[:count]]
    notes = [f"unit '{word[:20]}' is not known: taken as mm" for word in unknown[:3]]
    if any(factor != 1 for factor in factors):
        notes.append(f"lengths in the header are not in mm: multiplied by {', '.join(f'{f:g}' for f in factors)}")
    return factors, notes
