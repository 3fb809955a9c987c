"""Label maps as DICOM SEG and RTSTRUCT, checked by programs of others: dcmqi, highdicom and dcmrtstruct2nii."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure, Volume
from diffatlas.io.dicom.codes import CODES
from diffatlas.io.dicom.rtstruct import contours_of
from tests.dicom_files import enhanced, save, write_series

STORED: NDArray[np.uint16] = np.random.default_rng(3).integers(0, 2000, (9, 20, 24)).astype(np.uint16)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
SERIES: dict[str, dict[str, Any]] = {
    "straight": {},
    "downwards": {"step": (0, 0, -3)},
    "oblique": {
        "step": tuple((2.5 * np.cross(OBLIQUE[:3], OBLIQUE[3:])).tolist()),
        "ImageOrientationPatient": list(OBLIQUE),
    },
    "tilted": {"step": (0.0, 0.7, 3.0)},
}


def series(folder: Path, kind: str) -> Volume:
    return io.read_volume(write_series(folder, STORED, **SERIES[kind]))


def phantom(grid: Grid, scheme: LabelScheme = MMWHS) -> LabelMap:
    """No symmetry anywhere: a block with a hole and an island in it, another side by side, one voxel in a corner."""
    data = np.zeros(grid.shape, np.uint8)
    data[3:12, 4:15, 2:7] = 1
    data[6:10, 7:11, 2:7] = 0
    data[7:9, 8:10, 3] = 1
    data[14:20, 3:9, 3:5] = 2
    data[20, 16, 4] = len(scheme)
    return LabelMap(data, grid, scheme)


@pytest.mark.parametrize("kind", SERIES)
@pytest.mark.parametrize("format_", ["seg", "rtstruct"])
def test_what_is_written_is_read_back(tmp_path: Path, format_: io.LabelFormat, kind: str) -> None:
    volume = series(tmp_path / "s", kind)
    labels = phantom(volume.grid)
    path = tmp_path / "s/labels.dcm"
    io.write_label_map(labels, path, source=volume, format=format_)
    again = io.read_label_map(path, MMWHS)
    np.testing.assert_array_equal(again.data, labels.data)
    np.testing.assert_allclose(again.grid.affine, volume.grid.affine, atol=1e-4)
    found = {s.name: (s.id, s.color) for s in io.read_structures(path)}
    for structure in MMWHS.structures:
        id_, color = found[structure.name]
        assert id_ == structure.id
        assert np.abs(np.subtract(color, structure.color)).max() <= 1
    # The series beside it is still one series.
    np.testing.assert_array_equal(io.read_volume(tmp_path / "s").data, volume.data)


def voxels_of(image: Any) -> NDArray[np.float64]:
    """World places (LPS, mm) of what an ITK image marks."""
    marked = np.argwhere(sitk.GetArrayFromImage(image).transpose(2, 1, 0) > 0)
    return np.array([image.TransformIndexToPhysicalPoint([int(v) for v in index]) for index in marked])


def places_of(labels: LabelMap, index: int) -> NDArray[np.float64]:
    return labels.grid.to_world(np.argwhere(labels.data == index).astype(float)) * (-1.0, -1.0, 1.0)


def same_places(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> None:
    assert ours.shape == theirs.shape
    order = [np.lexsort(np.round(a / 1e-2).T) for a in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=2e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="dcmqi is asked on Linux, where it is a dependency of the tests")
@pytest.mark.parametrize("kind", ["straight", "downwards", "oblique"])
def test_dcmqi_finds_the_same_voxels_and_names(tmp_path: Path, kind: str) -> None:
    import dcmqi

    volume = series(tmp_path / "s", kind)
    labels = phantom(volume.grid)
    io.write_label_map(labels, tmp_path / "labels.dcm", source=volume)
    tool = Path(dcmqi.__file__).parent / "bin/segimage2itkimage"
    command = [str(tool), "--inputDICOM", str(tmp_path / "labels.dcm"), "--outputDirectory", str(tmp_path), "-t", "nii"]
    subprocess.run([*command, "-p", "dcmqi"], check=True, capture_output=True)
    meta = json.loads((tmp_path / "dcmqi-meta.json").read_text())
    segments = {s["labelID"]: s for group in meta["segmentAttributes"] for s in group}
    for number, structure in enumerate(MMWHS.structures, start=1):
        assert segments[number]["SegmentLabel"] == structure.name
        assert segments[number]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == CODES[structure.name][0].value
        if (labels.data == number).any():
            image = sitk.ReadImage(str(tmp_path / f"dcmqi-{number}.nii.gz"))
            same_places(places_of(labels, number), voxels_of(image))


@pytest.mark.parametrize("kind", SERIES)
def test_highdicom_finds_each_frame_where_its_slice_lies(tmp_path: Path, kind: str) -> None:
    import highdicom

    volume = series(tmp_path / "s", kind)
    labels = phantom(volume.grid)
    io.write_label_map(labels, tmp_path / "labels.dcm", source=volume)
    seg: Any = highdicom.seg.segread(tmp_path / "labels.dcm")
    by_uid = {source.SOPInstanceUID: source for source in map(dcmread, (tmp_path / "s").iterdir())}
    slices = {uid: by_uid[uid] for _, _, uid in seg.get_source_image_uids()}
    assert len(slices) == 9
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.grid.affine
    for uid, source in slices.items():
        position = [float(v) for v in source.ImagePositionPatient]
        k = int(np.argmin(np.linalg.norm(lps[:3, 3] + np.outer(np.arange(9), lps[:3, 2]) - position, axis=1)))
        if not labels.data[:, :, k].any():
            continue
        pixels = seg.get_pixels_by_source_instance([uid], combine_segments=True)[0]
        np.testing.assert_array_equal(pixels, labels.data[:, :, k].T)


@pytest.mark.parametrize("kind", ["straight", "downwards", "oblique"])
def test_dcmrtstruct2nii_rasterises_the_same_structures(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom

    # It calls pydicom by a name that pydicom 3 no longer has.
    monkeypatch.setattr(pydicom, "read_file", dcmread, raising=False)
    from dcmrtstruct2nii.facade.dcmrtstruct2nii import dcmrtstruct2nii

    volume = series(tmp_path / "s", kind)
    labels = phantom(volume.grid)
    io.write_label_map(labels, tmp_path / "rt.dcm", source=volume, format="rtstruct")
    dcmrtstruct2nii(str(tmp_path / "rt.dcm"), str(tmp_path / "s"), str(tmp_path / "out"), convert_original_dicom=False)
    for index, file in ((1, "mask_left-ventricle"), (2, "mask_right-ventricle")):
        image = sitk.ReadImage(str(tmp_path / f"out/{file}.nii.gz"))
        theirs, ours = voxels_of(image), places_of(labels, index)
        common = sum(bool((np.abs(theirs - place).max(axis=1) < 1e-2).any()) for place in ours)
        assert 2 * common / (len(ours) + len(theirs)) >= 0.98
        np.testing.assert_allclose(theirs.mean(axis=0), ours.mean(axis=0), atol=0.05)


@pytest.mark.parametrize("kind", SERIES)
def test_every_contour_encloses_the_pixels_of_the_slice_that_it_names(tmp_path: Path, kind: str) -> None:
    """By the attributes of each slice alone and matplotlib's polygons: no grid, no affine, no code of ours."""
    from matplotlib.path import Path as Polygon

    volume = series(tmp_path / "s", kind)
    labels = phantom(volume.grid)
    io.write_label_map(labels, tmp_path / "rt.dcm", source=volume, format="rtstruct")
    slices = {source.SOPInstanceUID: source for source in map(dcmread, (tmp_path / "s").iterdir())}
    rows = np.indices(STORED.shape[1:])
    y, x = rows[0], rows[1]
    found: list[NDArray[np.float64]] = []
    for contour in dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence:
        source = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        row, column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
        origin, (down, right) = np.array(source.ImagePositionPatient, float), map(float, source.PixelSpacing)
        points = np.array(contour.ContourData, float).reshape(-1, 3) - origin
        np.testing.assert_allclose(points @ np.cross(row, column), 0, atol=1e-3)
        polygon = Polygon(np.column_stack([points @ row / right, points @ column / down]))
        inside = polygon.contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
        found.append(origin + np.outer(x[inside] * right, row) + np.outer(y[inside] * down, column))
    same_places(places_of(labels, 1), np.concatenate(found))


