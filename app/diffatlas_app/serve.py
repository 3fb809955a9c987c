"""Serve the page with settings that protect the scans of visitors."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffatlas.errors import BadInput
from diffatlas_app import limits
from diffatlas_app.server.hosts import Hosts
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

    def close(self) -> None:
        self.page.close()
        self.visitors.close()


def serve(
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    open_browser: bool = False,
    warm: bool = True,
    hosts: Sequence[str] = (),
) -> Served:
    """Launch the page and return at once; `BadInput` where the address is taken.

    ``warm``: load models and examples in the background, so that the first visitor need not wait for it. ``hosts``:
    further names that the server is reached by (`DIFFATLAS_HOSTS` lists them as well); requests under other names
    are refused.
    """
    visitors = Visitors()
    # The only folder that gradio takes files from.
    os.environ["GRADIO_TEMP_DIR"] = str(visitors.inbox.folder)

    from diffatlas_app.api import PARAMETERS
    from diffatlas_app.page.layout import build_page
    from diffatlas_app.page.theme import CSS, head, theme
    from diffatlas_app.server.gate import in_front

    page = build_page(visitors)
    page.queue(max_size=limits.CALLS_WAITING, api_open=False)
    known = Hosts(host, hosts)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            theme=theme(),
            css=CSS,
            head=head(),
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
            app_kwargs={"lifespan": in_front(visitors, known, PARAMETERS)},
        )
    except OSError as error:
        visitors.close()
        raise BadInput(f"cannot serve on {host}:{port}: {error}; give another --port") from error
    public = getattr(page, "share_url", None)  # gradio declares it as always None
    if public:
        known.add(str(public))
    if warm:
        threading.Thread(target=_warm, args=(visitors,), name="warm", daemon=True).start()
    return Served(str(public or page.local_url).rstrip("/"), page, visitors)


def _warm(visitors: Visitors) -> None:
    try:
        visitors.warm()
    except Exception as error:  # the page works without; a run will show the error
        log.error("could not prepare the examples and models: %s", type(error).__name__)
