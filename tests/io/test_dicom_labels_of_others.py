"""SEG and RTSTRUCT files that other programs wrote: told by code, then by name, never by number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure, Volume
from tests.cli.conftest import backend, cli, weights  # noqa: F401
from tests.cli.helpers import Cli
from tests.dicom_files import write_series

THEIRS = LabelScheme(
    "theirs",
    (Structure("right ventricle", 1, (9, 9, 9)), Structure("left ventricle", 2, (9, 9, 9))),
)
FORMATS: tuple[io.LabelFormat, ...] = ("seg", "rtstruct")


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    stored = np.random.default_rng(3).integers(0, 2000, (5, 12, 14)).astype(np.uint16)
    return io.read_volume(write_series(tmp_path / "s", stored))


def theirs(scan: Volume, path: Path, format_: io.LabelFormat, change: Callable[[Any], None]) -> LabelMap:
    """Labels of another program: segment 1 is the right ventricle, 2 the left one, in the file as ``change`` has it."""
    data = np.zeros(scan.grid.shape, np.uint8)
    data[2:6, 3:8, 1:3] = 1
    data[7:11, 3:8, 1:4] = 2
    labels = LabelMap(data, scan.grid, THEIRS)
    io.write_label_map(labels, path, source=scan, format=format_)
    dataset = dcmread(path)
    for item in dataset.get("SegmentSequence", []):
        item.TrackingID = "abc"
    for item in dataset.get("StructureSetROISequence", []):
        item.ROIDescription = ""
    change(dataset)
    dataset.save_as(path)
    return labels


def named(*names: str) -> Callable[[Any], None]:
    """Give the structures these names."""

    def change(dataset: Any) -> None:
        for item, name in zip(dataset.get("SegmentSequence", []), names, strict=False):
            item.SegmentLabel = name
        for item, name in zip(dataset.get("StructureSetROISequence", []), names, strict=False):
            item.ROIName = name

    return change


def codes_of(dataset: Any) -> list[Any]:
    segments = [item.SegmentedPropertyTypeCodeSequence[0] for item in dataset.get("SegmentSequence", [])]
    return segments + [i.RTROIIdentificationCodeSequence[0] for i in dataset.get("RTROIObservationsSequence", [])]


def where(labels: LabelMap, name: str) -> Any:
    return labels.data == labels.scheme.names.index(name) + 1


@pytest.mark.parametrize("format_", FORMATS)
def test_structures_are_told_by_their_code(scan: Volume, tmp_path: Path, format_: io.LabelFormat) -> None:
    """Names in another language, even names that say the opposite; the numbers of another program."""
    path = tmp_path / "s/theirs.dcm"
    made = theirs(scan, path, format_, named("Rechter Ventrikel", "right ventricle"))
    read = io.read_label_map(path, MMWHS)
    for name in ("left ventricle", "right ventricle"):
        np.testing.assert_array_equal(where(read, name), where(made, name))
    assert set(np.unique(read.to_ids())) == {0, 500, 600}


@pytest.mark.parametrize("format_", FORMATS)
def test_older_codes_are_told_too(scan: Volume, tmp_path: Path, format_: io.LabelFormat) -> None:
    def change(dataset: Any) -> None:
        named("rv", "lv")(dataset)
        for item, value in zip(codes_of(dataset), ("T-32500", "T-32600"), strict=True):
            item.CodeValue, item.CodingSchemeDesignator = value, "SRT"

    path = tmp_path / "s/theirs.dcm"
    made = theirs(scan, path, format_, change)
    read = io.read_label_map(path, MMWHS)
    np.testing.assert_array_equal(where(read, "left ventricle"), where(made, "left ventricle"))


@pytest.mark.parametrize("format_", FORMATS)
def test_without_a_known_code_the_name_counts(scan: Volume, tmp_path: Path, format_: io.LabelFormat) -> None:
    def change(dataset: Any) -> None:
        named("Right Ventricle ", "LEFT VENTRICLE")(dataset)
        for item in codes_of(dataset):
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "85756007", "SCT", "Tissue"

    path = tmp_path / "s/theirs.dcm"
    made = theirs(scan, path, format_, change)
    read = io.read_label_map(path, MMWHS)
    np.testing.assert_array_equal(where(read, "left ventricle"), where(made, "left ventricle"))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_number_alone_is_no_structure(scan: Volume, tmp_path: Path, format_: io.LabelFormat) -> None:
    """Segment 1 of a tumour program is not structure 1 of the hippocampus."""

    def change(dataset: Any) -> None:
        named("tumour", "oedema")(dataset)
        for item in codes_of(dataset):
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "108369006", "SCT", "Neoplasm"

    path = tmp_path / "s/theirs.dcm"
    theirs(scan, path, format_, change)
    with pytest.raises(BadInput, match="'tumour', 'oedema', which scheme 'hippocampus' does not know"):
        io.read_label_map(path, HIPPOCAMPUS)
    assert not io.read_label_map(path, HIPPOCAMPUS, ignore_unknown=True).data.any()
    assert set(np.unique(io.read_label_ids(path)[0])) == {0, 1, 2}


def test_a_modifier_makes_another_structure(scan: Volume, tmp_path: Path) -> None:
    """The hippocampus is neither its head nor its tail."""
    scheme = LabelScheme("hippocampus", (*HIPPOCAMPUS.structures, Structure("hippocampus", 9, (1, 1, 1))))
    data = np.zeros(scan.grid.shape, np.uint8)
    data[2, 2, 2], data[4, 4, 3], data[6, 6, 1] = 1, 2, 3
    io.write_label_map(LabelMap(data, scan.grid, scheme), tmp_path / "s/l.dcm", source=scan)
    dataset = dcmread(tmp_path / "s/l.dcm")
    named("a", "b", "c")(dataset)
    dataset.save_as(tmp_path / "s/l.dcm")
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "s/l.dcm", scheme).data, data)


def test_compare_goes_by_name(cli: Cli, scan: Volume, tmp_path: Path) -> None:  # noqa: F811
    """A SEG of ours and one of another program that numbers the structures the other way round."""
    made = theirs(scan, tmp_path / "s/theirs.dcm", "seg", named("Right ventricle", "Left ventricle"))
    io.write_label_map(made, tmp_path / "s/a.dcm", source=scan)
    ours = np.where(where(made, "left ventricle"), 500, 0) + np.where(where(made, "right ventricle"), 600, 0)
    io.write_label_map(LabelMap.from_ids(ours, scan.grid, MMWHS), tmp_path / "s/ours.dcm", source=scan)
    for more in ((), ("--model", "heart")):
        outcome = cli("compare", tmp_path / "s/ours.dcm", tmp_path / "s/theirs.dcm", "--json", *more)
        assert outcome.code == 0, outcome.err
        rows = {row["name"]: row["dice"] for row in json.loads(outcome.out)["structures"] if row["dice"] is not None}
        assert {name.lower(): dice for name, dice in rows.items()} == {"left ventricle": 1.0, "right ventricle": 1.0}


def test_contours_without_their_series_say_what_they_need(scan: Volume, tmp_path: Path) -> None:
    made = theirs(scan, tmp_path / "s/r.dcm", "rtstruct", named("a", "b"))
    alone = tmp_path / "alone" / "r.dcm"
    alone.parent.mkdir()
    alone.write_bytes((tmp_path / "s/r.dcm").read_bytes())
    assert scan.series is not None
    with pytest.raises(BadInput, match=rf"r\.dcm: its series is not beside it.*series {scan.series.series}"):
        io.read_label_ids(alone)
    ids = io.read_rtstruct(alone, io.Limits(), scan.grid).data
    np.testing.assert_array_equal(ids > 0, made.data > 0)
