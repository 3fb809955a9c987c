"""MetaImage files (.mha, and .mhd with the voxels in a file beside it).

Format: the MetaIO documentation of ITK (itk.org/Wiki/ITK/MetaIO/Documentation). The axes' directions are the rows of
``TransformMatrix``, in the frame LPS+.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Modality
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
)
from diffatlas.io.source import Limits, Source, make_grid, pick_volume
from diffatlas.io.stream import DEFLATE_LEVEL, in_file_order, reading

# A long has four bytes here, whatever it has in C (MetaIO's table MET_ValueTypeSize).
TYPES = {
    "met_char": "i1", "met_uchar": "u1", "met_short": "i2", "met_ushort": "u2", "met_int": "i4", "met_uint": "u4",
    "met_long": "i4", "met_ulong": "u4", "met_long_long": "i8", "met_ulong_long": "u8", "met_float": "f4",
    "met_double": "f8",
}  # fmt: skip
NAMES = {code: name.upper() for name, code in TYPES.items() if name not in ("met_long", "met_ulong")}
UNIT_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}
MODALITIES: dict[str, Modality] = {"met_mod_ct": "ct", "met_mod_mr": "mr"}
# One value under several names.
ALIASES = {
    "position": "offset", "origin": "offset", "orientation": "transformmatrix", "rotation": "transformmatrix",
    "elementbyteordermsb": "binarydatabyteordermsb",
}  # fmt: skip


def read_metaimage(path: Path, volume_index: int | None, limits: Limits) -> Source:
    """One volume of an .mha or .mhd file, or `BadInput`."""
    name = shown(path)
    with reading(name):
        fields, start = _fields(path)
        sizes, dtype = _layout(fields, name)
        shape, volumes = (sizes[0], sizes[1], sizes[2]), int(np.prod(sizes[3:], dtype=object))
        limits.check(path, shape, dtype, volumes)
        index = pick_volume(path, volumes, volume_index)
        affine, notes = _affine(fields, len(sizes))
        grid = make_grid(path, shape, affine)
        other = fields.text("elementdatafile")
        beside = None if other.upper() == "LOCAL" else data_beside(path, other)
        stored = _stored(fields, beside or path, 0 if beside else start, dtype)
        voxels = int(np.prod(shape, dtype=object))
        data, rest = stored.read(name, index * voxels, voxels, (volumes - 1 - index) * voxels)
    modality = MODALITIES.get(fields.text("modality").lower())
    return Source(
        data.reshape(shape, order="F"),
        grid,
        "MetaImage",
        modality=modality,
        volumes=volumes,
        notes=(*notes, *rest),
    )


def write_metaimage(data: NDArray[Any], grid: Grid, path: Path, table: NDArray[Any] | None = None) -> None:
    """Write ``data`` [X, Y, Z] on ``grid``, packed by zlib, atomically; ``table``: as `in_file_order`."""
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    packer = isal_zlib.compressobj(DEFLATE_LEVEL)
    packed = [packer.compress(block.data) for block in in_file_order(data, table)]
    packed.append(packer.flush())
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        f"BinaryDataByteOrderMSB = {sys.byteorder == 'big'}",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, packed))}",
        f"TransformMatrix = {_row((lps[:3, :3] / spacing).T.ravel())}",
        f"Offset = {_row(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_row(spacing)}",
        f"DimSize = {' '.join(map(str, data.shape))}",
        f"ElementType = {NAMES[(data if table is None else table).dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
        file.writelines(packed)


def _row(values: NDArray[np.float64]) -> str:
    """The shortest decimals that are the same numbers; the point is a point in every locale."""
    return " ".join(repr(float(v) + 0.0) for v in values)


def _fields(path: Path) -> tuple[Fields, int]:
    """The header's fields and the byte behind it."""
    name = shown(path)
    with path.open("rb") as file:
        lines = header_lines(file, name)
        start = file.tell()
    fields = Fields(name)
    for line in lines:
        parts = re.split(r"\s*[=:]\s*", line, maxsplit=1)
        if len(parts) == 2 and parts[0].lower() != "comment":
            key = parts[0].lower()
            fields.add(ALIASES.get(key, key), parts[1])
    if not lines or not re.match(r"ElementDataFile\s*[=:]", lines[-1]):
        raise BadInput(f"{name}: is not a MetaImage file, whatever its name says; convert the original again")
    return fields, start


