"""A backend on another machine: the same frames and labels, a token, a bounded line, an end when a caller leaves."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from diffatlas.engine.request import MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import DicomSeries, Volume
from diffatlas.remote import RemoteBackend, wire
from diffatlas.remote.client import TOKEN as VARIABLE
from diffatlas.remote.server import Server
from tests.fakes import FakeBackend

TOKEN = "0123456789abcdef"
REQUEST = Request(model="heart-phantom", steps=3)


@pytest.fixture
def volume() -> Volume:
    data = np.random.default_rng(0).normal(100, 30, (12, 10, 8)).astype(np.float32)
    return Volume(data, Grid((12, 10, 8), np.diag([-2.0, -2.0, 3.0, 1.0])), "mr", notes=("a note",))


@pytest.fixture
def fake() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def server(fake: FakeBackend) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), lambda: fake, TOKEN, waiting=1, max_bytes=10_000_000) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def remote(url: str) -> RemoteBackend:
    return RemoteBackend(url, TOKEN)


def test_frames_and_labels_are_those_of_the_machine_itself(
    remote: RemoteBackend, fake: FakeBackend, volume: Volume
) -> None:
    edit = MaskEdit(np.ones(volume.grid.shape, np.uint8), t=0.25)
    for request in (REQUEST, replace(REQUEST, samples=3, seed=5), replace(REQUEST, edit=edit)):
        here, there = list(fake.stream(volume, request)), list(remote.stream(volume, request))
        assert len(here) == len(there) == 3
        for ours, theirs in zip(here, there, strict=True):
            for name in ("noisy_image", "image", "labels", "sdf"):
                a, b = getattr(ours, name), getattr(theirs, name)
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)
            assert np.array_equal(ours.grid.affine, theirs.grid.affine)
            assert ours.scheme == theirs.scheme
            assert replace(ours.metrics, seconds=0) == replace(theirs.metrics, seconds=0)
        ours_, theirs_ = here[-1].result, there[-1].result
        assert ours_ is not None
        assert theirs_ is not None
        assert np.array_equal(ours_.labels.data, theirs_.labels.data)
        assert np.array_equal(ours_.labels.grid.affine, theirs_.labels.grid.affine)
        assert theirs_.notes == ("a note",)
        assert theirs_.provenance["source"]["sha256"] == volume.sha256()
        assert theirs_.provenance["request"] == request.to_json()


def test_what_dicom_says_of_a_patient_stays_here(
    remote: RemoteBackend, fake: FakeBackend, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = DicomSeries("1.2", "1.2.3", "1.2.4", "CT", "1.2.5", (("1.2.6", 0),), (("PatientName", "Doe^Jane"),))
    sent: list[bytes] = []
    packed = wire.pack

    def pack(value: dict[str, object]) -> bytes:
        sent.append(packed(value))
        return sent[-1]

    monkeypatch.setattr(wire, "pack", pack)
    list(remote.stream(replace(volume, series=series), REQUEST))
    assert fake.volumes[-1] is not None
    assert fake.volumes[-1].series is None
    assert not any(b"Jane" in message for message in sent)


def test_plans_and_searches_go_the_same_way(remote: RemoteBackend, fake: FakeBackend, volume: Volume) -> None:
    try:
        here = fake.plan(volume, REQUEST)
    except (BadInput, FileNotFoundError):
        pytest.fail("the fake plans with the card of a model in the box")
    there = remote.plan(volume, REQUEST)
    assert (there.steps, there.search, there.where, there.notes) == (here.steps, here.search, here.where, here.notes)
    assert there.card.to_json() == here.card.to_json()
    assert there.request == here.request
    looks, ours = list(remote.locate(volume, REQUEST)), list(fake.locate(volume, REQUEST))
    assert len(looks) == len(ours)
    if ours:
        assert looks[-1].proposal is not None


@pytest.mark.parametrize(
    "data",
    [
        np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
        np.arange(-5000, 5000, dtype=np.float32).reshape(100, 100),  # sent as int16
        np.where(np.arange(5000) % 2, -0.0, 1.0).astype(np.float32),
        np.full(5000, 40_000, np.float32),
        np.zeros((0, 3), np.uint8),
        np.array([True, False]),
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
    ],
)
def test_arrays_arrive_to_the_bit(data: np.ndarray) -> None:
    sent = wire.pack({"a": data, "n": [1, (2, 3.5, None)], "x": float("inf")})
    left = [sent]

    def receive(count: int) -> bytes:
        part, left[0] = left[0][:count], left[0][count:]
        return part

    got = wire.read(receive, len(sent))
    assert got["a"].shape == data.shape
    assert got["a"].dtype == data.dtype.newbyteorder("=")
    assert got["a"].tobytes() == np.ascontiguousarray(data).astype(data.dtype.newbyteorder("=")).tobytes()
    assert (got["n"], got["x"]) == ([1, (2, 3.5, None)], float("inf"))


def test_whole_numbers_take_half_the_bytes() -> None:
    volume = np.random.default_rng(0).integers(-1000, 3000, (32, 32, 32)).astype(np.float32)
    assert len(wire.pack({"a": volume})) < volume.nbytes / 2 + 1000


def test_no_message_of_ours_is_refused_whatever_it_is() -> None:
    good = wire.pack({"a": np.arange(10, dtype=np.float32), "r": REQUEST})
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        left = [bytes(data[: rng.integers(0, len(data) + 1)] if rng.random() < 0.3 else data)]

        def receive(count: int, left: list[bytes] = left) -> bytes:
            part, left[0] = left[0][:count], left[0][count:]
            return part

        with suppress(BadInput, EOFError):  # anything else is a fault
            wire.read(receive, 1_000_000)


def test_a_wrong_token_an_odd_address_and_a_machine_that_is_off_are_one_line(
    url: str, fake: FakeBackend, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="token"):
        list(RemoteBackend(url, "another-token-of-16").stream(volume, REQUEST))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BadInput, match=VARIABLE):
        RemoteBackend(url)
    for address in ("http://", "http://host:port", "http://host/path", "ftp://host"):
        with pytest.raises(BadInput):
            RemoteBackend(address, TOKEN)
    with pytest.raises(BadInput, match="cannot be reached"):
        list(RemoteBackend("http://127.0.0.1:9", TOKEN).stream(volume, REQUEST))
    with pytest.raises(BadInput, match="16 printable"):
        Server(("127.0.0.1", 0), lambda: fake, "short")
    assert fake.requests == []


def test_what_goes_wrong_there_is_told_here(remote: RemoteBackend, fake: FakeBackend, volume: Volume) -> None:
    fake.fail_at, fake.error = 1, BadInput("no such thing")
    with pytest.raises(BadInput, match="no such thing"):
        list(remote.stream(volume, REQUEST))
    fake.error = RuntimeError("a path of that machine")
    with pytest.raises(RuntimeError, match="its log says more") as error:
        list(remote.stream(volume, REQUEST))
    assert "a path" not in str(error.value)
    with pytest.raises(BadInput, match="by name"):
        list(remote.stream(volume, replace(REQUEST, model="/etc/model")))
    big = Volume(np.random.default_rng(0).random((150, 150, 150), np.float32), Grid((150, 150, 150), np.eye(4)))
    with pytest.raises(BadInput, match="the limit here is"):
        list(remote.stream(big, REQUEST))


def call(
    url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def test_only_calls_of_ours_with_the_token_are_answered(url: str, fake: FakeBackend) -> None:
    known = {"Authorization": f"Bearer {TOKEN}"}
    assert call(url, "GET", "/v1/health")[0] == 200
    assert call(url, "GET", "/../etc/passwd")[0] == 404
    assert call(url, "POST", "/v1/stream", b"x")[0] == 401
    assert (
        call(url, "POST", "/v1/stream", b"x", {"Authorization": f"Bearer {TOKEN}é".encode().decode("latin-1")})[0]
        == 401
    )
    assert call(url, "POST", "/v1/other", b"x", known)[0] == 404
    assert call(url, "POST", "/v1/stream", b"not a message at all", known)[0] == 400
    assert call(url, "POST", "/v1/stream", b"", {**known, "Content-Length": "-1"})[0] == 411
    assert fake.requests == []


@pytest.mark.timeout(120)
def test_a_caller_who_leaves_ends_its_run_and_a_full_line_says_so(
    server: Server, remote: RemoteBackend, fake: FakeBackend, volume: Volume
) -> None:
    go = threading.Event()
    fake.before = lambda: go.wait(60)
    fake.delay_s = 0.01
    first = remote.stream(volume, replace(REQUEST, steps=1000))
    ended: list[int] = []
    threads = [
        threading.Thread(target=lambda s=stream: ended.append(len(list(s))))
        for stream in (remote.stream(volume, REQUEST),)
    ]
    holding = threading.Thread(target=lambda: next(first))
    holding.start()
    while not fake.requests:
        time.sleep(0.01)
    threads[0].start()  # stands in line
    while server.places._value:
        time.sleep(0.01)
    with pytest.raises(BadInput, match="line is full"):
        remote.plan(None, REQUEST)
    go.set()
    holding.join()
    first.close()  # type: ignore[attr-defined]
    threads[0].join(60)
    assert ended == [3]
    assert fake.open_runs == 0
    assert fake.frames_made < 1000
