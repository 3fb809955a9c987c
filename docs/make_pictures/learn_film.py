"""Make docs/images/learn.png and learn.gif: the teaching site's scenes 3 to 6, driven in headless Chromium.

python docs/make_pictures/learn_film.py [--out docs/images]
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from diffatlas_app import learn

WIDTH, HEIGHT = 1180, 800
FILM_WIDTH = 760


def settle(page: Any, scene: str) -> None:
    page.wait_for_selector(f"html[data-ready={scene}]")
    page.wait_for_timeout(250)


def steps(page: Any, url: str) -> Iterator[int]:
    """Drive the scenes; yields how many hundredths of a second each moment is shown."""
    page.goto(f"{url}#scene=back&step=0")
    settle(page, "back")
    for scene, name, values in (
        ("back", "Step", (0, 1, 2, 3, 4, 5, 6, 8, 10, 13)),
        ("unguided", "Step", (0, 2, 4, 6, 8, 10, 13)),
        ("rho", "Guidance noise", (0, 3, 6, 8, 10)),
    ):
        page.evaluate(f"location.hash = '#scene={scene}&z=32'")
        settle(page, scene)
        if scene == "rho":
            page.get_by_label("A slab missing", exact=True).check()
            page.get_by_label("Height of the slice").fill("40")
        for value in values:
            page.get_by_label(name, exact=True).fill(str(value))
            page.wait_for_timeout(250)
            yield 160 if value == values[-1] else 55
    for case in ("as-it-is", "no-left-ventricle", "ball-in-ventricle"):
        page.evaluate(f"location.hash = '#scene=fool&z=32&case={case}'")
        settle(page, "fool")
        yield 160


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    server = learn.serve()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    frames: list[Image.Image] = []
    durations: list[int] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", locale="en")
        for hundredths in steps(page, f"http://127.0.0.1:{server.server_port}/"):
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            if len(frames) == 5:
                shot.save(out / "learn.png", optimize=True)
            small = shot.resize((FILM_WIDTH, round(HEIGHT * FILM_WIDTH / WIDTH)), Image.Resampling.LANCZOS)
            frames.append(small.quantize(96, dither=Image.Dither.NONE))
            durations.append(hundredths * 10)
        browser.close()
    server.shutdown()
    first, *others = frames
    first.save(out / "learn.gif", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    print(f"{(out / 'learn.gif').stat().st_size / 1e6:.2f} MB, {len(frames)} frames")


if __name__ == "__main__":
    main()
