"""Make docs/images/learn.png, scene 3 of the teaching site, and learn.gif, a film of its scenes 3 to 6, in Chromium.

python docs/make_pictures/learn_screenshot.py [--out docs/images]
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import sync_playwright

from diffatlas import render
from diffatlas_app import learn

WIDTH_PX = 720
MAX_BYTES = 2_000_000
FILM = (
    *(f"scene=back&step={step}" for step in range(14)),
    *(f"scene=unguided&step={step}" for step in range(0, 14, 2)),
    *(f"scene=rho&scan=noisy&rho={rho / 10:g}" for rho in range(0, 11, 2)),
    *(["scene=fool&case=as-it-is&z=32"] * 2),
    *(["scene=fool&case=no-left-ventricle&z=32"] * 3),
    *(["scene=fool&case=no-left-ventricle&z=32&trust=crossed"] * 4),
)
"""Addresses of the film's pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    server = learn.serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light", locale="en")
        shown(page, address, "scene=back&step=5")
        page.screenshot(path=out / "learn.png")
        render.write_gif(film(page, address), out / "learn.gif", fps=3)
        browser.close()
    server.shutdown()
    size = (out / "learn.gif").stat().st_size
    print(f"{out / 'learn.gif'}: {size / 1e6:.2f} MB")
    if size > MAX_BYTES:
        raise SystemExit("the film is too large: fewer pictures, or a smaller WIDTH_PX")


def film(page: Any, address: str) -> Iterator[NDArray[np.uint8]]:
    """The pictures of `FILM`, uint8 [H, W, 3]."""
    last = ""
    for state in FILM:
        if state != last:
            shown(page, address, state)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            height = round(picture.height * WIDTH_PX / picture.width)
            pixels = np.array(picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS))
        last = state
        yield pixels


def shown(page: Any, address: str, state: str) -> None:
    """Open a state of the site and wait until its pictures are drawn."""
    scene = state.split("&")[0].removeprefix("scene=")
    page.goto("about:blank")
    page.goto(f"{address}#{state}")
    page.wait_for_selector(f"html[data-ready={scene}]")


if __name__ == "__main__":
    main()
