"""A session in napari on real data, checked as it goes, with pictures, and the film of a run.

    python docs/make_pictures/napari_session.py [OUT] [--film] [--theme light] [--preset fast]

Opens a hippocampus MRI and the heart CT from ../shared/data and an oblique copy of the phantom heart; of each: runs,
walks back, paints, continues, saves the labels, opens the saved file and compares it voxel for voxel with what was
shown, and with what the file holds. ``--film`` writes napari-run.gif (90 frames, README and hub page) instead.
Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python ...``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari_screenshot import wait
from PIL import Image

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_label_ids, read_volume, write_volume
from diffatlas.render import write_gif
from diffatlas.session import example
from napari_diffatlas.reader import read
from napari_diffatlas.sample_data import heart_ct
from napari_diffatlas.viewer.box import BOX
from napari_diffatlas.widget import DiffAtlasWidget
from napari_diffatlas.writer import write_labels

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SHARED = ROOT / ".." / "shared" / "data"
HIPPOCAMPUS = SHARED / "hippocampus" / "images" / "hippocampus_378.nii.gz"
HEART = SHARED / "ct_mr" / "heart_ct.nii.gz"
SIZE = (1280, 800)
FILM_FRAMES = 90
FILM_STEPS = 40
RUN_TIMEOUT_S = 3000.0
ZOOM_3D = 1.4
FILM_WIDTH_PX = 800
TURN_DEG = (20.0, 12.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=IMAGES, help="folder for the pictures")
    parser.add_argument("--film", action="store_true", help="write the film of a run")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--preset", choices=("fast", "watch"), default="watch")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.film:
        film(options.out / "napari-run.gif", options.theme)
        return
    with tempfile.TemporaryDirectory() as folder:
        oblique = write_oblique(Path(folder) / "oblique.nii.gz")
        for path, model, picture in (
            (HIPPOCAMPUS, "hippocampus-mri", "napari-session-hippocampus"),
            (HEART, "heart-phantom", "napari-session-heart"),
            (oblique, "heart-phantom", None),
        ):
            if not path.is_file():
                print(f"{path.name}: not here, left out")
                continue
            session = Session(path, model, options.preset if picture else "fast", options.theme)
            session.play(Path(folder))
            if picture is not None:
                session.viewer.screenshot(str(options.out / f"{picture}.png"), canvas_only=False, flash=False)
                session.scrub_back()
                session.viewer.screenshot(str(options.out / f"{picture}-step.png"), canvas_only=False, flash=False)
            session.viewer.close()


class Session:
    """One image (None: the phantom heart, CT) in a window of its own, with the widget."""

    def __init__(self, path: Path | None, model: str, preset: str, theme: str) -> None:
        self.path = path
        self.name = "phantom heart" if path is None else path.name
        self.viewer = napari.Viewer(show=True, show_welcome_screen=False)
        self.viewer.theme = theme
        self.viewer.window.resize(*SIZE)
        self.widget = DiffAtlasWidget(self.viewer)
        self.viewer.window.add_dock_widget(self.widget, name="DiffAtlas")
        (data, state, _), *_rest = heart_ct() if path is None else read(str(path))
        self.viewer.add_image(data, **state)
        panel = self.widget.segment.panel
        panel.model_combo.setCurrentIndex(panel.model_combo.findData(model))
        panel.options.presets.choose(preset)
        wait(lambda: False, 1.0)  # the window takes its size
        self.viewer.reset_view()

    def play(self, folder: Path) -> None:
        """Run, walk back, paint, continue, save, reload, compare."""
        tab, viewer = self.widget.segment, self.viewer
        self.run(tab.panel.run_button)
        first = viewer.layers.selection.active
        for step in range(0, tab.scrubber.slider.maximum(), 5):
            tab.scrubber.slider.setValue(step)
        tab.scrubber.newest_button.click()
        structure = int(first.selected_label)
        at = np.rint(np.argwhere(first.data == structure).mean(axis=0)).astype(int)
        box = tuple(slice(max(a - 2, 0), a + 3) for a in at)
        first.data[box] = structure
        made = self.widget._scene.results[0].result.labels.to_ids()
        if np.array_equal(first.data, made):  # the structure was whole there already: take a piece away instead
            first.data[box] = 0
        first.refresh()
        tab.edit.noise_slider.setValue(30)
        painted = first.data.copy()
        self.run(tab.edit.continue_button)
        second = viewer.layers.selection.active
        held = np.mean(second.data[painted != made] == painted[painted != made])
        middle = second.data_to_world(np.argwhere(second.data).mean(axis=0))
        viewer.dims.set_point(range(3), tuple(float(m) for m in middle))
        for layer in (first, second):
            self.compare(layer, folder)
        volumes = self.widget._scene.results[-1].result.volumes_ml
        line = ", ".join(f"{name} {ml:.2f}" for name, ml in volumes.items())
        print(f"{self.name}: {line} ml; {held:.0%} of the edit held; saved and reloaded voxel for voxel")

    def run(self, button: Any) -> None:
        button.click()
        wait(lambda: not self.widget.running, RUN_TIMEOUT_S)
        status = self.widget.segment.panel.status.text()
        if not status.startswith("Done"):
            raise SystemExit(f"{self.name}: {status}")
        wait(lambda: False, 0.3)

    def scrub_back(self) -> None:
        slider = self.widget.segment.scrubber.slider
        slider.setValue(slider.maximum() // 3)
        wait(lambda: False, 0.3)

    def turn_to_3d(self) -> None:
        """The whole in 3-D, a little nearer."""
        self.viewer.dims.ndisplay = 3
        self.camera.zoom *= ZOOM_3D
        wait(lambda: False, 0.5)

    def turn(self, degrees: float) -> None:
        """Look at it from the front, upright, and ``degrees`` from there about its long axis."""
        at = np.deg2rad(degrees)  # the displayed axes are z, y, x
        self.camera.set_view_direction((0, -np.cos(at), -np.sin(at)), (1, 0, 0))

    @property
    def camera(self) -> Any:
        return getattr(self.viewer, "scene", self.viewer).camera  # moved in napari 0.9

    def compare(self, layer: Any, folder: Path) -> None:
        """Save, open again, and find every label where it was shown, on the voxels of the image's file."""
        target = folder / "labels.nii.gz"
        write_labels(str(target), *layer.as_layer_data_tuple()[:2])
        ((data, state, kind),) = read(str(target))
        again = napari.layers.Labels(data, **state)
        if kind != "labels" or not np.array_equal(again.data, layer.data):
            raise SystemExit(f"{self.name}: the labels that were saved are not those that were shown")
        corners = np.array([(0, 0, 0), layer.data.shape, (layer.data.shape[0], 0, 0)], dtype=float)
        for corner in corners:
            off = np.abs(np.subtract(layer.data_to_world(corner), again.data_to_world(corner))).max()
            if off > 1e-3:
                raise SystemExit(f"{self.name}: the labels moved by {off} mm on the way through the file")
        ids, grid = read_label_ids(target)
        source = read_volume(self.path).grid
        if not grid.same_as(source):
            raise SystemExit(f"{self.name}: the labels are not on the voxels of the file")
        for voxel in np.argwhere(ids)[:: max(1, np.count_nonzero(ids) // 500)]:
            shown = np.rint(layer.world_to_data(source.to_world(voxel.astype(float)))).astype(int)
            if layer.data[tuple(shown)] != ids[tuple(voxel)]:
                raise SystemExit(f"{self.name}: voxel {voxel} was shown elsewhere than it was saved")


def write_oblique(path: Path) -> Path:
    """The phantom heart, turned about two axes, its array in the order S, L, A."""
    heart, _ = example("heart-ct")
    a, b = np.deg2rad(TURN_DEG)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = np.eye(4)
    turn[:3, :3] = about_z @ about_x
    data = np.ascontiguousarray(heart.data.transpose(2, 0, 1)[:, ::-1])
    swap = np.zeros((4, 4))
    swap[2, 0], swap[0, 1], swap[1, 2], swap[3, 3] = 1, -1, 1, 1
    swap[0, 3] = heart.data.shape[0] - 1
    write_volume(Volume(data, Grid(data.shape, turn @ heart.grid.affine @ swap), "ct", "oblique"), path)
    return path


def film(path: Path, theme: str) -> None:
    """A run as one sees it: the window at each of its steps, the labels, then steps and labels in 3-D, turning."""
    session = Session(None, "heart-phantom", "watch", theme)
    viewer, tab = session.viewer, session.widget.segment
    tab.panel.options.advanced.form["steps"].value = FILM_STEPS
    tab.panel.options.advanced.form["guidance_noise"].value = 1.0  # as published: the noisiest start there is
    tab.region.cursor_button.click()  # the heart is in the middle
    viewer.layers[BOX].visible = False
    session.run(tab.panel.run_button)
    frames: list[Any] = []
    for step in range(FILM_STEPS):
        tab.scrubber.slider.setValue(step)
        frames.append(_picture(viewer))
    tab.scrubber.newest_button.click()
    frames.append(_picture(viewer))
    session.turn_to_3d()
    turning = FILM_FRAMES - len(frames)
    for number in range(turning):
        step = FILM_STEPS - 1 if number >= turning // 2 else round(number / (turning // 2) * (FILM_STEPS - 1))
        tab.scrubber.slider.setValue(step)
        for layer in viewer.layers:
            layer.visible = layer.visible and isinstance(layer, napari.layers.Labels)
        session.turn(360 * number / turning)
        frames.append(_picture(viewer))
    viewer.close()
    write_gif(frames, path, fps=10, hold_last_s=1)
    print(f"{path.name}: {len(frames)} frames, {path.stat().st_size / 2**20:.1f} MB")


def _picture(viewer: Any) -> Any:
    wait(lambda: False, 0.1)  # words and widgets take their size; the canvas is drawn anew for the picture
    shot = Image.fromarray(np.asarray(viewer.screenshot(canvas_only=False, flash=False))[..., :3])
    return np.asarray(
        shot.resize((FILM_WIDTH_PX, round(shot.height * FILM_WIDTH_PX / shot.width)), Image.Resampling.LANCZOS)
    )


if __name__ == "__main__":
    main()
