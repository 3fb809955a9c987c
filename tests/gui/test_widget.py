"""The widget in a real viewer, on a fake engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.utils import progress

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import reorient
from diffatlas.geometry.volume import MMWHS, Volume
from diffatlas.session import Plan
from napari_diffatlas.forms.parts import ERROR_COLORS
from napari_diffatlas.tabs.segment import EMPTY_HINT
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.viewer.live_layers import LIVE_IMAGE, LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend, model_grid
from tests.gui.conftest import LongBackend, fake_plan

# napari draws slices of oblique volumes as if they were straight, and says so each time.
pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


def add(viewer: Any, volume: Volume) -> Any:
    data, state, _ = volume_to_layer(volume)
    return viewer.add_image(data, **state)


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def wait_for_steps(qtbot: Any, viewer: Any, widget: DiffAtlasWidget, steps: int = 2) -> None:
    qtbot.waitUntil(
        lambda: LIVE_LABELS in viewer.layers and widget.segment.panel.progress.value() >= steps, timeout=90_000
    )


def labels_at(layer: Any, world_mm: Any) -> int:
    """The label a layer shows at a point of the world."""
    index = tuple(np.rint(layer.world_to_data(world_mm)).astype(int))
    return int(layer.data[index])


def test_a_run_streams_and_leaves_labels_on_the_voxels_of_the_image(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    image = add(viewer, volume)
    before = image.data.copy()
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.options.advanced.form["seed"].value = 4
    widget.segment.panel.run_button.click()
    assert not widget.segment.panel.run_button.isEnabled()
    assert widget.segment.panel.stop_button.isEnabled()
    wait_for_steps(qtbot, viewer, widget)
    live = viewer.layers[LIVE_LABELS]
    shown = live.data.copy()
    assert widget.segment.panel.progress_text.text().startswith("step ")
    qtbot.waitUntil(lambda: not np.array_equal(live.data, shown), timeout=90_000)
    backend.finish.set()
    wait_for_end(qtbot, widget)

    assert [layer.name for layer in viewer.layers] == [
        "case 7",
        LIVE_IMAGE,
        LIVE_LABELS,
        "case 7 labels, seed 4",
    ]
    labels = viewer.layers["case 7 labels, seed 4"]
    assert backend.volumes[0] is not None
    truth = backend.labels_at(backend.volumes[0].grid, 1.0, seed=4)
    assert np.array_equal(labels.data, reorient(truth.to_ids(), volume.grid.to_canonical()))
    assert np.array_equal(labels.affine.affine_matrix, image.affine.affine_matrix)
    assert labels.data.shape == image.data.shape
    assert {str(unit) for unit in labels.units} == {"millimeter"}
    assert labels.axis_labels == ("x", "y", "z")
    assert labels.metadata["diffatlas"]["provenance"]["request"]["seed"] == 4
    assert not viewer.layers[LIVE_IMAGE].visible
    assert not viewer.layers[LIVE_LABELS].visible
    assert np.array_equal(image.data, before)
    assert widget.segment.panel.status.text().startswith("Done in ")
    assert widget.segment.panel.run_button.isEnabled()
    assert backend.open_runs == 0


def test_what_the_engine_is_asked_for(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    panel = widget.segment.panel
    assert panel.options.presets.chosen == "watch"
    panel.model_combo.setCurrentIndex(panel.model_combo.findText("Hippocampus (MRI)"))
    assert "posterior" in panel.model_text.text()
    assert "Cropped T1 MRI at 1 mm." in panel.about_text.text()
    panel.options.presets.choose("published")
    panel.options.advanced.form["seed"].value = 11
    panel.run_button.click()
    wait_for_end(qtbot, widget)
    (request,) = backend.requests
    assert (request.model, request.preset, request.seed) == ("hippocampus-mri", "published", 11)
    (asked,) = backend.volumes
    assert asked is not None
    assert (asked.name, asked.modality, asked.grid.axis_codes) == ("case 7", "mr", "LPS")
    assert asked.sha256() == volume.sha256()  # the engine is given the file's own voxels, whatever is displayed


def test_live_layers_lie_where_the_model_looks(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = FakeBackend(scheme=MMWHS)
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    grid = model_grid(volume)  # its own middle is that of the oblique volume
    layer = viewer.layers[LIVE_IMAGE]
    for voxel in ((0, 0, 0), (15, 0, 0), (0, 15, 0), (0, 0, 15)):
        assert layer.data_to_world(voxel) == pytest.approx(grid.to_world(voxel))
    assert labels_at(viewer.layers[-1], volume.grid.centre_mm) == 500  # the innermost shell of the fake heart


def test_layers_of_another_convention_get_labels_in_their_own(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    """A z, y, x stack in micrometres, as a microscope's reader gives it: everything stays in that world."""
    viewer = make_napari_viewer_proxy()
    data = np.random.default_rng(0).random((30, 40, 50))
    arguments = {"axis_labels": ("z", "y", "x"), "units": ("um",) * 3}
    image = viewer.add_image(data, scale=(3000, 2000, 1000), translate=(5000, 0, 0), name="stack", **arguments)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget)
    live = viewer.layers[LIVE_IMAGE]
    assert backend.volumes[0] is not None
    middle = image.data_to_world((14.5, 19.5, 24.5))
    box = live.extent.world
    assert box.mean(axis=0) == pytest.approx(np.array(middle))
    assert (box[1] - box[0]) == pytest.approx(15 * 2000)  # 16 voxels of 2 mm, centre to centre, in micrometres
    backend.finish.set()
    wait_for_end(qtbot, widget)
    labels = viewer.layers["stack labels, seed 0"]
    assert labels.data.shape == data.shape
    assert labels.axis_labels == ("z", "y", "x")
    assert labels.data_to_world((1, 2, 3)) == pytest.approx(np.array(image.data_to_world((1, 2, 3))))
    assert viewer.dims.order == (0, 1, 2)  # only our own x, y, z volumes turn the view


