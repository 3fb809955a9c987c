"""Make docs/images/app.png and app-dark.png: the web demo in headless Chromium, after a real run.

python docs/make_pictures/app_screenshot.py [--preset watch] [--example MR] [--out docs/images]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from diffatlas_app.serve import serve


def main() -> None:
    parser = argparse.ArgumentParser(description="Screenshots of the web demo after a real run.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "images")
    parser.add_argument("--preset", default="Watch", choices=["Fast", "Watch", "As published"])
    parser.add_argument("--example", default="CT", choices=["CT", "MR"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    served = serve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, name in (("light", "app.png"), ("dark", "app-dark.png")):
            page = browser.new_page(
                viewport={"width": 1280, "height": 900}, color_scheme=scheme, device_scale_factor=1.5
            )
            page.goto(served.url)
            page.get_by_text("Ready: press Run").wait_for(timeout=180_000)
            page.click(f"#examples >> text={options.example}")
            page.click(f"#preset >> text={options.preset}")
            page.get_by_text("Ready: press Run").wait_for(timeout=180_000)
            page.click("#run")
            page.locator(".da-download").first.wait_for(timeout=1_800_000)
            page.wait_for_timeout(500)
            page.screenshot(path=options.out / name, full_page=True)
            print(options.out / name)
            page.close()
        browser.close()
    served.close()


if __name__ == "__main__":
    main()
