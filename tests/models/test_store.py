"""A model is a folder with a card and a safetensors file; everything else is refused before it can do harm."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from diffatlas.errors import BadInput
from diffatlas.models.store import (
    CARD_FILE,
    WEIGHTS_FILE,
    available_models,
    file_sha256,
    find_model,
    load_model,
    read_card,
    write_card,
)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit_card(folder: Path, **changes: Any) -> None:
    card = yaml.safe_load((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(yaml.safe_dump(card | changes))


def reseal(folder: Path) -> None:
    edit_card(folder, sha256=file_sha256(folder / WEIGHTS_FILE))


def refused(folder: Path | str, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_card_round_trips_and_network_loads(copy: Path) -> None:
    card = replace(read_card(copy), licence="CC BY-SA 4.0 (weights)")
    write_card(card, copy)
    assert read_card(copy).to_json() == card.to_json()
    page = (copy / "README.md").read_text()
    assert "| 2 | posterior hippocampus |" in page
    front = yaml.safe_load(page.split("---\n")[1])
    assert front["license"] == "cc-by-sa-4.0"
    assert front["pipeline_tag"] == "image-segmentation"
    assert "mr" in front["tags"]
    assert page.split("---\n\n", 1)[1].startswith("# ")
    model = load_model(copy)
    assert model.card.scheme.ids == (1, 2)
    assert not model.network.training
    assert load_model(copy) is model


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was executed",))


def test_a_pickle_is_never_opened(copy: Path) -> None:
    (copy / WEIGHTS_FILE).write_bytes(pickle.dumps(Bomb()))
    refused(copy, "sha256")
    reseal(copy)  # even with the right hash
    refused(copy, "not a safetensors file")
    refused(str(copy / WEIGHTS_FILE), "single checkpoint files are not loaded")


def test_a_flipped_bit_is_noticed(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS_FILE).write_bytes(data)
    refused(copy, "sha256")


def test_tensors_must_be_those_of_the_architecture(copy: Path) -> None:
    path = copy / WEIGHTS_FILE
    tensors = load_file(path)
    name = next(iter(tensors))
    for changed, match in (
        ({k: v for k, v in tensors.items() if k != name}, f"'{name}' is missing"),
        (tensors | {"extra": tensors[name].clone()}, "'extra' does not belong"),
        (tensors | {name: tensors[name].flatten()[:1].clone()}, f"'{name}' has shape"),
        (tensors | {name: tensors[name] * float("nan")}, "not finite"),
    ):
        save_file(changed, path)
        reseal(copy)
        refused(copy, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scheme": None}, "not a model card"),
        ({"schedule": "linear"}, "linear"),
        ({"prediction": {"image": "v", "mask": "noise"}}, "prediction.mask"),
        ({"architecture": {"kind": "transformer"}}, "transformer"),
        ({"architecture": {"kind": "atlas-unet", "depth": 3}}, "architecture does not fit"),
        ({"scheme": {"name": "x", "structures": []}}, "1 to 254"),
    ],
)
def test_cards_that_make_no_sense(copy: Path, changes: dict[str, Any], match: str) -> None:
    edit_card(copy, **changes)
    refused(copy, match)


def test_missing_and_unreadable_parts(copy: Path, tmp_path: Path) -> None:
    refused("no-such-model", "no model named 'no-such-model'")
    refused(str(tmp_path), "no card.yaml")
    card = (copy / CARD_FILE).read_text()
    (copy / CARD_FILE).write_text("name: [unclosed")
    refused(copy, "not a model card")
    (copy / CARD_FILE).write_text(card.replace("title:", "heading:"))
    refused(copy, "'title' is missing")
    (copy / CARD_FILE).write_text(card)
    (copy / WEIGHTS_FILE).unlink()
    refused(copy, "missing; it belongs beside")


def test_a_yaml_tag_builds_no_object(copy: Path) -> None:
    (copy / CARD_FILE).write_text("!!python/object/apply:os.getcwd []")
    refused(copy, "not a model card")


def test_models_are_found_by_name_in_the_users_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFATLAS_WEIGHTS", str(copy.parent))
    assert find_model("copy") == copy


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BOMB, "refers to another part"),
        ("[" * 5000 + "]" * 5000, "not a model card"),
        ("- " * 3000 + "x", "not a model card"),
        ("\n".join(f"k{i}: {i}" for i in range(30_000)), "too long"),
        ("", "mapping"),
        ("just words", "mapping"),
    ],
)
def test_yaml_that_is_a_bomb_or_no_card_is_one_short_line(copy: Path, text: str, match: str) -> None:
    (copy / CARD_FILE).write_text(text)
    with pytest.raises(BadInput, match=match) as caught:
        read_card(copy)
    line = str(caught.value).removeprefix(str(copy))
    assert "\n" not in line
    assert len(line) < 300


SPACE = {"shape": [16, 16, 16], "spacing_mm": [2, 2, 2], "sdf_clip_mm": 6, "windows": {}}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"space": SPACE | {"shape": [float("inf"), 16, 16]}}, r"space\.shape\.0"),
        ({"space": SPACE | {"shape": [16, 16]}}, r"space\.shape"),
        ({"space": SPACE | {"shape": [0, 16, 16]}}, r"space\.shape\.0"),
        ({"space": SPACE | {"shape": [4096, 4096, 4096]}}, "more than a model's grid"),
        ({"space": SPACE | {"spacing_mm": [float("nan"), 2, 2]}}, r"spacing_mm\.0"),
        ({"space": SPACE | {"spacing_mm": ["2", 2, 2]}}, r"spacing_mm\.0"),
        ({"space": SPACE | {"sdf_clip_mm": -1}}, "sdf_clip_mm"),
        ({"space": SPACE | {"windows": {"pet": {"kind": "range", "low": 0, "high": 1}}}}, "'pet'"),
        ({"space": SPACE | {"windows": {"ct": {"kind": "range", "low": 1, "high": 1}}}}, "low must lie below high"),
        ({"name": 7}, "name must be a valid string"),
        ({"modalities": "mr"}, "modalities"),
        ({"guidance_noise": 2}, "guidance_noise"),
        ({"guidance_noise": True}, "guidance_noise"),
        ({"levels": 10}, "levels"),
        ({"atlas_walk": "sideways"}, "atlas_walk"),
        ({"architecture": []}, "architecture"),
        ({"architecture": {"kind": ["atlas-unet"]}}, "architecture"),
        ({"scheme": {"name": "s", "structures": [{"name": "a", "id": 1, "color": [0, 0, 300]}]}}, "color"),
        (
            {"scheme": {"name": "s", "structures": [{"name": n, "id": 1, "color": [0, 0, 0]} for n in "ab"]}},
            "different",
        ),
        ({"path": "/etc"}, "mapping of a card's fields"),
        ({"surprise": "x" * 10_000}, "surprise"),
        ({"title": ["x" * 10_000]}, "title"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(copy: Path, changes: dict[str, Any], match: str) -> None:
    edit_card(copy, **changes)
    with pytest.raises(BadInput, match=match) as caught:
        load_model(copy)
    assert len(str(caught.value).removeprefix(str(copy))) < 300


def test_a_model_is_listed_found_and_refused_under_one_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFATLAS_WEIGHTS", str(copy.parent))
    edit_card(copy, name="mine")  # its folder is called copy
    assert "mine" in [card.name for card in available_models()]
    assert find_model("mine") == find_model("copy") == copy
    with pytest.raises(BadInput, match=r"no model named 'my'; there are: .*mine"):
        find_model("my")
    other = copy.parent / "mine"
    shutil.copytree(copy, other)
    edit_card(other, name="theirs")
    with pytest.raises(BadInput, match="the name of two models"):
        find_model("mine")
    edit_card(other, name="mine")  # two of one name: the last folder counts, and the list holds the name once
    assert [card.name for card in available_models()].count("mine") == 1
    assert find_model("mine") == other


def test_a_broken_card_does_not_hide_other_models(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(copy, copy.parent / "broken")
    (copy.parent / "broken" / CARD_FILE).write_text("nothing")
    monkeypatch.setenv("DIFFATLAS_WEIGHTS", str(copy.parent))
    assert find_model("copy") == copy
    with pytest.raises(BadInput, match="not a model card"):
        load_model("broken")


def test_expected_volumes_are_those_of_training(tiny_model: Path) -> None:
    card = read_card(tiny_model)
    names = card.scheme.names
    assert card.expected_volumes_ml is None
    drawn = {name: [10.0 + k, 2.0] for k, name in enumerate(names)}
    assert replace(card, metrics={"training volumes": drawn}).expected_volumes_ml == [10.0, 11.0]
    measured = {name: {"training_ml": [20.0 + k, 1.0]} for k, name in enumerate(names)}
    both = {"training volumes": drawn, "generated volumes": {"structures": measured}}
    assert replace(card, metrics=both).expected_volumes_ml == [20.0, 21.0]
