"""Files to `Volume` and `LabelMap`, and back: the one place where a format is chosen."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import DicomSeries, LabelMap, LabelScheme, Modality, NiftiHeader, Structure, Volume
from diffatlas.io.atomic import IMAGE_SUFFIXES, atomic_path, check_output, shown, suffix_of
from diffatlas.io.dicom import is_dicom, is_dicom_labels, read_dicom, write_rtstruct, write_seg
from diffatlas.io.dicom.header import InDecoder
from diffatlas.io.intensity import intensities, judge_modality
from diffatlas.io.metaimage import read_metaimage, write_metaimage
from diffatlas.io.nifti import read_nifti, write_nifti
from diffatlas.io.nrrd import read_nrrd, write_nrrd
from diffatlas.io.source import STORED, Limits, Source

LabelFormat = Literal["nifti", "seg", "rtstruct"]
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".dcm")
LABEL_FORMATS = ("DICOM SEG", "RTSTRUCT")
StrPath = str | os.PathLike[str]

_LABEL_NAME = re.compile(r"(^|[^a-z])(labels?|seg|segmentation|mask)([^a-z]|$)", re.IGNORECASE)

# Longest time for decoding a user's own series, s; `Limits` holds the time for an upload.
OWN_FILE_S = 3600.0
# A note of `write_label_map`.
UNREFERENCED = "the image has no identifiers of DICOM: the labels name no patient and refer to no series"

READABLE = ".nii, .nii.gz, .nrrd, .mha, .mhd, or a DICOM series"
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# nibabel stores label maps made of floats as scaled int16: 1 comes back as 1.000015, 600 as 600.005.
NEARLY_WHOLE = 0.01
# More different values than this is an image, not a label map.
MAX_LISTED_VALUES = 64


def read_volume(path: StrPath, *, volume_index: int | None = None, limits: Limits | None = None) -> Volume:
    """Read a scalar image: NIfTI, NRRD, MetaImage, or a DICOM series (its folder or one of its files).

    ``volume_index`` chooses from a 4-D series. Voxels that are NaN or infinite take the lowest finite value, and
    padding the lowest that was measured, which notes report (`Volume.unknown` says where); a file where most are NaN is
    refused. Raises `BadInput` on anything that cannot be used.
    """
    path = Path(path)
    source = _read(path, volume_index, limits)
    if source.format in LABEL_FORMATS:
        raise BadInput(f"{shown(path)}: is a {source.format}, which holds labels and no image; give the image")
    return _volume(source, path)


def read_label_map(
    path: StrPath,
    scheme: LabelScheme,
    *,
    ignore_unknown: bool = False,
    volume_index: int | None = None,
    limits: Limits | None = None,
) -> LabelMap:
    """Read a file of structure ids. Whole numbers stored as floats are fine; fractions, negative numbers and ids that
    ``scheme`` does not know raise `BadInput` (with ``ignore_unknown`` those ids become background).

    The structures of a DICOM SEG or RTSTRUCT are recognised by their code, then by their name; never by their number,
    which differs between programs."""
    path = Path(path)
    source = _read(path, volume_index, limits)
    ids, found = _label_ids(source, shown(path))
    try:
        if source.format in LABEL_FORMATS:
            ids = _matched(ids, source, scheme, ignore_unknown)
        labels = LabelMap.from_ids(ids, source.grid, scheme, ignore_unknown=ignore_unknown)
        return replace(labels, notes=(*source.notes, *found))
    except BadInput as error:
        raise BadInput(f"{shown(path)}: {error}; choose the model or scheme that the file was made with") from error


def read_structures(path: StrPath, *, limits: Limits | None = None) -> tuple[Structure, ...]:
    """The structures that a file of labels names itself, with colours: DICOM SEG and RTSTRUCT; none for other files."""
    return _read(Path(path), None, limits).structures


def _matched(ids: NDArray[Any], source: Source, scheme: LabelScheme, ignore_unknown: bool) -> NDArray[Any]:
    """The scheme's ids for structures that it knows by code or name; 0 for others, or `BadInput`."""
    by_name = {structure.name.lower(): structure.id for structure in scheme.structures}
    known = source.known or ("",) * len(source.structures)
    out, strangers = np.zeros(ids.shape, np.int64), []
    for structure, name in zip(source.structures, known, strict=True):
        id_ = by_name.get(name) or by_name.get(structure.name.strip().lower())
        if id_ is not None:
            out[ids == structure.id] = id_
        elif (ids == structure.id).any():
            strangers.append(structure.name)
    if strangers and not ignore_unknown:
        raise BadInput(
            f"holds {', '.join(repr(name[:40]) for name in strangers[:5])}, which scheme '{scheme.name}' does not know "
            f"(it knows {', '.join(scheme.names)})"
        )
    return out


