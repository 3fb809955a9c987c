"""The folder `app/` as a hosted Space takes it: what its front matter says, and that it starts by itself."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import gradio_client
import pytest
import yaml
from packaging.requirements import Requirement

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume
from diffatlas_app.runs import gpu
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example
from tools import make_space

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
    assert facts["suggested_hardware"] == "cpu-basic"
    assert len(facts["tags"]) >= 3


def test_the_requirements_are_this_package() -> None:
    lines = [line for line in (APP / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    (needed,) = (Requirement(line) for line in lines)
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert needed.name == "napari-diffatlas"
    assert needed.extras == {"app"}
    assert version[1] in needed.specifier


def dependencies_alone(folder: Path) -> Path:
    """A virtual environment's Python that finds what this project depends on, and no copy of the project itself."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is not searched for further .pth files: editable installs, this project's, stay out.
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is pushed."""
    folder = tmp_path_factory.mktemp("space") / "space"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("kept")
    subprocess.run([sys.executable, str(ROOT / "tools" / "make_space.py"), str(folder)], check=True)
    return folder


def test_the_folder_holds_the_app_the_engine_and_its_weights_and_nothing_else(space: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert sorted(p.name for p in space.iterdir()) == [
        ".git",
        ".gitattributes",
        "LICENSE",
        "README.md",
        "app.py",
        "diffatlas",
        "diffatlas_app",
        f"napari_diffatlas-{version}.dist-info",
        "requirements.txt",
        "thumbnail.png",
    ]
    assert (space / ".git" / "config").read_text() == "kept"
    for source, package in ((APP, "diffatlas_app"), (ROOT / "core", "diffatlas")):
        files = {p.relative_to(source) for p in (source / package).rglob("*") if p.is_file() and p.suffix != ".pyc"}
        assert files == {p.relative_to(space) for p in (space / package).rglob("*") if p.is_file()} - {
            p.relative_to(space) for p in (space / "diffatlas" / "weights").rglob("*")
        }
    for weights in (ROOT / "weights").glob("*/model.safetensors"):
        copy = space / "diffatlas" / "weights" / weights.parent.name / weights.name
        assert copy.read_bytes() == weights.read_bytes()
        assert not copy.is_symlink()


def test_what_pip_installs_is_what_the_code_imports_and_the_sdk_s_gradio(space: Path) -> None:
    lines = (space / "requirements.txt").read_text().splitlines()
    needed = {Requirement(line).name for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {Requirement(line).name for line in project["dependencies"] + project["optional-dependencies"]["app"]}
    assert needed == wanted - {"gradio"}
    assert not any("napari" in name for name in needed)
    (torch,) = (line for line in lines if line.startswith("torch"))
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()


def test_without_a_gpu_the_build_without_cuda_is_pinned_where_its_index_is_given(tmp_path: Path) -> None:
    make_space.make_space(tmp_path / "cpu", cpu_index="https://example.org/cpu")
    first, *lines = (tmp_path / "cpu" / "requirements.txt").read_text().splitlines()
    assert first == "--extra-index-url https://example.org/cpu"
    (torch,) = (Requirement(line) for line in lines if line.startswith("torch"))
    assert str(torch.specifier).endswith("+cpu")
    assert f"torch{str(torch.specifier).removesuffix('+cpu')}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_with_a_gpu_and_a_name_the_space_says_so(tmp_path: Path) -> None:
    make_space.make_space(tmp_path / "gpu", name="someone/atlas", gpu=True)
    facts = yaml.safe_load((tmp_path / "gpu" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert facts["suggested_hardware"] == "zero-a10g"
    assert facts["thumbnail"] == "https://huggingface.co/spaces/someone/atlas/resolve/main/thumbnail.png"
    assert (tmp_path / "gpu" / "thumbnail.png").read_bytes()[:4] == b"\x89PNG"
    assert "cpu" not in (tmp_path / "gpu" / "requirements.txt").read_text()


def test_the_script_does_not_write_over_its_own_sources() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_space.py"), str(APP)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert "give a folder of its own" in done.stderr
    assert (APP / "diffatlas_app" / "serve.py").is_file()


@pytest.mark.weights
@pytest.mark.timeout(400)
def test_the_folder_starts_by_itself_and_runs(space: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO", "SPACE", "PYTHON", "DIFFATLAS"))}
    process = subprocess.Popen(
        [str(dependencies_alone(tmp_path / "venv")), "-W", "ignore", "app.py"],
        cwd=space,
        env=environment,
        stdout=subprocess.PIPE,
        encoding="utf-8",
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
        client = gradio_client.Client(match[0], verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 300})
        answer = client.predict("hippocampus-mri", 1, 0, "fast", api_name="/generate")
        client.close()
        assert sum(answer["pairs"][0]["volumes_ml"].values()) > 0
    finally:
        process.terminate()
        process.communicate(timeout=60)


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


def test_a_search_asks_for_its_time_too(lent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []

    def locate(volume: Volume, request: Request, limit: int | None) -> Iterator[session.Look]:
        limits.append(limit)
        return iter(())

    monkeypatch.setattr(session, "locate", locate)
    volume = fake_example("heart-ct")[0]
    assert list(gpu.looks(volume, Request())) == []
    assert limits == [session.AUTOMATIC_LOOKS]
    assert lent == [gpu.duration_s(volume, Request())]


def test_elsewhere_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it would fail
    plain = session.stream
    assert gpu.on_gpu(plain) is plain


def test_more_work_asks_for_more_time_up_to_a_limit() -> None:
    fast, watch = (gpu.duration_s(None, Request(preset=p)) for p in ("fast", "watch"))
    assert fast < watch < gpu.duration_s(None, Request(preset="watch", samples=2))
    assert gpu.duration_s(None, Request(preset="published", samples=8)) == gpu.MAX_DURATION_S