def test_left_is_left(tmp_path: Path) -> None:
    """A voxel at the patient's left has a large x in DICOM, in the file itself."""
    volume = series(tmp_path / "s", "straight")
    data = np.zeros(volume.grid.shape, np.uint8)
    data[-1, 0, 4] = 1
    labels = LabelMap(data, volume.grid, MMWHS)
    io.write_label_map(labels, tmp_path / "rt.dcm", source=volume, format="rtstruct")
    points = np.array(dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence[0].ContourData, float)
    np.testing.assert_allclose(points.reshape(-1, 3).mean(axis=0), (-10 + 23 * 1.25, -20, 5 + 4 * 3), atol=1e-4)


@pytest.mark.parametrize("format_", ["seg", "rtstruct"])
def test_the_patient_and_the_slices_are_named(tmp_path: Path, format_: io.LabelFormat) -> None:
    volume = series(tmp_path / "s", "straight")
    io.write_label_map(phantom(volume.grid), tmp_path / "l.dcm", source=volume, format=format_)
    written = dcmread(tmp_path / "l.dcm")
    assert (written.PatientName, written.PatientID, written.StudyInstanceUID) == ("Doe^Jane", "p-17", "1.2")
    assert written.FrameOfReferenceUID == "1.2.4"
    text = str(written)
    for path in (tmp_path / "s").iterdir():
        assert dcmread(path).SOPInstanceUID in text
    io.write_label_map(phantom(volume.grid), tmp_path / "alone.dcm", format=format_)
    alone = dcmread(tmp_path / "alone.dcm")
    assert alone.PatientID == ""
    assert "ReferencedSeriesSequence" not in alone
    assert "RTReferencedStudySequence" not in alone.get("ReferencedFrameOfReferenceSequence", [alone])[0]