def read_label_ids(
    path: StrPath,
    *,
    volume_index: int | None = None,
    limits: Limits | None = None,
    notes: list[str] | None = None,
) -> tuple[NDArray[Any], Grid]:
    """The ids of a label file as whole numbers [X, Y, Z], whatever scheme they belong to, and their grid.

    ``notes``: a list that takes the reader's findings."""
    path = Path(path)
    source = _read(path, volume_index, limits)
    ids, found = _label_ids(source, shown(path))
    if notes is not None:
        notes += [*source.notes, *found]
    return ids, source.grid


def write_label_map(
    labels: LabelMap,
    path: StrPath,
    header: NiftiHeader | None = None,
    *,
    source: Volume | None = None,
    series: DicomSeries | None = None,
    format: LabelFormat | None = None,
) -> None:
    """Write structure ids in the smallest unsigned type that holds them, in the format that the extension names.

    ``source``, the volume that was segmented, gives a NIfTI file its orientation fields and codes exactly (``header``
    alone does too), and a .dcm file the patient and references to the slices (``series`` alone does too). ``format`` of
    a .dcm file: ``seg``, which is the default, or ``rtstruct``.
    """
    path = check_label_output(path, format)
    if suffix_of(path) != ".dcm":
        _write(labels.data, labels.grid, path, header or (source.header if source else None), labels.id_table)
        return
    write = write_rtstruct if format == "rtstruct" else write_seg
    with atomic_path(path) as temporary:
        write(labels, temporary, series or (source.series if source else None))


def check_label_output(path: StrPath, format: LabelFormat | None = None) -> Path:
    """The path, if a label map of this format can be written there; else `BadInput`. Call before any work."""
    if format not in (None, "nifti", "seg", "rtstruct"):
        raise BadInput(f"unknown format '{format}': choose nifti, seg or rtstruct")
    endings = {None: LABEL_SUFFIXES, "nifti": (".nii.gz", ".nii"), "seg": (".dcm",), "rtstruct": (".dcm",)}
    path = check_output(path, endings[format])
    if is_dicom(path) and not is_dicom_labels(path):
        raise BadInput(f"{shown(path)}: is a DICOM image or report, which labels do not replace; give another name")
    return path


def write_volume(volume: Volume, path: StrPath) -> None:
    """Write an image as float32."""
    write_array(volume.data, volume.grid, path, volume.header)


def write_array(data: NDArray[Any], grid: Grid, path: StrPath, header: NiftiHeader | None = None) -> None:
    """Write any real array [X, Y, Z] on ``grid``, atomically, in the format that the extension names."""
    path = check_output(path)
    if data.shape != grid.shape:
        raise ValueError(f"data of shape {data.shape} on a grid of shape {grid.shape}")
    if data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype.newbyteorder("=") not in STORED:
        data = data.astype(np.float32)
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    _write(data, grid, path, header)


def _write(
    data: NDArray[Any], grid: Grid, path: Path, header: NiftiHeader | None, table: NDArray[Any] | None = None
) -> None:
    if suffix_of(path) in (".nii", ".nii.gz"):
        write_nifti(data, grid, path, header, table)
    elif suffix_of(path) == ".nrrd":
        write_nrrd(data, grid, path, table)
    else:
        write_metaimage(data, grid, path, table)


def named_as_labels(path: StrPath) -> bool:
    """Whether a file's name says that it is a label map (``case_label.nii.gz``, ``seg.nrrd``), whatever it holds."""
    return _LABEL_NAME.search(Path(path).name) is not None


