"""diffatlas convert: a folder that every other command takes, and exit code 2 with one line on anything else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tests import published_files
from tests.cli.helpers import Cli, files
from tests.published.test_convert import Bomb


def test_a_converted_model_is_a_model(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = published_files.write(tmp_path / "MMWHSCT_tiny.pt")
    folder = tmp_path / "mine" / "tiny"
    done = cli(
        *("convert", checkpoint, "-o", folder, "--weights", "ema", "--labels", "LV,tumour=7", "--window", "mmwhs-mr"),
        *("--spacing", "2,2,3", "--size", 8, "--orientation", "LPS", "--name", "tiny", "--json"),
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)["card"]
    assert said["modalities"] == ["mr"]
    assert said["space"]["spacing_mm"] == [2.0, 2.0, 3.0]
    assert [s["id"] for s in said["scheme"]["structures"]] == [500, 7]
    assert files(folder) == {"model.safetensors", "card.yaml", "README.md"}
    assert "left ventricle, tumour" in cli("info", folder).out or "tumour" in cli("info", folder).out
    monkeypatch.setenv("DIFFATLAS_WEIGHTS", str(tmp_path / "mine"))
    assert "tiny" in cli("models").out


def test_a_converted_model_segments_and_generates(
    cli: Cli, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffatlas import session
    from diffatlas.engine.backend import LocalBackend

    monkeypatch.setattr(session, "local_backend", LocalBackend)
    folder = tmp_path / "tiny"
    checkpoint = published_files.write(tmp_path / "tiny.pt")
    assert cli("convert", checkpoint, "-o", folder, "--labels", "LV,RV", "--size", 8).code == 0
    run = ("--model", folder, "--preset", "published", "--steps", 2, "--precision", "fp32")
    for guidance in ("image", "gradient", "none"):
        out = tmp_path / f"{guidance}.nii.gz"
        done = cli("segment", image, "-o", out, *run, "--guidance", guidance)
        assert done.code == 0, done.err
        assert out.is_file()
    done = cli("generate", "-o", tmp_path / "pairs", *run)
    assert done.code == 0, done.err
    assert "case-000_label.nii.gz" in files(tmp_path / "pairs")


def test_a_hostile_file_ends_with_one_line(cli: Cli, tmp_path: Path) -> None:
    path, touched = tmp_path / "bomb.pt", tmp_path / "touched"
    path.write_bytes(pickle.dumps({"model": Bomb(Path.mkdir, touched)}))
    done = cli("convert", path, "-o", tmp_path / "out")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "bomb.pt: refused" in done.err
    assert not touched.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--weights", "ema"), "EMA"),
        (("--labels", "one"), "2 mask channels"),
        (("--spacing", "wide"), "--spacing"),
        (("--spacing", "1,2"), "--spacing"),
        (("--window", "x"), "--window"),
    ],
)
def test_options_that_do_not_fit(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], match: str) -> None:
    checkpoint = published_files.write(tmp_path / "tiny.pt", ema=None)
    done = cli("convert", checkpoint, "-o", tmp_path / "out", "--size", 8, *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert match in done.err
    assert not (tmp_path / "out").exists()
