"""Serving the page with settings fit for other people's scans."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffatlas.errors import BadInput
from diffatlas_app import limits
from diffatlas_app.runs import Visitors

if TYPE_CHECKING:
    import gradio as gr

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


def serve(host: str = "127.0.0.1", port: int | None = None, share: bool = False, open_browser: bool = False) -> Served:
    """Launch the page and return at once; `BadInput` where the address is taken."""
    # Uploads pass through a folder of this process alone, not the one that all gradio programs of a machine share.
    uploads = tempfile.TemporaryDirectory(prefix="diffatlas-uploads-", ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = uploads.name

    from starlette.middleware import Middleware

    from diffatlas_app.page import build_page
    from diffatlas_app.theme import CSS, HEAD, theme

    visitors = Visitors()
    page = build_page(visitors)
    page.queue(max_size=limits.QUEUE_SIZE)
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
            app_kwargs={"middleware": [Middleware(LocalFilesOnly)]},
        )
    except OSError as error:
        visitors.close()
        uploads.cleanup()
        raise BadInput(f"cannot serve on {host}:{port}: {error}; give another --port") from error
    return Served(str(page.share_url or page.local_url).rstrip("/"), page, visitors, uploads)


class LocalFilesOnly:
    """ASGI layer that refuses file routes naming a URL: the server fetches nothing for its visitors."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and ("/file=" in path or "/proxy=" in path) and "://" in path:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"only files of this page\n"})
            return
        await self.app(scope, receive, send)