def describe(
    path: StrPath,
    *,
    volume_index: int | None = None,
    modality: Modality | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """What `read_volume` makes of a file, as plain data for JSON; of a series, the first volume unless told.

    ``modality``: as the user names it; None takes it from the file, else from the intensities.

    Keys: file, format, structures (names by id, of a SEG or RTSTRUCT, else None), shape, volumes, spacing_mm,
    extent_mm, axis_codes, affine, dtype, intensity (min, max, mean, percentiles), values (the different ones of an
    integer file that has few, else None), modality and modality_reason, qform_code and sform_code (None but for NIfTI),
    notes.
    """
    path = Path(path)
    source = _read(path, volume_index, limits, series_first=True)
    volume = _volume(source, path)
    if modality is not None:
        volume = volume.named(modality)
    grid, data = volume.grid, volume.data
    values = np.unique(source.data) if source.data.dtype.kind in "iu" and source.scale == (1.0, 0.0) else None
    return {
        "file": shown(path),
        "format": source.format,
        "structures": {str(s.id): s.name for s in source.structures} or None,
        "shape": list(grid.shape),
        "volumes": source.volumes,
        "spacing_mm": list(grid.spacing_mm),
        "extent_mm": list(grid.extent_mm),
        "axis_codes": grid.axis_codes,
        "affine": grid.affine.tolist(),
        "dtype": str(source.data.dtype),
        "intensity": {
            "min": float(data.min()),
            "max": float(data.max()),
            "mean": float(data.mean(dtype=np.float64)),
            "percentiles": {
                str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(data, PERCENTILES), strict=True)
            },
        },
        "values": values.tolist() if values is not None and len(values) <= MAX_LISTED_VALUES else None,
        "modality": volume.modality,
        "modality_reason": volume.modality_reason,
        "qform_code": source.header.qform_code if source.header else None,
        "sform_code": source.header.sform_code if source.header else None,
        "notes": list(volume.notes),
    }


def _read(path: Path, volume_index: int | None, limits: Limits | None, *, series_first: bool = False) -> Source:
    """The file's content, decoded here or in a process of its own."""
    limits = limits or Limits()
    if not limits.contained:
        try:
            return read_source(path, volume_index, limits, series_first=series_first)
        except InDecoder:
            limits = replace(limits, max_seconds=max(limits.max_seconds, OWN_FILE_S))
    # Imported on first use: most programs need no child process.
    from diffatlas.io.contained import read_contained

    return read_contained(path, volume_index, limits, series_first=series_first)


def read_source(path: Path, volume_index: int | None, limits: Limits, *, series_first: bool = False) -> Source:
    """Choose the reader and read in this process.

    ``series_first``: take volume 0 of a series instead of raising `SeveralVolumes`.
    """
    try:
        kind = "folder" if path.is_dir() else "file" if path.is_file() else "other" if path.exists() else "nothing"
    except (OSError, ValueError) as error:
        raise BadInput(f"{shown(path)}: not a usable file name ({error})") from error
    if kind == "nothing":
        raise BadInput(f"{path}: no such file or folder")
    if kind == "other":
        raise BadInput(f"{path}: is neither a file nor a folder")
    suffix = suffix_of(path)
    index = 0 if series_first and volume_index is None else volume_index
    if kind == "folder":
        return read_dicom(path, volume_index, limits)
    if suffix in (".nii", ".nii.gz"):
        return read_nifti(path, index, limits)
    if suffix in (".nrrd", ".nhdr"):
        return read_nrrd(path, index, limits)
    if suffix in (".mha", ".mhd"):
        return read_metaimage(path, index, limits)
    if suffix == ".dcm" or is_dicom(path):
        return read_dicom(path, volume_index, limits)
    if suffix in (".hdr", ".img"):
        raise BadInput(f"{shown(path)}: .hdr/.img pairs are not read; convert the pair to one .nii.gz file")
    raise BadInput(f"{shown(path)}: cannot read this format; give {READABLE}")


def _volume(source: Source, path: Path) -> Volume:
    data, unknown, notes = intensities(source, shown(path))
    if source.modality is None:
        modality, reason = judge_modality(data, unknown)
    else:
        modality, reason = source.modality, "the file says so"
    name = path.name if source.format == "DICOM" else path.name[: -len(suffix_of(path))]
    return Volume(
        data=data,
        grid=source.grid,
        modality=modality,
        name=name or "volume",
        notes=source.notes + notes,
        header=source.header,
        unknown=unknown,
        modality_reason=reason,
        series=source.series,
    )


def _label_ids(source: Source, name: str) -> tuple[NDArray[Any], list[str]]:
    """Whole, non-negative numbers, exact in an integer type; and notes."""
    data, (slope, inter), notes = source.data, source.scale, []
    if data.dtype.kind == "f" or (slope, inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            values = data.astype(np.float64) * slope + inter
            whole = np.rint(values)
            off = float(np.abs(values - whole).max()) if np.isfinite(values).all() else np.inf
        # 2**53: beyond it float64 skips whole numbers.
        if not off <= NEARLY_WHOLE or (np.abs(values) > 2.0**53).any():
            raise BadInput(f"{name}: holds fractions, NaN or huge numbers; give a label map, not an image")
        if off:
            notes.append(f"labels were stored up to {off:.2g} off whole numbers (scale {slope:.6g}): rounded")
        data = whole.astype(np.int64)
    if data.dtype.kind == "i" and int(data.min()) < 0:
        raise BadInput(f"{name}: holds negative labels ({int(data.min())}); a label map holds ids of 0 and above")
    return data, notes
