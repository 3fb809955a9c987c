"""What the teaching site weighs, and how soon a scene stands at 1 Mbit/s: `python benchmarks/bench_learn.py`.

The site is exported and served by a plain file server without compression. Each scene is opened in a fresh browser
profile with an empty cache, slowed to 1 Mbit/s and 40 ms by the browser's own means. `--crowd N` instead opens the
first scene in N browsers at once, from one address and with nothing slowed, moves its slider in each, turns to the
second page of each, and counts requests and failures. Needs playwright and chromium.
"""

from __future__ import annotations

import argparse
import asyncio
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crowd", type=int, metavar="N", help="N browsers at once instead")
    number = parser.parse_args().crowd
    if number is None:
        scenes()
    else:
        found = asyncio.run(crowd(number))
        print(found)
        kept = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
        OUT.write_text(json.dumps({**kept, "crowd": found}, indent=1) + "\n", encoding="utf-8")


async def crowd(number: int) -> dict[str, Any]:
    """``number`` browsers, each a profile of its own, on one server; how many requests came and how many failed."""
    from playwright.async_api import async_playwright

    with tempfile.TemporaryDirectory() as part:
        folder = Path(part) / "site"
        learn.export(folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked: list[int] = []
        failed: list[int] = []
        ready: list[float] = []
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            begin = time.monotonic()

            async def visitor() -> None:
                context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
                page = await context.new_page()
                page.on("requestfinished", lambda _: asked.append(1))
                page.on("requestfailed", lambda _: failed.append(1))
                page.on("pageerror", lambda _: failed.append(1))
                page.on("response", lambda answer: failed.append(1) if answer.status >= 400 else None)
                page.set_default_timeout(600_000)
                await page.goto(f"http://127.0.0.1:{server.server_port}/#scene=destroy")
                await page.wait_for_selector("html[data-ready=destroy]")
                ready.append(time.monotonic() - begin)
                await page.locator(".predict input").first.check()
                await page.get_by_label("Noise level", exact=True).fill("0.8")
                await page.get_by_text("Noise level 0.80").first.wait_for()
                await page.get_by_role("link", name="Next", exact=True).click()
                await page.wait_for_selector("html[data-ready=toy]")
                await context.close()

            ends = await asyncio.gather(*(visitor() for _ in range(number)), return_exceptions=True)
            await browser.close()
        server.shutdown()
    return {
        "browsers": number,
        "through": sum(end is None for end in ends),
        "requests": len(asked),
        "failures": len(failed),
        "first_scene_seconds": {"first": round(min(ready), 1), "last": round(max(ready), 1)},
    }


def scenes() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as part:
        folder = Path(part) / "site"
        total = learn.export(folder)
        offline = (folder / "offline.html").stat().st_size
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows: list[dict[str, Any]] = []
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
    kept = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    kept |= {"total": total, "offline": offline, "scenes": rows}
    OUT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
