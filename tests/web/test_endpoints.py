"""The service's endpoints over HTTP: arguments, callers who leave, places in the line."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from diffatlas.geometry.volume import Volume
from diffatlas_app import limits
from diffatlas_app.visitors.source import Source
from tests import fakes
from tests.fakes import FakeBackend
from tests.web.conftest import Site, wait_until
from tests.web.requests_by_hand import ask, call, file_data, post, scan_bytes, upload

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([], "give a volume"),
        ([None], "give a volume"),
        ([7], "give a volume"),
        (["/etc/passwd"], "give a volume"),
        (["FILE", 7], "model must be one of"),
        (["FILE", "/etc"], "model must be one of"),
        (["FILE", ["auto"]], "model must be one of"),
        (["FILE", None, "quick"], "preset must be one of fast, watch, published"),
        (["FILE", None, {"a": 1}], "preset must be one of"),
        (["FILE", None, None, "abc"], "seed must be a whole number, 0 or more"),
        (["FILE", None, None, 1.5], "seed must be a whole number"),
        (["FILE", None, None, -1], "seed must be a whole number"),
        (["FILE", None, None, True], "seed must be a whole number"),
        (["FILE", None, None, [0]], "seed must be a whole number"),
        (["FILE", None, None, 1e300], None),
        (["FILE", None, None, 0, "2"], "samples must be a whole number, 1 to 8"),
        (["FILE", None, None, 0, 64], "samples must be a whole number, 1 to 8"),
        (["FILE", None, None, 0, 1, "low"], "guidance_noise must be a number"),
        (["FILE", None, None, 0, 1, 7], "guidance_noise must be 0 to 1"),
        (["FILE", None, None, 0, 1, -1, "pet"], "modality must be one of"),
        (["FILE", None, None, 0, 1, -1, None, 1.5], "volume_index must be a whole number"),
        (["FILE", None, None, 0, 1, -1, None, None, "more"], "segment takes 8 arguments"),
        ({"volume": None}, "segment takes its arguments as a list"),
    ],
)
def test_arguments_of_a_wrong_kind_are_one_line(site: Site, tmp_path: Path, data: Any, line: str | None) -> None:
    if isinstance(data, list):
        reference = upload(site, "scan.nii.gz", scan_bytes(tmp_path))
        data = [file_data(reference) if value == "FILE" else value for value in data]
    answer = call(site, "segment", data)
    words = answer if isinstance(answer, str) else answer["error"]
    assert "our fault" not in words
    assert "\n" not in words
    assert len(words) < 300
    if line is not None:
        assert words.startswith(line)
    assert site.backend.requests == []


def test_calls_by_name(site: Site, tmp_path: Path) -> None:
    reference = upload(site, "scan.nii.gz", scan_bytes(tmp_path))
    joined = post(site, "/gradio_api/call/v2/segment", {"volume": file_data(reference), "seed": 3})
    answer = ask(site, f"/gradio_api/call/segment/{joined.json()['event_id']}").body.decode()
    assert "volumes_ml" in answer
    assert site.backend.requests[-1].seed == 3
    wrong = post(site, "/gradio_api/call/v2/segment", {"volume": None, "sed": 3})
    assert (wrong.status, wrong.line.split(";")[0]) == (422, "segment has no argument 'sed'")
    assert post(site, "/gradio_api/call/v2/nothing", {}).status == 404


def test_a_caller_who_left_frees_the_place_within_a_step(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.1)
    parts = urlsplit(site.url)
    event = post(site, "/gradio_api/call/generate", {"data": []}).json()["event_id"]
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    connection.request("GET", f"/gradio_api/call/generate/{event}")
    assert wait_until(lambda: site.backend.frames_made > 2)
    sock = connection.sock
    assert sock is not None
    sock.close()
    connection.close()
    assert wait_until(lambda: site.backend.open_runs == 0, 15)
    assert site.backend.frames_made < 300
    assert wait_until(lambda: len(site.served.visitors.turns) == 0, 5)


def test_callers_who_never_listen_lose_their_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    monkeypatch.setattr(limits, "LISTEN_WITHIN_S", 0.5)
    site.backend = FakeBackend(delay_s=0.05)
    for _ in range(3):
        assert post(site, "/gradio_api/call/generate", {"data": []}).status == 200
    assert wait_until(lambda: len(site.served.visitors.turns) == 0, 20)
    assert site.backend.open_runs == 0
    assert len(site.served.visitors._visitors) == len([k for k in site.served.visitors._visitors if k[:4] != "call"])


def test_a_volume_is_read_when_its_turn_has_come(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = threading.Event()
    site.backend = FakeBackend(before=lambda: held.wait(60))
    reading: list[object] = []
    real = Source.read

    def read(source: Source) -> Volume:
        reading.append(source)
        return real(source)

    monkeypatch.setattr(Source, "read", read)
    data = scan_bytes(tmp_path)
    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(call, site, "segment", [file_data(upload(site, "s.nii.gz", data))]) for _ in range(6)]
        try:
            assert wait_until(lambda: len(site.served.visitors.turns) == 6)
            time.sleep(0.3)
            assert len(reading) == 1
        finally:
            held.set()
        assert all("volumes_ml" in m.result() for m in made)
    assert len(reading) == 6


def test_one_session_cannot_fill_the_line(site: Site) -> None:
    held = threading.Event()
    site.backend = FakeBackend(before=lambda: held.wait(60))
    turns = site.served.visitors.turns
    try:
        for _ in range(6):
            assert post(site, "/gradio_api/call/generate", {"data": [], "session_hash": "mine"}).status == 200
        assert wait_until(lambda: len(turns) == turns.per_session)
        time.sleep(0.5)
        assert len(turns) == turns.per_session
    finally:
        held.set()
    assert wait_until(lambda: len(turns) == 0)


def test_the_health_probe_has_one_line_of_json(site: Site) -> None:
    assert json.loads(ask(site, "/health").body)["status"] == "ok"
