"""A run folder and a prepared file belong to what made them; the card says what was done and what it is worth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffatlas.errors import BadInput
from diffatlas.models.store import load_model, read_card, use_models_folder
from diffatlas.train import run
from diffatlas.train.config import load_config
from diffatlas.train.export import HELD_OUT, export_run
from diffatlas.train.prepared import load_or_prepare
from diffatlas.train.record import first_difference
from diffatlas.train.state import LAST
from tests.training import balls

QUICK = ["steps=2", "validate_every=0", "pictures=false"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return balls(tmp_path)


def edit(path: Path, **changes: object) -> None:
    config = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        node = config
        *parents, leaf = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    path.write_text(yaml.safe_dump(config))


CHANGES: list[tuple[dict[str, object], str]] = [
    ({"batch": 2}, "batch: 4 then, 2 now"),
    ({"learning_rate": 0.1}, "learning_rate: 0.002 then, 0.1 now"),
    ({"augment": {"noise": 0.5}}, "augment.noise: 0.06 then, 0.5 now"),
    ({"space__windows": {"mr": {"kind": "percentile", "low": 1, "high": 99}}}, "space.windows.mr.low: 0.5 then"),
    ({"data__holdout": 2}, "data.holdout: 1 then, 2 now"),
    ({"guidance_noise": 0.5}, "guidance_noise"),
]


def test_an_edited_configuration_does_not_go_on_in_an_old_run_folder(config_file: Path) -> None:
    run(config_file, QUICK)
    model, given = config_file.parent / "model" / "model.safetensors", config_file.read_text()
    before, checkpoint = model.read_bytes(), (config_file.parent / "run" / LAST).read_bytes()
    for change, said in CHANGES:
        config_file.write_text(given)
        edit(config_file, **change)
        with pytest.raises(BadInput) as error:
            run(config_file, [*QUICK, "steps=4"])
        assert said in str(error.value)
        with pytest.raises(BadInput) as error:
            export_run(config_file)
        assert "run_folder" in str(error.value)
    assert model.read_bytes() == before
    assert (config_file.parent / "run" / LAST).read_bytes() == checkpoint


def test_longer_runs_other_words_and_other_machines_go_on(config_file: Path) -> None:
    run(config_file, QUICK)
    edit(config_file, title="Other words", log_every=1, threads=1, accumulate=2)
    run(config_file, [*QUICK, "steps=4"])
    card = load_model(config_file.parent / "model").card
    assert (card.title, card.training["steps"]) == ("Other words", 4)


def test_a_checkpoint_of_an_earlier_version_is_held_against_the_configuration_beside_it(config_file: Path) -> None:
    run(config_file, QUICK)
    checkpoint = config_file.parent / "run" / LAST
    with safe_open(checkpoint, "pt") as file:
        meta = file.metadata()
    save_file(load_file(checkpoint), checkpoint, {k: v for k, v in meta.items() if k not in ("settings", "command")})
    edit(config_file, batch=2)
    with pytest.raises(BadInput, match="batch: 4 then, 2 now"):
        run(config_file, QUICK)


def test_the_first_difference_is_named() -> None:
    assert first_difference({"a": 1, "c": {"d": 2}}, {"a": 1, "b": 5, "c": {"d": 3}}) == "c.d: 2 then, 3 now"
    assert first_difference({"start_from": "/a/heart"}, {"start_from": "/b/heart"}) is None
    assert first_difference({"start_from": "/a/heart"}, {"start_from": "/b/liver"}) is not None


def test_the_card_says_how_it_was_trained_and_what_it_is_worth(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is the one that was given, and giving it again resumes the run it names."""
    monkeypatch.chdir(config_file.parent)
    run(Path("train.yaml"), QUICK)
    card = load_model(Path("model")).card
    assert card.training["command"] == (
        "diffatlas train train.yaml --set steps=2 --set validate_every=0 --set pictures=false"
    )
    assert (card.training["cases"], card.training["cases_held_out"]) == (5, 1)
    found = card.metrics[HELD_OUT]
    assert found["n"] == 1
    assert 0 <= found["dice"] <= 1
    assert set(found["structures"]) == {"anterior hippocampus", "posterior hippocampus"}
    assert HELD_OUT in (Path("model") / "README.md").read_text()
    export_run(Path("run"), Path("again"))
    assert read_card(Path("again")).to_json() == card.to_json()


