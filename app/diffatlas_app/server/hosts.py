"""The host names of this server, and which pages may send it requests.

DNS rebinding: another site makes its own name resolve to this machine, so that the browser takes its page for one of
this server. The ``Host`` header then holds the name of that site, so only known names are served. A numeric address
needs no name server and cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

ALSO = "DIFFATLAS_HOSTS"
"""Environment variable: further names that this server is reached by, separated by commas."""

SPACE_HOST = "SPACE_HOST"
"""Set by Hugging Face: the public name of the Space that this is."""


def on_space() -> bool:
    """Whether this process is a hosted Space, behind a proxy that tells the caller's address."""
    return "SPACE_ID" in os.environ


class Hosts:
    """The names of this server."""

    def __init__(self, listens_on: str, also: Iterable[str] = ()) -> None:
        names = {"localhost", listens_on, *also, *os.environ.get(ALSO, "").split(","), os.environ.get(SPACE_HOST, "")}
        if not _is_loopback(listens_on):
            own = socket.gethostname().lower()
            names |= {own, f"{own}.local", socket.getfqdn().lower()}
        self._names = {name.strip().lower().strip("[]") for name in names} - {""}
        self._any_address = not _is_loopback(listens_on)

    def add(self, url: str) -> None:
        """Answer to the name in this address as well (a public link that was made after the start)."""
        self._names.add((urlsplit(url).hostname or "").lower())

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header names this server; the port says nothing."""
        name = _name(host)
        if name is None:
            return False
        return name in self._names or (_is_address(name) and (self._any_address or _is_loopback(name)))

    def same_origin(self, origin: str, host: str) -> bool:
        """Whether the page at ``origin`` was served under ``host``."""
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        default = 443 if parts.scheme == "https" else 80
        there, _, number = host.rpartition(":") if _has_port(host) else (host, "", "")
        here = int(number) if number.isdigit() else default
        return parts.hostname.lower() == there.strip("[]").lower() and (port or default) == here


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 (raises where the port is none)
    except ValueError:
        return None
    plain = not parts.path and not parts.query and "@" not in host and "#" not in host
    return parts.hostname.lower() if plain and parts.hostname else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
