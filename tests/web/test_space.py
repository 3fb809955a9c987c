"""The folder `app/` as a hosted Space takes it: what its front matter says, and that it starts by itself."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from packaging.requirements import Requirement

from diffatlas import session
from diffatlas.request import Request
from diffatlas_app import gpu
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"


def test_the_front_matter_is_what_a_space_reads() -> None:
    text = (APP / "README.md").read_text(encoding="utf-8")
    facts = yaml.safe_load(text.split("---")[1])
    assert facts["sdk"] == "gradio"
    assert (APP / facts["app_file"]).is_file()
    assert len(facts["short_description"]) <= 60
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert facts["sdk_version"] == pinned[1]


def test_the_requirements_are_this_package() -> None:
    lines = [line for line in (APP / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    (needed,) = (Requirement(line) for line in lines)
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert needed.name == "napari-diffatlas"
    assert needed.extras == {"app"}
    assert version[1] in needed.specifier


@pytest.mark.timeout(240)
def test_the_folder_starts_by_itself_and_the_probe_answers(tmp_path: Path) -> None:
    space = tmp_path / "space"
    shutil.copytree(APP, space, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO", "SPACE", "PYTHONPATH"))}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "app.py"],
        cwd=space,
        env={**environment, "PYTHONPATH": str(ROOT / "core")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # nothing else is printed before the page is there
        match = re.search(r"http://\S+", line)
        assert match is not None, line
        with urlopen(f"{match[0]}/health", timeout=60) as response:
            assert json.loads(response.read())["status"] == "ok"
        with urlopen(f"{match[0]}/config", timeout=60) as response:
            assert json.loads(response.read())["title"] == "DiffAtlas"
    finally:
        process.terminate()
        process.communicate(timeout=60)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            urlopen(f"{match[0]}/health", timeout=2).close()
        except (URLError, OSError):
            break
        time.sleep(0.2)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A stand-in for the package that lends GPUs; yields the durations it was asked for."""
    asked: list[int] = []

    def gpu_for(duration: Callable[..., int]) -> Callable[[Any], Any]:
        def wrap(frames: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def call(*args: Any) -> Iterator[Any]:
                asked.append(duration(*args))
                yield from frames(*args)

            return call

        return wrap

    spaces = ModuleType("spaces")
    spaces.GPU = gpu_for  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    importlib.reload(gpu)
    yield asked
    monkeypatch.undo()
    importlib.reload(gpu)


def test_where_a_gpu_is_lent_a_run_asks_for_its_time(lent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "local_backend", FakeBackend)
    volume = fake_example("heart-ct")[0]
    frames = list(gpu.frames(volume, Request(preset="watch", steps=3)))
    assert len(frames) == 3
    assert lent == [gpu.duration_s(volume, Request(preset="watch", steps=3))]


def test_elsewhere_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it would fail
    plain = session.stream
    assert gpu.on_gpu(plain) is plain


def test_more_work_asks_for_more_time_up_to_a_limit() -> None:
    fast, watch = (gpu.duration_s(None, Request(preset=p)) for p in ("fast", "watch"))
    assert fast < watch < gpu.duration_s(None, Request(preset="watch", samples=2))
    assert gpu.duration_s(None, Request(preset="published", samples=8)) == gpu.MAX_DURATION_S
