"""Container recipes and workflow examples name files and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from diffatlas.cli import app

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = (
    "docs/examples/segment.nf",
    "docs/examples/Snakefile",
    "containers/Containerfile",
    "containers/diffatlas.def",
)


def copied() -> list[str]:
    """What both recipes take from the checkout."""
    found: list[str] = []
    for line in (ROOT / "containers" / "Containerfile").read_text().splitlines():
        if line.startswith("COPY "):
            found += line.split()[1:-1]
    listed = (ROOT / "containers" / "diffatlas.def").read_text().partition("%files")[2].partition("%post")[0]
    found += [line.split()[0] for line in listed.splitlines() if line.strip()]
    return found


def test_recipes_take_what_is_there_and_the_same() -> None:
    paths = copied()
    assert all((ROOT / path).exists() for path in paths)
    assert all(paths.count(path) == 2 for path in paths)  # once in each
    # What the build of the package needs besides its own code.
    assert {"pyproject.toml", "README.md", "LICENSE", "napari.yaml", "weights", "constraints.txt"} <= set(paths)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_call_commands_with_options_that_exist(name: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = (ROOT / name).read_text().replace("\\\n", " ")
    calls = re.findall(r"diffatlas(?:\.sif)? +(batch|collect|models)\b([^\n]*)", text)
    assert calls
    for command, rest in calls:
        known = {option for parameter in commands[command].params for option in parameter.opts}
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest):
            assert option in known, f"{name}: {command} has no {option}"
