"""Data of one's own: folders, tables, names, digital hearts, and many cases at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffatlas.data import (
    Plan,
    PreparedCase,
    Refused,
    canonical,
    find_layout,
    named_scheme,
    prepare_all,
    prepare_case,
    scan,
    scan_phantom,
    scheme_of,
)
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS
from diffatlas.models.store import read_card
from diffatlas.train import run as train
from diffatlas.train.config import load_config
from tests import datasets as make
from tests.data.test_data_sources import SPACE, ids, outcome, plan, prepared, reason

# -- one's own -------------------------------------------------------------------------------------------------------


def test_a_folder_plain_and_compressed(tmp_path: Path) -> None:
    root = make.pairs(tmp_path, ("b",))
    make.pairs(tmp_path, ("a",), ".nii")
    assert find_layout(root) == "folder"
    found = scan(root, modality="mr")
    assert ids(found) == ["a", "b"]
    results = [prepare_case(case, plan(HIPPOCAMPUS)) for case in found.cases]
    assert [r.facts.modality for r in results if isinstance(r, PreparedCase)] == ["mr", "mr"]


def test_a_folder_with_a_split_file_and_its_holes(tmp_path: Path) -> None:
    root = make.pairs(tmp_path, ("a", "b", "c", "d"))
    (root / "labels" / "b.nii.gz").unlink()
    (root / "images" / "c.nii.gz").unlink()
    (root / "split.json").write_text('{"dataset": "x", "train": ["d", "b", "c"], "val": ["a", "d"], "few_shot": {}}')
    found = scan(root)
    assert [(c.id, c.split) for c in found.cases] == [("d", "train"), ("a", "val")]  # in the file's order
    assert {r.id: r.reason.rpartition(": ")[2] for r in found.refused} == {
        "b": "the image has no label",
        "c": "no such file, though split.json lists it",
        "d": "the id d is taken by " + str(root / "images" / "d.nii.gz"),
    }
    with pytest.raises(BadInput, match=r"no case of the split test; there are: train \(1\), val \(1\)"):
        found.select(["test"])
    with pytest.raises(BadInput, match=r"other.json: no such file"):
        scan(root, split="other.json")


def test_a_series_asks_for_its_channel(tmp_path: Path) -> None:
    root = make.pairs(tmp_path, ("a",))
    one = make.picture(make.numbered() * 100, 0, 0)
    make.save(root / "images" / "a.nii.gz", np.stack([one, one + 5], axis=-1))
    assert "2 volumes, 0 to 1; choose one with channel" in reason(scan(root), HIPPOCAMPUS)
    assert prepared(scan(root, channel=1), HIPPOCAMPUS).facts.intensity[1] == one.max() + 5


def test_two_files_of_one_name_are_one_case(tmp_path: Path) -> None:
    make.pairs(tmp_path, ("a",))
    found = scan(make.pairs(tmp_path, ("a",), ".nii"))
    assert ids(found) == ["a"]
    assert "the id a is taken by" in found.refused[0].reason


def test_label_names_that_clash(tmp_path: Path) -> None:
    root = make.pairs(tmp_path, ("a",))
    with pytest.raises(BadInput, match="the id 1 has two names"):
        scan(root, labels={"head": 1, "tail": 1})
    assert scheme_of(scan(root, labels={"background": 0, "head": 1})).names == ("head",)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table(tmp_path: Path, delimiter: str) -> None:
    make.pairs(tmp_path, ("a", "b"))
    rows = [
        ("id", "image", "label", "modality", "split"),
        ("p2", "images/b.nii.gz", "labels/b.nii.gz", "MRI", ""),
        ("p1", "images/a.nii.gz", "labels/a.nii.gz", "CT", "val"),
        ("p2", "images/a.nii.gz", "labels/a.nii.gz", "MRI", ""),
        ("p3", "images/a.nii.gz", "", "MRI", "train"),
        ("p4", "images/none.nii.gz", "labels/a.nii.gz", "MRI", ""),
        ("p5", "images/a.nii.gz", "", "MRI", "test"),
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(delimiter.join(row) for row in rows) + "\n")
    assert find_layout(table) == "folder"
    found = scan(table, labels={"anterior hippocampus": 1, "posterior hippocampus": 2})
    assert [(c.id, c.modality, c.split) for c in found.cases] == [
        ("p2", "mr", "train"),
        ("p1", "ct", "val"),
        ("p5", "mr", "test"),
    ]
    assert [r.id for r in found.refused] == ["p2", "p3", "p4"]
    assert scheme_of(found).ids == (1, 2)
    assert isinstance(outcome(found, scheme_of(found)), PreparedCase)


@pytest.mark.parametrize(
    ("text", "match"),
    [("", "needs the columns image and label"), ("image,mask\n", "needs the columns"), ("image,label\n", "no case")],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput, match=match):
        scan(tmp_path / "t.csv")


def test_a_table_is_found_by_its_folder_and_unknown_columns_are_noted(tmp_path: Path) -> None:
    root = make.pairs(tmp_path / "scans", ("a", "b"))
    (root / "images").rename(root / "t1")
    (root / "other.csv").write_text("name,age\nx,3\n")
    rows = [f"{name},t1/{name}.nii.gz,labels/{name}.nii.gz,{age}" for name, age in (("a", 61), ("b", 70))]
    (root / "cases.csv").write_text("id,image,label,age\n" + "\n".join(rows) + "\n")
    assert find_layout(root) == "folder"
    found = scan(root)
    assert [case.id for case in found.cases] == ["a", "b"]
    assert found.refused == ()
    assert len(found.notes) == 1
    assert "columns not read: age" in found.notes[0]
    (root / "more.csv").write_text("image,label\n")
    with pytest.raises(BadInput, match="holds 2 tables"):
        scan(root)


def test_a_folder_without_names_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name every structure with its id"):
        scheme_of(scan(make.pairs(tmp_path, ("a",))))


CONFIG = """
    {name: own, title: t, summary: s, licence: l, intended_use: u, data_note: d, limits: [x],
     space: {shape: [16, 16, 16], spacing_mm: [3, 3, 3], sdf_clip_mm: 9,
             windows: {ct: {kind: range, low: -100, high: 500}}},
     data: {source: totalsegmentator, path: ts, holdout: 0, margin: 0, cache: c.safetensors, structures: [
            {name: heart_atrium_left, id: 7}, {name: Aorta, id: 300, color: [1, 2, 3]}]},
     network: {widths: [8, 8], embedding: 16}, steps: 1, batch: 1, precision: fp32, run_folder: run, export: model}
