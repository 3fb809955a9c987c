"""Pictures of the region and the other tabs on real runs: `napari-SCENE-THEME.png`.

    python docs/make_pictures/napari_tabs.py OUT [--pairs 4] [--only region]

Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python ...``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari_screenshot import SIZE, wait
from qtpy.QtWidgets import QScrollArea

from diffatlas.geometry.grid import Grid
from diffatlas.io import write_volume
from diffatlas.phantom import phantom
from napari_diffatlas.sample_data import heart_ct
from napari_diffatlas.viewer.box import BOX
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.widget import DiffAtlasWidget

THEMES = ("dark", "light")
SEED = 800_012  # a heart that no model was trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--only", choices=tuple(SCENES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        if options.only in (None, name):
            for path in pictures(options.out, name, scene, options):
                print(path, flush=True)


def pictures(out: Path, name: str, scene: Any, options: argparse.Namespace) -> Iterator[Path]:
    """Play a scene in a fresh viewer; a picture of its end in either theme."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(*SIZE)
    widget = DiffAtlasWidget(viewer)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    wait(lambda: False, 1.0)  # the window takes its size
    scene(viewer, widget, options)
    for theme in THEMES:
        viewer.theme = theme
        wait(lambda: False, 1.0)
        path = out / f"napari-{name}-{theme}.png"
        viewer.screenshot(str(path), canvas_only=False, flash=False)
        yield path
    viewer.close()


def metal_heart() -> tuple[Any, dict[str, Any], Any, tuple[int, int, int]]:
    """A heart with a rod of metal and the shadow that it throws: voxels, the layer's arguments, what of them is not to
    be believed (bool), and the middle of the rod (voxels)."""
    volume, _truth = phantom(SEED, "ct")
    data, state, _kind = volume_to_layer(volume)
    middle = 52, 50, 48
    at = np.indices(data.shape) - np.array(middle).reshape(3, 1, 1, 1)
    across, along = np.hypot(at[0], at[2]), np.abs(at[1])
    data = np.where((across < 4) & (along < 14), 3000.0, data)
    data = np.where((np.abs(at[2]) < 3) & (across >= 4) & (across < 26) & (along < 14), -900.0, data)
    where = (across < 28) & (np.abs(at[2]) < 6) & (along < 17)
    return data.astype(np.float32), state | {"name": "heart CT with metal"}, where, middle


