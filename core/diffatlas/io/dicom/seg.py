"""Label maps as DICOM SEG (PS3.3 A.51): written by highdicom, read back frame by frame.

One binary segment a structure. Slices without labels are left out, but for the first and the last of the volume, so
that a reader finds its whole extent. A segment's tracking identifier holds scheme and id: ``diffatlas:mmwhs:500``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import DicomSeries, LabelMap, Structure
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.codes import ANATOMICAL_STRUCTURE, code_item, code_of, name_by_code
from diffatlas.io.dicom.header import MALFORMED, PATIENT, Frame, damaged, frames_of, open_header, read_header
from diffatlas.io.dicom.pixels import check_place, decoded
from diffatlas.io.dicom.volumes import LPS_TO_RAS, UNEVEN_SLICES, affine_of
from diffatlas.io.source import Limits, Source, make_grid
from diffatlas.values import program_version

MANUFACTURER = "napari-diffatlas"
ID = re.compile(r"diffatlas:[^:]*:(\d{1,5})$")
GRAY = (128, 128, 128)


def planes_of(grid: Grid, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float, float]]:
    """Direction cosines (row, column), position of each slice [Z, 3] in LPS mm, and (column, row, slice) spacing."""
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    if abs(row @ column) > 1e-3:
        raise BadInput(f"{shown(path)}: rows and columns of this grid are not at right angles; write .nii.gz instead")
    positions = lps[:3, 3] + np.arange(grid.shape[2])[:, None] * lps[:3, 2]
    apart = abs(float(np.cross(row, column) @ lps[:3, 2]))
    return np.concatenate([row, column]), positions, (float(spacing[0]), float(spacing[1]), apart)


def write_seg(labels: LabelMap, path: Path, series: DicomSeries | None = None) -> None:
    """Write a label map to ``path`` as DICOM SEG; ``series``: of the volume that it belongs to, whose slices it names.

    Without ``series`` the file gets identifiers of its own and refers to nothing.
    """
    import highdicom as hd
    from pydicom.uid import generate_uid

    direction, positions, (dx, dy, dz) = planes_of(labels.grid, path)
    known = series if series is not None and len(series.slices) == labels.grid.shape[2] else None
    origin = _source_datasets(labels.grid, direction, positions, (dx, dy, dz), known, series)
    planes = labels.data.transpose(2, 1, 0)
    kept: NDArray[np.bool_] = np.asarray(planes.any(axis=(1, 2)))
    kept[[0, -1]] = True
    indices = np.flatnonzero(kept)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER, version=program_version(), family=_concept(("123109", "DCM", "Artificial Intelligence"))
    )
    descriptions = [
        _description(number, structure, labels.scheme.name, algorithm)
        for number, structure in enumerate(labels.scheme.structures, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg: Any = hd.seg.Segmentation(
            source_images=origin,
            pixel_array=np.ascontiguousarray(planes[indices]),
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=900,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=program_version(),
            device_serial_number="0",
            pixel_measures=hd.PixelMeasuresSequence((dy, dx), slice_thickness=dz, spacing_between_slices=dz),
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", direction.tolist()),
            plane_positions=[hd.PlanePositionSequence("PATIENT", positions[k].tolist()) for k in indices],
            omit_empty_frames=False,
            content_label="SEGMENTATION",
            series_description=f"Segmentation: {labels.scheme.name}"[:64],
            specific_character_set="ISO_IR 192",
        )
        # highdicom leaves it out where empty slices are missing, and a reader could not place the others.
        seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = dz
        if known is None:
            for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
                if keyword in seg:
                    delattr(seg, keyword)
            for frame in seg.PerFrameFunctionalGroupsSequence:
                if "DerivationImageSequence" in frame:
                    del frame.DerivationImageSequence
        seg.save_as(path)


def read_seg(path: Path, limits: Limits) -> Source:
    """A DICOM SEG of one stack as ids [X, Y, Z] with the structures that it names, or `BadInput`."""
    header = read_header(path, limits)
    dataset = open_header(path, limits).dataset
    name = shown(path)
    if dataset.get("SegmentationType") == "FRACTIONAL":
        raise BadInput(f"{name}: holds probabilities (FRACTIONAL), no labels; export it as a binary segmentation")
    try:
        frames = tuple(frames_of(dataset, int(dataset.NumberOfFrames), path))
        structures = [_structure(item) for item in dataset.SegmentSequence]
        known = {int(item.SegmentNumber): _known(item) for item in dataset.SegmentSequence}
        ids = {number: structure.id for number, structure in structures}
        per_frame = None if header.bits[0] > 1 else [_segment_number(dataset, k) for k in range(len(frames))]
        slices, affine = _places(frames, dataset, path)
    except BadInput:
        raise
    except MALFORMED as error:
        raise damaged(path, error) from error
    if len(set(ids.values())) < len(ids):
        ids = {number: number for number in ids}
        structures = [(number, replace(s, id=number)) for number, s in structures]
    check_place([header], limits)
    shape = (header.shape[1], header.shape[0], max(slices) + 1)
    dtype = np.min_scalar_type(max(ids.values(), default=0))
    limits.check(path, shape, dtype)
    data = np.zeros(shape[::-1], dtype)
    for k, pixels in enumerate(decoded(header, range(len(frames)))):
        place = data[slices[k]]
        for number in [per_frame[k]] if per_frame is not None else np.unique(pixels[pixels > 0]).tolist():
            if number not in ids:
                raise damaged(path, f"it has no segment {number}, which one of its frames shows")
            inside = pixels == (1 if per_frame is not None else number)
            if (place[inside] > 0).any():
                raise BadInput(f"{name}: its segments overlap, which a label map cannot hold; export them one by one")
            place[inside] = ids[number]
    named = [(structure, known[number]) for number, structure in structures if structure.id]
    return Source(
        data.transpose(2, 1, 0),
        make_grid(path, shape, affine),
        "DICOM SEG",
        structures=tuple(structure for structure, _ in named),
        known=tuple(name for _, name in named),
    )


def _places(frames: Sequence[Frame], dataset: Any, path: Path) -> tuple[list[int], NDArray[np.float64]]:
    """Slice of each frame and the affine; slices without labels may lack between."""
    first = frames[0]
    if any(not np.allclose(f.row + f.column, first.row + first.column, atol=1e-3) for f in frames):
        raise BadInput(f"{shown(path)}: its frames lie in several directions; export one stack")
    normal = np.array(first.normal)
    depths = np.array([normal @ np.array(frame.position) for frame in frames])
    levels = np.unique(depths.round(3))
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    measures = (shared.get("PixelMeasuresSequence") or [{}])[0]
    gap = float(measures.get("SpacingBetweenSlices") or (np.diff(levels).min() if len(levels) > 1 else 0))
    low, high = frames[int(depths.argmin())], frames[int(depths.argmax())]
    if gap <= 0 or len(levels) == 1:
        return [0] * len(frames), affine_of([low], path)
    steps = (depths - depths.min()) / gap
    slices = np.rint(steps).astype(int)
    if np.abs(steps - slices).max() > UNEVEN_SLICES:
        raise BadInput(f"{shown(path)}: its slices are not evenly spaced; export the segmentation again")
    affine = affine_of([low, high], path)
    affine[:3, 2] /= slices.max()
    return slices.tolist(), affine


def _segment_number(dataset: Any, index: int) -> int:
    groups = (dataset.PerFrameFunctionalGroupsSequence[index], dataset.SharedFunctionalGroupsSequence[0])
    items = next(g.SegmentIdentificationSequence for g in groups if "SegmentIdentificationSequence" in g)
    return int(items[0].ReferencedSegmentNumber)


def _structure(item: Any) -> tuple[int, Structure]:
    """Segment number, and the structure: its label, its colour, and its id where it has one of ours."""
    number = int(item.SegmentNumber)
    if not 1 <= number <= 65535:
        raise ValueError(f"segment number {number}")
    ours = ID.match(str(item.get("TrackingID", "")))
    label = "".join(c for c in str(item.get("SegmentLabel", "")) if c.isprintable()).strip()
    return number, Structure(label or f"segment {number}", int(ours[1]) if ours else number, _color(item))


def _known(item: Any) -> str:
    """The name that a segment's structure has here, by its code."""
    code = next(iter(item.get("SegmentedPropertyTypeCodeSequence") or []), None)
    return "" if code is None else name_by_code(code)


