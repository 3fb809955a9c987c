"""Crossing out what is not to be believed, and what a result says of where it came from: through the real viewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas.engine.request import Request
from diffatlas.geometry.grid import reorient
from diffatlas.geometry.volume import HIPPOCAMPUS, Volume
from diffatlas.session import Frame
from napari_diffatlas.viewer.crossed import CROSSED
from napari_diffatlas.widget import DiffAtlasWidget
from tests.conftest import make_model
from tests.fakes import FakeBackend
from tests.gui.page import Page

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

OpenPage = Callable[..., Page]
FAR = 6  # voxels of the corner that is crossed out, along each axis


def ignored(page: Page) -> Any:
    """What the last run was told to ignore."""
    return page.backend.requests[-1].ignore


def cross_out(page: Page) -> Any:
    """Press the button and brush over the middle of the image; returns the layer."""
    page.widget.segment.cross_out.start_button.click()
    layer = page.viewer.layers.selection.active
    assert layer.name == CROSSED
    middle = tuple(n // 2 for n in layer.data.shape)
    layer.brush_size = FAR
    layer.paint(middle, layer.selected_label)
    page.wait_until(lambda: "crossed out" in page.widget.segment.cross_out.text.text())
    return layer


def test_the_engine_gets_what_was_brushed_on_the_voxels_of_the_file(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    assert ignored(page) is None
    layer = cross_out(page)
    assert layer.mode == "paint"
    assert layer.n_edit_dimensions == 3
    page.run()
    ignore = ignored(page)
    assert ignore is not None
    assert ignore.shape == volume.grid.shape
    assert np.array_equal(reorient(ignore, volume.grid.to_canonical()), layer.data > 0)
    ml = np.count_nonzero(ignore) * volume.grid.voxel_volume_ml
    assert f"{ml:.3g} ml crossed out" in page.widget.segment.cross_out.text.text()


def test_the_result_says_what_of_it_the_atlas_drew(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    layer = cross_out(page)
    page.run(seed=2)
    result = page.viewer.layers["case 7 labels, seed 2"]
    where = page.viewer.layers["case 7 from the atlas, labels, seed 2"]
    expected = (layer.data > 0) & (result.data > 0)
    assert expected.any()
    assert np.array_equal(where.data > 0, expected)
    assert not layer.visible  # out of the way, and still in force
    assert where.visible
    assert where.features["structure"][1].startswith("drawn by the atlas")  # under the pointer
    assert where.contour == 1  # the structures stay in sight inside
    table = page.widget.segment.volumes
    assert not table.table.isColumnHidden(3)
    parts = [float(row[3]) for row in table.rows()]
    assert sum(parts) == pytest.approx(np.count_nonzero(expected) * volume.grid.voxel_volume_ml, abs=0.03)
    assert "lie where you crossed the image out" in page.status
    page.run(seed=3)
    assert not where.visible  # it belongs to the result before
    page.undo()
    assert where.visible


def test_believing_all_takes_the_crossings_away(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    form = page.widget.segment.cross_out
    assert not form.clear_button.isEnabled()
    cross_out(page)
    form.clear_button.click()
    offered = page.widget.compare.form["labels"].choices  # nor is it a label map to compare
    assert CROSSED not in [layer.name for layer in offered]


def test_the_crossings_of_one_image_are_not_those_of_another(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    cross_out(page)
    page.add(replace(volume, name="another", data=volume.data + 1))
    assert page.image == "another"
    page.run()
    assert ignored(page) is None
    assert CROSSED not in [
        layer.name for layer in page.widget.compare.form["labels"].choices
    ]  # nor is it a label map to compare


def test_an_edit_is_continued_with_what_is_crossed_out(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    cross_out(page)
    page.run()
    page.viewer.layers.selection.active.data[3:6, 4:7, 5:8] = 500
    page.widget.segment.edit.continue_button.click()
    page.wait_for_end()
    assert page.backend.requests[-1].edit is not None
    assert ignored(page) is not None


def test_a_model_that_cannot_be_told_says_so_before_and_after(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.choose_model("Hippocampus (MRI)")  # without evidence
    page.widget.segment.cross_out.start_button.click()
    form = page.widget.segment.cross_out
    assert "cannot be told" in form.text.text()
    assert "#" in form.text.styleSheet()  # amber
    cross_out(page)
    page.run(seed=4)
    assert "case 7 crossed out, labels, seed 4" in page.viewer.layers


def test_samples_that_disagree_are_warned_of(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.widget.segment.panel.options.advanced.form["samples"].value = 2
    page.run(seed=1)
    assert page.status.startswith("Uncertain: the model is 50% sure of its labels")
    assert "case 7 labels, seed 1 (uncertain)" in page.viewer.layers
    page.widget.segment.panel.options.advanced.form["samples"].value = 1
    page.run(seed=2)
    assert page.status.startswith("Done")


class Unsure(FakeBackend):
    """A search placed the run, and is not sure of the place."""

    def stream(self, volume: Volume | None, request: Request) -> Any:
        for frame in super().stream(volume, request):
            yield frame if frame.result is None else self._placed(frame)

    def _placed(self, frame: Frame) -> Frame:
        assert frame.result is not None
        provenance = frame.result.provenance | {"placement": {"confidence": 0.2}}
        return replace(frame, result=replace(frame.result, provenance=provenance))


def test_a_place_that_the_search_is_unsure_of_is_warned_of(open_page: OpenPage, volume: Volume) -> None:
    page = open_page(Unsure())
    page.add(volume)
    page.run(seed=1)
    assert "20% sure of the place" in page.status
    assert "case 7 labels, seed 1 (uncertain)" in page.viewer.layers


def test_crossed_out_voxels_have_no_part_in_the_real_engines_answer(
    make_napari_viewer_proxy: Any, qtbot: Any, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "models" / "told", HIPPOCAMPUS, evidence=True)
    monkeypatch.setenv("DIFFATLAS_WEIGHTS", str(tmp_path / "models"))
    viewer = make_napari_viewer_proxy()
    page = Page(viewer, DiffAtlasWidget(viewer), FakeBackend(), qtbot)
    viewer.window.add_dock_widget(page.widget, name="DiffAtlas")
    image = page.add(volume)
    page.choose_model("Tiny")
    page.widget.segment.panel.options.advanced.form["steps"].value = 2
    crossed = cross_out(page)
    answers = []
    for value in (0.0, 5000.0):  # nothing there, or metal
        image.data[crossed.data > 0] = value
        page.run(seed=3)
        assert "Done" in page.status, (page.status, page.image, page.widget.segment.panel.card)
        answers.append(viewer.layers.selection.active.data.copy())
    page.widget.segment.cross_out.clear_button.click()
    page.run(seed=3)
    assert np.array_equal(*answers)
    assert not np.array_equal(answers[1], viewer.layers.selection.active.data)
