"""The caller of a handler, and whether it still listens for the answer."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from gradio.context import LocalContext

from diffatlas_app.runs.queue import Caller
from diffatlas_app.visitors.presence import Presence


def caller_of(request: gr.Request) -> Caller:
    """The caller of the handler that was given this request."""
    client = getattr(request, "client", None)
    return Caller(address=getattr(client, "host", "") or "", session=request.session_hash or "")


def absence(presence: Presence, request: gr.Request) -> Callable[[], bool]:
    """A function that says whether the caller has gone: a page or a client listens by its session, a call by its id."""
    return presence.absence(request.session_hash or "", LocalContext.event_id.get(None) or "")
