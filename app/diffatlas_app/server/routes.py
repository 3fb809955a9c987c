"""The routes of this server. Every other address is 404, also where gradio has a route.

gradio brings some sixty routes, among them ones that fetch addresses, hand out files and run command lines. The page
and the clients need those below.
"""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9_-]{1,64}"
_ASSET = r"(?:[A-Za-z0-9_@.+-]+/)*[A-Za-z0-9_@.+-]+"

READ = (
    r"/",
    r"/config/?",
    r"/theme\.css",
    r"/favicon\.ico",
    r"/robots\.txt",
    r"/manifest\.json",
    rf"/(?:assets|static|svelte)/{_ASSET}",
    r"/gradio_api/(?:info|app_id|login_check|startup-events|theme\.css|openapi\.json|queue/status)/?",
)
"""GET and HEAD, handed to gradio."""

STREAMS = (
    rf"/gradio_api/heartbeat/({_NAME})",
    rf"/gradio_api/call/{_NAME}/({_NAME})",
    r"/gradio_api/queue/data",
)
"""GET, handed to gradio: answers that stay open. The group is the key of who listens (see `Presence`)."""

POSTS = (
    r"/gradio_api/queue/join/?",
    rf"/gradio_api/run/{_NAME}/?",
    rf"/gradio_api/call/{_NAME}/?",
    r"/gradio_api/component_server/?",
    r"/gradio_api/cancel/?",
    r"/gradio_api/reset/?",
)
"""POST with a JSON body, handed to gradio once the body is checked."""

UPLOAD = "/gradio_api/upload"
UPLOAD_PROGRESS = "/gradio_api/upload_progress"
CALL_BY_NAME = re.compile(rf"/gradio_api/call/v2/({_NAME})/?")
"""Our own routes, which replace gradio's routes of these names."""

_READ = re.compile("|".join(READ))
_POSTS = re.compile("|".join(POSTS))
_STREAMS = [re.compile(pattern) for pattern in STREAMS]


def is_read(path: str) -> bool:
    return ".." not in path.split("/") and _READ.fullmatch(path) is not None


def is_post(path: str) -> bool:
    return _POSTS.fullmatch(path) is not None


def stream_of(path: str) -> re.Match[str] | None:
    """The match of an address that stays open."""
    return next((match for pattern in _STREAMS if (match := pattern.fullmatch(path))), None)
