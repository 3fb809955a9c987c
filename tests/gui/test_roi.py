"""Where the model looks: at the cursor, in a drawn box, where the search found it; on a fake engine."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import field_of_view
from diffatlas.geometry.volume import Volume
from diffatlas.session import Look, Proposal
from napari_diffatlas.viewer.box import BOX, SKETCH
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend
from tests.gui.conftest import FIELD

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


@pytest.fixture
def large() -> Volume:
    """120 x 100 x 90 mm at 2 mm, axes L, P, S: larger than the fake's field of view, 32 mm."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = (59.0, 49.0, -44.0)
    data = np.random.default_rng(3).normal(100, 30, (60, 50, 45)).astype(np.float32)
    return Volume(data, Grid((60, 50, 45), affine), "mr", "large")


def add(viewer: Any, volume: Volume) -> Any:
    data, state, _ = volume_to_layer(volume)
    return viewer.add_image(data, **state)


def corners_of(box: Any) -> Any:
    """The corners of the box in the world."""
    ends = (-0.5, box.data.shape[0] - 0.5)
    return np.array([box.data_to_world(corner) for corner in itertools.product(ends, repeat=3)])


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def test_a_large_image_says_so_before_the_run_and_a_small_one_does_not(
    make_napari_viewer_proxy: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    region = widget.segment.region
    assert not region.find_button.isEnabled()
    add(viewer, large)
    assert region.text.text().startswith("The volume (120 x 100 x 90 mm) is larger than the model's field of view (32")
    assert region.find_button.isEnabled()
    viewer.layers.clear()
    small = Volume(np.random.default_rng(0).random((24, 24, 24), dtype=np.float32), Grid((24, 24, 24), np.eye(4)), "mr")
    add(viewer, small)
    assert region.text.text() == ""


def test_the_box_at_the_cursor_restricts_the_run(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    image = add(viewer, large)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    wanted = np.array([11.0, -13.0, 7.0])
    viewer.dims.set_point((0, 1, 2), tuple(wanted))
    widget.segment.region.cursor_button.click()
    box = viewer.layers[BOX]
    corners = corners_of(box)
    assert np.ptp(corners, axis=0) == pytest.approx(FIELD.extent_mm)
    assert corners.mean(axis=0)[2] == pytest.approx(wanted[2], abs=1.0 + 1e-6)
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    (request,) = backend.requests
    assert request.roi is not None
    assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx(wanted, abs=1.0 + 1e-6)  # half a voxel
    sizes = [b - a for a, b in request.roi]
    assert sizes == [16, 16, 16]
    widget.segment.region.clear_button.click()
    assert BOX not in viewer.layers
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert backend.requests[1].roi is None
    assert image.data.shape == (60, 50, 45)


def test_a_box_near_the_border_is_moved_into_the_image(
    make_napari_viewer_proxy: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    widget = open_widget(viewer, FakeBackend())
    viewer.dims.set_point((0, 1, 2), (59.0, 0.0, 0.0))
    widget.segment.region.cursor_button.click()
    box = viewer.layers[BOX]
    assert corners_of(box)[:, 0].max() == pytest.approx(60.0)


def test_the_last_click_counts_in_the_plane_and_the_slice_across_it(
    make_napari_viewer_proxy: Any, open_widget: Open, large: Volume
) -> None:
    from napari.utils.interactions import mouse_press_callbacks

    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    widget = open_widget(viewer, FakeBackend())

    class Press:
        type, button, is_dragging, position, handled = "mouse_press", 1, False, (5.0, -7.0, 99.0), False
        modifiers = ()

    mouse_press_callbacks(viewer, Press())
    viewer.dims.set_point(2, 4.0)  # axial: z is across
    widget.segment.region.cursor_button.click()
    box = viewer.layers[BOX]
    corners = corners_of(box)
    assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx((5.0, -7.0, 4.0), abs=1.0 + 1e-6)


def test_a_rectangle_is_as_deep_as_the_field_of_view_and_a_second_one_makes_a_box(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    widget.segment.region.draw_button.click()
    sketch = viewer.layers[SKETCH]
    assert sketch.mode == "add_rectangle"
    sketch.add([[-10, -6, 4], [10, -6, 4], [10, 8, 4], [-10, 8, 4]], shape_type="rectangle")
    assert BOX in viewer.layers
    assert "labels within it" in widget.segment.region.text.text()
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    # In the file's voxels, whose axes run to L, P, S: x 10 to -10 from a border at 60, y 8 to -6 from one at 50, 2 mm
    # each; z 32 mm about 4 from a border at -45.
    assert backend.requests[0].roi == ((25, 35), (21, 28), (16, 32))
    sketch.add([[0, -6, -1], [0, -6, 9], [0, 8, 9], [0, 8, -1]], shape_type="rectangle")
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert backend.requests[1].roi == ((25, 35), (21, 28), (22, 27))


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("um", 1000.0), ("pixel", 1.0)])
def test_a_box_in_a_shapes_layer_of_the_user_counts_and_the_layer_stays(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume, unit: str, scale: float
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    region = widget.segment.region
    flat = scale * np.array([[-10, -6, 4], [10, -6, 4], [10, 8, 4], [-10, 8, 4]])
    upright = scale * np.array([[0, -6, -1], [0, -6, 9], [0, 8, 9], [0, 8, -1]])
    mine = viewer.add_shapes([flat], shape_type="ellipse", name="mine", units=(unit,) * 3)
    region.draw_button.click()
    assert SKETCH not in viewer.layers
    assert BOX in viewer.layers
    mine.add([upright], shape_type="rectangle")
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert backend.requests[0].roi == ((25, 35), (21, 28), (22, 27))
    region.clear_button.click()
    assert BOX not in viewer.layers
    mine.add([flat], shape_type="rectangle")  # nobody listens any more
    assert BOX not in viewer.layers
    assert len(mine.data) == 3


def test_a_flat_shapes_layer_is_drawn_in_the_slice_in_sight_and_an_empty_one_can_be_drawn_in(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    viewer.dims.set_point(0, 11.0)
    mine = viewer.add_shapes(ndim=2, name="flat")
    widget.segment.region.draw_button.click()
    assert mine.mode == "add_rectangle"
    assert BOX not in viewer.layers
    mine.add([[-6, -1], [-6, 9], [8, 9], [8, -1]], shape_type="rectangle")
    corners = corners_of(viewer.layers[BOX])
    assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx((11.0, 1.0, 4.0), abs=1.0 + 1e-6)
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert backend.requests[0].roi is not None
    assert backend.requests[0].roi[1:] == ((21, 28), (22, 27))


def test_a_shape_beside_the_image_is_told(make_napari_viewer_proxy: Any, open_widget: Open, large: Volume) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    widget = open_widget(viewer, FakeBackend())
    widget.segment.region.draw_button.click()
    far = [[200, 0, 0], [220, 0, 0], [220, 20, 0], [200, 20, 0]]
    viewer.layers[SKETCH].add(far, shape_type="rectangle")
    assert "outside the image" in widget.segment.panel.status.text()
    assert BOX not in viewer.layers


def test_deleting_the_box_or_changing_the_image_forgets_the_region(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume, volume: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    image = add(viewer, large)
    widget = open_widget(viewer, FakeBackend())
    region = widget.segment.region
    region.cursor_button.click()
    assert region.roi_for(widget._scene.source("large").grid) is not None
    viewer.layers.remove(BOX)
    assert region.roi_for(widget._scene.source("large").grid) is None
    region.cursor_button.click()
    viewer.layers.remove(image)
    add(viewer, volume)
    assert BOX not in viewer.layers
    assert not region.clear_button.isEnabled()


@pytest.mark.parametrize(("confidence", "words"), [(0.97, "found, 97% sure"), (0.3, "not found with any certainty")])
def test_find_it_shows_the_place_and_says_how_sure_it_is(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume, confidence: float, words: str
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    asked: list[Request] = []
    gate = threading.Event()
    centre = np.array([20.0, 10.0, -5.0])

    def locate(volume: Volume, request: Request) -> Iterator[Look]:
        asked.append(request)
        gate.wait()
        yield Look(0, 2, centre, 0.5)
        roi = field_of_view(FIELD, volume.grid, centre)
        yield Look(1, 2, centre, 0.9, Proposal(centre, roi, confidence, 0.9, 0.9))

    widget.segment.region._locate = locate
    widget.segment.region.find_button.click()
    assert not widget.segment.panel.run_button.isEnabled()
    assert widget.segment.panel.stop_button.isEnabled()
    assert not widget.segment.panel.pause_button.isEnabled()
    gate.set()
    wait_for_end(qtbot, widget)
    assert asked[0].model == "heart-phantom"
    assert words in widget.segment.panel.status.text()
    assert words in widget.segment.region.text.text()
    assert BOX in viewer.layers
    assert widget.segment.panel.run_button.isEnabled()
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    source = widget._scene.source("large")
    assert backend.requests[0].roi == field_of_view(FIELD, source.origin.grid, centre)


def test_an_error_in_the_search_is_one_line_and_the_widget_lives_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, large: Volume
) -> None:
    viewer = make_napari_viewer_proxy()
    add(viewer, large)
    widget = open_widget(viewer, FakeBackend())

    def fail(index: int) -> Look:
        raise RuntimeError("no memory left")

    def broken(volume: Volume, request: Request) -> Iterator[Look]:
        yield from map(fail, range(1))

    widget.segment.region._locate = broken
    widget.segment.region.find_button.click()
    wait_for_end(qtbot, widget)
    assert "no memory left" in widget.segment.panel.status.text()
    assert widget.segment.panel.run_button.isEnabled()
    assert widget.segment.region.find_button.isEnabled()
