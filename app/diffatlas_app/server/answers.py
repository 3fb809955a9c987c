"""HTTP answers of our own, and the headers that every answer carries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from diffatlas_app.server.hosts import on_space

DRAIN_S = 5.0
DRAIN_BYTES = 64 * 1024**2
Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that is not served: ``status`` and one line for the caller."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line


def security_headers() -> Headers:
    """For every answer.

    gradio's page has inline scripts and compiles small ones, and NiiVue works in blobs; nothing is loaded from
    or sent to another server. The page may be framed by itself, and on a Space by the site that shows Spaces.
    """
    framed_by = "'self' https://huggingface.co https://*.hf.space" if on_space() else "'self'"
    policy = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; media-src 'self' blob:; "
        f"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {framed_by}"
    )
    headers = [
        (b"content-security-policy", policy.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    return headers if on_space() else [*headers, (b"x-frame-options", b"SAMEORIGIN")]


async def answer(send: Any, status: int, kind: str, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole answer."""
    given = {name for name, _ in headers}
    plain = [
        (b"content-type", kind.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    start = [*(h for h in plain if h[0] not in given), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Any, receive: Any, refused: Refused, read: bool, head: bool = False) -> None:
    """One line, as JSON: gradio's page and its client show ``detail``, others look for ``error``.

    ``read``: whether the body has been read to its end. If not, the rest is read and discarded for a while:
    a sender that is cut off while it sends never sees the answer.
    """
    body = b"" if head else json.dumps({"error": refused.line, "detail": refused.line}).encode("utf-8") + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            left = DRAIN_BYTES
            more = not read
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
