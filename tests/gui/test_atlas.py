"""Drawing from the atlas: gallery, layers, files; in a real viewer, on a fake engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS
from diffatlas.io import read_label_map, read_volume
from napari_diffatlas.forms.thumbnail import HEIGHT, WIDTH, picture
from napari_diffatlas.tabs.atlas import AtlasTab
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend, model_grid
from tests.gui.conftest import LongBackend

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


def item(tab: Any, row: int) -> Any:
    """The pair in a row of the gallery."""
    return tab.gallery.item(row)


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def draw(qtbot: Any, widget: DiffAtlasWidget, count: int, seed: int = 0) -> AtlasTab:
    tab = widget.atlas
    tab.form["count"].value = count
    tab.form["seed"].value = seed
    tab.draw_button.click()
    wait_for_end(qtbot, widget)
    return tab


def test_pairs_come_one_by_one_with_the_seeds_that_follow(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    viewer = make_napari_viewer_proxy()
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    tab = draw(qtbot, widget, 3, seed=5)
    assert [(r.task, r.guidance, r.seed, r.samples) for r in backend.requests] == [
        ("generate", "none", seed, 1) for seed in (5, 6, 7)
    ]
    assert backend.volumes == [None] * 3
    assert [item(tab, row).text() for row in range(tab.gallery.count())] == ["seed 5", "seed 6", "seed 7"]
    assert "left ventricle" in item(tab, 0).toolTip()
    assert tab.status.text().startswith("Drew 3 pairs in ")
    assert len(viewer.layers) == 0
    draw(qtbot, widget, 1)
    assert tab.gallery.count() == 1  # a new drawing replaces the old one


def test_a_pair_opens_as_two_layers_where_it_was_drawn(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    viewer = make_napari_viewer_proxy()
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    tab = draw(qtbot, widget, 2, seed=1)
    assert not tab.open_button.isEnabled()
    item(tab, 1).setSelected(True)
    tab.open_button.click()
    image, labels = viewer.layers
    assert isinstance(image, Image)
    assert isinstance(labels, Labels)
    assert (image.name, labels.name) == ("pair, seed 2", "pair, seed 2 labels")
    grid = model_grid(None)
    assert np.array_equal(labels.data, backend.labels_at(grid, 1.0, seed=2).to_ids())
    assert image.data_to_world((3, 4, 5)) == pytest.approx(grid.to_world((3, 4, 5)))
    assert labels.data_to_world((3, 4, 5)) == pytest.approx(grid.to_world((3, 4, 5)))


def test_saved_pairs_read_back_as_they_were_and_none_is_overwritten(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, tmp_path: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    widget = open_widget(viewer, FakeBackend())
    tab = draw(qtbot, widget, 2)
    tab.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"case-00{i}_{half}.nii.gz" for i in (0, 1) for half in ("image", "label")
    ]
    for index, pair in enumerate(tab.pairs):
        image = read_volume(tmp_path / f"case-00{index}_image.nii.gz")
        mask = read_label_map(tmp_path / f"case-00{index}_label.nii.gz", MMWHS)
        assert np.array_equal(image.data, pair.image.data)
        assert np.array_equal(mask.data, pair.mask.data)
        assert mask.grid.same_as(pair.mask.grid)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    tab.save(tmp_path)
    assert "holds pairs already" in tab.status.text()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_stop_keeps_the_pairs_that_are_done_and_only_those(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open
) -> None:
    class FirstThenLong(LongBackend):
        def stream(self, volume: Any, request: Any) -> Any:
            if request.seed == 0:
                return FakeBackend.stream(self, volume, request)
            return super().stream(volume, request)

    viewer = make_napari_viewer_proxy()
    backend = FirstThenLong()
    widget = open_widget(viewer, backend)
    tab = widget.atlas
    tab.draw_button.click()
    assert not widget.segment.panel.run_button.isEnabled()  # one run at a time, whichever tab began it
    qtbot.waitUntil(lambda: tab.gallery.count() == 2 and item(tab, 1).text().startswith("step "), timeout=90_000)
    tab.stop_button.click()
    wait_for_end(qtbot, widget)
    assert backend.open_runs == 0
    assert tab.gallery.count() == len(tab.pairs) == 1
    assert tab.status.text() == "Stopped after 1 pair."
    assert tab.draw_button.isEnabled()


@pytest.mark.parametrize(
    ("error", "words"), [(RuntimeError("out of memory"), "out of memory"), (BadInput("no such model"), "no such model")]
)
def test_an_error_is_one_line_and_the_tab_lives_on(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, error: Exception, words: str
) -> None:
    viewer = make_napari_viewer_proxy()
    backend = FakeBackend(fail_at=1, error=error)
    widget = open_widget(viewer, backend)
    tab = draw(qtbot, widget, 2)
    assert words in tab.status.text()
    assert tab.gallery.count() == 0
    backend.fail_at = None
    draw(qtbot, widget, 2)
    assert tab.status.text().startswith("Drew 2 pairs")


def test_a_thumbnail_shows_three_planes_in_the_colours_of_the_structures() -> None:
    grid = model_grid(None)
    labels = np.zeros(grid.shape, np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    rgb = picture(np.full(grid.shape, -1, np.float32), labels, grid, MMWHS)
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    red, green, blue = MMWHS.structures[0].color
    for left in range(3):
        middle = rgb[HEIGHT // 2, left * (WIDTH // 3) + WIDTH // 6].astype(int)
        assert middle == pytest.approx(np.array([red, green, blue]) * 0.36, abs=3)  # the fill over black
    assert not rgb[2, 2].any()
