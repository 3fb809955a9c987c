"""Make docs/images/learn.png: the teaching site's third scene at step 7, in headless Chromium.

python docs/make_pictures/learn_screenshot.py [--out docs/images]
"""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from diffatlas_app import learn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    server = learn.serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light", locale="en")
        page.goto(f"http://127.0.0.1:{server.server_port}/#scene=back&step=5")
        page.wait_for_selector("html[data-ready=back]")
        page.screenshot(path=out / "learn.png")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
