"""The tools for agents, driven through the SDK's own client: in this process, and once over stdin and stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffatlas
from diffatlas import session
from diffatlas.geometry.volume import MMWHS
from diffatlas_app import limits
from tests.fakes import FakeBackend

anyio: Any = pytest.importorskip("anyio", reason="pip install 'napari-diffatlas[mcp]'")
mcp: Any = pytest.importorskip("mcp", reason="pip install 'napari-diffatlas[mcp]'")

GRID = diffatlas.Grid((20, 18, 16), np.diag([2.0, 2.0, 3.0, 1.0]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    far = ((np.indices(GRID.shape) - np.array([10, 9, 8])[:, None, None, None]) ** 2).sum(axis=0)
    root = tmp_path / "work"
    root.mkdir()
    diffatlas.write_volume(
        diffatlas.Volume((300 * np.exp(-far / 30)).astype(np.float32), GRID, "mr"), root / "mri.nii.gz"
    )
    truth = diffatlas.LabelMap((far < 20).astype(np.uint8), GRID, MMWHS)
    diffatlas.write_label_map(truth, root / "truth.nii.gz")
    diffatlas.write_label_map(truth, tmp_path / "outside.nii.gz")
    return root


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    fake = FakeBackend()
    monkeypatch.setattr(session, "local_backend", lambda: fake)
    monkeypatch.setattr(session, "plan", fake.plan)
    return fake


Call = Callable[..., Any]


@pytest.fixture
def call(folder: Path, backend: FakeBackend) -> Call:
    """Calls a tool: its answer as plain data, or the line it was refused with, as text."""
    from diffatlas_app import mcp_server

    server = mcp_server.server(folder)

    def ask(tool: str, **arguments: Any) -> Any:
        async def go() -> Any:
            async with mcp.Client(server) as client:
                return await client.call_tool(tool, arguments)

        return answer_of(anyio.run(go))

    return ask


def answer_of(result: Any) -> Any:
    return result.content[0].text if result.is_error else result.structured_content


def test_the_client_finds_four_tools_with_a_description_each(folder: Path) -> None:
    from diffatlas_app import mcp_server

    async def go() -> Any:
        async with mcp.Client(mcp_server.server(folder)) as client:
            return (await client.list_tools()).tools, client.instructions

    tools, instructions = anyio.run(go)
    assert [tool.name for tool in tools] == ["models", "info", "compare", "segment"]
    assert all(len(tool.description.split()) > 8 for tool in tools)
    assert set(tools[3].input_schema["required"]) == {"image", "labels"}
    assert "Not for clinical use" in instructions


def test_a_run_writes_the_labels_that_the_engine_computes(call: Call, folder: Path, backend: FakeBackend) -> None:
    told = call("segment", image="mri.nii.gz", labels="labels.nii.gz", report="run.json", seed=3, samples=2)
    assert (told["labels"], told["report"], told["doubt"]) == ("labels.nii.gz", "run.json", False)
    (request,) = backend.requests
    assert (request.seed, request.samples, request.preset) == (3, 2, "fast")
    volume = diffatlas.read_volume(folder / "mri.nii.gz")
    expected = FakeBackend()
    *_, last = expected.stream(volume, request)
    assert last.result is not None
    written = diffatlas.read_label_map(folder / "labels.nii.gz", last.result.labels.scheme)
    np.testing.assert_array_equal(written.data, last.result.labels.data)
    assert told["volumes_ml"] == {k: round(v, 2) for k, v in last.result.volumes_ml.items()}
    assert json.loads((folder / "run.json").read_text())["provenance"]["request"]["seed"] == 3
    assert call("info", path="run.json")["kind"] == "report"


def test_scores_are_those_of_the_metrics(call: Call) -> None:
    scores = call("compare", prediction="truth.nii.gz", reference="truth.nii.gz")
    assert scores["mean"]["dice"] == 1
    assert scores["structures"][0]["hd95_mm"] == 0
    assert "tolerance_mm must be" in call(
        "compare", prediction="truth.nii.gz", reference="truth.nii.gz", tolerance_mm=0
    )


def test_what_a_file_and_a_model_are(call: Call) -> None:
    what = call("info", path="mri.nii.gz")
    assert (what["shape"], what["spacing_mm"], what["axes"]) == ([20, 18, 16], [2, 2, 3], "RAS")
    models = {model["name"]: model for model in call("models")["models"]}
    card = session.model_card("heart-phantom")
    assert models["heart-phantom"]["limits"] == list(card.limits)
    assert models["heart-phantom"]["structures"]["left ventricle"] == 500


@pytest.mark.parametrize("path", ["../outside.nii.gz", "/etc/passwd", "link.nii.gz", "", "a\0b"])
def test_nothing_outside_of_the_folder_is_read_or_written(call: Call, folder: Path, path: str) -> None:
    (folder / "link.nii.gz").symlink_to(folder.parent / "outside.nii.gz")
    before = (folder.parent / "outside.nii.gz").read_bytes()
    for tool, arguments in (
        ("info", {"path": path}),
        ("compare", {"prediction": path, "reference": "truth.nii.gz"}),
        ("segment", {"image": path, "labels": "x.nii.gz"}),
        ("segment", {"image": "mri.nii.gz", "labels": path, "overwrite": True}),
        ("segment", {"image": "mri.nii.gz", "labels": "x.nii.gz", "report": path or "../r.json"}),
    ):
        assert "outside of the folder" in call(tool, **arguments), tool
    assert (folder.parent / "outside.nii.gz").read_bytes() == before
    assert not (folder / "x.nii.gz").exists()


def test_limits_and_wrong_use_are_one_line(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"image": "mri.nii.gz", "labels": "x.nii.gz"}
    for arguments, line in (
        ({**run, "labels": "truth.nii.gz"}, "is there already"),
        ({**run, "labels": "x.txt"}, "cannot write this format"),
        ({**run, "image": "no.nii.gz"}, "no such file"),
        ({**run, "samples": limits.MAX_SAMPLES + 1}, f"{limits.MAX_SAMPLES} samples"),
        ({**run, "model": "/etc"}, "there is no model"),
        ({**run, "preset": "slow"}, "preset must be 'fast', 'watch' or 'published'"),
        ({**run, "guidance_noise": 2}, "guidance_noise must be 0 to 1"),
    ):
        told = call("segment", **arguments)
        assert line in told, arguments
        assert "\n" not in told
    monkeypatch.setattr(limits, "MAX_VOXELS", 1000)
    assert "x.nii.gz" not in call("segment", **run)
    assert "voxels" in call("segment", **run)
    monkeypatch.setattr(limits, "MAX_UPLOAD_MB", 0.001)
    assert "MB are read" in call("info", path="mri.nii.gz")
    monkeypatch.undo()
    assert not (folder / "x.nii.gz").exists()


def test_a_run_too_long_is_stopped_and_frees_its_place(
    call: Call, folder: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RUN_TIME_S", 0.0)
    assert "was stopped" in call("segment", image="mri.nii.gz", labels="x.nii.gz")
    monkeypatch.setattr(limits, "RUN_TIME_S", 60.0)
    assert call("segment", image="mri.nii.gz", labels="x.nii.gz")["labels"] == "x.nii.gz"


def test_who_stops_waiting_ends_the_run(folder: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffatlas_app import mcp_server
    from diffatlas_app.runs import settings

    begun, go = threading.Event(), threading.Event()
    plain = backend.stream

    def slow(volume: Any, request: Any) -> Any:
        for frame in plain(volume, request):
            begun.set()
            go.wait(30)
            yield frame

    monkeypatch.setattr(backend, "stream", slow)
    tools, stop = mcp_server.Tools(folder), threading.Event()
    told: list[str] = []

    def run() -> None:
        try:
            tools.segment(settings.Settings(example=""), "mri.nii.gz", "x.nii.gz", "", False, stop)
        except diffatlas.BadInput as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    with pytest.raises(diffatlas.BadInput, match="another run is going on"):
        tools.segment(settings.Settings(example=""), "mri.nii.gz", "y.nii.gz", "", False, threading.Event())
    stop.set()
    go.set()
    thread.join(30)
    assert told == ["the run was stopped: nobody waits for its answer"]
    assert not (folder / "x.nii.gz").exists()


def test_the_command_speaks_through_stdin_and_stdout(folder: Path) -> None:
    command = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "diffatlas", "mcp", str(folder)], env=dict(os.environ)
    )

    async def go() -> Any:
        async with mcp.Client(command, read_timeout_seconds=120) as client:
            return await client.call_tool("info", {"path": "mri.nii.gz"})

    assert answer_of(anyio.run(go))["shape"] == [20, 18, 16]
