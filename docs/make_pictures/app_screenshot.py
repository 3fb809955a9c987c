"""Make docs/images/app*.png: the web page in headless Chromium, after real runs.

python docs/make_pictures/app_screenshot.py [--steps 40] [--out docs/images] [--only app app-dark ...]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import TimeoutError, sync_playwright

from diffatlas_app.serve import serve

# WebGL without a graphics card.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_MS = 1_800_000


def choose(page: Any, field: str, option: str) -> None:
    page.click(f"{field} input")
    page.get_by_role("option", name=option, exact=True).click()


def run(page: Any, boxes: tuple[str, ...] = ("#view",)) -> None:
    """Press the button and wait for the end, in 3-D although there is no graphics card."""
    page.click("#run")
    for box in boxes:
        solid = page.locator(f"{box} button", has_text="Show 3-D all the same")
        with suppress(TimeoutError):
            solid.click(timeout=20_000)
    for box in boxes:
        page.wait_for_selector(f'{box} .dv[data-state="done"]', timeout=PATIENCE_MS)
    page.wait_for_timeout(4000)


def settings(page: Any, steps: int, more: Callable[[], None] = lambda: None) -> None:
    """Open the settings, set what is to be set, and close them."""
    page.click("#more >> text=More settings")
    page.fill("#steps input", str(steps))
    page.locator("#steps input").blur()
    more()
    page.click("#more >> text=More settings")


def segmented(page: Any, steps: int) -> None:
    settings(page, steps)
    run(page)


def beside(page: Any, steps: int) -> None:
    settings(page, steps, lambda: choose(page, "#beside", "Without guidance"))
    run(page, ("#view", "#second"))


def atlas(page: Any, steps: int) -> None:
    settings(page, steps)
    page.get_by_role("tab", name="Atlas").click()
    choose(page, "#atlas-model", "Digital hearts, CT and MR")
    run(page)
    page.locator("#gallery button").nth(2).click()
    page.wait_for_timeout(4000)


PICTURES: dict[str, tuple[Callable[[Any, int], None], str, int, int]] = {
    "app": (segmented, "light", 1280, 900),
    "app-dark": (segmented, "dark", 1280, 900),
    "app-beside": (beside, "light", 1280, 900),
    "app-atlas": (atlas, "light", 1280, 900),
    "app-phone": (segmented, "light", 390, 844),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Screenshots of the web page after real runs.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "images")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", choices=list(PICTURES), default=list(PICTURES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    served = serve(warm=False)
    served.visitors.example("heart-ct")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name in options.only:
            act, scheme, width, height = PICTURES[name]
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(PATIENCE_MS)
            page.goto(served.url)
            page.wait_for_selector('#view .dv[data-state="open"]')
            act(page, options.steps)
            page.screenshot(path=options.out / f"{name}.png", full_page=True)
            print(options.out / f"{name}.png", flush=True)
            page.close()
        browser.close()
    served.close()


if __name__ == "__main__":
    main()
