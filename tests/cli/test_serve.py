"""``--device http://...``: the command line on another machine's engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffatlas.remote.client import TOKEN as VARIABLE
from diffatlas.remote.server import Server
from tests.cli.helpers import Cli
from tests.fakes import FakeBackend

TOKEN = "0123456789abcdef"


@pytest.fixture
def there() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def url(there: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(VARIABLE, TOKEN)
    with Server(("127.0.0.1", 0), lambda: there, TOKEN) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_command_line_runs_there(
    cli: Cli, backend: FakeBackend, there: FakeBackend, url: str, image: Path, tmp_path: Path
) -> None:
    model = ("--model", "heart")
    assert cli("segment", image, "-o", tmp_path / "here.nii.gz", *model).code == 0
    outcome = cli("segment", image, "-o", tmp_path / "there.nii.gz", *model, "--device", url)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "here.nii.gz").read_bytes() == (tmp_path / "there.nii.gz").read_bytes()
    assert (len(backend.requests), len(there.requests)) == (1, 1)
    assert there.requests[0].device == "auto"
    assert cli("generate", "-o", tmp_path / "pairs", *model, "--device", url).code == 0
    assert cli("batch", image, "-o", tmp_path / "out", *model, "--device", url).code == 0
    assert "was done already" in cli("batch", image, "-o", tmp_path / "out", *model, "--device", url).out
    assert len(there.requests) == 3
    assert len(backend.requests) == 1


def test_devices_that_do_not_exist_are_one_line(cli: Cli, image: Path, tmp_path: Path) -> None:
    for device in ("gpu", "http://", "ftp://host"):
        outcome = cli("segment", image, "-o", tmp_path / "x.nii.gz", "--device", device)
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) == 1
    for arguments in (("--port", 0), ("--max-mb", 0), ("--waiting", -1)):
        assert cli("serve", *arguments).code == 2
