"""AGENTS.md says what is: its commands run as they stand, its names and settings exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffatlas import session
from diffatlas.cli.commands import app

TEXT = (Path(__file__).resolve().parents[1] / "AGENTS.md").read_text(encoding="utf-8")


@pytest.mark.weights
def test_its_commands_run(tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    answers: dict[str, Any] = {}
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "diffatlas"
        done = subprocess.run(
            [sys.executable, "-m", "diffatlas", *arguments],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        assert done.returncode == 0, (line, done.stderr)
        answers[arguments[0]] = json.loads(done.stdout) if "--json" in arguments else done.stdout
    assert {model["name"] for model in answers["models"]} == {card.name for card in session.available_models()}
    assert answers["compare"]["mean"]["dice"] > 0.5
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "labels.nii.gz").read_bytes()


def test_what_it_names_is_there() -> None:
    (config,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert json.loads(config)["mcpServers"]["diffatlas"]["args"][0] == "mcp"
    commands = {command.name for command in app.registered_commands}
    named = set(re.findall(r"`diffatlas (\w+)", TEXT))
    assert named <= commands
    assert "mcp" in named
    assert len(TEXT.split()) < 500