def test_stop_ends_within_a_step_and_keeps_what_is_drawn(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = LongBackend(delay_s=0.05)
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget)
    widget.segment.panel.stop_button.click()
    made = backend.frames_made
    assert widget.segment.panel.status.text().startswith("Stopping")
    wait_for_end(qtbot, widget)
    assert backend.frames_made <= made + 1  # the step that was on its way
    assert backend.open_runs == 0
    assert widget.segment.panel.status.text().startswith("Stopped after ")
    assert [layer.name for layer in viewer.layers] == ["case 7", LIVE_IMAGE, LIVE_LABELS]
    widget.segment.panel.run_button.click()
    assert widget.running
    widget.segment.panel.stop_button.click()
    wait_for_end(qtbot, widget)
    assert backend.open_runs == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [(RuntimeError("CUDA out of memory"), "CUDA out of memory"), (BadInput("the volume is too thin"), "too thin")],
)
def test_an_error_in_the_engine_is_shown_and_the_widget_lives_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume, error: Exception, words: str
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = FakeBackend(fail_at=1, error=error)
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert words in widget.segment.panel.status.text()
    assert ERROR_COLORS[True] in widget.segment.panel.status.styleSheet()
    assert widget.segment.panel.run_button.isEnabled()
    backend.fail_at = None
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert widget.segment.panel.status.text().startswith("Done in ")
    assert widget.segment.panel.status.styleSheet() == ""


