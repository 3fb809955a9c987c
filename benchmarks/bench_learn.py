"""What the teaching site weighs, and how soon a scene stands at 1 Mbit/s: `python benchmarks/bench_learn.py`.

The site is exported and served by a plain file server without compression. Each scene is opened in a fresh browser
profile with an empty cache, slowed to 1 Mbit/s and 40 ms by the browser's own means. Needs playwright and chromium.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from diffatlas_app import learn

OUT = Path(__file__).resolve().parent / "results" / "learn.json"
SCENES = ("destroy", "toy", "back", "unguided", "rho", "fool", "modality", "seeds", "dreams", "paint")
BYTES_PER_S = 125_000


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server without a log."""

    def log_message(self, format: str, *args: Any) -> None: ...


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as part:
        folder = Path(part) / "site"
        total = learn.export(folder)
        offline = (folder / "offline.html").stat().st_size
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for scene in SCENES:
                context = browser.new_context(viewport={"width": 1280, "height": 800})
                page = context.new_page()
                sent = {"requests": 0, "bytes": 0}
                network = context.new_cdp_session(page)
                network.send("Network.enable")
                network.send(
                    "Network.emulateNetworkConditions",
                    {
                        "offline": False,
                        "latency": 40,
                        "downloadThroughput": BYTES_PER_S,
                        "uploadThroughput": BYTES_PER_S,
                    },
                )

                def count(event: Any, sent: dict[str, int] = sent) -> None:
                    sent["requests"] += 1
                    sent["bytes"] += int(event["encodedDataLength"])

                network.on("Network.loadingFinished", count)
                begin = time.monotonic()
                page.goto(f"http://127.0.0.1:{server.server_port}/#scene={scene}")
                page.wait_for_selector(f"html[data-ready={scene}]", timeout=120_000)
                rows.append({"scene": scene, "seconds": round(time.monotonic() - begin, 2), **sent})
                context.close()
            browser.close()
        server.shutdown()
    print("| scene | requests | kB | seconds at 1 Mbit/s |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['scene']} | {row['requests']} | {row['bytes'] / 1000:.0f} | {row['seconds']:.1f} |")
    print(f"\nThe export: {total / 1e6:.1f} MB, of which offline.html {offline / 1e6:.1f} MB.")
    OUT.write_text(json.dumps({"total": total, "offline": offline, "scenes": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
