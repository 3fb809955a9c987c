"""Serving the page with settings fit for other people's scans."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffatlas.errors import BadInput
from diffatlas_app import limits
from diffatlas_app.runs.results import OFFERED
from diffatlas_app.visitors.sessions import Visitors

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)
# Read by gradio when it is imported: no usage statistics, no look-up of newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@dataclass(frozen=True)
class Served:
    """A page being served in the background; `close` stops it and removes every visitor's files."""

    url: str
    page: gr.Blocks
    visitors: Visitors
    uploads: tempfile.TemporaryDirectory[str]

    def close(self) -> None:
        self.page.close()
        self.visitors.close()
        self.uploads.cleanup()


def serve(
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    warm: bool = True,
) -> Served:
    """Launch the page and return at once; `BadInput` where the address is taken.

    ``warm``: load models and examples in the background, so that the first visitor need not wait for it.
    """
    # Uploads pass through a folder of this process alone, not the one that all gradio programs of a machine share.
    uploads = tempfile.TemporaryDirectory(prefix="diffatlas-uploads-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = uploads.name

    from starlette.middleware import Middleware

    from diffatlas_app.page.layout import build_page
    from diffatlas_app.page.theme import CSS, HEAD, theme

    visitors = Visitors()
    page = build_page(visitors)
    page.queue(max_size=limits.CALLS_WAITING)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            theme=theme(),
            css=CSS,
            head=HEAD,
            max_file_size=limits.MAX_UPLOAD_MB * 1024**2,
            state_session_capacity=limits.SESSIONS,
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            footer_links=["api", "settings"],
            max_threads=limits.THREADS,
            app_kwargs={"middleware": [Middleware(LocalFilesOnly), Middleware(Results, visitors=visitors)]},
        )
    except OSError as error:
        visitors.close()
        uploads.cleanup()
        raise BadInput(f"cannot serve on {host}:{port}: {error}; give another --port") from error
    if warm:
        threading.Thread(target=_warm, args=(visitors,), name="warm", daemon=True).start()
    return Served(str(page.share_url or page.local_url).rstrip("/"), page, visitors, uploads)


def _warm(visitors: Visitors) -> None:
    try:
        visitors.warm()
    except Exception as error:  # the page works without; a run will say what is wrong
        log.error("could not prepare the examples and models: %s", type(error).__name__)


async def _answer(send: Any, status: int, kind: str, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    plain = [
        (b"content-type", kind.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})


class LocalFilesOnly:
    """ASGI layer that refuses file routes naming a URL: the server fetches nothing for its visitors."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and ("/file=" in path or "/proxy=" in path) and "://" in path:
            await _answer(send, 403, "text/plain", b"only files of this page\n")
            return
        await self.app(scope, receive, send)


class Results:
    """ASGI layer with two addresses of its own: a finished run's files, and a probe that says the page is alive.

    ``/results/RUN/NAME``: RUN is the random name of a folder, known to the page that asked for the run and to no other;
    NAME one of `results.OFFERED`. Nothing of the address is used as a path.
    """

    ADDRESS = re.compile(r"/results/(run-[A-Za-z0-9_-]{32})/([a-z0-9.-]{1,40})")

    def __init__(self, app: Any, visitors: Visitors) -> None:
        self.app = app
        self.visitors = visitors

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(("/results/", "/health")):
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, "text/plain", b"GET only\n")
        elif path == "/health":
            await _answer(send, 200, "application/json", json.dumps(self.health()).encode("utf-8"))
        else:
            await self._file(path, send)

    def health(self) -> dict[str, Any]:
        """Whether the page answers, and how busy it is; nothing of anyone's."""
        return {
            "status": "ok",
            "ready": self.visitors.has_example("heart-ct"),
            "visitors": len(self.visitors),
            "runs": len(self.visitors.turns),
        }

    async def _file(self, path: str, send: Any) -> None:
        match = self.ADDRESS.fullmatch(path)
        name = match[2] if match else ""
        found = self.visitors.file(match[1], name) if match and name in OFFERED else None
        if found is None:
            await _answer(send, 404, "text/plain", b"no such result (any more)\n")
            return
        # Read whole: it may be removed while it is sent. `asyncio.to_thread`: reading must not hold up the others.
        data = await asyncio.to_thread(found.read_bytes)
        await _answer(send, 200, OFFERED[name][2], data, (b"content-disposition", b"attachment"))
