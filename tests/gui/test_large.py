"""Images that are lazy and larger than memory, and images of several levels: read by region, in the real viewer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace
from napari_diffatlas.jobs import large
from napari_diffatlas.jobs.large import coarse, region
from napari_diffatlas.viewer import layers
from napari_diffatlas.viewer.layers import AS_IS, RAS_MM, Origin, Source, read_layer
from tests.fakes import FakeBackend
from tests.gui.page import Page

OpenPage = Callable[..., Page]
SHAPE = (96, 80, 72)  # of 1 mm; the fake model looks at 32 mm
SPACE = ModelSpace((16, 16, 16), (2.0, 2.0, 2.0), 10.0, {})


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "WHOLE_VOXELS", 2**15)


def ramp(axis: int = 0, chunks: tuple[int, int, int] = (20, 80, 72)) -> tuple[Any, set[int]]:
    """A lazy volume whose values are the index along ``axis``, and the first rows of the chunks that were computed."""
    read: set[int] = set()
    lock = threading.Lock()

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        place = block_info[None]["array-location"]
        with lock:
            read.add(place[0][0])
        index = np.arange(*place[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        return np.broadcast_to(index, [b - a for a, b in place]).copy()

    spread = tuple(tuple(min(c, n - i) for i in range(0, n, c)) for n, c in zip(SHAPE, chunks, strict=True))
    return da.map_blocks(block, chunks=spread, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)), read


def source(data: Any, spacing_mm: float = 1.0) -> Source:
    grid = Grid(SHAPE, np.diag([spacing_mm] * 3 + [1.0]))
    return Source("large", data, grid, RAS_MM, Origin(grid, AS_IS))


def test_the_coarse_image_is_block_means_in_place() -> None:
    data, _ = ramp()
    low = coarse(source(data), SPACE)  # blocks of 2
    assert low.data.shape == (48, 40, 36)
    assert np.allclose(low.data[:, 0, 0], 2 * np.arange(48) + 0.5)
    assert np.allclose(low.grid.to_world((0.0, 0.0, 0.0)), 0.5)
    assert np.allclose(low.grid.spacing_mm, 2)


def test_a_region_is_read_without_the_rest_and_lies_where_it_was() -> None:
    data, read = ramp()
    part, roi = region(source(data), ((22, 38), (10, 30), (5, 25)), ((24, 30), (10, 20), (6, 25)))
    assert read == {20}
    assert np.array_equal(part.data[:, 0, 0], np.arange(22, 38))
    assert np.allclose(part.grid.to_world((0.0, 0.0, 0.0)), (22, 10, 5))
    assert roi == ((2, 8), (0, 10), (1, 20))


def test_a_region_that_is_still_too_large_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "REGION_VOXELS", 1000)
    data, _ = ramp()
    part, roi = region(source(data), ((20, 40), (20, 40), (20, 40)), ((20, 30), (20, 40), (24, 40)))
    assert part.data.shape == (10, 10, 10)
    assert np.allclose(part.data[:, 0, 0], 20.5 + 2 * np.arange(10))
    assert np.allclose(part.grid.to_world((0.0, 0.0, 0.0)), 20.5)
    assert roi == ((0, 5), (0, 10), (2, 10))
    assert any("means of 2 voxels" in note for note in part.notes)


def test_a_run_finds_the_place_and_labels_the_region_alone(open_page: OpenPage) -> None:
    backend = FakeBackend()
    page = open_page(backend)
    data, _ = ramp()
    page.viewer.add_image(data, name="large", scale=(1, 1, 1), units="mm", axis_labels=("x", "y", "z"))
    assert not page.widget.segment.cross_out.start_button.isEnabled()
    page.run(seed=3)
    assert "Done" in page.status, page.status
    given = backend.volumes[-1]
    assert given is not None
    assert given.grid.shape == (32, 32, 32)  # the model's field of view; the fake search proposes the middle
    assert np.allclose(given.grid.centre_mm, (np.array(SHAPE) - 1) / 2, atol=1)
    assert given.data[0, 0, 0] == round(given.grid.to_world((0.0, 0.0, 0.0))[0])
    labels = page.viewer.layers["large labels, seed 3"]
    assert labels.data.shape == (32, 32, 32)
    assert np.allclose(labels.data_to_world((0, 0, 0)), given.grid.to_world((0.0, 0.0, 0.0)))
    labels.data[3:6, 4:7, 5:8] = 500  # and it goes on from an edit
    page.widget.segment.edit.continue_button.click()
    page.wait_for_end()
    assert backend.requests[-1].edit is not None
    assert backend.volumes[-1] is not None
    assert backend.volumes[-1].grid.same_as(given.grid)


def test_a_region_that_the_user_sets_needs_no_search(open_page: OpenPage) -> None:
    backend = FakeBackend()
    page = open_page(backend)
    data, read = ramp()
    page.viewer.add_image(data, name="large", units=("mm",) * 3, axis_labels=("x", "y", "z"), contrast_limits=(0, 100))
    page.viewer.dims.set_point((0, 1, 2), (70.0, 40.0, 36.0))
    page.place_box_at_cursor()
    page.settle()
    read.clear()
    page.run()
    assert "Done" in page.status, page.status
    assert 0 not in read
    assert 20 not in read
    given = backend.volumes[-1]
    assert given is not None
    assert given.grid.centre_mm[0] == pytest.approx(70, abs=1)


def test_a_multiscale_image_is_searched_at_the_level_that_fits(open_page: OpenPage) -> None:
    fine, read_fine = ramp()
    middle, half = fine[::2, ::2, ::2] + 0.5, np.zeros((24, 20, 18), np.float32)
    page = open_page()
    layer = page.viewer.add_image(
        [fine, middle, half], multiscale=True, name="levels", units=("mm",) * 3, axis_labels=("x", "y", "z")
    )
    read_fine.clear()
    found = read_layer(layer)
    assert found.large
    assert found.grid.shape == SHAPE
    low = coarse(found, SPACE)
    assert low.data.shape == (48, 40, 36)  # the level of 2 mm as it is
    assert np.allclose(low.grid.to_world((0.0, 0.0, 0.0)), 0.5)
    page.run()
    assert "Done" in page.status, page.status


def test_stop_ends_the_reading(open_page: OpenPage) -> None:
    page = open_page()
    started, go = threading.Event(), threading.Event()

    def block(x: Any) -> Any:
        started.set()
        go.wait(30)
        return x

    data = da.zeros(SHAPE, chunks=(8, 80, 72), dtype=np.float32).map_blocks(block, dtype=np.float32, meta=np.empty(0))
    page.viewer.add_image(
        data, name="slow", units=("mm",) * 3, axis_labels=("x", "y", "z"), contrast_limits=(0, 1), visible=False
    )
    page.press_run()
    page.wait_until(started.is_set)
    assert "larger than memory" in page.status
    page.widget.segment.panel.stop_button.click()
    go.set()
    page.wait_for_end()
    assert "Stopped" in page.status
