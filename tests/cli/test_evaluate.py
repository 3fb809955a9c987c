"""`diffatlas evaluate`: what it says and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffatlas.evaluate.runs import Finished, Score
from tests.cli.helpers import Cli

PROTOCOL = """
name: p
title: A protocol
train: {train}
compare_to: shipped
methods: [{{name: shipped, model: heart-phantom}}]
settings: [{{name: CT, kind: same-domain, test: {{modalities: [ct], cases: 2, seed: 900000}}}}]
output: out
"""
HEARTS = Path(__file__).resolve().parents[2] / "weights" / "heart-phantom" / "train.yaml"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "protocol.yaml"
    path.write_text(PROTOCOL.format(train=HEARTS))
    return path


def test_tables_are_written_and_what_is_lacking_is_said(
    cli: Cli, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffatlas.evaluate import runs

    told: dict[str, object] = {}

    def carry_out(asked: object, minutes: float | None, say: object, **more: object) -> Finished:
        told.update(minutes=minutes, **more)
        structures: dict[str, dict[str, float | None]] = {
            "left ventricle": {"dice": 0.5, "surface_dice": 0.4, "hd95_mm": 3.0}
        }
        score = Score("CT", "shipped", "fast", 0, "ct-900000", structures, 1.0)
        return Finished(asked, [score], [], ["CT / shipped / seed 0 / fast: 1 of 2 cases not scored"])  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "carry_out", carry_out)
    done = cli(
        "evaluate", protocol, "-o", tmp_path / "tables", "--minutes", 5, "--tables", "--workers", 3, "--method", "a"
    )
    assert done.code == 0, done.err
    assert told == {"minutes": 5, "only_read": True, "methods": ["a"], "workers": 3}
    assert "0.500 (0.500 to 0.500)" in done.out
    assert "not done yet: CT / shipped" in done.out
    results = json.loads((tmp_path / "tables" / "results.json").read_text())
    assert results["machine"]["versions"]["torch"]
    assert len(results["scores"]) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a list", "mapping"),
        ("name: [", "not a readable YAML"),
        ("name: p", "'title' is missing"),
        (None, "no such file"),
    ],
)
def test_bad_protocols_end_with_2_and_one_line(cli: Cli, tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    done = cli("evaluate", path)
    assert done.code == 2
    assert what in done.err
    assert done.err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == ([path] if text is not None else [])


def test_a_method_that_is_not_there_is_refused_by_name(cli: Cli, protocol: Path) -> None:
    done = cli("evaluate", protocol, "--method", "unet")
    assert done.code == 2
    assert "no method 'unet'; it has: shipped" in done.err


def test_no_minutes_are_refused(cli: Cli, protocol: Path) -> None:
    assert cli("evaluate", protocol, "--minutes", 0).code == 2
