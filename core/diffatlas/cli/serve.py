"""The command that lets other machines use this one's engine: serve."""

from __future__ import annotations

import os
import secrets
from typing import Annotated

import typer

from diffatlas.errors import BadInput

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7862,
    waiting: Annotated[int, typer.Option(metavar="N", help="Calls that may wait behind a run.")] = 8,
    max_mb: Annotated[int, typer.Option("--max-mb", metavar="MB", help="Largest call.")] = 2048,
) -> None:
    """Run what others ask for with --device http://HOST:PORT; the token is DIFFATLAS_TOKEN, or printed.

    Not encrypted: between machines use an SSH tunnel, or a proxy with TLS in front.
    """
    if not 1 <= port <= 65_535:
        raise BadInput(f"--port must be between 1 and 65535, not {port}")
    if max_mb < 1:
        raise BadInput(f"--max-mb must be 1 or more, not {max_mb}")

    from diffatlas import session
    from diffatlas.cli import terminal
    from diffatlas.remote.client import TOKEN
    from diffatlas.remote.server import Server

    given = os.environ.get(TOKEN, "")
    token = given or secrets.token_urlsafe(24)
    try:
        server = Server((host, port), session.local_backend, token, waiting=waiting, max_bytes=max_mb * 2**20)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"cannot listen on {host}:{port} ({reason}); give another --host or --port") from error
    with server:
        terminal.say(f"listening: http://{host}:{port}")
        if not given:
            terminal.say(f"{TOKEN}={token}")
        if host not in LOOPBACK:
            terminal.notes(["not encrypted: whoever listens in between reads images and the token"])
        server.serve_forever()
