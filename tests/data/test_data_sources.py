"""Data sets: what each layout holds, what its ids mean, and what is said about what cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas.data import (
    Collection,
    Plan,
    PreparedCase,
    Refused,
    check_annotated,
    find_layout,
    named_scheme,
    prepare_case,
    read_labels,
    scan,
    scheme_of,
)
from diffatlas.data.case import Case, LabelFile
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelScheme
from tests import datasets as make

SPACE = ModelSpace(
    (20, 20, 20),
    (2.0, 2.0, 2.0),
    8.0,
    {"ct": Window("range", -250, 800), "mr": Window("percentile", 0.5, 99.5), "unknown": Window("percentile", 0, 100)},
)


def plan(scheme: LabelScheme, **changes: object) -> Plan:
    return Plan(SPACE, scheme, margin=0, **changes)  # type: ignore[arg-type]


def ids(collection: Collection) -> list[str]:
    return [case.id for case in collection.cases]


def outcome(collection: Collection, scheme: LabelScheme, **changes: object) -> PreparedCase | Refused:
    return prepare_case(collection.cases[0], plan(scheme, **changes))


def reason(collection: Collection, scheme: LabelScheme, **changes: object) -> str:
    result = outcome(collection, scheme, **changes)
    assert isinstance(result, Refused)
    assert "\n" not in result.reason
    return result.reason


def prepared(collection: Collection, scheme: LabelScheme, **changes: object) -> PreparedCase:
    result = outcome(collection, scheme, **changes)
    assert isinstance(result, PreparedCase), result
    return result


# -- MM-WHS ----------------------------------------------------------------------------------------------------------


def test_mmwhs_lists_both_modalities_and_its_test_cases(tmp_path: Path) -> None:
    names = ("ct_train_1001", "mr_train_1001", "ct_test_2001")
    root = make.mmwhs(tmp_path, {name: make.heart() for name in names})
    assert find_layout(root) == "mmwhs"
    found = scan(root)
    assert ids(found) == ["ct_test_2001", "ct_train_1001", "mr_train_1001"]
    assert [c.modality for c in found.cases] == ["ct", "ct", "mr"]
    assert [len(c.labels) for c in found.cases] == [0, 1, 1]  # the encrypted file is no label
    assert found.splits() == {"test": 1, "train": 2}
    assert ids(found.select(["train"], ["mr"])) == ["mr_train_1001"]
    assert "has no labels" in reason(found.select(["test"]), MMWHS)


def test_mmwhs_ids_become_structures_where_they_are(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart()})
    labels, notes = read_labels(scan(root).cases[0].labels, MMWHS)
    assert notes == ()
    for index, id_ in enumerate((500, 600, 420, 550, 205), start=1):
        np.testing.assert_array_equal(labels.data == index, make.heart() == id_)
    assert not labels.data[make.heart() == 820].any()  # the aorta is not in the scheme
    case = prepared(scan(root), MMWHS)
    assert case.image.shape == (1, 20, 20, 20)
    # same grid, same spacing: what is inside in the file is inside in the cache
    np.testing.assert_array_equal(case.sdf[2] < 0, make.heart() == 420)
    low, high = case.facts.window
    assert (low, high) == (-250, 800)
    expected = np.clip((make.picture(make.heart()) + 250) / 1050, 0, 1) * 255
    np.testing.assert_allclose(case.image[0], expected, atol=0.51)


def test_the_known_typo_of_mmwhs_is_read_as_meant(tmp_path: Path) -> None:
    labels = make.heart()
    labels[5, 12, 4] = 421
    case = prepared(scan(make.mmwhs(tmp_path, {"ct_train_1010": labels})), MMWHS)
    assert case.sdf[2][5, 12, 4] < 0
    assert case.facts.notes == ("ct_train_1010_label.nii.gz: 1 voxels of id 421 read as 420, a known slip",)


def test_an_id_without_a_name_is_refused(tmp_path: Path) -> None:
    labels = make.heart()
    labels[0, 0, 0] = 422
    said = reason(scan(make.mmwhs(tmp_path, {"ct_train_1001": labels})), MMWHS)
    assert "holds the id 422, which has no name" in said


def test_a_training_image_without_label_is_refused_alone(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart(), "ct_train_1002": make.heart()})
    (root / "ct_train" / "ct_train_1001_label.nii.gz").unlink()
    found = scan(root)
    assert ids(found) == ["ct_train_1002"]
    assert [r.id for r in found.refused] == ["ct_train_1001"]
    assert "no ct_train_1001_label.nii.gz beside it" in found.refused[0].reason


def test_a_case_that_lies_twice_is_used_once(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path / "a", {"ct_train_1001": make.heart()})
    make.mmwhs(root / "copy", {"ct_train_1001": make.heart()})
    found = scan(root)
    assert ids(found) == ["ct_train_1001"]
    assert "the id ct_train_1001 is taken by" in found.refused[0].reason


def test_missing_structures_are_named_and_may_be_refused(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart(without=(550, 205))})
    case = prepared(scan(root), MMWHS)
    assert case.facts.missing == ("right atrium", "myocardium")
    assert (case.sdf[3] == 127).all()  # absent: no surface anywhere, as far away as the file can say
    assert "lacks right atrium, myocardium" in reason(scan(root), MMWHS, complete=True)
    empty = make.mmwhs(tmp_path / "b", {"ct_train_1001": make.heart(without=(500, 600, 420, 550, 205))})
    assert "holds none of the structures" in reason(scan(empty), MMWHS)


# -- what is wrong inside the files ----------------------------------------------------------------------------------


def test_grids_that_do_not_match_are_refused(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart()})
    label = root / "ct_train" / "ct_train_1001_label.nii.gz"
    make.save(label, make.heart()[:, :, 1:])
    assert "has 20 x 20 x 19 voxels, ct_train_1001_image.nii.gz has 20 x 20 x 20" in reason(scan(root), MMWHS)
    moved = make.affine()
    moved[0, 3] = 5.0
    make.save(label, make.heart(), moved)
    assert "lies elsewhere in the world" in reason(scan(root), MMWHS)
    moved[0, 3] = 0.01  # the last digits of a header
    make.save(label, make.heart(), moved)
    assert isinstance(outcome(scan(root), MMWHS), PreparedCase)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_corrupt_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart()})
    path = root / "ct_train" / f"ct_train_1001_{kind}.nii.gz"
    path.write_bytes(path.read_bytes()[:-60])
    assert path.name in reason(scan(root), MMWHS)


def test_a_constant_image_teaches_nothing(tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path, {"ct_train_1001": make.heart()})
    make.save(root / "ct_train" / "ct_train_1001_image.nii.gz", np.zeros(make.SHAPE, dtype=np.int16))
    assert "every voxel has the same value" in reason(scan(root), MMWHS)


# -- where the field of view is put ----------------------------------------------------------------------------------


def test_the_view_follows_the_structures_only_where_it_must(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 60), dtype=np.int16)
    labels[6:12, 6:12, 48:56] = 500  # far up in a long volume
    make.save(tmp_path / "ct_train_1001_image.nii.gz", make.picture(labels))
    make.save(tmp_path / "ct_train_1001_label.nii.gz", labels)
    found = scan(tmp_path)
    scheme = named_scheme("one", [("LV", 1, None)])
    auto = prepared(found, scheme)
    assert auto.facts.centred_on == "labels"
    assert auto.facts.cut == {}
    assert auto.facts.extent_mm == (12.0, 12.0, 16.0)
    assert int((auto.sdf[0] < 0).sum()) == 6 * 6 * 8
    middle = prepared(found, scheme, centre="volume")
    assert middle.facts.cut == {"LV": 1.0}
    assert not (middle.sdf[0] < 0).any()
    small = make.mmwhs(tmp_path / "small", {"ct_train_1001": make.heart()})
    assert prepared(scan(small), MMWHS).facts.centred_on == "volume"


# -- TotalSegmentator ------------------------------------------------------------------------------------------------


def test_totalsegmentator_v1_has_the_five_structures(tmp_path: Path) -> None:
    root = make.totalsegmentator(tmp_path, {"s0000": "train", "s0001": "val", "s0002": "test"})
    assert find_layout(root) == "totalsegmentator"
    found = scan(root)
    assert found.splits() == {"train": 1, "val": 1, "test": 1}
    check_annotated(found, MMWHS)
    labels, _ = read_labels(found.cases[0].labels, MMWHS)
    np.testing.assert_array_equal(labels.data == 5, make.heart() == 205)
    assert prepared(found, MMWHS).facts.modality == "ct"


def test_totalsegmentator_v2_says_that_it_has_no_chambers(tmp_path: Path) -> None:
    names = {500: "heart", 820: "aorta", 420: "atrial_appendage_left"}
    found = scan(make.totalsegmentator(tmp_path, {"s0000": "train"}, names))
    with pytest.raises(BadInput, match=r"left ventricle, .* not annotated in this source; .*heartchambers_highres"):
        check_annotated(found, MMWHS)
    own = named_scheme("own", [("Atrial appendage left", 7, None), ("heart", 3, None)])
    check_annotated(found, own)
    labels, _ = read_labels(found.cases[0].labels, own)
    np.testing.assert_array_equal(labels.data == 1, make.heart() == 420)
    np.testing.assert_array_equal(labels.data == 2, make.heart() == 500)


def test_a_mask_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    root = make.totalsegmentator(tmp_path, {"s0000": "train", "s0001": "train"})
    (root / "s0000" / "segmentations" / "heart_atrium_right.nii.gz").unlink()
    found = scan(root)
    check_annotated(found, MMWHS)  # the other case has it
    assert "right atrium not annotated, which is not the same as absent" in reason(found, MMWHS)
    make.save(root / "s0000" / "segmentations" / "heart_atrium_right.nii.gz", np.zeros(make.SHAPE, dtype=np.uint8))
    assert prepared(scan(root), MMWHS).facts.missing == ("right atrium",)


def test_totalsegmentator_folders_that_lack_files_are_refused_one_by_one(tmp_path: Path) -> None:
    root = make.totalsegmentator(tmp_path, {"s0000": "train", "s0001": "train", "s0002": "train"})
    (root / "s0000" / "ct.nii.gz").unlink()
    for mask in (root / "s0001" / "segmentations").iterdir():
        mask.unlink()
    found = scan(root)
    assert ids(found) == ["s0002"]
    assert {r.id: r.reason.rpartition(": ")[2] for r in found.refused} == {
        "s0000": "no ct.nii.gz or mri.nii.gz in it",
        "s0001": "no masks in segmentations/",
    }


def test_the_first_structure_keeps_a_voxel_that_two_masks_claim(tmp_path: Path) -> None:
    root = make.totalsegmentator(tmp_path, {"s0000": "train"})
    both = (make.heart() == 500) | (make.heart() == 205)
    make.save(root / "s0000" / "segmentations" / "heart_myocardium.nii.gz", both.astype(np.uint8))
    labels, _ = read_labels(scan(root).cases[0].labels, MMWHS)
    np.testing.assert_array_equal(labels.data == 1, make.heart() == 500)
    np.testing.assert_array_equal(labels.data == 5, make.heart() == 205)


# -- the authors' preprocessed data ----------------------------------------------------------------------------------


def test_the_authors_layout_splits_and_modalities(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make.preprocessed(root / "MMWHS" / "CT" / "training_set_full", ("ct_train_1001", "ct_train_1002"))
    make.preprocessed(root / "MMWHS" / "MRI" / "testing_set", ("mr_train_1019",))
    make.preprocessed(root / "MMWHS" / "CT" / "all", ("ct_train_1001",))
    make.preprocessed(root / "TotalSegmentator" / "train", ("s0011",), sdf=False)
    assert find_layout(root) == "diffatlas"  # not mmwhs, though the names are its own
    found = scan(root)
    assert {c.id: (c.split, c.modality) for c in found.cases} == {
        "MMWHS/CT/all/ct_train_1001": ("all", "ct"),
        "MMWHS/CT/training_set_full/ct_train_1001": ("train", "ct"),
        "MMWHS/CT/training_set_full/ct_train_1002": ("train", "ct"),
        "MMWHS/MRI/testing_set/mr_train_1019": ("test", "mr"),
        "TotalSegmentator/train/s0011": ("train", "ct"),
    }
    assert "the order of the labels is assumed: 1 left ventricle" in found.notes[0]
    case = prepared(found.select(["train"]), MMWHS)
    np.testing.assert_array_equal(case.sdf[2] < 0, make.heart() == 420)
    inner = scan(root / "MMWHS" / "CT" / "training_set_full")
    first = inner.cases[0]
    assert (first.id, first.split, first.modality) == ("ct_train_1001", "train", "ct")


def test_the_authors_labels_can_be_named(tmp_path: Path) -> None:
    folder = make.preprocessed(tmp_path / "CT" / "training_set_full", ("a",))
    order = {"myo": 1, "la": 2, "lv": 3, "ra": 4, "rv": 5}
    found = scan(folder, labels=order)
    assert found.notes == ()
    labels, _ = read_labels(found.cases[0].labels, MMWHS)
    np.testing.assert_array_equal(labels.data == 5, make.numbered() == 1)
    np.testing.assert_array_equal(labels.data == 1, make.numbered() == 3)


# -- Decathlon -------------------------------------------------------------------------------------------------------


def test_decathlon_names_its_labels_and_modality(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("hippocampus_001", "hippocampus_003"))
    assert find_layout(root) == "decathlon"
    found = scan(root)
    assert ids(found) == ["hippocampus_001", "hippocampus_003", "hippocampus_900"]
    assert [c.split for c in found.cases] == ["train", "train", "test"]
    assert {c.modality for c in found.cases} == {"mr"}
    assert scheme_of(found).names == ("anterior hippocampus", "posterior hippocampus")
    labels, _ = read_labels(found.cases[0].labels, HIPPOCAMPUS)
    assert np.bincount(labels.data.ravel()).tolist() == [8000 - 125 - 64, 125, 64]


def test_decathlon_pairs_are_those_of_monai(tmp_path: Path) -> None:
    from monai.data.decathlon_datalist import load_decathlon_datalist

    root = make.decathlon(tmp_path, ("a", "b", "c"))
    theirs = {(item["image"], item["label"]) for item in load_decathlon_datalist(root / "dataset.json")}
    cases = [case for case in scan(root).cases if case.labels]
    assert {(str(case.image), str(case.labels[0].path)) for case in cases} == theirs
    assert len(theirs) == 3


def test_decathlon_ids_go_by_name_not_by_number(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("a",), name="Heart", labels={"0": "background", "2": "LA", "1": "scar"})
    own = named_scheme("own", [("left atrium", 420, None)])
    labels, _ = read_labels(scan(root).cases[0].labels, own)
    assert np.bincount(labels.data.ravel()).tolist() == [8000 - 64, 64]
    with pytest.raises(BadInput, match=r"left ventricle, .* not annotated in this source; it has: LA, scar"):
        check_annotated(scan(root), MMWHS)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"modality": {"0": "FLAIR", "1": "T1w"}}, r"2 channels \(0 FLAIR, 1 T1w\); choose one"),
        ({"training": []}, "lists no training pairs"),
        ({"labels": {"0": "background"}}, "no structure but the background"),
        ({"labels": {"one": "two"}}, "not a pair of a name and an id"),
        ({"labels": None}, "does not name its labels"),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        scan(make.decathlon(tmp_path, ("a",), **changes))


def test_a_channel_of_a_decathlon_image(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("a",), modality={"0": "T2", "1": "ADC"})
    one = make.picture(make.numbered() * 100, 0, 0)
    make.save(root / "imagesTr" / "a.nii.gz", np.stack([np.zeros_like(one), one], axis=-1))
    assert prepared(scan(root, channel=1), HIPPOCAMPUS).facts.intensity[1] == one.max()
    with pytest.raises(BadInput, match="there is no channel 2"):
        scan(root, channel=2)


def test_a_listed_file_that_is_not_there(tmp_path: Path) -> None:
    root = make.decathlon(tmp_path, ("a", "b"))
    (root / "labelsTr" / "a.nii.gz").unlink()
    found = scan(root)
    assert ids(found.select(["train"])) == ["b"]
    assert "no such file, though dataset.json lists it" in found.refused[0].reason


def test_the_padding_of_a_space_survives_the_preparation(tmp_path: Path) -> None:
    """The published model's card pads with 0: its fine-tuning must not see -1 there."""
    image = np.full((6, 6, 6), 300, np.int16) + np.eye(6, dtype=np.int16)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "i.nii")
    nib.save(nib.Nifti1Image(np.ones((6, 6, 6), np.uint8), np.eye(4)), tmp_path / "l.nii")
    for fill, byte in ((0.0, 128), (-1.0, 0)):
        space = ModelSpace((8, 8, 8), (4.0, 4.0, 4.0), 5.0, {"ct": Window("range", -200, 800)}, fill)
        names = {1: "anterior hippocampus", 2: "posterior hippocampus"}
        case = Case("a", tmp_path / "i.nii", (LabelFile(tmp_path / "l.nii", names),), "ct")
        done = prepare_case(case, Plan(space, HIPPOCAMPUS, margin=2))
        assert isinstance(done, PreparedCase)
        # 12 voxels of 4 mm around a volume of 6 mm: the corner lies outside.
        assert done.image[0, 0, 0, 0] == byte