"""


def test_structures_of_ones_own_reach_the_card(tmp_path: Path) -> None:
    make.totalsegmentator(tmp_path / "ts", {"s0000": "train", "s0001": "test"})
    (tmp_path / "train.yaml").write_text(CONFIG)
    card = read_card(train(tmp_path / "train.yaml"))
    assert [(s.name, s.id) for s in card.scheme.structures] == [("heart_atrium_left", 7), ("Aorta", 300)]
    assert card.scheme.structures[1].color == (1, 2, 3)
    with pytest.raises(BadInput, match="prepared for other structures"):
        train(tmp_path / "train.yaml", ["data.structures=[{name: spleen, id: 1}]", "run_folder=other"])
    with pytest.raises(BadInput, match="none is left"):
        train(tmp_path / "train.yaml", ["data.holdout=1"])


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("data.scheme=mmwhs", "either scheme or structures"),
        ("data.structures=null", "either scheme or structures"),
        ("data.structures=[{name: a, id: 1}, {name: b, id: 1}]", "the id 1 is given twice"),
        ("data.structures=[{name: a, id: 0}]", "the id 0 is not between 1 and 65535"),
        ("data.structures=[{name: a, id: 1, color: [0, 0, 256]}]", "data.structures.0.color.2"),
    ],
)
def test_structures_that_make_no_sense(tmp_path: Path, override: str, match: str) -> None:
    (tmp_path / "train.yaml").write_text(CONFIG)
    with pytest.raises(BadInput, match=match):
        load_config(tmp_path / "train.yaml", [override])


# -- layouts, names, phantoms, many at once --------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is empty"):
        find_layout(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="has no layout that is known"):
        find_layout(tmp_path)
    with pytest.raises(BadInput, match="no such file or folder"):
        scan(tmp_path / "gone")


def test_the_wrong_layout_is_told_the_right_one(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("a",))
    with pytest.raises(BadInput, match=r"nothing of the layout 'mmwhs' is there .* it looks like 'decathlon'"):
        scan(root, "mmwhs")
    with pytest.raises(BadInput, match="cannot be read as 'magic'"):
        scan(root, "magic")


def test_names_meet_whatever_their_spelling() -> None:
    assert canonical("Heart_Atrium-Left ") == canonical("LA") == canonical("left  atrium") == "left atrium"
    assert canonical("spleen") == "spleen"
    for clash in (
        [("LV", 1, None), ("left ventricle", 2, None)],
        [("a", 1, None), ("b", 1, None)],
        [("a", 0, None)],
        [],
    ):
        with pytest.raises(BadInput, match="structures"):
            named_scheme("own", clash)


def test_digital_hearts_are_a_source() -> None:
    found = scan_phantom(2, seed=5, modalities=("ct", "random"))
    assert ids(found) == ["phantom-5", "phantom-6"]
    space = ModelSpace((24, 24, 24), (6.0, 6.0, 6.0), 15.0, SPACE.windows)
    case = prepare_case(found.cases[0], Plan(space, MMWHS, margin=2))
    assert isinstance(case, PreparedCase)
    assert case.image.shape == (2, 28, 28, 28)
    assert case.facts.missing == ()
    assert isinstance(prepare_case(found.cases[0], Plan(space, HIPPOCAMPUS)), Refused)


def test_many_workers_are_one_worker(tmp_path: Path) -> None:
    root = make.pairs(tmp_path, tuple("abcdef"))
    (root / "labels" / "c.nii.gz").write_bytes(b"")
    cases = scan(root, modality="mr").cases
    one = list(prepare_all(cases, plan(HIPPOCAMPUS), workers=1))
    two = list(prepare_all(cases, plan(HIPPOCAMPUS), workers=2))
    assert [type(o) for o in one] == [type(o) for o in two]
    assert isinstance(one[2], Refused)
    for a, b in zip(one, two, strict=True):
        if isinstance(a, PreparedCase):
            assert isinstance(b, PreparedCase)
            assert a.facts == b.facts
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.sdf, b.sdf)
        else:
            assert a == b


def test_stopping_early_stops_the_workers(tmp_path: Path) -> None:
    cases = scan(make.pairs(tmp_path, tuple("abcd")), modality="mr").cases
    outcomes = prepare_all(cases, plan(HIPPOCAMPUS), workers=2)
    next(outcomes)
    outcomes.close()
    assert list(outcomes) == []


def test_hidden_and_broken_descriptions(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("a",))
    (root / "dataset.json").write_text("{" + json.dumps("x"))
    with pytest.raises(BadInput, match="not readable JSON"):
        scan(root)
