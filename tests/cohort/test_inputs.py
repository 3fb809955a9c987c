"""Where cases come from: tables, BIDS data sets, DICOM trees; and which share of them a task does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from diffatlas.cohort import find_bids, find_dicom, is_manifest, read_manifest
from diffatlas.cohort.bids import write_description
from diffatlas.cohort.parts import Part, array_of, parse_part, parts_left, slurm_script
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS

# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("p1/T1.nii.gz", "p2/T1.nii.gz", "p3/T1.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_table_lists_cases(scans: Path, delimiter: str) -> None:
    rows = [
        ("id", "path", "modality", "roi", "age"),
        ("one", "p1/T1.nii.gz", "MRI", "", "61"),
        ("", "p2/T1.nii.gz", "", "1:9 2:20 0:12".replace(" ", "/"), ""),
        ("", "p3/T1.nii.gz", "pet", "", ""),
        ("gone", "p4/T1.nii.gz", "", "", ""),
        ("", "", "", "", ""),
    ]
    table = scans / "cases.csv"
    table.write_text("\n".join(delimiter.join(row) for row in rows) + "\n", encoding="utf-8-sig")
    assert is_manifest(table)
    cases, notes = read_manifest(table, scans / "out")
    assert [case.name for case in cases] == ["one", "p2_T1", "p3_T1", "gone"]
    assert [case.modality for case in cases] == ["mr", None, None, None]
    assert "columns not read: age" in notes[0]
    for case, words in zip(cases[1:], ("the roi", "neither ct nor mr", "no such file"), strict=True):
        assert words in case.problem
        assert "cases.csv, line" in case.problem
    assert cases[0].labels == scans / "out" / "one_labels.nii.gz"


def test_json_lines_list_cases_with_regions(scans: Path) -> None:
    rows = [
        {"path": "p1/T1.nii.gz", "id": "a", "roi": [[1, 9], [2, 20], [0, 12]]},
        {"path": "p2/T1.nii.gz", "id": "b", "roi": "1:9,2:20,0:12"},
        {"path": str(scans / "p3" / "T1.nii.gz")},
    ]
    table = scans / "cases.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    cases, notes = read_manifest(table, scans / "out")
    assert notes == []
    assert [case.name for case in cases] == ["a", "b", "T1"]
    assert cases[0].roi == cases[1].roi == ((1, 9), (2, 20), (0, 12))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", "needs the column path"),
        ("t.csv", "file\nx\n", "needs the column path"),
        ("t.csv", "path\n", "lists no case"),
        ("t.csv", "path,id\np1/T1.nii.gz,a\np2/T1.nii.gz,A\n", "lines 2 and 3 have the id A"),
        ("t.csv", "path,id\np1/T1.nii.gz,../x\n", "cannot be part of a file name"),
        ("t.jsonl", "{]\n", "line 1: not JSON"),
        ("t.jsonl", "[]\n", "not an object"),
    ],
)
def test_tables_that_make_no_sense_are_refused(scans: Path, name: str, text: str, words: str) -> None:
    (scans / name).write_text(text)
    with pytest.raises(BadInput, match=words):
        read_manifest(scans / name, scans / "out")


# -- BIDS --------------------------------------------------------------------------------------------------------------

IMAGES = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-hi_run-2_T1w.nii",
    "sub-02/anat/sub-02_T1w.nii.gz",
)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    others = ("sub-02/anat/sub-02_dseg.nii.gz", "sub-02/func/sub-02_task-rest_bold.nii.gz", "sub-02/anat/notes.nii.gz")
    for name in (*IMAGES, *others):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return root


def test_a_bids_data_set_is_listed_and_results_are_named_as_derivatives(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases, notes = find_bids(bids, out)
    assert [case.path for case in cases] == [bids / name for name in IMAGES]
    assert [str(case.labels.relative_to(out)) for case in cases] == [
        "sub-01/ses-a/anat/sub-01_ses-a_desc-T1w_dseg.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_desc-T2w_dseg.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_acq-hi_run-2_desc-T1w_dseg.nii.gz",
        "sub-02/anat/sub-02_desc-T1w_dseg.nii.gz",
    ]
    assert all(str(case.report) == str(case.labels).replace(".nii.gz", ".json") for case in cases)
    assert "2 files left out" in notes[0]
    write_description(out, bids, MMWHS)
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "diffatlas")
    table = (out / "dseg.tsv").read_text().splitlines()
    assert table[0] == "index\tname\tcolor"
    assert table[1].split("\t")[:2] == ["500", "left ventricle"]


def test_participants_and_suffixes_are_chosen(bids: Path, tmp_path: Path) -> None:
    assert len(find_bids(bids, tmp_path / "out", ["sub-02"])[0]) == 1
    assert [case.name for case in find_bids(bids, tmp_path / "out", ["01"], ["T2w"])[0]] == ["sub-01_ses-a_T2w"]
    for participants, suffixes, words in ((["07"], [], "no participant 07"), ([], ["FLAIR"], "no anatomical image")):
        with pytest.raises(BadInput, match=words):
            find_bids(bids, tmp_path / "out", participants, suffixes)
    with pytest.raises(BadInput, match=r"no dataset_description\.json"):
        find_bids(bids / "sub-01", tmp_path / "out")


# -- DICOM -------------------------------------------------------------------------------------------------------------


def write_slice(path: Path, uid: str, number: int, modality: str = "CT", description: str = "thorax") -> None:
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality, data.SeriesDescription = uid, modality, description
    data.PatientID, data.SeriesNumber = "p^1", number
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 4, 4, 16, 16, 15
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.PixelData = np.zeros((4, 4), np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)


def test_a_dicom_tree_has_a_case_a_series(tmp_path: Path) -> None:
    root = tmp_path / "pacs"
    for i in range(2):
        write_slice(root / "a" / f"{i}", "1.2.3.111", 1)
        write_slice(root / "mixed" / f"x{i}", "1.2.3.222", 2, description="heart, axial")
        write_slice(root / "mixed" / f"y{i}", "1.2.3.333", 3, modality="MR")
    write_slice(root / "deep" / "down" / "here" / "0", "1.2.3.444", 4)
    write_slice(root / "elsewhere" / "1", "1.2.3.444", 4)
    write_slice(root / "report" / "sr", "1.2.3.555", 5, modality="SR")
    (root / "a" / "notes.txt").write_text("not DICOM")
    cases, notes = find_dicom([root], tmp_path / "out")
    assert [case.name for case in cases] == ["p-1_1_111", "p-1_2_222", "p-1_3_333", "p-1_4_444"]
    # Alone in its folder a series is the folder; else one of its files stands for it.
    assert [case.path for case in cases[:3]] == [root / "a", root / "mixed" / "x0", root / "mixed" / "y0"]
    assert "lie in 2 folders" in cases[3].problem
    assert notes == ["1 other series left out"]
    assert [case.name for case in find_dicom([root], tmp_path / "out", ["mr"])[0]] == ["p-1_3_333"]
    assert [case.name for case in find_dicom([root], tmp_path / "out", (), "HEART.*ax")[0]] == ["p-1_2_222"]
    with pytest.raises(BadInput, match="no such series; there are: CT heart"):
        find_dicom([root], tmp_path / "out", ["PT"])
    with pytest.raises(BadInput, match="not a regular expression"):
        find_dicom([root], tmp_path / "out", (), "(")


# -- parts -------------------------------------------------------------------------------------------------------------


def test_parts_share_the_cases_out_without_rest() -> None:
    cases = list(range(23))
    for count in (1, 4, 23, 30):
        shares = [Part(index, count).of(cases) for index in range(1, count + 1)]
        assert sorted(case for share in shares for case in share) == cases
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_part_of_a_slurm_array_is_its_tasks() -> None:
    def environment(task: int, low: int, high: int, count: int, step: int = 1) -> dict[str, str]:
        values = {"ID": task, "MIN": low, "MAX": high, "COUNT": count, "STEP": step}
        return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in values.items()}

    assert parse_part(None, {}) is None
    assert parse_part(None, environment(0, 0, 39, 40)) == Part(1, 40)
    assert parse_part(None, environment(40, 1, 40, 40)) == Part(40, 40)
    assert parse_part(None, environment(5, 1, 9, 5, step=2)) == Part(3, 5)
    assert parse_part("3/40", environment(0, 0, 39, 40)) == Part(3, 40)
    with pytest.raises(BadInput, match="gaps"):
        parse_part(None, environment(7, 3, 9, 2))
    for text in ("0/4", "5/4", "3", "a/b"):
        with pytest.raises(BadInput, match="I/N"):
            parse_part(text, {})


def test_only_parts_with_work_left_are_started_again(tmp_path: Path) -> None:
    done = [True] * 10
    done[3] = done[4] = False  # of 4 parts, the 4th and the 1st
    assert parts_left(done, 4) == [1, 4]
    assert array_of([9, 3, 1, 2, 7, 8]) == "1-3,7-9"
    script = slurm_script(["diffatlas", "batch", "a b.csv", "-o", "out"], tmp_path, [1, 4], 4, workers=1)
    assert "#SBATCH --array=1,4" in script
    assert "diffatlas batch 'a b.csv' -o out --part \"${SLURM_ARRAY_TASK_ID}/4\"" in script
    assert script.startswith("#!/bin/bash\n")
    assert os.linesep not in script or os.linesep == "\n"