def cross_out(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """A heart with a piece of metal, which is crossed out; what the atlas drew there has a white line around it."""
    data, state, where, middle = metal_heart()
    viewer.add_image(data, **state)
    viewer.reset_view()
    panel, tab = widget.segment.panel, widget.segment
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart"))
    panel.options.presets.choose("fast")
    tab.region.cursor_button.click()
    tab.cross_out.start_button.click()
    crossed = viewer.layers.selection.active
    crossed.data[...] = where
    crossed.refresh()
    viewer.dims.set_point((0, 1, 2), tuple(crossed.data_to_world(middle)))
    panel.run_button.click()
    wait(lambda: not widget.running, 1200)
    viewer.layers[BOX].visible = False
    bar = tab.findChild(QScrollArea).verticalScrollBar()
    bar.setValue(bar.maximum() // 3)


def four(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """The fifteenth of 40 steps in four views."""
    data, state, _kind = heart_ct()[0]
    viewer.add_image(data, **state)
    viewer.reset_view()
    panel, tab = widget.segment.panel, widget.segment
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart-phantom"))
    panel.options.advanced.form["guidance_noise"].value = 1.0
    tab.region.cursor_button.click()
    viewer.layers[BOX].visible = False
    panel.run_button.click()
    wait(lambda: not widget.running, 1200)
    tab.scrubber.slider.setValue(14)
    tab.scrubber.see.choose("four")
    wait(lambda: False, 1.0)
    tab.findChild(QScrollArea).ensureWidgetVisible(tab.scrubber.plot)


def region(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """A chest in which the heart is not in the middle; the search has found it."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    shape = np.array([118, 100, 110])
    affine[:3, 3] = -np.array([40.0, -30.0, 45.0]) - 3.0 * (shape - 1) / 2
    volume, _truth = phantom(SEED, "ct", Grid((118, 100, 110), affine))
    data, state, _kind = volume_to_layer(volume)
    viewer.add_image(data, **(state | {"name": "chest CT"}))
    viewer.reset_view()
    widget.segment.panel.about.collapse(animate=False)
    widget.segment.region.find_button.click()
    wait(lambda: not widget.running)
    viewer.dims.set_point(2, 0.0)


def atlas(viewer: Any, widget: DiffAtlasWidget, options: argparse.Namespace) -> None:
    """Pairs in the gallery, the first opened."""
    widget.tabs.setCurrentWidget(widget.atlas)
    widget.atlas.form["count"].value = options.pairs
    widget.atlas.draw_button.click()
    wait(lambda: not widget.running, 1200)
    widget.atlas.gallery.item(0).setSelected(True)
    widget.atlas.open_button.click()
    widget.atlas.gallery.scrollToTop()
    viewer.reset_view()


def compare(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """The fast preset against the phantom's truth."""
    for data, state, kind in heart_ct():
        (viewer.add_image if kind == "image" else viewer.add_labels)(data, **state)
    viewer.reset_view()
    widget.segment.panel.options.presets.choose("fast")
    widget.segment.panel.model_combo.setCurrentIndex(widget.segment.panel.model_combo.findData("heart-phantom"))
    widget.segment.panel.run_button.click()
    wait(lambda: not widget.running)
    widget.tabs.setCurrentWidget(widget.compare)
    tab = widget.compare
    tab.form["labels"].value = viewer.layers["phantom CT labels, seed 0"]
    tab.form["reference"].value = viewer.layers["phantom CT truth"]
    tab.compare_button.click()
    wait(lambda: bool(tab.table.rows()))
    for layer in viewer.layers:
        layer.visible = layer.name in ("phantom CT", "disagreement")


def folder(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """Three hearts, one of them no image; the first opened."""
    with tempfile.TemporaryDirectory() as parent:
        cases = Path(parent) / "patients"
        cases.mkdir()
        for number, name in enumerate(("case-101_baseline", "case-101_follow-up", "case-102_baseline")):
            if number == 1:
                (cases / f"{name}.nii.gz").write_text("a letter, not an image")
            else:
                write_volume(phantom(SEED + number, "ct")[0], cases / f"{name}.nii.gz")
        widget.segment.panel.options.presets.choose("fast")
        widget.segment.panel.model_combo.setCurrentIndex(widget.segment.panel.model_combo.findData("heart-phantom"))
        tab = widget.folder
        widget.tabs.setCurrentWidget(tab)
        tab.form["images"].value, tab.form["results"].value = cases, f"{cases}-labels"
        tab.run_button.click()
        wait(lambda: not widget.running, 1200)
        tab.table.cellDoubleClicked.emit(0, 0)
        for key, name in (("images", "patients"), ("results", "patients-labels")):
            tab.form[key].line_edit.value = name  # where it lies on this machine is no matter
        viewer.reset_view()


def review(viewer: Any, widget: DiffAtlasWidget, _: argparse.Namespace) -> None:
    """Three hearts; the second in sight, the first accepted."""
    with tempfile.TemporaryDirectory() as parent:
        cases = Path(parent) / "patients"
        cases.mkdir()
        for number in range(3):
            write_volume(phantom(SEED + number, "ct")[0], cases / f"case-{101 + number}.nii.gz")
        panel, tab = widget.segment.panel, widget.review
        panel.options.presets.choose("fast")
        panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart-phantom"))
        widget.tabs.setCurrentWidget(tab)
        tab.images_edit.value, tab.results_edit.value = cases, Path(f"{cases}-labels")
        tab.start_button.click()
        wait(tab.accept_button.isEnabled, 1200)
        tab.accept_button.click()
        wait(tab.accept_button.isEnabled, 1200)
        tab.reason_edit.setText("")
        viewer.reset_view()
        for edit, name in ((tab.images_edit, "patients"), (tab.results_edit, "patients-labels")):
            edit.line_edit.value = name  # where it lies on this machine is no matter


SCENES = {
    "cross-out": cross_out,
    "four": four,
    "region": region,
    "compare": compare,
    "atlas": atlas,
    "folder": folder,
    "review": review,
}


if __name__ == "__main__":
    main()
