"""A `Backend` on another machine, which runs ``diffatlas serve``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from diffatlas.engine.frame import Frame
from diffatlas.engine.locate import Look
from diffatlas.engine.plan import Plan
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.remote import wire

TOKEN = "DIFFATLAS_TOKEN"
# A frame of the largest models is far below this.
MAX_BYTES = 4 * 2**30
CONNECT_S = 10.0


def is_address(device: str) -> bool:
    """Whether a device names another machine."""
    return device.startswith(("http://", "https://"))


class RemoteBackend:
    """Runs requests on the machine at ``url``; ``token`` None takes the environment's ``DIFFATLAS_TOKEN``.

    The same frames and labels as that machine's own. Closing a stream closes the connection, which ends the run there
    within one step. All methods raise `BadInput` where the machine cannot be reached, refuses, or the user can mend it.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise BadInput(f"{url}: the port is not a number") from error
        if not is_address(url) or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise BadInput(f"{url}: an address looks like http://HOST:PORT, nothing behind it")
        self.url = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._token = token if token is not None else os.environ.get(TOKEN, "")
        if not self._token or not self._token.isascii() or not self._token.isprintable():
            raise BadInput(f"{self.url}: set {TOKEN} to the token that diffatlas serve printed there")

    def plan(self, volume: Volume | None, request: Request) -> Plan:
        """What `stream` will do there."""
        *_, message = self._messages("plan", {"volume": _sent(volume), "request": request})
        plan = message.get("plan")
        if not isinstance(plan, Plan):
            raise BadInput(f"{self.url}: answered with something else than a plan; is it the same version there?")
        return plan

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
        """The search, look by look."""
        for message in self._messages("locate", {"volume": _sent(volume), "request": request, "limit": limit}):
            if isinstance(look := message.get("look"), Look):
                yield look

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        """The run, frame by frame."""
        for message in self._messages("stream", {"volume": _sent(volume), "request": request}):
            if isinstance(frame := message.get("frame"), Frame):
                yield frame

    def _messages(self, what: str, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        body = wire.pack(question)
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_S)
        try:
            try:
                connection.connect()
                connection.sock.settimeout(None)  # a run before ours may take its time
                headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/octet-stream"}
                connection.request("POST", "/v1/check", b"", {**headers, "X-Bytes": str(len(body))})
                answer = connection.getresponse()
                if answer.status == 200:
                    answer.read()
                    connection.request("POST", f"/v1/{what}", body, headers)
                    answer = connection.getresponse()
            except (OSError, HTTPException) as error:
                reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
                raise BadInput(f"{self.url}: cannot be reached ({reason}); does diffatlas serve run there?") from error
            if answer.status != 200:
                text = answer.read(2000).decode("utf-8", "replace").strip()
                raise BadInput(f"{self.url}: {text or answer.reason}")
            ended = False
            while not ended:
                try:
                    message = wire.read(answer.read, MAX_BYTES)
                except (EOFError, OSError, HTTPException) as error:
                    raise BadInput(f"{self.url}: the connection broke off; run it again") from error
                if "error" in message:
                    if message.get("bad_input"):
                        raise BadInput(str(message["error"]))
                    raise RuntimeError(f"{self.url}: {message['error']}")
                ended = bool(message.get("end"))
                if not ended:
                    yield message
        finally:
            connection.close()


def _sent(volume: Volume | None) -> Volume | None:
    """The volume without what its DICOM files say of the patient, which no run needs."""
    return None if volume is None else replace(volume, series=None)
