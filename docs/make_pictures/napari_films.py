"""Films of the napari widget at work: `napari-review.webp` and `napari-cross-out.webp`.

    python docs/make_pictures/napari_films.py OUT [--only review] [--theme light]

Review: four phantom hearts by keyboard; one is accepted, one corrected with the brush, one rejected. Cross out: a heart
with a piece of metal is run, the metal and its shadow are brushed over, and the atlas fills them in. The strokes are
napari's own brush, a few voxels a frame. Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari_screenshot import SIZE, wait
from napari_tabs import SEED, metal_heart
from PIL import Image
from qtpy.QtWidgets import QScrollArea

from diffatlas import session
from diffatlas.cohort import Cohort, find_cases
from diffatlas.engine.request import Request
from diffatlas.io import write_volume
from diffatlas.phantom import phantom
from napari_diffatlas import commands
from napari_diffatlas.viewer.box import BOX
from napari_diffatlas.widget import DiffAtlasWidget

WIDTH_PX = 800
FRAME_MS = 120
QUALITY = 55
STEPS = 4  # of the run that is shown


class Film:
    """Pictures of a window, one after the other, as an animated WebP."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._frames: list[Image.Image] = []
        self._times_ms: list[int] = []

    def take(self, hold: float = 1.0) -> None:
        """The window as it is, for ``hold`` frames."""
        wait(lambda: False, 0.1)  # words and widgets take their size
        shot = Image.fromarray(np.asarray(self._viewer.screenshot(canvas_only=False, flash=False))[..., :3])
        size = WIDTH_PX, round(shot.height * WIDTH_PX / shot.width)
        self._frames.append(shot.resize(size, Image.Resampling.LANCZOS))
        self._times_ms.append(round(hold * FRAME_MS))

    def write(self, path: Path) -> None:
        first, *others = self._frames
        first.save(
            path, save_all=True, append_images=others, duration=self._times_ms, loop=0, quality=QUALITY, method=6
        )
        print(f"{path.name}: {len(self._frames)} frames, {path.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the films")
    parser.add_argument("--only", choices=tuple(FILMS))
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, play in FILMS.items():
        if options.only not in (None, name):
            continue
        viewer = napari.Viewer(show=True, show_welcome_screen=False)
        viewer.theme = options.theme
        viewer.window.resize(*SIZE)
        widget = DiffAtlasWidget(viewer)
        viewer.window.add_dock_widget(widget, name="DiffAtlas")
        wait(lambda: False, 1.0)  # the window takes its size
        film = Film(viewer)
        play(viewer, widget, film)
        film.write(options.out / f"napari-{name}.webp")
        viewer.close()


def review(viewer: Any, widget: DiffAtlasWidget, film: Film) -> None:
    """Accept, correct, reject; the list fills."""
    with tempfile.TemporaryDirectory() as parent:
        images, results = Path(parent) / "patients", Path(parent) / "patients-labels"
        images.mkdir()
        for number in range(4):
            write_volume(phantom(SEED + number, "ct")[0], images / f"case-{101 + number}.nii.gz")
        cases, _ = find_cases([images], results)
        request = Request(model="heart-phantom", preset="fast", roi=session.EXAMPLE_REGION)
        list(Cohort(cases, request, backend=session.local_backend).run())
        tab = widget.review
        widget.tabs.setCurrentWidget(tab)
        film.take(8)
        tab.images_edit.value, tab.results_edit.value = images, results
        tab.start_button.click()
        wait(tab.accept_button.isEnabled, 300)
        for edit, name in ((tab.images_edit, "patients"), (tab.results_edit, "patients-labels")):
            edit.line_edit.value = name  # where it lies on this machine is no matter
        film.take(8)
        look_through(viewer, film)
        go_on(tab, commands.review_accept)
        film.take(8)
        labels = viewer.layers.selection.active
        stroke(viewer, labels, film)
        film.take(6)
        go_on(tab, commands.review_accept)
        film.take(6)
        look_through(viewer, film)
        for end in range(1, len("moved") + 1):
            tab.reason_edit.setText("moved"[:end])
            film.take()
        film.take(6)
        go_on(tab, commands.review_reject)
        film.take(6)
        look_through(viewer, film)
        commands.review_accept()
        film.take(16)


def go_on(tab: Any, press: Callable[[], None]) -> None:
    """Press a key of the review and wait for the next patient."""
    before = tab._opened
    press()
    wait(lambda: tab._opened not in (None, before), 60)


def look_through(viewer: Any, film: Film) -> None:
    """A few slices down, and back to the middle."""
    axis = viewer.dims.order[0]  # across the slices
    step, count = viewer.dims.current_step[axis], viewer.dims.nsteps[axis]
    middle = viewer.dims.point[axis]
    for share in (0.06, 0.12, 0.06, -0.06, -0.12, -0.06):
        viewer.dims.set_current_step(axis, int(step + share * count))
        film.take()
    viewer.dims.set_point(axis, middle)
    film.take()


def stroke(viewer: Any, labels: Any, film: Film) -> None:
    """Napari's brush along the lower edge of what is labelled in the slice in sight."""
    z = round(float(labels.world_to_data(viewer.dims.point)[2]))
    there = labels.data[:, :, z]
    y = int(np.argwhere(there.any(axis=0))[0, 0])
    xs = np.argwhere(there[:, y])[:, 0]
    labels.selected_label = int(there[xs[len(xs) // 2], y])
    labels.brush_size = 8
    labels.mode = "paint"
    for x in range(int(xs.mean()) - 12, int(xs.mean()) + 13, 3):
        labels.paint((x, y, z), labels.selected_label)
        film.take()


def cross_out(viewer: Any, widget: DiffAtlasWidget, film: Film) -> None:
    """Metal and its shadow mislead the run; they are crossed out, and the atlas draws what lies there."""
    data, state, crossed, middle = metal_heart()
    viewer.add_image(data, **state)
    viewer.reset_view()
    panel, tab = widget.segment.panel, widget.segment
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart"))
    panel.about.collapse(animate=False)
    panel.options.presets.choose("fast")
    tab.region.cursor_button.click()
    viewer.layers[BOX].visible = False
    viewer.dims.set_point((0, 1, 2), tuple(viewer.layers[0].data_to_world(middle)))
    film.take(10)
    run(widget)
    film.take(14)
    tab.cross_out.start_button.click()
    layer = viewer.layers.selection.active
    film.take(4)
    across = np.indices(data.shape)[0] - middle[0]
    for end in range(-26, 29, 4):  # as far as the brush has come
        layer.data[...] = crossed & (across < end)
        layer.refresh()
        film.take()
    layer.data[...] = crossed
    layer.refresh()
    layer.events.paint(value=[])  # the form counts again
    wait(lambda: False, 0.3)
    film.take(6)
    panel.options.advanced.form["steps"].value = STEPS
    run(widget)
    for step in range(STEPS):
        tab.scrubber.slider.setValue(step)
        film.take(2)
    tab.scrubber.newest_button.click()
    bar = tab.findChild(QScrollArea).verticalScrollBar()
    bar.setValue(bar.maximum() // 3)
    film.take(20)


def run(widget: DiffAtlasWidget) -> None:
    widget.segment.panel.run_button.click()
    wait(lambda: not widget.running, 1200)
    if "Done" not in widget.segment.panel.status.text():
        raise SystemExit(widget.segment.panel.status.text())
    wait(lambda: False, 0.5)


FILMS: dict[str, Callable[[Any, DiffAtlasWidget, Film], None]] = {"review": review, "cross-out": cross_out}


if __name__ == "__main__":
    main()
