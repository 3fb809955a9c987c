"""The commands that start something larger, and the pieces all commands share."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from rich.console import Console

from diffatlas import session
from diffatlas.cli import terminal
from diffatlas.cli.files import flat
from diffatlas.cli.launch import DEMO_FILES
from diffatlas.cli.options import parse_roi
from diffatlas.cli.terminal import sparkline
from diffatlas.engine.request import Request
from diffatlas.engine.run_record import to_json
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.phantom import phantom
from tests.cli.helpers import Cli, files
from tests.fakes import FakeBackend

# 24 voxels of 8 mm: a heart in a few milliseconds.
SMALL = Grid((24, 24, 24), np.array([[8.0, 0, 0, -92], [0, 8, 0, -92], [0, 0, 8, -92], [0, 0, 0, 1]]))


def test_demo_writes_what_it_says_and_can_be_replayed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "example", lambda name, seed: phantom(seed, "ct", SMALL))
    folder = tmp_path / "demo"
    for _ in range(2):
        outcome = cli("demo", "-o", folder)
        assert outcome.code == 0, outcome.err
        assert files(folder) == {*DEMO_FILES, "image.nii.gz", "truth.nii.gz"}
        assert files(tmp_path) == {"demo"}
    for name in DEMO_FILES:
        assert str(folder / name) in outcome.out
    assert (folder / "heart.glb").read_bytes()[:4] == b"glTF"
    assert cli("replay", folder / "report.json", "-o", tmp_path / "again.nii.gz").code == 0
    assert (tmp_path / "again.nii.gz").read_bytes() == (folder / "labels.nii.gz").read_bytes()


def test_learn_writes_a_site_once(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("learn", "--export", tmp_path / "site")
    assert outcome.code == 0, outcome.err
    assert {"index.html", "offline.html", "learn.css", "data", "js", "words"} == files(tmp_path / "site")
    assert str(tmp_path / "site" / "offline.html") in outcome.out
    again = cli("learn", "--export", tmp_path / "site")
    assert again.code == 2
    assert "already holds something" in again.err


def test_learn_serves_the_site_and_opens_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    seen: list[bytes] = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def one_visitor(server: ThreadingHTTPServer) -> None:
        visit = threading.Thread(target=lambda: seen.append(urlopen(opened[0], timeout=20).read()))
        visit.start()
        server.handle_request()
        visit.join()

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", one_visitor)
    outcome = cli("learn")
    assert outcome.code == 0, outcome.err
    assert opened[0] in outcome.out
    assert b"<title>DiffAtlas" in seen[0]


def test_train_names_a_missing_file(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", tmp_path / "absent.yaml")
    assert outcome.code == 2
    assert "absent.yaml" in outcome.err


@pytest.mark.parametrize(
    ("command", "package", "extra"), [("app", "gradio", "app"), ("mcp", "mcp", "mcp"), ("napari", "napari", "napari")]
)
def test_a_missing_front_end_says_how_to_get_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, package: str, extra: str
) -> None:
    monkeypatch.setattr("diffatlas.cli.launch.find_spec", lambda name: None if name == package else find_spec(name))
    outcome = cli(command)
    assert outcome.code == 2
    assert f"pip install 'napari-diffatlas[{extra}]'" in outcome.err


def test_a_terminal_shows_the_run_and_closing_it_closes_the_run(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = StringIO()
    monkeypatch.setattr(terminal, "stderr", lambda: Console(file=screen, force_terminal=True, width=100))
    frames = terminal.watched(backend.stream(None, Request(task="generate", steps=5)), "a volume")
    next(frames), next(frames)
    frames.close()
    assert backend.open_runs == 0
    assert "step 2/5" in screen.getvalue()
    assert "noise 0.60" in screen.getvalue()
    assert "myocardium" in screen.getvalue()


@pytest.mark.parametrize(
    "text", ["", "1:2", "a:b,c:d,e:f", "1:2,3:4,5:6,7:8", "-1:2,0:2,0:2", "2:2,0:1,0:1", "1.5:2,0:2,0:2"]
)
def test_roi_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--roi"):
        parse_roi(text)


def test_roi() -> None:
    assert parse_roi(" 0:10, 2:30,5:6 ") == ((0, 10), (2, 30), (5, 6))
    assert parse_roi(None) is None


def test_json_has_no_nan() -> None:
    value = {"a": float("nan"), "b": [np.float32(0.5), np.int64(3), Path("x")], "c": (float("inf"), None, True)}
    assert json.loads(to_json(value)) == {"a": None, "b": [0.5, 3, "x"], "c": [None, None, True]}


def test_sparkline_rises_and_keeps_its_width() -> None:
    assert sparkline([0.0, 0.25, 1.0]) == "▁▅█"
    assert len(sparkline([0.5] * 100, width=40)) == 40


def test_flat_leaves_out_what_is_empty() -> None:
    assert flat({"a": {"b": 1.23456789, "c": None}, "d": [1, 2], "e": [], "f": [[1, 2], [3]]}) == [
        ("a.b", "1.2346"),
        ("d", "1, 2"),
        ("f.0", "1, 2"),
        ("f.1", "3"),
    ]


def test_help_is_quick_because_it_loads_little() -> None:
    heavy = ("torch", "nibabel", "scipy", "SimpleITK", "matplotlib", "skimage", "pydantic", "PIL")
    code = (
        "import sys; from diffatlas.cli import app; app(['--help'], standalone_mode=False);"
        f"sys.exit(' '.join(set({heavy}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("segment", "generate", "phantom", "compare", "models", "info", "replay", "train", "demo"):
        assert command in done.stdout
