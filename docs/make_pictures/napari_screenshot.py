"""Pictures of the napari widget on a real run: `napari-running-THEME.png` and `napari-done-THEME.png`.

    python docs/make_pictures/napari_screenshot.py OUT [--theme light] [--model heart-phantom] [--preset watch]

Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python ...``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

from diffatlas.session import Backend
from napari_diffatlas.sample_data import heart_ct
from napari_diffatlas.widget import DiffAtlasWidget

SIZE = (1280, 800)
TIMEOUT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--model", default="heart-phantom")
    parser.add_argument("--preset", choices=("fast", "watch", "published"), default="watch")
    options = parser.parse_args()
    for path in make_pictures(options.out, options.theme, options.model, options.preset):
        print(path)


def make_pictures(
    out: Path, theme: str, model: str, preset: str, backend: Callable[[], Backend] | None = None
) -> list[Path]:
    """Run ``model`` on the phantom heart; a picture when half the noise is gone, and one of the labels."""
    out.mkdir(parents=True, exist_ok=True)
    running, done = out / f"napari-running-{theme}.png", out / f"napari-done-{theme}.png"
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.theme = theme
    viewer.window.resize(*SIZE)
    widget = DiffAtlasWidget(viewer, backend)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    for data, state, kind in heart_ct():
        (viewer.add_image if kind == "image" else viewer.add_labels)(data, **state)
    panel = widget.segment.panel
    panel.model_combo.setCurrentIndex(panel.model_combo.findData(model))
    panel.options.presets.choose(preset)
    wait(lambda: False, 1.0)  # the window takes its size
    viewer.reset_view()
    panel.run_button.click()
    half = wait(lambda: not widget.running or 2 * panel.progress.value() >= panel.progress.maximum() > 1)
    if half and widget.running:
        viewer.screenshot(str(running), canvas_only=False, flash=False)
    wait(lambda: not widget.running)
    if not panel.status.text().startswith("Done"):
        raise SystemExit(panel.status.text())
    wait(lambda: False, 0.5)
    viewer.screenshot(str(done), canvas_only=False, flash=False)
    viewer.close()
    return [path for path in (running, done) if path.is_file()]


def wait(condition: Callable[[], bool], seconds: float = TIMEOUT_S) -> bool:
    """Let the viewer live until ``condition`` holds; False when the time is up."""
    app: Any = QApplication.instance()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        app.processEvents()
        if condition():
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    main()
