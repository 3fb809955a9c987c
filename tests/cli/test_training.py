"""train and export, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from diffatlas.models.store import load_model
from diffatlas.train.config import TrainConfig, load_config
from tests.cli.helpers import Cli
from tests.training import balls


def options_of(config: BaseModel) -> set[str]:
    """Every option that a configuration has, those of its parts included."""
    found: set[str] = set()
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= {name} | (options_of(value) if isinstance(value, BaseModel) else set())
    return found


def test_the_example_is_valid_and_names_every_option(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", "--example")
    assert outcome.code == 0
    path = tmp_path / "train.yaml"
    path.write_text(outcome.out, encoding="utf-8")
    config = load_config(path)

    def keys(value: object) -> set[str]:
        if not isinstance(value, dict):
            return set()
        return set(value).union(*(keys(v) for v in value.values())) if value else set()

    assert options_of(config) - keys(yaml.safe_load(outcome.out)) == set()


def test_the_example_shows_the_defaults(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(cli("train", "--example").out, encoding="utf-8")
    config = load_config(path)
    told = {"batch"}
    for name, field in TrainConfig.model_fields.items():
        if not field.is_required() and name not in told:
            assert getattr(config, name) == field.get_default(call_default_factory=True), name


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "--example"),
        (("absent.yaml",), "absent.yaml"),
        (("{config}", "--minutes", "0"), "--minutes 0"),
        (("{config}", "--set", "task=magic"), "'magic' is unknown"),
        (("{config}", "--set", "network.widths=[16, 16, 16, 16, 16]"), "does not divide by 32"),
        (("{config}", "--set", "network={kind: published-unet}"), "task: published"),
        (("{config}", "--set", "data.holdout=6"), "none is left"),
    ],
)
def test_train_refuses_in_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], match: str) -> None:
    config = balls(tmp_path)
    outcome = cli("train", *(a.replace("{config}", str(config)) for a in arguments))
    assert outcome.code == 2
    assert match in outcome.err
    assert not (tmp_path / "model").exists()


def test_export_takes_a_run_or_its_configuration(cli: Cli, tmp_path: Path) -> None:
    config = balls(tmp_path)
    assert cli("train", config, "--set", "steps=2").code == 0
    outcome = cli("export", tmp_path / "run", "-o", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    assert f"model: {tmp_path / 'again'}" in outcome.out
    averaged, again = load_model(tmp_path / "model").card, load_model(tmp_path / "again").card
    assert averaged.to_json() == again.to_json()
    assert cli("export", config, "--weights", "raw").code == 0
    raw = load_model(tmp_path / "model").card
    assert raw.sha256 != averaged.sha256
    assert "last update" in raw.training["weights"]


def test_export_makes_a_bundle_of_a_model(cli: Cli, tmp_path: Path, tiny_model: Path) -> None:
    outcome = cli("export", tiny_model, "--bundle", tmp_path / "bundle")
    assert outcome.code == 0, outcome.err
    assert f"bundle: {tmp_path / 'bundle'}" in outcome.out
    assert (tmp_path / "bundle" / "configs" / "inference.json").is_file()
    for arguments in (("absent", "--bundle", tmp_path / "b"), (tiny_model, "--bundle", tmp_path / "b", "-o", tmp_path)):
        outcome = cli("export", *arguments)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1


def test_export_refuses_in_one_line(cli: Cli, tmp_path: Path) -> None:
    config = balls(tmp_path)
    for source, match in (("absent", "no such file"), ("data", "train.yaml"), (config.name, "nothing to export")):
        outcome = cli("export", tmp_path / source)
        assert outcome.code == 2, source
        assert match in outcome.err