def test_frames_of_an_enhanced_file_are_named(tmp_path: Path) -> None:
    order = [3, 1, 0, 2, 5, 4]
    path = save(enhanced(STORED[:6], [(-10.0, -20.0, 3.0 * k) for k in order]), tmp_path / "e.dcm")
    volume = io.read_volume(path)
    data = np.zeros(volume.grid.shape, np.uint8)
    data[4, 5, 3] = 1
    labels = LabelMap(data, volume.grid, MMWHS)
    io.write_label_map(labels, tmp_path / "seg.dcm", source=volume)
    frames = dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    named = {
        float(f.PlanePositionSequence[0].ImagePositionPatient[2]): int(
            f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        )
        for f in frames
    }
    assert named == {0.0: 3, 9.0: 1, 15.0: 5}
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "seg.dcm", MMWHS).data, data)


def test_codes_are_those_of_the_dicom_standard() -> None:
    names = {
        "left ventricle": "LeftVentricle",
        "right ventricle": "RightVentricle",
        "left atrium": "LeftAtrium",
        "right atrium": "RightAtrium",
        "myocardium": "LeftVentricleMyocardium",
        "aorta": "Aorta",
        "ascending aorta": "AscendingAorta",
        "pulmonary artery": "PulmonaryArtery",
        "hippocampus": "Hippocampus",
    }
    for name, keyword in names.items():
        assert CODES[name][0].value == getattr(codes.SCT, keyword).value
    for name, keyword in (("anterior hippocampus", "Anterior"), ("posterior hippocampus", "Posterior")):
        code, modifier = CODES[name]
        assert modifier is not None
        assert (code.value, modifier.value) == (codes.SCT.Hippocampus.value, getattr(codes.SCT, keyword).value)
    assert {s.name for scheme in (MMWHS, HIPPOCAMPUS) for s in scheme.structures} <= CODES.keys()


