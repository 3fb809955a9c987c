"""Label maps as RTSTRUCT (PS3.3 A.19): closed contours in the plane of each slice, in patient coordinates.

A contour runs half-way between the centres of voxels inside and outside, so a reader that asks which centres lie inside
gets every voxel back. A hole is joined to the contour around it by a channel of no width (the keyhole of PS3.3
C.8.8.6.3): readers that add contours up and readers that take every second one out (XOR) both leave the hole empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import DicomSeries, LabelMap, Structure
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.codes import code_item, code_of, name_by_code
from diffatlas.io.dicom.files import find
from diffatlas.io.dicom.header import MALFORMED, STRUCTURE_SET, Header, damaged, open_header
from diffatlas.io.dicom.seg import MANUFACTURER, patient_dataset, planes_of
from diffatlas.io.dicom.volumes import LPS_TO_RAS, affine_of, volumes_of
from diffatlas.io.source import Limits, Source, make_grid

Contour = NDArray[np.float64]
ID = re.compile(r"id (\d{1,5})$")
# A point further than this share of a slice's distance from the plane belongs to another grid.
OFF_PLANE = 0.2
GRAY = (128, 128, 128)


def contours_of(mask: NDArray[np.bool_]) -> list[Contour]:
    """Closed contours [points, 2] of a mask [X, Y], in its voxel indices; holes joined by keyholes."""
    from skimage.measure import find_contours

    padded = np.pad(mask, 1).astype(np.float64)
    rings = [_corners(ring[:-1] - 1.0) for ring in find_contours(padded, 0.5)]
    # find_contours runs one way around foreground and the other way around holes.
    outer = [ring for ring in rings if _area(ring) < 0]
    holes = [ring for ring in rings if _area(ring) > 0]
    out: list[Contour] = []
    around: dict[int, list[Contour]] = {n: [] for n in range(len(outer))}
    for hole in holes:
        inside = [n for n, ring in enumerate(outer) if _contains(ring, hole[0])]
        around[min(inside, key=lambda n: abs(_area(outer[n])))].append(hole)
    for n, ring in enumerate(outer):
        joined = ring
        # The nearest hole first: a channel then crosses no other.
        for hole in sorted(around[n], key=lambda h: _nearest(ring, h)[2]):
            i, j, _ = _nearest(joined, hole)
            turned = np.concatenate([hole[j:], hole[: j + 1]])
            joined = np.concatenate([joined[: i + 1], turned, joined[i:]])
        out.append(joined)
    return out


def write_rtstruct(labels: LabelMap, path: Path, series: DicomSeries | None = None) -> None:
    """Write a label map to ``path`` as RTSTRUCT; ``series``: of the volume that it belongs to, whose
    slices it names. Without ``series`` the file gets identifiers of its own and refers to nothing."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    _, positions, _ = planes_of(labels.grid, path)
    lps = LPS_TO_RAS @ labels.grid.affine
    known = series if series is not None and len(series.slices) == len(positions) else None
    frame_of_reference = (series.frame_of_reference if series else "") or generate_uid()
    now = datetime.now()
    out = patient_dataset(series)
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = STRUCTURE_SET
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out.SeriesInstanceUID, out.SeriesNumber, out.Modality = generate_uid(), 901, "RTSTRUCT"
    out.Manufacturer = out.ManufacturerModelName = MANUFACTURER
    out.SeriesDescription = f"Structures: {labels.scheme.name}"[:64]
    out.StructureSetLabel, out.InstanceNumber = labels.scheme.name[:16], 1
    out.StructureSetDate, out.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    out.InstanceCreationDate, out.InstanceCreationTime = out.StructureSetDate, out.StructureSetTime
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = frame_of_reference, ""
    out.ApprovalStatus = "UNAPPROVED"
    out.ReferencedFrameOfReferenceSequence = [_references(known, frame_of_reference)]
    out.StructureSetROISequence, out.ROIContourSequence, out.RTROIObservationsSequence = [], [], []
    for number, structure in enumerate(labels.scheme.structures, start=1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, structure.name[:64]
        roi.ROIDescription = f"{labels.scheme.name} id {structure.id}"
        roi.ReferencedFrameOfReferenceUID, roi.ROIGenerationAlgorithm = frame_of_reference, "AUTOMATIC"
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(structure.color)
        drawn.ContourSequence = list(_contour_items(labels.data == number, lps, known))
        if not drawn.ContourSequence:
            del drawn.ContourSequence
        code, modifier = code_of(structure)
        identification = code_item(code)
        if modifier is not None:
            identification.SegmentedPropertyTypeModifierCodeSequence = [code_item(modifier)]
        observed.ObservationNumber, observed.ReferencedROINumber = number, number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "ORGAN", ""
        observed.RTROIIdentificationCodeSequence = [identification]
        out.StructureSetROISequence.append(roi)
        out.ROIContourSequence.append(drawn)
        out.RTROIObservationsSequence.append(observed)
    out.save_as(path, enforce_file_format=True)


def read_rtstruct(path: Path, limits: Limits, grid: Grid | None = None) -> Source:
    """An RTSTRUCT as ids [X, Y, Z] on ``grid``, or on that of its series, whose slices must lie beside or below it.

    Where structures overlap, the later one is kept and a note says so.
    """
    dataset = open_header(path, limits).dataset
    name = shown(path)
    try:
        rois = {int(item.ROINumber): item for item in dataset.StructureSetROISequence}
        drawn = [(int(item.ReferencedROINumber), item) for item in dataset.get("ROIContourSequence") or []]
        structures = {number: _structure(rois[number], number, item) for number, item in drawn}
        known = {
            int(item.ReferencedROINumber): name_by_code(code)
            for item in dataset.get("RTROIObservationsSequence") or []
            for code in (item.get("RTROIIdentificationCodeSequence") or [])[:1]
        }
        series = _referenced_series(dataset)
    except BadInput:
        raise
    except MALFORMED as error:
        raise damaged(path, error) from error
    if len({s.id for s in structures.values()}) < len(structures):
        structures = {n: Structure(s.name, n, s.color) for n, s in structures.items()}
    grid = grid or _grid_of(series, path, limits)
    ids = np.zeros(grid.shape, np.min_scalar_type(max((s.id for s in structures.values()), default=0)))
    limits.check(path, grid.shape, ids.dtype)
    overlap = 0
    for number, item in drawn:
        try:
            mask = _filled(item, grid)
        except MALFORMED as error:
            raise BadInput(f"{name}: '{structures[number].name[:40]}': {error}") from error
        overlap += int(np.count_nonzero(ids[mask]))
        ids[mask] = structures[number].id
    notes = (f"structures overlap in {overlap} voxels: the later one was kept",) if overlap else ()
    names = tuple(known.get(number, "") for number in structures)
    return Source(ids, grid, "RTSTRUCT", notes=notes, structures=tuple(structures.values()), known=names)


def _filled(item: Any, grid: Grid) -> NDArray[np.bool_]:
    """Voxels whose centres lie inside an odd number of the contours of their slice."""
    from skimage.draw import polygon

    mask = np.zeros(grid.shape, dtype=np.bool_)
    for contour in item.get("ContourSequence") or []:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            raise ValueError(f"contours of type {kind[:20]} enclose no voxels; export closed contours")
        points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3) * (-1.0, -1.0, 1.0)
        voxels = grid.to_voxel(points)
        k = round(float(np.median(voxels[:, 2])))
        if np.abs(voxels[:, 2] - k).max() > OFF_PLANE or not 0 <= k < grid.shape[2]:
            raise ValueError("its contours do not lie in the slices of the series; give the series it was drawn on")
        rows, columns = polygon(voxels[:, 0], voxels[:, 1], grid.shape[:2])
        inside = np.zeros(grid.shape[:2], dtype=np.bool_)
        inside[rows, columns] = True
        mask[:, :, k] ^= inside
    return mask


