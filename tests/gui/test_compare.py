"""Comparing label layers: what is matched with what, the figures, the layer of disagreements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, LabelScheme, Structure
from napari_diffatlas.viewer.agreement import DIFFERENT, ONLY_FIRST, ONLY_SECOND, agree
from napari_diffatlas.viewer.layers import RAS_MM, LabelSource, label_map_to_layer
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]

GRID = Grid((20, 20, 20), np.eye(4))
OTHER_NAMES = LabelScheme("other", (Structure("Myocardium", 1, (1, 2, 3)), Structure("Left Ventricle", 2, (4, 5, 6))))


def cube(low: int, high: int, id_: int, grid: Grid = GRID) -> Any:
    ids = np.zeros(grid.shape, np.uint16)
    ids[low:high, low:high, low:high] = id_
    return ids


def source(name: str, ids: Any, scheme: LabelScheme | None = None, grid: Grid = GRID) -> LabelSource:
    return LabelSource(name, ids, grid, RAS_MM, scheme)


def test_a_cube_moved_by_one_voxel() -> None:
    """8^3 voxels of 1 mm, moved by one along x: Dice 7/8, every face within 1 mm, HD95 1 mm: by hand."""
    a, b = cube(4, 12, 500), np.roll(cube(4, 12, 500), 1, axis=0)
    found = agree(source("a", a, MMWHS), source("b", b, MMWHS), 1.0)
    (row,) = found.comparison.rows
    assert (row.name, row.dice, row.surface_dice, row.hd95_mm) == ("left ventricle", 7 / 8, 1.0, 1.0)
    assert (row.volume_prediction_ml, row.volume_reference_ml) == pytest.approx((0.512, 0.512))
    assert np.count_nonzero(found.disagreement == ONLY_FIRST) == 64
    assert np.count_nonzero(found.disagreement == ONLY_SECOND) == 64
    assert not (found.disagreement == DIFFERENT).any()
    assert found.notes == ()


def test_names_match_across_ids_and_ids_where_a_layer_has_no_names() -> None:
    lv = cube(4, 12, 500)
    by_name = agree(source("a", lv, MMWHS), source("b", cube(4, 12, 2), OTHER_NAMES), 2.0)
    assert [(row.name, row.dice) for row in by_name.comparison.rows] == [("Left Ventricle", 1.0)]
    by_id = agree(source("a", lv, MMWHS), source("b", lv), 2.0)
    assert [(row.name, row.dice) for row in by_id.comparison.rows] == [("left ventricle", 1.0)]
    unnamed = agree(source("a", cube(4, 12, 7)), source("b", cube(4, 12, 9)), 2.0)
    assert {row.name: row.dice for row in unnamed.comparison.rows} == {"label 7": 0.0, "label 9": 0.0}
    assert set(np.unique(unnamed.disagreement)) == {0, DIFFERENT}


def test_other_voxels_are_resampled_and_said() -> None:
    """The same cube, 4 to 12 mm on both axes' borders, on 1 mm and on 2 mm voxels."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 0.5  # borders of both grids fall together
    coarse = Grid((10, 10, 10), affine)
    found = agree(source("fine", cube(4, 12, 1)), source("coarse", cube(2, 6, 1, coarse), grid=coarse), 2.0)
    assert found.comparison.rows[0].dice == 1.0
    assert found.disagreement.shape == (10, 10, 10)
    assert "20 × 20 × 20 of 1 × 1 × 1 mm" in found.notes[0]
    assert "onto those of 'coarse'" in found.notes[0]
    half = Grid((20, 20, 8), np.eye(4))
    cut = agree(source("whole", cube(4, 12, 1)), source("cut", cube(4, 8, 1, half), grid=half), 2.0)
    assert "0.256 ml of 'whole' lie outside" in cut.notes[1]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (source("a", cube(0, 0, 1)), source("b", cube(0, 0, 1)), "both layers are empty"),
        (source("a", cube(4, 12, 1).astype(int) * -1), source("b", cube(4, 12, 1)), "no negative ids"),
        (source("a", np.arange(8000).reshape(20, 20, 20)), source("b", cube(4, 12, 1)), "7999 different ids"),
        (
            source("a", cube(4, 12, 1)),
            source("b", cube(4, 12, 1), grid=Grid((20, 20, 20), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 99)),
            "they lie apart",
        ),
    ],
)
def test_what_cannot_be_compared(a: LabelSource, b: LabelSource, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        agree(a, b, 2.0)


def test_the_tab_shows_figures_copies_them_and_leaves_one_layer_of_disagreements(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    tab = widget.compare
    assert not tab.compare_button.isEnabled()
    moved = np.roll(cube(4, 12, 1), 1, axis=0)
    for name, data in (("mine", cube(4, 12, 1)), ("theirs", moved)):
        labels, state, _ = label_map_to_layer(LabelMap(data.astype(np.uint8), GRID, MMWHS), name)
        viewer.add_labels(labels, **state)
    assert [tab.form[key].value.name for key in ("labels", "reference")] == ["mine", "theirs"]
    tab.form["tolerance"].value = 0.5
    for _ in range(2):
        tab.compare_button.click()
        qtbot.waitUntil(lambda: not tab.busy and bool(tab.table.rows()), timeout=90_000)
        qtbot.waitUntil(tab.compare_button.isEnabled, timeout=90_000)
    # Within 0.5 mm: of the 384 faces of each only those of the four sides, without the end that sticks out: 4 x 56.
    assert tab.table.rows() == [["left ventricle", "0.875", "0.583", "1.0", "0.512", "0.512"]]
    tab.table.copy_button.click()
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text().splitlines()[1] == "left ventricle\t0.875\t0.583\t1.0\t0.512\t0.512"
    assert clipboard.text().splitlines()[0].startswith("structure\tDice\tsurface Dice\tHD95, mm")
    assert [layer.name for layer in viewer.layers] == ["mine", "theirs", "disagreement"]
    layer = viewer.layers["disagreement"]
    assert np.count_nonzero(layer.data == ONLY_FIRST) == np.count_nonzero(layer.data == ONLY_SECOND) == 64
    assert np.array_equal(layer.affine.affine_matrix, viewer.layers["theirs"].affine.affine_matrix)
    assert "only in mine" in layer.get_status((4, 5, 5), world=True)["coordinates"]
    assert len(tab.form["labels"].choices) == 2  # the map of disagreements is not offered


def test_layers_that_cannot_be_used_are_told_and_the_tab_lives_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    tab = widget.compare
    viewer.add_labels(np.zeros((5, 6), int), name="flat")
    viewer.add_labels(np.zeros((5, 6, 7), int), name="empty")
    tab.compare_button.click()
    assert "'flat' is 2-D" in tab.status.text()
    viewer.layers.remove("flat")
    viewer.add_labels(np.zeros((5, 6, 7), int), name="empty too")
    tab.compare_button.click()
    qtbot.waitUntil(lambda: "both layers are empty" in tab.status.text(), timeout=90_000)
    qtbot.waitUntil(tab.compare_button.isEnabled, timeout=90_000)
    assert tab.table.rows() == []
