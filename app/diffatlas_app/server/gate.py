"""The ASGI layer in front of gradio: it lets through expected requests only.

In order: the ``Host`` header names this server; the request comes from no other site's page; the address is one of
`routes`; the body is bounded and names no file but one of the inbox. Every answer carries the security headers and no
permission for other sites (CORS).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from diffatlas_app.runs.results import OFFERED
from diffatlas_app.server import bodies, files, routes
from diffatlas_app.server.answers import Refused, answer, refuse, security_headers
from diffatlas_app.server.hosts import Hosts, on_space
from diffatlas_app.server.upload import Uploads
from diffatlas_app.visitors.sessions import Visitors

log = logging.getLogger(__name__)
RESULT = "/results/"
DROPPED = {b"origin", b"x-forwarded-for", b"forwarded"}
"""Headers that gradio does not get: it would echo the origin (CORS), and needs no address of the sender."""


class Gate:
    """``parameters``: names of the arguments of each endpoint that callers may use, in order."""

    def __init__(
        self, app: Any, visitors: Visitors, hosts: Hosts, parameters: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.app = app
        self.visitors = visitors
        self.hosts = hosts
        self.parameters = parameters or {}
        self.uploads = Uploads(visitors.inbox)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # gradio has no websockets any more
            await send({"type": "websocket.close", "code": 1008})
            return
        started = ended = False

        async def heard() -> Any:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        async def guarded(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = security_headers()
                hidden = {name for name, _ in own}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", ())
                    if name.lower() not in hidden and not name.lower().startswith(b"access-control-")
                ]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        try:
            await self._serve(scope, heard, guarded)
        except Refused as refused:
            if not started:
                await refuse(
                    guarded, heard, refused, ended or scope["method"] in ("GET", "HEAD"), scope["method"] == "HEAD"
                )
        except OSError as error:
            log.error("a request failed: %s", type(error).__name__)
            if not started:
                await refuse(guarded, heard, Refused(503, "this machine cannot do that now: try again later"), ended)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        self._check_sender(headers, method)
        scope = _without(scope, headers)
        if path in ("/health", "/guide") or path.startswith((RESULT, "/page/", "/cards/", "/learn")):
            if method not in ("GET", "HEAD"):
                raise Refused(405, "GET only")
            await self._own(path, send, method == "HEAD")
        elif path == routes.UPLOAD:
            if method != "POST":
                raise Refused(405, "POST only")
            await self._upload(scope, headers, receive, send)
        elif path == routes.UPLOAD_PROGRESS:
            await self._progress(scope, send)
        elif routes.is_post(path) or routes.CALL_BY_NAME.fullmatch(path):
            if method != "POST":
                raise Refused(405, "POST only")
            await self._post(scope, headers, receive, send)
        elif match := routes.stream_of(path):
            if method != "GET":
                raise Refused(405, "GET only")
            await self._stream(match, scope, receive, send)
        elif routes.is_read(path):
            if method not in ("GET", "HEAD"):
                raise Refused(405, "GET only")
            if _query(scope, "deep_link"):
                raise Refused(404, "there are no such links here")
            await self.app(scope, receive, send)
        else:
            raise Refused(404, "there is nothing here")

    def _check_sender(self, headers: Mapping[str, str], method: str) -> None:
        host = headers.get("host", "")
        public = headers.get("x-forwarded-host", host).split(",")[0].strip()
        if not self.hosts.knows(host) or not self.hosts.knows(public):
            raise Refused(421, "this server does not answer to that name; DIFFATLAS_HOSTS can list it")
        origin = headers.get("origin")
        if origin is not None and not self.hosts.same_origin(origin, public):
            raise Refused(403, "requests from other sites' pages are not answered")
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        visit = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
        if elsewhere and not visit:
            raise Refused(403, "requests from other sites' pages are not answered")

    async def _own(self, path: str, send: Any, head: bool) -> None:
        if path == "/health":
            await answer(send, 200, "application/json", json.dumps(self.health()).encode("utf-8"))
            return
        if path == "/learn":
            await answer(send, 307, "text/plain", b"", (b"location", b"learn/"))
            return
        extra: list[tuple[bytes, bytes]] = []
        if path.startswith(RESULT):
            run, _, name = path.removeprefix(RESULT).partition("/")
            found = self.visitors.file(run, name) if name in OFFERED else None
            kind = OFFERED[name][2] if name in OFFERED else ""
            extra = [(b"content-disposition", b"attachment")]
        else:
            static = files.static_file(path)
            found, kind = (None, "") if static is None else (static.path, static.kind)
            keep = b"public, max-age=31536000, immutable" if static and static.lasting else b"no-cache"
            extra = [(b"cache-control", keep)]
        if found is None:
            raise Refused(404, "there is no such file (any more)")
        # Read whole: a result may be removed while it is sent. In a thread: reading must not hold up the others.
        data = await asyncio.to_thread(found.read_bytes)
        extra.append((b"content-length", str(len(data)).encode("ascii")))
        await answer(send, 200, kind, b"" if head else data, *extra)

    def health(self) -> dict[str, Any]:
        """Whether the page answers, and how busy it is; no data of visitors."""
        return {
            "status": "ok",
            "ready": self.visitors.has_example("heart-ct"),
            "visitors": len(self.visitors),
            "runs": len(self.visitors.turns),
        }

    async def _upload(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        address = scope["client"][0] if scope.get("client") else ""
        references = await self.uploads.take(headers, receive, address, _query(scope, "upload_id")[:100])
        await answer(send, 200, "application/json", json.dumps(references).encode("utf-8"))

    async def _progress(self, scope: Any, send: Any) -> None:
        kind = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        async with aclosing(self.uploads.progress(_query(scope, "upload_id")[:100])) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _post(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send JSON (content-type: application/json)")
        body = bodies.parsed(await bodies.whole(receive, headers.get("content-length", "")))
        body = bodies.with_own_files(body, self.visitors.inbox)
        path = scope["path"].rstrip("/")
        if match := routes.CALL_BY_NAME.fullmatch(path):
            body = {"data": bodies.in_order(body, self._names(match[1]), match[1])}
            path = f"/gradio_api/call/{match[1]}"
        elif path.startswith(("/gradio_api/call/", "/gradio_api/run/")):
            name = path.rsplit("/", 1)[1]
            if name in self.parameters:
                body["data"] = bodies.completed(body.get("data"), self._names(name), name)
        packed = json.dumps(body).encode("utf-8")
        length = (b"content-length", str(len(packed)).encode("ascii"))
        others = [h for h in scope["headers"] if h[0].lower() not in (b"content-length", b"transfer-encoding")]
        scope = {**scope, "path": path, "raw_path": path.encode("ascii"), "headers": [*others, length]}
        sent = False

        async def replay() -> Any:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": packed, "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    def _names(self, call: str) -> Sequence[str]:
        if call not in self.parameters:
            raise Refused(404, f"there is no call {call!r} here; there are {', '.join(self.parameters)}")
        return self.parameters[call]

    async def _stream(self, match: Any, scope: Any, receive: Any, send: Any) -> None:
        key = match[1] if match.re.groups else _query(scope, "session_hash")
        with self.visitors.presence.listening(key):
            await self.app(scope, receive, send)


def _query(scope: Any, name: str) -> str:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(name, [""])
    return values[0]


def _without(scope: Any, headers: Mapping[str, str]) -> Any:
    """The request without those headers; behind a Space's proxy, with the address that the proxy gives."""
    client = scope.get("client")
    if on_space() and client and headers.get("x-forwarded-for"):
        # The last address is the one that the proxy itself saw; those before it are what the sender claims.
        client = (headers["x-forwarded-for"].split(",")[-1].strip()[:64], 0)
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in DROPPED]
    return {**scope, "client": client, "headers": kept}


def in_front(visitors: Visitors, hosts: Hosts, parameters: Mapping[str, Sequence[str]]) -> Any:
    """A lifespan for gradio's app that puts a `Gate` in front of it, outside of gradio's own layers.

    Gradio's own layers answer CORS requests themselves, and layers added through gradio come after them.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = Gate(app.middleware_stack, visitors, hosts, parameters)
        yield

    return lifespan