def test_a_run_starts_from_a_model_by_name(config_file: Path, tmp_path: Path) -> None:
    run(config_file, QUICK)
    models = tmp_path / "models"
    models.mkdir()
    (tmp_path / "model").rename(models / "balls")
    use_models_folder(models)
    try:
        run(config_file, [*QUICK, "start_from=balls", "run_folder=other", "export=second"])
    finally:
        use_models_folder(None)
    assert read_card(tmp_path / "second").training["started_from"].startswith("balls ")


def test_a_full_disk_ends_training_with_a_line_and_keeps_the_last_checkpoint(config_file: Path) -> None:
    """The system refuses the bytes beyond a limit, as a full disk does."""
    resource = pytest.importorskip("resource")  # not on Windows
    run(config_file, QUICK)
    checkpoint = config_file.parent / "run" / LAST
    kept = checkpoint.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(BadInput, match=r"last\.safetensors: could not be written \(file too large\); what was"):
            run(config_file, [*QUICK, "steps=4"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.read_bytes() == kept
    run(config_file, [*QUICK, "steps=4"])


# -- prepared files ---------------------------------------------------------------------------------------------------


def prepared(config_file: Path, *overrides: str) -> None:
    config = load_config(config_file, overrides)
    load_or_prepare(config.data, config.space)


def test_a_prepared_file_is_refused_when_its_source_has_changed(config_file: Path) -> None:
    prepared(config_file)
    prepared(config_file)
    image = config_file.parent / "data" / "images" / "case3.nii.gz"
    then = image.stat()
    os.utime(image, ns=(then.st_atime_ns, then.st_mtime_ns + 10**9))
    with pytest.raises(BadInput, match="the files of case case3 have changed since"):
        prepared(config_file)
    os.utime(image, ns=(then.st_atime_ns, then.st_mtime_ns))
    prepared(config_file)
    split = config_file.parent / "data" / "split.json"
    split.write_text(json.dumps({"train": [f"case{i}" for i in range(5)]}))
    with pytest.raises(BadInput, match="the case case5 is not there now"):
        prepared(config_file)


LABELS = "data.labels={anterior hippocampus: 1, posterior hippocampus: 2}"


def test_a_prepared_file_is_refused_when_the_data_settings_have_changed(config_file: Path) -> None:
    prepared(config_file, LABELS)
    for override, said in (
        ("data.labels={anterior hippocampus: 2, posterior hippocampus: 1}", "labels"),
        ("data.splits=[train, val]", "splits"),
        ("data.centre=labels", "centre: auto then, labels now"),
        ("data.complete=true", "complete: false then, true now"),
        ("data.margin=3", "margin"),
        ("space.sdf_clip_mm=9", "space.sdf_clip_mm: 8.0 then, 9.0 now"),
    ):
        with pytest.raises(BadInput, match=said):
            prepared(config_file, LABELS, override)


def test_another_source_of_the_same_layout_is_noticed(config_file: Path, tmp_path: Path) -> None:
    prepared(config_file)
    other = tmp_path / "other"
    other.mkdir()
    balls(other)
    with pytest.raises(BadInput, match="have changed since"):
        prepared(config_file, f"data.path={other / 'data'}")


def test_a_source_that_is_not_at_hand_is_noted(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(config_file)
    (config_file.parent / "data").rename(config_file.parent / "away")
    prepared(config_file)
    assert "is taken as it is" in capsys.readouterr().out
