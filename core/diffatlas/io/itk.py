"""NRRD and MetaImage (.mha, .mhd) through SimpleITK, which is imported on first use.

ITK's world is LPS+, ours RAS+: the first two world axes change sign, oblique directions stay as they are. ITK notices
neither a flipped bit in a compressed MetaImage nor a data file that lies elsewhere on the disk, so the text headers are
read here first. Formats: teem.sourceforge.net/nrrd/format.html and the MetaIO documentation of ITK.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.io.atomic import atomic_path, shown, suffix_of
from diffatlas.io.source import Limits, Source, make_grid, pick_volume

T = TypeVar("T")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 1 << 20
DATA_KEYS = ("data file", "datafile", "elementdatafile")


def read_itk(path: Path, volume_index: int | None = None, limits: Limits | None = None) -> Source:
    """One volume of an .nrrd, .nhdr, .mha or .mhd file, or `BadInput`."""
    limits = limits or Limits()
    header, start = _text_header(path)
    _check_data_name(header, path)
    reader = _reader(path)
    _call(path, reader.ReadImageInformation)
    shape, volumes, dtype = _described(reader, path)
    limits.check(path, shape, dtype, volumes)
    index = pick_volume(path, volumes, volume_index)
    _check_data(header, start, path, volumes * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    if reader.GetDimension() > 3:
        extra = reader.GetDimension() - 3
        reader.SetExtractSize([*shape, *[0] * extra])
        reader.SetExtractIndex([0, 0, 0, index, *[0] * (extra - 1)])
    image = _call(path, reader.Execute)
    notes: tuple[str, ...] = ()
    if not {"space", "space dimension", "transformmatrix", "rotation", "orientation"} & header.keys():
        notes = ("no orientation in the file: assumed axes running to the left, to the back and upwards",)
    _check_right_angles(header, path)
    kind = "NRRD" if suffix_of(path) in (".nrrd", ".nhdr") else "MetaImage"
    return Source(_array(image), make_grid(path, shape, _affine(image)), kind, volumes=volumes, notes=notes)


def write_itk(data: NDArray[Any], grid: Grid, path: Path) -> None:
    """Write ``data`` [X, Y, Z] on ``grid`` as .nrrd or .mha, compressed, atomically."""
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if suffix_of(path) == ".nrrd" and not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise BadInput(f"{shown(path)}: this grid has sheared axes, which ITK drops from NRRD; write .nii.gz instead")
    sitk = _sitk()
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(None, "the disk is full or refuses the file") from error


def _sitk() -> Any:
    """SimpleITK with its warnings off: they go to the terminal past everything Python can catch."""
    import SimpleITK

    sitk: Any = SimpleITK  # which carries no types
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def _call(path: Path, function: Callable[[], T]) -> T:
    """Run one ITK call; whatever it cannot read is the user's file."""
    try:
        return function()
    except MemoryError as error:
        raise BadInput(
            f"{shown(path)}: not enough memory to read it; crop it or resample it to larger voxels"
        ) from error
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        reason = reason.rsplit("ERROR: ", 1)[-1].replace(str(path.parent), "").strip()
        raise BadInput(f"{shown(path)}: could not be read ({reason}); copy it again or convert it") from error


def _reader(path: Path, *, dicom: bool = False) -> Any:
    """A reader bound to one decoder: a file is never handed to another format's parser because of its content."""
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    if dicom:
        reader.SetImageIO("GDCMImageIO")
    else:
        reader.SetImageIO("NrrdImageIO" if suffix_of(path) in (".nrrd", ".nhdr") else "MetaImageIO")
    return reader


def _described(reader: Any, path: Path) -> tuple[tuple[int, int, int], int, np.dtype[Any]]:
    """Shape [X, Y, Z], number of volumes and stored type, after ReadImageInformation."""
    sitk, name = _sitk(), shown(path)
    size = [int(n) for n in reader.GetSize()]
    components = int(reader.GetNumberOfComponents())
    if components != 1:
        raise BadInput(
            f"{name}: holds {components} values per voxel (color, vectors or a series); save one intensity per voxel"
        )
    types = {
        sitk.sitkUInt8: "u1", sitk.sitkUInt16: "u2", sitk.sitkUInt32: "u4", sitk.sitkUInt64: "u8",
        sitk.sitkInt8: "i1", sitk.sitkInt16: "i2", sitk.sitkInt32: "i4", sitk.sitkInt64: "i8",
        sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
    }  # fmt: skip
    stored = types.get(reader.GetPixelID())
    if stored is None:
        raise BadInput(f"{name}: its voxels are neither integers nor real numbers; save the magnitude image as float32")
    if len(size) < 3:
        raise BadInput(f"{name}: is a {len(size)}-D image; a volume with three axes is needed")
    if any(n > 1 for n in size[4:]):
        raise BadInput(f"{name}: has shape {'x'.join(map(str, size))}; save one volume with three axes")
    if min(size) < 1:
        raise BadInput(f"{name}: the header claims a size of {'x'.join(map(str, size))}; it is damaged")
    return (size[0], size[1], size[2]), size[3] if len(size) > 3 else 1, np.dtype(stored)


