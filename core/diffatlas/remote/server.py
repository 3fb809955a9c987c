"""``diffatlas serve``: a backend behind HTTP, for one laboratory's machine.

Every call needs the token. One run at a time, a bounded line of others; a call takes its place in the line before its
volume is read, so that waiting callers cost no memory. A caller who leaves ends its run within one step. There is no
TLS here: between machines put a proxy in front, or an SSH tunnel.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.remote import wire
from diffatlas.session import Backend
from diffatlas.values import program_version

log = logging.getLogger(__name__)

MAX_BYTES = 2 * 2**30
WAITING = 8
# A caller that neither sends nor takes anything for so long has gone.
QUIET_S = 60.0


class Server(ThreadingHTTPServer):
    """Answers on ``address``; ``backend`` runs what is asked. ``waiting``: calls that may stand in line behind a run;
    ``max_bytes``: of one call."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        backend: Callable[[], Backend],
        token: str,
        *,
        waiting: int = WAITING,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if len(token) < 16 or not token.isascii() or not token.isprintable():
            raise BadInput("the token must have at least 16 printable characters")
        if waiting < 0:
            raise BadInput(f"the line must have 0 places or more, not {waiting}")
        self.backend, self.token, self.max_bytes = backend, token, max_bytes
        self.places = threading.BoundedSemaphore(waiting + 1)
        self.turn = threading.Lock()
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = QUIET_S
    server_version, sys_version = "diffatlas", ""

    def do_GET(self) -> None:
        """Whether it is up, and which version; needs no token and says nothing else."""
        if self.path != "/v1/health":
            self._refuse(404, "there is nothing here")
            return
        body = json.dumps({"version": program_version()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """One call: ``/v1/plan``, ``/v1/locate`` or ``/v1/stream``."""
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            self._refuse(401, "the token is not the one that diffatlas serve printed")
            return
        length = self.headers.get("Content-Length", "")
        if self.path == "/v1/check" and length == "0":
            self._check(self.headers.get("X-Bytes", ""))
            return
        answer = {"/v1/plan": self._plan, "/v1/locate": self._locate, "/v1/stream": self._stream}.get(self.path)
        if answer is None:
            self._refuse(404, "there is nothing here")
        elif not length.isdecimal() or len(length) > 15:
            self._refuse(411, "a call says how long it is")
        elif int(length) > self.server.max_bytes:
            self._refuse(413, self._too_long(int(length)))
        elif not self.server.places.acquire(blocking=False):
            self._refuse(503, "the machine is busy and its line is full; try again later")
        else:
            try:
                with self.server.turn:
                    self._call(answer, int(length))
            finally:
                self.server.places.release()
        self.close_connection = True

    def _check(self, length: str) -> None:
        """Whether a call of this length would be taken: a caller asks before it sends hundreds of megabytes."""
        if not length.isdecimal() or len(length) > 15 or int(length) > self.server.max_bytes:
            self._refuse(413, self._too_long(int(length[:15] or 0) if length.isdecimal() else 0))
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _too_long(self, length: int) -> str:
        return f"a call of {length:.3g} bytes, the limit here is {self.server.max_bytes:.3g}"

    def _call(self, answer: Callable[[dict[str, Any]], Iterator[dict[str, Any]]], length: int) -> None:
        left = length

        def receive(count: int) -> bytes:
            nonlocal left
            part = self.rfile.read(min(count, left))
            left -= len(part)
            return part

        try:
            question = wire.read(receive, length)
        except (BadInput, EOFError) as error:
            self._refuse(400, str(error) or "an empty call")
            return
        except OSError:
            return  # the caller left while it waited
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with closing(cast("Generator[dict[str, Any]]", self._guarded(answer, question))) as messages:
                for message in messages:
                    self._chunk(wire.pack(message))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            log.info("a caller left")

    def _guarded(
        self, answer: Callable[[dict[str, Any]], Iterator[dict[str, Any]]], question: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The answer's messages, and how it ended."""
        try:
            yield from answer(question)
            yield {"end": True}
        except BadInput as error:
            yield {"error": " ".join(str(error).split()), "bad_input": True}
        except Exception as error:  # what went wrong here stays in this machine's log
            log.error("a call failed", exc_info=True)
            yield {"error": f"the run failed there ({type(error).__name__}); its log says more", "bad_input": False}

    def _stream(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        stream = self.server.backend().stream(_volume(question), _request(question))
        with closing(cast("Generator[Any]", stream)) as frames:
            for frame in frames:
                yield {"frame": frame}

    def _locate(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        volume, limit = _volume(question), question.get("limit")
        if volume is None or not (limit is None or (isinstance(limit, int) and limit > 0)):
            raise BadInput("a search needs a volume, and a limit above 0 where there is one")
        with closing(cast("Generator[Any]", self.server.backend().locate(volume, _request(question), limit))) as looks:
            for look in looks:
                yield {"look": look}

    def _plan(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"plan": self.server.backend().plan(_volume(question), _request(question))}

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self, status: int, text: str) -> None:
        body = text.encode()
        self.close_connection = True  # what else the caller sends is not read
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            log.info("a caller left")

    def log_message(self, format: str, *args: Any) -> None:
        """Addresses and what was called, without a token or a name."""
        log.info("%s %s", self.address_string(), format % args)


def _request(question: dict[str, Any]) -> Request:
    """The request, of a model that this machine has by name: a caller's folders mean nothing here."""
    request = question.get("request")
    if not isinstance(request, Request):
        raise BadInput("the call holds no request")
    if "/" in request.model or "\\" in request.model or request.model.startswith("."):
        raise BadInput(f"{request.model}: another machine runs the models that it has by name; give a name")
    return request


def _volume(question: dict[str, Any]) -> Volume | None:
    volume = question.get("volume")
    if volume is not None and not isinstance(volume, Volume):
        raise BadInput("the call holds something else than a volume")
    return volume