def test_a_structure_without_a_code_keeps_its_name(tmp_path: Path) -> None:
    scheme = LabelScheme("mine", (Structure("left lobe: β", 7, (1, 2, 3)), Structure("hippocampus", 300, (9, 9, 9))))
    volume = series(tmp_path / "s", "straight")
    labels = phantom(volume.grid, scheme)
    for format_ in ("seg", "rtstruct"):
        io.write_label_map(labels, tmp_path / "s/l.dcm", source=volume, format=format_)
        assert [(s.name, s.id) for s in io.read_structures(tmp_path / "s/l.dcm")] == [
            ("left lobe: β", 7),
            ("hippocampus", 300),
        ]
        np.testing.assert_array_equal(io.read_label_map(tmp_path / "s/l.dcm", scheme).data, labels.data)


def test_a_nifti_grid_is_written_in_its_own_place(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 2.0, -3.0, 1.0])
    affine[:3, 3] = (10, -20, 30)
    nib.save(nib.Nifti1Image(STORED.astype(np.int16), affine), tmp_path / "a.nii.gz")
    volume = io.read_volume(tmp_path / "a.nii.gz")
    labels = phantom(Grid((9, 20, 24), affine)) if volume.grid.shape != (9, 20, 24) else phantom_small(volume.grid)
    io.write_label_map(labels, tmp_path / "a.dcm", source=volume)
    again = io.read_label_map(tmp_path / "a.dcm", MMWHS)
    same_places(places_of(labels, 1), places_of(again, 1))


def phantom_small(grid: Grid) -> LabelMap:
    data = np.zeros(grid.shape, np.uint8)
    data[2:5, 3:9, 4:11] = 1
    return LabelMap(data, grid, MMWHS)


def test_an_empty_map_is_a_file_too(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", "straight")
    labels = LabelMap(np.zeros(volume.grid.shape, np.uint8), volume.grid, MMWHS)
    for format_ in ("seg", "rtstruct"):
        io.write_label_map(labels, tmp_path / "s/l.dcm", source=volume, format=format_)
        again = io.read_label_map(tmp_path / "s/l.dcm", MMWHS)
        assert again.grid.shape == volume.grid.shape
        assert not again.data.any()


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path) -> None:
    volume = series(tmp_path / "s", "straight")
    labels = phantom(volume.grid)
    with pytest.raises(BadInput, match=r"\.dcm"):
        io.write_label_map(labels, tmp_path / "l.nii.gz", source=volume, format="seg")
    with pytest.raises(BadInput, match=r"\.nii"):
        io.write_label_map(labels, tmp_path / "l.dcm", source=volume, format="nifti")
    (tmp_path / "other").mkdir()
    io.write_label_map(labels, tmp_path / "other/elsewhere.dcm", source=volume, format="rtstruct")
    with pytest.raises(BadInput, match="series is not beside it"):
        io.read_label_map(tmp_path / "other/elsewhere.dcm", MMWHS)
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    skewed = LabelMap(labels.data, Grid(labels.data.shape, sheared), MMWHS)
    with pytest.raises(BadInput, match="right angles"):
        io.write_label_map(skewed, tmp_path / "l.dcm")
    assert not (tmp_path / "l.dcm").exists()


@pytest.mark.parametrize("seed", range(12))
def test_contours_give_back_every_mask(seed: int) -> None:
    from skimage.draw import polygon

    rng = np.random.default_rng(seed)
    mask = rng.random((17, 13)) < rng.uniform(0.2, 0.9)
    added, toggled = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    for contour in contours_of(mask):
        inside = np.zeros(mask.shape, bool)
        inside[polygon(contour[:, 0], contour[:, 1], mask.shape)] = True
        added |= inside
        toggled ^= inside
    np.testing.assert_array_equal(added, mask)
    np.testing.assert_array_equal(toggled, mask)