def _layout(fields: Fields, name: str) -> tuple[list[int], np.dtype[Any]]:
    """The sizes of all axes and the stored type."""
    sizes = fields.integers("dimsize")
    if not 1 <= len(sizes) <= 16 or fields.integer("ndims", len(sizes)) != len(sizes):
        raise BadInput(f"{name}: its header names another number of axes than sizes; it is damaged")
    if min(sizes) < 1:
        raise BadInput(f"{name}: the header claims a size of {'x'.join(map(str, sizes))}; it is damaged")
    if len(sizes) < 3:
        raise BadInput(f"{name}: is a {len(sizes)}-D image; a volume with three axes is needed")
    channels = fields.integer("elementnumberofchannels", 1)
    code = TYPES.get(fields.text("elementtype").lower().removesuffix("_array"))
    if channels != 1:
        raise BadInput(
            f"{name}: holds {channels} values per voxel (color, vectors or a series); save one intensity per voxel"
        )
    if code is None:
        kind = fields.text("elementtype")[:20]
        raise BadInput(f"{name}: its voxels are of type '{kind}', not one real number; save it as float32")
    if any(n > 1 for n in sizes[4:]):
        raise BadInput(f"{name}: has shape {'x'.join(map(str, sizes))}; save one volume with three axes")
    return sizes, np.dtype(code).newbyteorder(">" if _flag(fields, "binarydatabyteordermsb") else "<")


def _flag(fields: Fields, key: str, default: bool = False) -> bool:
    value = fields.text(key, str(default)).lower()
    if value not in ("true", "t", "1", "false", "f", "0"):
        raise fields.broken(key)
    return value in ("true", "t", "1")


def _stored(fields: Fields, path: Path, start: int, dtype: np.dtype[Any]) -> Voxels:
    packed = _flag(fields, "compresseddata")
    skipped = fields.integer("headersize", 0)
    if skipped < -1 or (packed and skipped):
        raise BadInput(f"{fields.name}: its header puts the voxels where none can be; save it as one file")
    if not _flag(fields, "binarydata", default=True):
        if packed or skipped:
            raise BadInput(f"{fields.name}: text that is compressed is not read; save it again")
        return Voxels(path, start, dtype, "ascii")
    # CompressedDataSize is not needed: the stream itself says where it ends, and whether it is whole.
    return Voxels(path, start, dtype, "gzip" if packed else "raw", skipped=skipped)


def _affine(fields: Fields, dimension: int) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel index to RAS+ mm, and what was assumed."""
    notes = []
    lps = np.eye(4)
    if "transformmatrix" in fields:
        matrix = np.array(fields.numbers("transformmatrix", dimension**2)).reshape(dimension, dimension)
        if matrix[:3, 3:].any() or matrix[3:, :3].any():
            raise BadInput(f"{fields.name}: its axes in space and time are mixed; save one volume with three axes")
        if np.abs(matrix).max() > 1e6:
            raise fields.broken("transformmatrix")
        lps[:3, :3] = matrix[:3, :3].T
    else:
        notes.append(NO_ORIENTATION)
    key = next((k for k in ("elementspacing", "elementsize") if k in fields), None)
    if key is None:
        notes.append(NO_SPACING)
    else:
        spacing = np.array(fields.numbers(key, dimension))[:3]
        if spacing.min() <= 0:
            raise BadInput(f"{fields.name}: its header says voxels of {spacing.min():g} mm; mend the header")
        lps[:3, :3] *= spacing
    if "offset" in fields:
        lps[:3, 3] = fields.numbers("offset", dimension)[:3]
    else:
        notes.append(NO_ORIGIN)
    unit = fields.text("distanceunits", "mm").lower()
    if unit not in UNIT_MM:
        notes.append(f"unit '{unit[:20]}' is not known: taken as mm")
    elif UNIT_MM[unit] != 1:
        lps[:3] *= UNIT_MM[unit]
        notes.append(f"lengths in the header are not in mm: multiplied by {UNIT_MM[unit]:g}")
    if "elementtointensityfunctionslope" in fields or "elementtointensityfunctionoffset" in fields:
        notes.append("the header has a function from stored values to intensities: stored values taken as they are")
    return LPS_TO_RAS @ lps, notes
