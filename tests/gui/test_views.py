"""What the steps of a run look like side by side: four views, two runs, and against the patient's image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffatlas.geometry.volume import Volume
from napari_diffatlas.viewer.against import AGAINST, compared
from napari_diffatlas.viewer.view import camera
from tests.gui.page import Page

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

OpenPage = Callable[..., Page]


def grid_of(page: Page) -> Any:
    return getattr(page.viewer, "canvas", page.viewer).grid


def cells(page: Page) -> dict[tuple[int, int], list[str]]:
    """Names of the visible layers by their place in napari's grid, bottom to top."""
    layers: Any = page.viewer.layers
    found: dict[tuple[int, int], list[str]] = {}
    for index, layer in enumerate(layers):
        if layer.visible:
            found.setdefault(grid_of(page).position(index, layers), []).append(layer.name)
    return found


def choose(page: Page, view: str) -> None:
    page.widget.segment.scrubber.see.choose(view)
    page.settle()
    page.wait_until(lambda: grid_of(page).enabled == (view != "one"))


def test_four_views_in_one_click_follow_the_slider(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    before = page.visible
    choose(page, "four")
    assert cells(page) == {
        (0, 0): ["below: noisy state", "noisy state"],
        (0, 1): ["below: generated image", "generated image"],
        (1, 0): ["below: mask on the generated image", "mask on the generated image"],
        (1, 1): ["below: mask on the patient", "mask on the patient"],
    }
    layers, slider = page.viewer.layers, page.widget.segment.scrubber.slider
    assert layers["below: mask on the patient"].data is layers["case 7"].data  # no copy
    for step in (0, 2):
        slider.setValue(step)
        moment = page.widget.segment.view.recording.at(step)
        assert moment is not None
        assert np.array_equal(np.sort(layers["noisy state"].data, axis=None), np.sort(moment.noisy_image, axis=None))
        ids = layers["mask on the patient"].data
        assert np.count_nonzero(ids) == np.count_nonzero(moment.labels)
        assert np.array_equal(ids, layers["mask on the generated image"].data)
    slider.setValue(slider.maximum())
    choose(page, "one")
    assert page.visible == before
    assert "noisy state" not in layers


def test_the_camera_is_on_what_the_model_sees_and_goes_back(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    page.viewer.reset_view()
    eye = camera(page.viewer)
    before = tuple(eye.center), eye.zoom
    choose(page, "four")
    box = page.viewer.layers["noisy state"].extent.world
    assert eye.center[-2:] == pytest.approx(box.mean(axis=0)[list(page.viewer.dims.displayed)], abs=0.1)
    choose(page, "one")
    assert (tuple(eye.center), eye.zoom) == before


def test_the_views_stay_through_the_next_run(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    choose(page, "four")
    page.run(seed=5)
    page.wait_until(lambda: bool(grid_of(page).enabled))
    page.settle()
    assert set(cells(page)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    page.undo()  # to the result of the run before, alone
    assert not grid_of(page).enabled
    assert page.visible == ["case 7", "case 7 labels, seed 0"]
    assert page.widget.segment.scrubber.see.view_combo.currentData() == "one"


def test_two_runs_step_by_step_with_one_slider(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run(seed=1)
    see: Any = page.widget.segment.scrubber.see
    assert not see.view_combo.model().item(2).isEnabled()  # there is no run before
    page.widget.segment.panel.options.advanced.form["steps"].value = 8
    page.run(seed=2)
    assert see.view_combo.model().item(2).isEnabled()
    choose(page, "runs")
    assert cells(page) == {(0, 0): ["below: this run", "this run"], (0, 1): ["below: the run before", "the run before"]}
    view = page.widget.segment.view
    assert view.before is not None
    page.widget.segment.scrubber.slider.setValue(3)  # noise 0.5 of eight steps: the second of four
    this, before = view.recording.at(3), view.before.at(1)
    assert this is not None
    assert before is not None
    assert this.t == before.t == 0.5
    layers = page.viewer.layers
    for name, moment in (("this run", this), ("the run before", before)):
        assert np.bincount(layers[name].data.ravel()).max() < layers[name].data.size
        assert np.count_nonzero(layers[name].data) == np.count_nonzero(moment.labels)


def test_the_generated_image_against_the_patients(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    see, view = page.widget.segment.scrubber.see, page.widget.segment.view
    assert not see.slider.isEnabled()
    see.against_combo.setCurrentIndex(see.against_combo.findData("blend"))
    page.wait_until(lambda: AGAINST in page.viewer.layers)
    layer = page.viewer.layers[AGAINST]
    moment = view.recording.at(3)
    assert moment is not None
    see.slider.setValue(100)
    generated = layer.data.copy()
    assert np.allclose(np.sort(generated, axis=None), np.sort(moment.image, axis=None), atol=1e-3)
    see.slider.setValue(0)
    patient = layer.data.copy()
    assert not np.allclose(patient, generated)
    see.slider.setValue(50)
    assert np.allclose(layer.data, (generated + patient) / 2, atol=1e-6)
    see.against_combo.setCurrentIndex(see.against_combo.findData("swipe"))
    layer = page.viewer.layers[AGAINST]
    axis = page.viewer.dims.order[-1]
    half = layer.data.shape[axis] // 2
    assert np.array_equal(layer.data.take(range(half), axis), generated.take(range(half), axis))
    assert np.array_equal(layer.data.take(range(half, 2 * half), axis), patient.take(range(half, 2 * half), axis))
    see.against_combo.setCurrentIndex(see.against_combo.findData("difference"))
    assert np.allclose(page.viewer.layers[AGAINST].data, (generated - patient) / 2, atol=1e-6)
    see.against_combo.setCurrentIndex(0)
    assert AGAINST not in page.viewer.layers
    assert page.image == "case 7"


def test_compared_by_hand() -> None:
    a, b = np.ones((4, 2, 2), np.float32), -np.ones((4, 2, 2), np.float32)
    assert compared(a, b, "blend", 0.25, 0)[0, 0, 0] == -0.5
    assert compared(a, b, "difference", 0.0, 0)[0, 0, 0] == 1
    assert compared(a, b, "swipe", 0.5, 0)[:, 0, 0].tolist() == [1, 1, -1, -1]
