"""The teaching site: plain files that any web server, or a USB stick, serves.

`export` writes them to a folder, with ``offline.html`` beside them: the whole site in one file, which opens with a
double click (browsers refuse modules and pixels of files that are opened without a server). `serve` shows the site on
this machine; the web page has it under ``/learn/``. Needs neither gradio nor torch.
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffatlas.errors import BadInput

SITE = Path(__file__).resolve().parent / "static" / "learn"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webp": "image/webp",
}


def files() -> tuple[Path, ...]:
    """The site's files, relative to `SITE`."""
    return tuple(sorted(p.relative_to(SITE) for p in SITE.rglob("*") if p.suffix in KINDS and p.is_file()))


def export(folder: Path) -> int:
    """Write the site to ``folder``, a new or an empty one; returns its bytes. `BadInput` where files are in the way."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: already holds something; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".learn-", dir=folder.parent) as part:
        site = Path(part) / "site"
        for path in files():
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SITE / path, target)
        (site / "offline.html").write_text(one_file(), encoding="utf-8")
        size = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
        if folder.exists():
            folder.rmdir()
        site.rename(folder)
    return size


def one_file() -> str:
    """The whole site as one page: scripts in the order of their imports, styles and data within."""
    html = (SITE / "index.html").read_text(encoding="utf-8")
    data: dict[str, Any] = {}
    for path in files():
        if path.suffix == ".json":
            data[path.as_posix()] = json.loads((SITE / path).read_text(encoding="utf-8"))
        elif path.suffix == ".webp":
            text = base64.b64encode((SITE / path).read_bytes()).decode("ascii")
            data[path.as_posix()] = f"data:image/webp;base64,{text}"
    script = one_script(SITE / "js" / "main.js")
    embedded = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    css = (SITE / "learn.css").read_text(encoding="utf-8")
    html = html.replace('<link rel="stylesheet" href="learn.css">', f"<style>\n{css}</style>")
    body = f"<script>\nglobalThis.LEARN_EMBEDDED = {embedded};\n</script>\n<script>\n{{\n{script}}}\n</script>"
    return html.replace('<script type="module" src="js/main.js"></script>', body)


IMPORT = re.compile(r'^import \{[^}]*\} from "(\./|\.\./)([\w./-]+)";\n', re.MULTILINE)


def one_script(entry: Path) -> str:
    """A module and what it imports, each once and before its user, as one classic script.

    Our modules use named imports without renaming, and no two of them have a top-level name in common (a test holds
    this), so removing the words import and export is enough.
    """
    done: list[Path] = []
    parts: list[str] = []

    def add(path: Path) -> None:
        if path in done:
            return
        done.append(path)
        text = path.read_text(encoding="utf-8")
        for up, name in IMPORT.findall(text):
            add((path.parent / up / name).resolve())
        parts.append(re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE))

    add(entry.resolve())
    return "\n".join(parts)


def serve(port: int | None = None) -> http.server.ThreadingHTTPServer:
    """A small server of the site for this machine; call its ``serve_forever``. `BadInput` where the port is taken."""
    try:
        return http.server.ThreadingHTTPServer(
            ("127.0.0.1", port or 0), functools.partial(_Handler, directory=str(SITE))
        )
    except OSError as error:
        raise BadInput(f"cannot serve on 127.0.0.1:{port}: {error}; give another --port") from error


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, **KINDS}  # noqa: RUF012 the class's own

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests."""