def _array(image: Any) -> NDArray[Any]:
    """ITK's voxels as [X, Y, Z]."""
    data: NDArray[Any] = _sitk().GetArrayFromImage(image)
    return data.transpose(2, 1, 0)


def _affine(image: Any) -> NDArray[np.float64]:
    """Voxel index to RAS+ mm of a 3-D ITK image."""
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ lps


def _text_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of an NRRD or MetaImage header, keys in lower case, and the byte where the data would begin."""
    fields: dict[str, str] = {}
    nrrd = suffix_of(path) in (".nrrd", ".nhdr")
    try:
        with path.open("rb") as file:
            if nrrd and not file.readline(64).startswith(b"NRRD"):
                raise BadInput(f"{shown(path)}: is not an NRRD file, whatever its name says")
            while raw := file.readline(HEADER_BYTES):
                line = raw.decode("utf-8", errors="replace").strip()
                if (nrrd and not line) or file.tell() > HEADER_BYTES:
                    break
                # MetaIO takes both signs; NRRD's key/value pairs are written with ":=".
                key, *value = (part.strip() for part in re.split(":=?" if nrrd else "[=:]", line, maxsplit=1))
                if not value or line.startswith("#"):
                    continue
                if key.lower() in DATA_KEYS and key.lower() in fields:
                    raise BadInput(f"{shown(path)}: its header names the data file twice; save it as one file")
                fields[key.lower()] = value[0]
                if not nrrd and key == "ElementDataFile":
                    break
            start = file.tell()
    except OSError as error:
        raise BadInput(f"{shown(path)}: could not be read ({error.strerror or error})") from error
    if ("sizes" if nrrd else "elementdatafile") not in fields:
        kind = "an NRRD" if nrrd else "a MetaImage"
        raise BadInput(f"{shown(path)}: is not {kind} file, whatever its name says; convert the original again")
    return fields, start


def _data_name(header: dict[str, str]) -> str | None:
    """Name of the file that holds the voxels; None when they follow the header."""
    name = next((header[key] for key in DATA_KEYS if key in header), "LOCAL")
    return None if name.upper() == "LOCAL" else name


def _check_data_name(header: dict[str, str], path: Path) -> None:
    """A header may only point at one file beside it: anything else could read any file of this machine."""
    name = _data_name(header)
    if name is not None and (re.search(r"[/\\%:\0]|\s", name) or name.upper() == "LIST" or name in ("", ".", "..")):
        raise BadInput(f"{shown(path)}: its voxels lie elsewhere ({name[:80]!r}); save it as one file")
    if name is not None and not (path.parent / name).is_file():
        raise BadInput(f"{shown(path)}: its data file {name[:80]!r} is missing; put it into the same folder")


def _check_data(header: dict[str, str], start: int, path: Path, expected: int) -> None:
    """Compare the stored voxels with ``expected`` bytes, and a compressed stream with its own checksum."""
    name = shown(path)
    cut = f"{name}: is shorter than its header says; it was cut off, copy or download it again"
    packed = header.get("compresseddata", "").lower() == "true"
    encoding = header.get("encoding", "gzip" if packed else "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise BadInput(f"{name}: encoding '{encoding[:20]}' is not read; save it again with encoding gzip")
    if {"line skip", "lineskip", "byte skip", "byteskip"} & header.keys() or header.get("headersize", "0") != "0":
        raise BadInput(f"{name}: its voxels begin somewhere inside the data; save it again as one file")
    other = _data_name(header)
    data_path = path if other is None else path.parent / other
    with data_path.open("rb") as file:
        file.seek(start if other is None else 0)
        if encoding == "raw":
            if data_path.stat().st_size - file.tell() < expected:
                raise BadInput(cut)
        elif _inflated_size(file, name, expected) < expected:
            raise BadInput(cut)


def _inflated_size(file: IO[bytes], name: str, expected: int) -> int:
    """Bytes in a zlib or gzip stream, read through its checksum but never past ``expected`` by more than a chunk."""
    inflater = zlib.decompressobj(wbits=47)  # 32 + 15: zlib or gzip, told by its header
    size = 0
    try:
        while size <= expected and not inflater.eof:
            block = inflater.unconsumed_tail or file.read(CHUNK_BYTES)
            if not block:
                raise BadInput(f"{name}: the compressed data end early; copy or download it again")
            size += len(inflater.decompress(block, CHUNK_BYTES))
    except zlib.error as error:
        raise BadInput(f"{name}: the compressed data are damaged ({error}); copy or download it again") from error
    if size > expected:
        raise BadInput(f"{name}: goes on after the voxels its header describes; it is damaged")
    return size


def _check_right_angles(header: dict[str, str], path: Path) -> None:
    """ITK silently straightens the axes of a sheared NRRD, which would move voxels."""
    rows = re.findall(r"\(([^()]*)\)", header.get("space directions", ""))
    try:
        axes = np.array([[float(v) for v in row.split(",")] for row in rows if row.strip()])
    except ValueError as error:
        raise BadInput(f"{shown(path)}: the space directions in its header are broken; convert it again") from error
    if axes.shape != (3, 3) or not np.isfinite(axes).all() or not np.linalg.norm(axes, axis=1).all():
        return
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
        raise BadInput(f"{shown(path)}: its axes are sheared, which ITK drops from NRRD; convert it to .nii.gz")