def _color(item: Any) -> tuple[int, int, int]:
    from highdicom.color import CIELabColor

    stored = item.get("RecommendedDisplayCIELabValue")
    if stored is None or len(stored) != 3:
        return GRAY
    lightness, a, b = (int(v) for v in stored)
    color = CIELabColor(lightness * 100 / 65535, a * 255 / 65535 - 128, b * 255 / 65535 - 128)
    red, green, blue = (int(np.clip(round(v), 0, 255)) for v in color.to_rgb())
    return red, green, blue


def _description(number: int, structure: Structure, scheme: str, algorithm: Any) -> Any:
    import highdicom as hd
    from pydicom.uid import generate_uid

    code, modifier = code_of(structure)
    description: Any = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:64],
        segmented_property_category=_concept(ANATOMICAL_STRUCTURE),
        segmented_property_type=_concept(code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(),
        tracking_id=f"diffatlas:{scheme.replace(':', ' ')[:40]}:{structure.id}",
        display_color=hd.color.CIELabColor.from_rgb(*structure.color),
    )
    if modifier is not None:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [code_item(modifier)]
    return description


def _concept(code: tuple[str, str, str]) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code[0], scheme_designator=code[1], meaning=code[2])


def _source_datasets(
    grid: Grid,
    direction: NDArray[np.float64],
    positions: NDArray[np.float64],
    spacing: tuple[float, float, float],
    known: DicomSeries | None,
    series: DicomSeries | None,
) -> list[Any]:
    """What highdicom has to know of the slices: their identifiers, the patient, the geometry."""
    from pydicom.uid import generate_uid

    base = patient_dataset(series)
    base.SOPClassUID = known.sop_class if known else "1.2.840.10008.5.1.4.1.1.7"
    base.SeriesInstanceUID = series.series if series else generate_uid()
    base.Modality = (series.modality if series else "") or "OT"
    base.FrameOfReferenceUID = (series.frame_of_reference if series else "") or generate_uid()
    base.Rows, base.Columns = grid.shape[1], grid.shape[0]
    many = known is not None and known.slices[0][1] > 0
    if not many:
        uids = [uid for uid, _ in known.slices] if known else [generate_uid() for _ in positions]
        return [_slice_of(base, uid, direction, p, spacing) for uid, p in zip(uids, positions, strict=True)]
    assert known is not None
    from pydicom.dataset import Dataset

    where = {frame: position for (_, frame), position in zip(known.slices, positions, strict=True)}
    base.SOPInstanceUID = known.slices[0][0]
    base.NumberOfFrames = max(where)
    shared, base.PerFrameFunctionalGroupsSequence = Dataset(), []
    placed = _slice_of(base, "", direction, positions[0], spacing)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = placed.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = placed.PixelSpacing, placed.SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    base.SharedFunctionalGroupsSequence = [shared]
    for frame in range(1, max(where) + 1):
        # Frames of other phases get a position far away, so that no segment refers to them.
        item, place = Dataset(), Dataset()
        place.ImagePositionPatient = [float(v) for v in where.get(frame, np.full(3, 1e6))]
        item.PlanePositionSequence = [place]
        base.PerFrameFunctionalGroupsSequence.append(item)
    return [base]


def _slice_of(
    base: Any, uid: str, direction: NDArray[np.float64], position: NDArray[np.float64], spacing: tuple[float, ...]
) -> Any:
    from copy import deepcopy

    out = deepcopy(base)
    out.SOPInstanceUID = uid
    out.ImageOrientationPatient = direction.tolist()
    out.ImagePositionPatient = position.tolist()
    out.PixelSpacing = [spacing[1], spacing[0]]
    out.SliceThickness = spacing[2]
    return out


def patient_dataset(series: DicomSeries | None) -> Any:
    """The patient and study of a series, or empty ones with a new study."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    out = Dataset()
    out.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT:
        setattr(out, keyword, dict(series.patient).get(keyword, "") if series else "")
    out.StudyInstanceUID = series.study if series else generate_uid()
    return out
