"""Requests made by hand: with the path, headers and body exactly as given."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.web.conftest import Site


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def line(self) -> str:
        """What the server says is wrong."""
        return str(self.json()["error"])


def ask(
    site: Site, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    parts = urlsplit(site.url)
    sent = {"Host": f"{parts.hostname}:{parts.port}", **(headers or {})}
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if body is not None and "Content-Length" not in sent:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()


def post(site: Site, path: str, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return ask(site, path, "POST", json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def multipart(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an upload."""
    parts = [
        b'--xx\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n\r\n' + data
        for name, data in files
    ]
    return b"\r\n".join([*parts, b"--xx--\r\n"]), {"Content-Type": "multipart/form-data; boundary=xx"}


def upload(site: Site, name: str, data: bytes) -> str:
    """Upload a file; its reference."""
    body, headers = multipart((name, data))
    answer = ask(site, "/gradio_api/upload", "POST", body, headers)
    assert answer.status == 200, answer.body
    (reference,) = answer.json()
    return str(reference)


def file_data(path: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def call(site: Site, name: str, data: Any, session: str | None = None) -> Any:
    """A call of an endpoint, to its end: what it returns, or the line with which the call was refused."""
    body = {"data": data} if session is None else {"data": data, "session_hash": session}
    joined = post(site, f"/gradio_api/call/{name}", body)
    if joined.status != 200:
        return joined.line
    answer = ask(site, f"/gradio_api/call/{name}/{joined.json()['event_id']}")
    event, data_line = answer.body.decode().strip().rsplit("\n\n", 1)[-1].split("\n", 1)
    assert event == "event: complete", answer.body
    return json.loads(data_line.removeprefix("data: "))[0]


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine that nobody should ask: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"fetched")

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def scan_bytes(folder: Path, shape: tuple[int, int, int] = (12, 14, 10)) -> bytes:
    from tests.web.conftest import oblique_scan

    return oblique_scan(folder / "made.nii.gz", shape).read_bytes()
