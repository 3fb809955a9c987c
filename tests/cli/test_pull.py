"""diffatlas pull against a local server that speaks the hub's protocol: spelling, resume, hashes, no network."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.backend import LocalBackend
from diffatlas.models.store import read_card
from diffatlas.published import hub
from tests import published_files
from tests.cli.helpers import Cli

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "TotalSegmentator_for_TotalSegmentatorTest"


class Hub(ThreadingHTTPServer):
    """Files of one repository at one commit; ``requests`` are (method, file, range)."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.etags = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        match = re.fullmatch(rf"/{hub.REPOSITORY}/resolve/(main|{COMMIT})/(.+)", unquote(self.path.partition("?")[0]))
        name = match[2] if match else ""
        wanted = self.headers.get("Range")
        self.server.requests.append((self.command, name, wanted))
        data = self.server.files.get(name)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        part = data[first:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{self.server.etags[name]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return published_files.write(tmp_path_factory.mktemp("hub") / "file.pt").read_bytes()


@pytest.fixture
def server(checkpoint: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub({f"{NAME} .pt": checkpoint, "MMWHSMRI_all.pt": checkpoint})
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("DIFFATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


OPTIONS = ("--labels", "LV,RV", "--size", 8)


def test_a_release_becomes_a_model(cli: Cli, server: Hub, tmp_path: Path, checkpoint: bytes) -> None:
    done = cli("pull", "mmwhsmri_all.pt", "-o", tmp_path / "model", *OPTIONS)
    assert done.code == 0, done.err
    card = read_card(tmp_path / "model")
    assert card.name == "mmwhsmri-all"
    assert card.modalities == ("mr",)
    assert card.training["revision"] == COMMIT
    assert card.training["sha256 of that file"] == hashlib.sha256(checkpoint).hexdigest()
    # a second time nothing is asked of the server
    asked = len(server.requests)
    assert cli("pull", "MMWHSMRI_all", "-o", tmp_path / "again", *OPTIONS).code == 0
    assert len(server.requests) == asked
    assert read_card(tmp_path / "again").training["revision"] == COMMIT


def test_what_was_pulled_is_converted_and_segments(
    cli: Cli, server: Hub, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three commands in a row: a downloaded release segments, as the same file does that is converted by hand."""
    monkeypatch.setattr(session, "local_backend", LocalBackend)
    done = cli("pull", "MMWHSMRI_all", "-o", tmp_path / "pulled", *OPTIONS)
    assert done.code == 0, done.err
    kept = tmp_path / "cache" / "MMWHSMRI_all.pt"
    options = (*OPTIONS, "--window", "mmwhs-mr")
    assert cli("convert", kept, "-o", tmp_path / "converted", *options).code == 0
    assert cli("convert", kept, "-o", tmp_path / "averaged", *options, "--weights", "ema").code == 0
    asked = len(server.requests)
    found = {}
    for name in ("pulled", "converted", "averaged"):
        out, told = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}.json"
        run = ("--model", tmp_path / name, "--preset", "published", "--steps", 3, "--precision", "fp32")
        done = cli("segment", image, "-o", out, *run, "--modality", "mr", "--report", told)
        assert done.code == 0, done.err
        labels, source = nib.nifti1.load(out), nib.nifti1.load(image)
        assert labels.shape == source.shape
        np.testing.assert_allclose(labels.affine, source.affine)
        found[name] = np.asarray(labels.dataobj)
        assert read_card(tmp_path / name).sha256 in told.read_text()
    assert set(np.unique(found["pulled"])) <= {0, 500, 600}
    assert (found["pulled"] > 0).any()
    assert len(server.requests) == asked
    assert np.array_equal(found["pulled"], found["converted"])
    assert not np.array_equal(found["pulled"], found["averaged"])


def test_both_spellings_are_tried(cli: Cli, server: Hub, tmp_path: Path) -> None:
    done = cli("pull", NAME, "-o", tmp_path / "model", *OPTIONS)
    assert done.code == 0, done.err
    heads = [name for method, name, _ in server.requests if method == "HEAD"]
    assert heads[:2] == [f"{NAME}.pt", f"{NAME} .pt"]
    assert read_card(tmp_path / "model").space.windows["ct"].high == 450.0


def test_a_broken_download_is_continued(cli: Cli, server: Hub, tmp_path: Path, checkpoint: bytes) -> None:
    etag = server.etags["MMWHSMRI_all.pt"]
    begun = tmp_path / "cache" / f"MMWHSMRI_all.pt.{etag[:16]}.part"
    begun.parent.mkdir()
    begun.write_bytes(checkpoint[:1000])
    done = cli("pull", "MMWHSMRI_all", "-o", tmp_path / "model", *OPTIONS)
    assert done.code == 0, done.err
    (wanted,) = [wanted for method, _, wanted in server.requests if method == "GET"]
    assert wanted is not None
    assert wanted.startswith("bytes=1000-")
    assert not begun.exists()
    assert (tmp_path / "cache" / "MMWHSMRI_all.pt").read_bytes() == checkpoint


def test_what_arrives_damaged_is_not_kept(cli: Cli, server: Hub, tmp_path: Path) -> None:
    server.etags["MMWHSMRI_all.pt"] = "0" * 64
    done = cli("pull", "MMWHSMRI_all", "-o", tmp_path / "model", *OPTIONS)
    assert done.code == 2
    assert "arrived damaged" in done.err
    assert not (tmp_path / "cache" / "MMWHSMRI_all.pt").exists()
    assert not (tmp_path / "model").exists()


def test_a_file_that_changed_since_is_noticed(cli: Cli, server: Hub, tmp_path: Path) -> None:
    assert cli("pull", "MMWHSMRI_all", "-o", tmp_path / "model", *OPTIONS).code == 0
    kept = tmp_path / "cache" / "MMWHSMRI_all.pt"
    kept.write_bytes(kept.read_bytes() + b"x")
    done = cli("pull", "MMWHSMRI_all", "-o", tmp_path / "other", *OPTIONS)
    assert done.code == 2
    assert "sha256 differs" in done.err


@pytest.mark.parametrize("why", ["flag", "refused", "absent"])
def test_without_the_file_one_line_says_where_to_put_it(
    cli: Cli, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, checkpoint: bytes
) -> None:
    if why == "flag":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif why == "refused":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = cli("pull", "MMWHSCT_full", "-o", tmp_path / "model", *OPTIONS)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"put MMWHSCT_full.pt in {tmp_path / 'cache'}" in done.err
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "MMWHSCT_full.pt").write_bytes(checkpoint)
    done = cli("pull", "MMWHSCT_full", "-o", tmp_path / "model", "--json", *OPTIONS)
    assert done.code == 0, done.err
    assert json.loads(done.out)["card"]["training"]["repository"] == "a file put in place by hand"


def test_a_name_that_is_no_release(cli: Cli) -> None:
    done = cli("pull", "MMWHS")
    assert done.code == 2
    assert "MMWHSCT_full" in done.err