def test_a_layer_that_cannot_be_used_is_told_at_once(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    viewer = make_napari_viewer_proxy()
    viewer.add_image(np.zeros((20, 30)), name="photo")
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    assert not widget.running
    assert "'photo' is 2-D" in widget.segment.panel.status.text()
    assert widget.segment.panel.run_button.isEnabled()
    assert backend.requests == []


def test_layers_deleted_during_the_run(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget)
    viewer.layers.remove("case 7")
    viewer.layers.remove(LIVE_LABELS)
    step = widget.segment.panel.progress.value()
    qtbot.waitUntil(lambda: widget.segment.panel.progress.value() > step, timeout=90_000)
    backend.finish.set()
    wait_for_end(qtbot, widget)
    assert [layer.name for layer in viewer.layers] == [LIVE_IMAGE, "case 7 labels, seed 0"]
    assert widget.segment.panel.status.text().startswith("Done in ")
    assert not widget.segment.panel.run_button.isEnabled()  # there is no image left to run on


def test_results_pile_up_and_live_layers_do_not(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    widget = open_widget(viewer, FakeBackend())
    for seed in (0, 1):
        widget.segment.panel.options.advanced.form["seed"].value = seed
        widget.segment.panel.run_button.click()
        wait_for_end(qtbot, widget)
    names = sorted(layer.name for layer in viewer.layers)
    assert names == [LIVE_IMAGE, LIVE_LABELS, "case 7", "case 7 labels, seed 0", "case 7 labels, seed 1"]
    first, second = (viewer.layers[f"case 7 labels, seed {seed}"].data for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_the_image_list_follows_the_viewer(make_napari_viewer_proxy: Any, open_widget: Open, volume: Volume) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    combo = widget.segment.panel.image_combo
    assert not widget.segment.panel.run_button.isEnabled()
    assert widget.segment.panel.status.text() == EMPTY_HINT
    layer = add(viewer, volume)
    viewer.add_labels(np.zeros((4, 4, 4), int))
    assert [combo.itemText(i) for i in range(combo.count())] == ["case 7"]
    assert widget.segment.panel.run_button.isEnabled()
    assert widget.segment.panel.status.text() == ""
    other = viewer.add_image(np.zeros((4, 4, 4)), name="other")
    assert combo.currentText() == "other"  # what was opened last is the next patient
    layer.name = "case 8"
    assert [combo.itemText(i) for i in range(combo.count())] == ["case 8", "other"]
    viewer.layers.remove(other)
    viewer.layers.remove(layer)
    assert not widget.segment.panel.run_button.isEnabled()


def test_x_y_z_volumes_face_the_reader_and_a_turned_view_is_left_alone(
    make_napari_viewer_proxy: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    open_widget(viewer, FakeBackend())
    add(viewer, volume)
    assert viewer.dims.order == (2, 1, 0)  # axial slices
    camera = getattr(viewer, "scene", viewer).camera  # moved in napari 0.9
    assert [str(side) for side in camera.orientation] == ["away", "up", "left"]
    viewer.dims.order = (0, 2, 1)
    add(viewer, volume)
    assert viewer.dims.order == (0, 2, 1)


def test_no_model_no_run(
    make_napari_viewer_proxy: Any, open_widget: Open, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffatlas import session

    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    monkeypatch.setattr(session, "available_models", lambda: ())
    widget = DiffAtlasWidget(viewer)
    assert "No model is installed" in widget.segment.panel.model_text.text()
    assert not widget.segment.panel.run_button.isEnabled()
    widget.close()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_errors_are_red_on_any_ground(make_napari_viewer_proxy: Any, open_widget: Open, theme: str) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    widget.segment.panel.set_status("broken", error=True)
    viewer.theme = theme
    assert ERROR_COLORS[theme == "dark"] in widget.segment.panel.status.styleSheet()


def test_closing_the_viewer_stops_the_run(
    make_napari_viewer: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer()
    add(viewer, volume)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget)
    del widget
    viewer.close()
    qtbot.waitUntil(lambda: backend.open_runs == 0, timeout=90_000)


def test_only_images_and_labels_are_made(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    widget = open_widget(viewer, FakeBackend())
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert isinstance(viewer.layers[1], Image)
    assert isinstance(viewer.layers[2], Labels)
    labels = viewer.layers[3]
    assert isinstance(labels, Labels)
    assert set(np.unique(labels.data)) <= {0, *MMWHS.ids}
    centre = np.array(labels.data_to_world(np.array(labels.data.shape) // 2))
    assert "left ventricle" in labels.get_status(centre, world=True)["coordinates"]


def test_pause_holds_the_run_and_resume_lets_it_go_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    panel = widget.segment.panel
    panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget)
    # napari's own activity bar, which follows after the window is painted
    qtbot.waitUntil(lambda: [bar.total for bar in progress._all_instances] == [backend.total], timeout=90_000)
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.pause_button.text() == "Resume", timeout=90_000)
    made = panel.progress.value()  # the step it holds at is the one that is shown
    assert panel.status.text() == f"Paused after {made} steps."
    assert widget.running
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.progress.value() > made, timeout=90_000)
    assert panel.pause_button.text() == "Pause"
    panel.pause_button.click()
    qtbot.waitUntil(lambda: panel.pause_button.text() == "Resume", timeout=90_000)
    made = backend.frames_made
    panel.stop_button.click()
    wait_for_end(qtbot, widget)
    assert (backend.frames_made, backend.open_runs) == (made, 0)
    assert not list(progress._all_instances)


def test_after_a_run_the_time_of_others_and_what_auto_chose_are_known(open_page: Any, volume: Volume) -> None:
    seconds: list[float] = []

    def plan(volume: Volume | None, request: Request) -> Plan:
        return replace(fake_plan(volume, request), seconds=seconds[-1] if seconds else None)

    page = open_page(FakeBackend(before=lambda: seconds.append(42.0)), plan)
    page.add(volume)
    options = page.widget.segment.panel.options
    assert "announced once" in options.preset_text.text()
    page.run()
    assert "about 42 s here" in options.preset_text.text()
    assert options.device_text.text() == "auto chose cpu, fp32"


def test_a_search_is_said_while_it_goes_on(open_page: Any, volume: Volume) -> None:
    gate = threading.Event()

    def plan(volume: Volume | None, request: Request) -> Plan:
        return replace(fake_plan(volume, request), search=volume is not None and request.roi is None)

    page = open_page(FakeBackend(before=gate.wait), plan)
    page.add(volume)
    page.press_run()
    assert page.status.startswith("Searching the image")
    gate.set()
    page.wait_for_end()
    page.place_box_at_cursor()
    gate.clear()
    page.press_run()
    assert page.status == "Loading the model ..."
    gate.set()
    page.wait_for_end()


def test_scrubbing_shows_the_steps_again_and_the_result_at_the_end(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.options.advanced.form["steps"].value = 6
    assert not widget.segment.scrubber.isVisible()
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    live, result = viewer.layers[LIVE_LABELS], viewer.layers["case 7 labels, seed 0"]
    assert (live.visible, result.visible) == (False, True)
    grid = model_grid(volume)
    for index in (2, 0, 4):
        widget.segment.scrubber.slider.setValue(index)
        assert (live.visible, result.visible) == (True, False)
        assert viewer.layers[LIVE_IMAGE].visible
        wanted = backend.labels_at(grid, (index + 1) / 6).to_ids()
        assert np.array_equal(live.data, wanted)
        assert widget.segment.scrubber.text.text().startswith(f"Step {index + 1} of 6")
    plot = widget.segment.scrubber.plot
    plot.clicked.emit(plot.index_at(plot.x_of(1)))  # a click in the plot moves the slider and the layers
    assert widget.segment.scrubber.slider.value() == 1
    assert np.array_equal(live.data, backend.labels_at(grid, 2 / 6).to_ids())
    widget.segment.scrubber.newest_button.click()
    assert (live.visible, result.visible) == (False, True)
    assert np.array_equal(live.data, backend.labels_at(grid, 1.0).to_ids())


def test_looking_back_during_a_run_stays_there_while_the_run_goes_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, volume)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    wait_for_steps(qtbot, viewer, widget, steps=4)
    widget.segment.scrubber.slider.setValue(0)
    live = viewer.layers[LIVE_LABELS]
    first = live.data.copy()
    step = widget.segment.panel.progress.value()
    qtbot.waitUntil(lambda: widget.segment.panel.progress.value() > step + 3, timeout=90_000)
    assert np.array_equal(live.data, first)
    assert widget.segment.scrubber.slider.value() == 0
    backend.finish.set()
    wait_for_end(qtbot, widget)
    assert widget.segment.scrubber.index is None  # the result is what was waited for
    assert viewer.layers["case 7 labels, seed 0"].visible
