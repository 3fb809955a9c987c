"""NIfTI-1 and NIfTI-2, single file (.nii, .nii.gz): every field that is used is checked, every byte is accounted for.

nibabel takes the header apart; the voxels are streamed (`diffatlas.io.stream`), so that a bad header costs no memory, a
gzip bomb stops at the size its header claims, and a compressed file is read to its end, where the checksum stands.
Format: NIfTI-1 and NIfTI-2 data format, nifti.nimh.nih.gov.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import NiftiHeader
from diffatlas.io.atomic import atomic_path, shown
from diffatlas.io.source import Limits, Source, make_grid, pick_volume
from diffatlas.io.stream import (
    GZIP_MAGIC,
    Readable,
    finish,
    gzip_writer,
    in_file_order,
    native,
    reading,
    skip,
    take,
    unpacked,
)

# nibabel.Nifti1Header or Nifti2Header, which carry no types.
NiftiStruct = Any

EXTENSION_BYTES = 64 << 20
# Deflate cannot do better than 1032 : 1 (zlib, "maximum compression factor").
DEFLATE_RATIO = 1032
# Millimetres of one spatial unit of xyzt_units; 0 (unknown) is taken as mm, as everybody writes it.
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
# The standard's data type codes that hold one real number; float128 is left out, it is not the same on every machine.
STORED_CODES = {
    2: "u1", 256: "i1", 512: "u2", 4: "i2", 768: "u4", 8: "i4", 1280: "u8", 1024: "i8", 16: "f4", 64: "f8",
}  # fmt: skip
COLOR_CODES = (128, 2304)
COMPLEX_CODES = (32, 1792, 2048)


def read_nifti(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Source:
    """One volume of a NIfTI file, or `BadInput`."""
    name = shown(path)
    with reading(name), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise BadInput(f"{name}: is empty (0 bytes); copy or download it again")
        # By content, not by name: both endings are met on both kinds of file.
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        stream = unpacked(file, "gzip" if packed else "raw", name)
        return _read(stream, path, size * DEFLATE_RATIO if packed else size, volume_index, limits or Limits())


def write_nifti(
    data: NDArray[Any],
    grid: Grid,
    path: Path,
    header: NiftiHeader | None = None,
    table: NDArray[Any] | None = None,
) -> None:
    """Write ``data`` [X, Y, Z] on ``grid``, atomically; ``header`` of the source gives it the same orientation fields.

    Without a header the sform carries the affine (code 1, scanner), and so does the qform where it can (no shear). The
    bytes depend on nothing but the arguments: no time, no name inside. ``table``: as `in_file_order`.
    """
    version = header.version if header is not None else 1
    struct = _new_struct(2 if version == 2 or max(data.shape) > np.iinfo(np.int16).max else 1)
    struct.set_data_shape(data.shape + (1,) * (header.extra_axes if header is not None else 0))
    struct.set_data_dtype((data if table is None else table).dtype)
    struct["scl_slope"], struct["scl_inter"] = 1, 0
    struct["vox_offset"] = struct.single_vox_offset
    struct["xyzt_units"] = 2
    if header is None:
        _set_affine(struct, grid.affine)
    else:
        _restore(struct, header)
        if not np.allclose(_affine(struct, path)[0], grid.affine, rtol=0, atol=1e-4):
            raise ValueError("the header belongs to another grid than the data")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        packed = path.name.lower().endswith(".gz")
        with gzip_writer(file) if packed else nullcontext(file) as stream:
            struct.write_to(stream)
            for block in in_file_order(data, table):
                stream.write(block.data)


def _read(stream: Readable, path: Path, available: int, volume_index: int | None, limits: Limits) -> Source:
    """``available``: the most bytes the stream can hold, known from the size of the file."""
    name = shown(path)
    notes: list[str] = []
    struct, version = _read_struct(stream, name)
    shape, volumes, extra_axes = _shape(struct, name)
    dtype = _dtype(struct, name)
    scale = _scale(struct, name, notes)
    limits.check(path, shape, dtype, volumes)
    index = pick_volume(path, volumes, volume_index)
    affine, orientation_notes = _affine(struct, path)
    notes += orientation_notes
    grid = make_grid(path, shape, affine)

    offset = _data_offset(struct, stream, name)
    volume_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if offset + volumes * volume_bytes > available:
        raise BadInput(f"{name}: is shorter than its header says; it was cut off, copy or download it again")
    skip(stream, index * volume_bytes, name)
    buffer = take(stream, volume_bytes, name)
    skip(stream, (volumes - 1 - index) * volume_bytes, name)
    notes += finish(stream, name)
    data = native(buffer, dtype).reshape(shape, order="F")
    header = NiftiHeader(
        version=version,
        qform_code=int(struct["qform_code"]),
        sform_code=int(struct["sform_code"]),
        pixdim=tuple(float(v) for v in struct["pixdim"][:4]),
        quaternion=tuple(float(struct[f"quatern_{axis}"]) for axis in "bcd"),
        offset=tuple(float(struct[f"qoffset_{axis}"]) for axis in "xyz"),
        srow=tuple(float(v) for axis in "xyz" for v in struct[f"srow_{axis}"]),
        units=int(struct["xyzt_units"]),
        extra_axes=extra_axes,
    )
    return Source(data, grid, f"NIfTI-{version}", scale, header, volumes=volumes, notes=tuple(notes))


def _read_struct(stream: Readable, name: str) -> tuple[NiftiStruct, Literal[1, 2]]:
    """The binary header, byte order found from its first field; magic checked."""
    lead = stream.read(4)
    for version, size in ((1, 348), (2, 540)):
        for order in ("<", ">"):
            if lead == np.array(size, dtype=f"{order}i4").tobytes():
                raw = lead + take(stream, size - 4, name).tobytes()
                kind: Any = nib.Nifti1Header if version == 1 else nib.Nifti2Header
                struct = kind(raw, endianness=order, check=False)
                magic = bytes(struct["magic"].tobytes())
                if magic[:3] in (b"ni1", b"ni2"):
                    raise BadInput(f"{name}: is the header of a .hdr/.img pair; convert the pair to one .nii.gz file")
                if magic[:3] != b"n+%d" % version:
                    raise BadInput(f"{name}: is not a NIfTI file (wrong magic); convert the original to .nii.gz")
                return struct, 1 if version == 1 else 2
    raise BadInput(f"{name}: is not a NIfTI file, whatever its name says; convert the original to .nii.gz")


def _shape(struct: NiftiStruct, name: str) -> tuple[tuple[int, int, int], int, int]:
    """Shape [X, Y, Z], number of volumes, and how many axes of length one stand behind the third."""
    dim = [int(n) for n in struct["dim"]]
    if not 1 <= dim[0] <= 7:
        raise BadInput(f"{name}: the header claims {dim[0]} axes (1 to 7 exist); it is damaged")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise BadInput(f"{name}: the header claims a size of {'x'.join(map(str, sizes))}; it is damaged")
    if len(sizes) < 3:
        raise BadInput(f"{name}: is a {len(sizes)}-D image; a volume with three axes is needed")
    extra = sizes[3:]
    if any(n > 1 for n in extra[1:]):
        raise BadInput(
            f"{name}: has shape {'x'.join(map(str, sizes))} (several values per voxel); save one volume with three axes"
        )
    volumes = extra[0] if extra else 1
    return (sizes[0], sizes[1], sizes[2]), volumes, len(extra) if volumes == 1 else 0


def _dtype(struct: NiftiStruct, name: str) -> np.dtype[Any]:
    code = int(struct["datatype"])
    if code in COLOR_CODES:
        raise BadInput(f"{name}: is a color (RGB) image; one intensity per voxel is needed, save a single channel")
    if code in COMPLEX_CODES:
        raise BadInput(f"{name}: holds complex numbers; save the magnitude image as float32")
    if code not in STORED_CODES:
        raise BadInput(f"{name}: data type code {code} cannot be read; convert it to int16 or float32")
    return np.dtype(STORED_CODES[code]).newbyteorder(struct.endianness)


def _scale(struct: NiftiStruct, name: str, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept; a slope of zero means none (the standard), NaN is what some writers put for none."""
    slope, inter = float(struct["scl_slope"]), float(struct["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if np.isnan(slope):
        notes.append("the intensity scale in the header is NaN: stored values taken as they are")
        return 1.0, 0.0
    if np.isinf(slope) or not np.isfinite(inter):
        raise BadInput(f"{name}: the intensity scale is broken (slope {slope}, intercept {inter}); mend the header")
    return slope, inter


def _affine(struct: NiftiStruct, path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """Voxel to RAS+ mm: the sform, else the qform, else what nibabel falls back to (centred, first axis leftwards)."""
    name, notes = shown(path), []
    # Codes beyond 5 mean nothing; nibabel reads them as 0, and so does everything built on it.
    qform, sform = (int(struct[key]) if 0 <= int(struct[key]) <= 5 else 0 for key in ("qform_code", "sform_code"))
    if (qform, sform) != (int(struct["qform_code"]), int(struct["sform_code"])):
        notes.append("an orientation code in the header is unknown and was not used")
    if sform > 0:
        affine = struct.get_sform()
        if qform > 0 and (apart := _apart_mm(struct, affine)) is not None:
            notes.append(f"qform and sform place the volume up to {apart:.3g} mm apart: the sform was taken")
    else:
        checked = struct.copy()
        sizes = checked["pixdim"][1:4]
        if not np.isfinite(sizes).all() or (sizes <= 0).any():
            raise BadInput(f"{name}: voxel sizes of {sizes.tolist()}; mend the header or convert the original again")
        if qform > 0:
            if checked["pixdim"][0] not in (-1, 1):
                checked["pixdim"][0] = 1
            try:
                with np.errstate(all="ignore"):  # what comes out as NaN is refused with the other broken affines
                    affine = checked.get_qform()
            except (ValueError, HeaderDataError) as error:
                raise BadInput(f"{name}: the orientation (quaternion) is broken ({error}); mend the header") from error
        else:
            affine = checked.get_base_affine()
            notes.append("no orientation in the file: assumed the first axis runs to the left, the second to the front")
    unit = UNIT_MM.get(int(struct["xyzt_units"]) & 7, 1.0)
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= unit
    if unit != 1.0:
        notes.append(f"lengths in the header are not in mm: multiplied by {unit:g}")
    return affine, notes


def _apart_mm(struct: NiftiStruct, sform: NDArray[np.float64]) -> float | None:
    """How far apart the two orientations put a corner of the volume, where that is half a voxel or more."""
    copy = struct.copy()
    if copy["pixdim"][0] not in (-1, 1):
        copy["pixdim"][0] = 1
    try:
        with np.errstate(all="ignore"):
            qform = copy.get_qform()
    except (ValueError, HeaderDataError):
        return None  # a broken orientation cannot be compared
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.array([int(n) for n in struct["dim"][1:4]])
    with np.errstate(all="ignore"):
        apart = float(np.linalg.norm(corners @ (qform - sform)[:3, :3].T + (qform - sform)[:3, 3], axis=1).max())
        half = float(np.linalg.norm(sform[:3, :3], axis=0).min()) / 2
    return apart if apart >= half and np.isfinite(apart) else None


def _data_offset(struct: NiftiStruct, stream: Readable, name: str) -> int:
    """Read up to the first voxel, checking header extensions on the way; the offset in bytes."""
    start = struct.template_dtype.itemsize
    claimed = float(struct["vox_offset"])
    if not np.isfinite(claimed) or claimed != int(claimed) or claimed < struct.single_vox_offset:
        raise BadInput(f"{name}: the header puts the voxels at byte {claimed:g}; convert the original again")
    offset = int(claimed)
    if offset > EXTENSION_BYTES:
        raise BadInput(f"{name}: the header puts the voxels at byte {offset}, behind {EXTENSION_BYTES}; it is damaged")
    block = take(stream, offset - start, name).tobytes()
    order = struct.endianness
    at = 4
    # Nothing in an extension is used; one that runs into the voxels shows that the offset is wrong.
    while block[0] != 0 and at + 16 <= len(block):
        size = int(np.frombuffer(block, f"{order}i4", 1, at)[0])
        if size < 16 or at + size > len(block):
            raise BadInput(f"{name}: a header extension of {size} bytes runs into the voxels; the header is damaged")
        at += size
    return offset


def _new_struct(version: int) -> NiftiStruct:
    return nib.Nifti1Header() if version == 1 else nib.Nifti2Header()


def _set_affine(struct: NiftiStruct, affine: NDArray[np.float64]) -> None:
    struct.set_sform(affine, code=1)
    struct.set_qform(affine, code=1)
    qform = struct.get_qform()
    # A quaternion cannot hold shear, and a qform that differs from the sform would mislead.
    if not np.allclose(qform, affine, rtol=1e-4, atol=1e-3):
        struct["qform_code"] = 0


def _restore(struct: NiftiStruct, header: NiftiHeader) -> None:
    struct["qform_code"], struct["sform_code"] = header.qform_code, header.sform_code
    struct["pixdim"][:4] = header.pixdim
    for axis, value in zip("bcd", header.quaternion, strict=True):
        struct[f"quatern_{axis}"] = value
    for row, axis in enumerate("xyz"):
        struct[f"qoffset_{axis}"] = header.offset[row]
        struct[f"srow_{axis}"] = header.srow[4 * row : 4 * row + 4]
    if header.units & 7 in (1, 3):
        struct["xyzt_units"] = header.units & 7