def _grid_of(series: str, path: Path, limits: Limits) -> Grid:
    headers: list[Header] = []
    why = ""
    try:
        headers = [h for h in find(path.parent, limits).headers if h.series == series] if series else []
    except BadInput as error:
        why = f" ({error})"
    if not headers:
        wanted = f"series {series[:64]}" if series else "the image that it was drawn on, which it does not name"
        raise BadInput(
            f"{shown(path)}: its series is not beside it{why}; contours say nothing of voxels: put the file into the "
            f"folder of {wanted}, or give that grid to diffatlas.io.read_rtstruct"
        )
    volumes, _ = volumes_of(headers, path)
    volume = max(volumes, key=lambda v: len(v.frames))
    rows, columns = volume.header.shape
    shape = (columns, rows, len(volume.frames))
    limits.check(path, shape, np.dtype(np.uint16))
    return make_grid(path, shape, affine_of(volume.frames, path))


def _referenced_series(dataset: Any) -> str:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.SeriesInstanceUID)
    return ""


def _structure(roi: Any, number: int, drawn: Any) -> Structure:
    ours = ID.search(str(roi.get("ROIDescription", "")))
    name = "".join(c for c in str(roi.get("ROIName", "")) if c.isprintable()).strip()
    color = [int(v) for v in drawn.get("ROIDisplayColor") or GRAY]
    red, green, blue = (min(max(v, 0), 255) for v in color)
    return Structure(name or f"structure {number}", int(ours[1]) if ours else number, (red, green, blue))


