"""Edit, continue, undo, paint: in a real viewer, on a fake engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from diffatlas.geometry.grid import reorient
from diffatlas.geometry.volume import MMWHS, Volume
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.viewer.live_layers import LIVE_CONFIDENCE, LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend, model_grid
from tests.gui.conftest import LongBackend

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]
LV, RV = MMWHS.ids[:2]


@pytest.fixture
def finished(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> tuple[Any, DiffAtlasWidget, FakeBackend]:
    """Viewer, widget and backend after a first run."""
    viewer = make_napari_viewer_proxy()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    assert not widget.segment.edit.continue_button.isEnabled()
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    return viewer, widget, backend


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def hold(widget: DiffAtlasWidget, held: bool) -> None:
    widget.segment.edit.hold_combo.setCurrentIndex(widget.segment.edit.hold_combo.findData(held))


@pytest.mark.parametrize("held", [True, False])
def test_the_engine_gets_the_edit_and_what_of_it_is_held(finished: Any, qtbot: Any, volume: Volume, held: bool) -> None:
    viewer, widget, backend = finished
    layer = viewer.layers["case 7 labels, seed 0"]
    before = layer.data.copy()
    layer.data[3:6, 4:7, 5:8] = RV
    changed = layer.data != before
    widget.segment.edit.noise_slider.setValue(35)
    hold(widget, held)
    widget.segment.edit.continue_button.click()
    wait_for_end(qtbot, widget)
    edit = backend.requests[1].edit
    assert backend.requests[1].task == "segment"
    assert edit is not None
    assert edit.t == 0.35
    turned = volume.grid.to_canonical()  # the engine is given the file's own voxels, the brush paints on displayed ones
    assert np.array_equal(reorient(np.array([0, *MMWHS.ids])[edit.labels], turned), layer.data)
    if held:
        assert np.array_equal(reorient(edit.pinned, turned), changed)
    else:
        assert edit.pinned is None
    assert backend.volumes[1].sha256() == backend.volumes[0].sha256()
    assert not layer.visible
    assert viewer.layers["case 7 labels, seed 0, edited"].visible


def test_nothing_to_hold_and_ids_without_a_structure_are_told(finished: Any) -> None:
    viewer, widget, backend = finished
    hold(widget, True)
    widget.segment.edit.continue_button.click()
    assert "nothing is edited" in widget.segment.panel.status.text()
    viewer.layers["case 7 labels, seed 0"].data[0, 0, 0] = 3  # napari lets one paint any number
    widget.segment.edit.continue_button.click()
    assert "ids [3]" in widget.segment.panel.status.text()
    assert not widget.running
    assert len(backend.requests) == 1


def test_undo_takes_back_the_edit_then_the_run(finished: Any, qtbot: Any) -> None:
    viewer, widget, _ = finished
    first = viewer.layers["case 7 labels, seed 0"]
    made = first.data.copy()
    first.data[3:6, 4:7, 5:8] = RV
    painted = first.data.copy()
    hold(widget, False)
    widget.segment.edit.continue_button.click()
    wait_for_end(qtbot, widget)
    second = viewer.layers["case 7 labels, seed 0, edited"]
    assert [widget.segment.edit.result_combo.itemText(i) for i in range(2)] == [first.name, second.name]
    assert widget.segment.scrubber.slider.maximum() > 0
    widget.segment.edit.undo_button.click()
    assert (first.visible, second.visible) == (True, False)
    assert np.array_equal(first.data, painted)  # an earlier result, with its edit
    assert widget.segment.scrubber.isHidden()  # the steps of that run are gone
    widget.segment.edit.undo_button.click()
    assert np.array_equal(first.data, made)
    widget.segment.edit.undo_button.click()
    assert widget.segment.panel.status.text() == "There is no earlier result."
    viewer.layers.remove(second)
    widget.segment.edit.result_combo.setCurrentIndex(1)  # a deleted result comes back
    assert "case 7 labels, seed 0, edited" in viewer.layers
    assert (first.visible, second.visible) == (False, True)
    assert not widget.segment.scrubber.isHidden()


def test_a_run_that_holds_is_edited_on_its_live_labels(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    qtbot.waitUntil(lambda: LIVE_LABELS in viewer.layers, timeout=90_000)
    assert not widget.segment.edit.continue_button.isEnabled()
    widget.segment.panel.pause_button.click()
    qtbot.waitUntil(lambda: widget.segment.panel.paused, timeout=90_000)
    live = viewer.layers[LIVE_LABELS]
    assert viewer.layers.selection.active.name == LIVE_LABELS
    assert live.selected_label == LV
    grid = model_grid(volume)
    # A box of 3 x 3 x 3 voxels of 2 mm around the middle of the model's grid, painted with the right ventricle.
    middle = tuple(np.rint(live.world_to_data(grid.to_world((8, 8, 8)))).astype(int))
    live.data[...] = 0
    live.data[tuple(slice(m - 1, m + 2) for m in middle)] = RV
    hold(widget, False)
    backend.finish.set()
    widget.segment.edit.continue_button.click()  # ends the run that holds and starts the next
    wait_for_end(qtbot, widget)
    assert len(backend.requests) == 2
    edit = backend.requests[1].edit
    asked = backend.volumes[1]
    assert edit is not None
    assert asked is not None
    found = np.argwhere(edit.labels)
    assert set(np.unique(edit.labels)) == {0, MMWHS.ids.index(RV) + 1}
    # The same box in the world, on the voxels of the patient's oblique image.
    inside = np.abs(grid.to_voxel(asked.grid.to_world(found.astype(float))) - 8).max()
    assert inside <= 1.5
    assert len(found) * asked.grid.voxel_volume_ml == pytest.approx(27 * 0.008, rel=0.35)
    assert backend.open_runs == 0


def test_an_image_is_painted_onto_the_mask(finished: Any, qtbot: Any, volume: Volume) -> None:
    viewer, widget, backend = finished
    widget.segment.edit.paint_button.click()
    wait_for_end(qtbot, widget)
    request = backend.requests[1]
    assert request.task == "paint"
    assert request.edit.labels.any()
    painted = viewer.layers["case 7 painted, seed 0"]
    grid = model_grid(volume)
    for voxel in ((0, 0, 0), (15, 0, 3)):
        assert painted.data_to_world(voxel) == pytest.approx(grid.to_world(voxel))
    assert widget.segment.panel.status.text().startswith("Done in ")
    assert len(widget._scene.results) == 1  # the labels are as they were
    widget.segment.edit.result_combo.setCurrentIndex(0)
    assert viewer.layers["case 7 labels, seed 0"].visible


def test_several_samples_give_a_confidence_layer_and_a_spread(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.options.advanced.form["samples"].value = 3
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert np.all(viewer.layers[LIVE_CONFIDENCE].data == 0.5)
    # Half sure on average: the result is said to be uncertain.
    native = viewer.layers["case 7 confidence, labels, seed 0 (uncertain)"]
    assert native.data.shape == data.shape
    looked_at = np.isfinite(native.data)  # the fake looks at 32 mm in the middle of 48 x 40 x 54
    assert 0.2 < looked_at.mean() < 0.4
    assert np.all(native.data[looked_at] == 0.5)
    result = widget._scene.results[0].result
    rows = widget.segment.volumes.rows()
    assert [row[0] for row in rows] == list(MMWHS.names)
    for name, ml, spread, *_ in rows:
        several = [mask.volumes_ml()[name] for mask in result.masks]
        assert ml == f"{result.volumes_ml[name]:.2f}"
        assert spread == f"{np.std(several, ddof=1):.2f}"
    assert not widget.segment.volumes.table.isColumnHidden(2)
    names = [widget.segment.panel.image_combo.itemText(i) for i in range(widget.segment.panel.image_combo.count())]
    assert names == ["case 7"]  # what we drew is not offered as an image to segment
    widget.segment.volumes.copy_button.click()
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    lines = clipboard.text().split("\n")
    assert lines[0] == "Structure\tml\tSD, ml"
    assert lines[1:] == ["\t".join(row[:3]) for row in rows]


def test_one_sample_has_volumes_and_no_spread(finished: Any) -> None:
    _, widget, _ = finished
    assert widget.segment.volumes.table.isColumnHidden(2)
    made = widget._scene.results[0].result.volumes_ml
    assert [row[:2] for row in widget.segment.volumes.rows()] == [[name, f"{ml:.2f}"] for name, ml in made.items()]
