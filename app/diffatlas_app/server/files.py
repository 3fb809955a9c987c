"""Files that the server gives out by addresses of its own; an address is looked up in a list, never used as a path.

``/page/VERSION/NAME``: a file of the package's ``static`` folder, or NiiVue's script. ``/guide``: how to use the page.
``/cards/NAME``: the card of a model, as plain text. ``/learn/...``: a file of ``static/learn``. Files of finished runs
(``/results/``) are given out by `gate`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from diffatlas import session
from diffatlas.errors import BadInput

STATIC = Path(__file__).resolve().parents[1] / "static"
NIIVUE = "niivue.js"
LEARN = STATIC / "learn"
KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bin": "application/octet-stream",
    ".gz": "application/gzip",
    ".npz": "application/octet-stream",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
}
_PAGE = re.compile(r"/page/[0-9a-f]{12}/([A-Za-z0-9_.-]+)")
_CARD = re.compile(r"/cards/([A-Za-z0-9_.-]{1,80})")
_LEARN = re.compile(r"/learn(?:/([A-Za-z0-9_./-]*))?")


@dataclass(frozen=True)
class StaticFile:
    """A file to give out; ``lasting``: its address changes with its content."""

    path: Path
    kind: str
    lasting: bool


def niivue_path() -> Path:
    """NiiVue's script, from the nilearn package (which is not imported: that takes a second)."""
    found = importlib.util.find_spec("nilearn")
    path = Path(found.origin).parent / "_assets" / "js" / "niivue.umd.js" if found and found.origin else None
    if path is None or not path.is_file():
        raise BadInput(
            "the web page needs nilearn 0.14 or newer, which brings NiiVue: pip install napari-diffatlas[app]"
        )
    return path


@lru_cache(maxsize=1)
def page_files() -> dict[str, Path]:
    """What ``/page/VERSION/`` has."""
    own = {p.name: p for p in STATIC.iterdir() if p.is_file() and p.suffix in (".js", ".css")}
    return {**own, NIIVUE: niivue_path()}


@lru_cache(maxsize=1)
def version() -> str:
    """Changes with the content of any of `page_files`: browsers may keep what they have."""
    digest = hashlib.sha256()
    for name, path in sorted(page_files().items()):
        digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    """The relative address of one of `page_files`."""
    if name not in page_files():
        raise KeyError(name)
    return f"page/{version()}/{name}"


def static_file(path: str) -> StaticFile | None:
    """The file of an address, None where there is none."""
    if match := _PAGE.fullmatch(path):
        found = page_files().get(match[1])
        return None if found is None else StaticFile(found, KINDS[found.suffix], True)
    if match := _CARD.fullmatch(path):
        card = next((c for c in session.available_models() if c.name == match[1]), None)
        return None if card is None else _text(session.find_model(card.name) / "README.md")
    if path == "/guide":
        return _text(STATIC / "guide.md")
    if match := _LEARN.fullmatch(path):
        return _below(LEARN, match[1] or "index.html")
    return None


def _text(path: Path) -> StaticFile | None:
    return StaticFile(path, KINDS[".txt"], False) if path.is_file() else None


def _below(folder: Path, name: str) -> StaticFile | None:
    """A file of a folder that the package brings."""
    if name.endswith("/"):
        name += "index.html"
    wanted = (folder / name).resolve()
    kind = KINDS.get(wanted.suffix) or mimetypes.guess_type(wanted.name)[0]
    if not wanted.is_relative_to(folder.resolve()) or not wanted.is_file() or kind is None:
        return None
    return StaticFile(wanted, kind, False)