def _references(known: DicomSeries | None, frame_of_reference: str) -> Any:
    from pydicom.dataset import Dataset

    out = Dataset()
    out.FrameOfReferenceUID = frame_of_reference
    if known is not None:
        study, series = Dataset(), Dataset()
        series.SeriesInstanceUID = known.series
        series.ContourImageSequence = [_image(known, k) for k in range(len(known.slices))]
        # Detached Study Management, which the standard retired but wants here.
        study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", known.study
        study.RTReferencedSeriesSequence = [series]
        out.RTReferencedStudySequence = [study]
    return out


def _image(known: DicomSeries, k: int) -> Any:
    from pydicom.dataset import Dataset

    out = Dataset()
    out.ReferencedSOPClassUID, (out.ReferencedSOPInstanceUID, frame) = known.sop_class, known.slices[k]
    if frame:
        out.ReferencedFrameNumber = frame
    return out


def _contour_items(mask: NDArray[np.bool_], lps: NDArray[np.float64], known: DicomSeries | None) -> Iterator[Any]:
    from pydicom.dataset import Dataset

    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        for contour in contours_of(mask[:, :, k]):
            points = np.column_stack([contour, np.full(len(contour), float(k)), np.ones(len(contour))]) @ lps[:3].T
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = [f"{v:.5f}" for v in points.ravel()]
            if known is not None:
                item.ContourImageSequence = [_image(known, k)]
            yield item


def _corners(ring: Contour) -> Contour:
    """A ring without the points that lie on a straight line between their neighbours."""
    before, after = np.roll(ring, 1, axis=0) - ring, np.roll(ring, -1, axis=0) - ring
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[np.abs(turn) > 1e-9]


def _area(ring: Contour) -> float:
    """Signed area of a ring, by the shoelace formula."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


def _contains(ring: Contour, point: Contour) -> bool:
    from skimage.measure import points_in_poly

    return bool(points_in_poly(point[None], ring)[0])


def _nearest(ring: Contour, hole: Contour) -> tuple[int, int, float]:
    """Indices of the nearest pair of points of two rings, and the square of their distance."""
    distance = ((ring[:, None] - hole[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(i), int(j), float(distance[i, j])
