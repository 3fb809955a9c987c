"""The folder tab in a real viewer, on a fake engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from magicgui.types import FileDialogMode

from diffatlas import session
from diffatlas.geometry.volume import MMWHS, Volume
from diffatlas.io import write_volume
from napari_diffatlas.tabs.folder import COLORS, FolderTab
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import SHA256, FakeBackend
from tests.gui.conftest import LongBackend

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "model_card", lambda name: SimpleNamespace(name=name, sha256=SHA256, scheme=MMWHS))


@pytest.fixture
def folder(tmp_path: Path, volume: Volume) -> Path:
    folder = tmp_path / "patients"
    folder.mkdir()
    for index, name in enumerate(("a", "b", "c")):
        write_volume(Volume(volume.data + np.float32(index), volume.grid, "mr"), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def opened(
    make_napari_viewer_proxy: Any, open_widget: Open, folder: Path
) -> Callable[[FakeBackend], tuple[Any, DiffAtlasWidget]]:
    """Viewer and widget on a backend, the folder filled in."""

    def open_(backend: FakeBackend) -> tuple[Any, DiffAtlasWidget]:
        viewer = make_napari_viewer_proxy()
        widget = open_widget(viewer, backend)
        assert not widget.folder.run_button.isEnabled()
        widget.folder.form["images"].value = folder
        return viewer, widget

    return open_


def rows(tab: FolderTab) -> list[list[str]]:
    cells: Any = tab.table  # Qt's types say that a cell may be missing
    return [[cells.item(y, x).text() for x in range(3)] for y in range(cells.rowCount())]


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def test_a_folder_is_run_with_the_options_of_the_first_tab(opened: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = FakeBackend()
    viewer, widget = opened(backend)
    tab = widget.folder
    assert tab.form["results"].value == tmp_path / "patients-labels"
    widget.segment.panel.options.advanced.form["seed"].value = 7
    widget.segment.panel.options.advanced.form["steps"].value = 3
    tab.refresh()
    assert "heart-phantom, 3 steps, seed 7" in tab.options_text.text()
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert [row[:2] for row in rows(tab)] == [["a", "done"], ["b", "done"], ["c", "done"]]
    assert all(row[2].endswith(" s") for row in rows(tab))
    assert tab.status.text() == "3 of 3 done."
    assert tab.progress.value() == tab.progress.maximum() == 3
    assert {request.seed for request in backend.requests} == {7}
    assert (tmp_path / "patients-labels" / "b_labels.nii.gz").is_file()
    assert not viewer.layers

    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert [row[2] for row in rows(tab)] == ["was done already"] * 3
    tab.rerun_button.click()
    wait_for_end(qtbot, widget)
    assert len(backend.requests) == 6
    tab.table.cellDoubleClicked.emit(1, 0)
    assert [layer.name for layer in viewer.layers] == ["b", "b_labels"]
    assert np.array_equal(viewer.layers[0].extent.world, viewer.layers[1].extent.world)
    assert "left ventricle" in list(viewer.layers[1].features["structure"])
    assert viewer.layers[1].selected_label == MMWHS.ids[0]  # the brush paints a structure


def test_a_folder_is_taken_for_the_modality_that_is_named(opened: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = FakeBackend()
    _, widget = opened(backend)
    tab = widget.folder
    for title, seen in (("CT", "ct"), ("MR", "mr")):
        tab.form["modality"].value = title
        tab.run_button.click()  # named anew: what is done was done on other intensities
        wait_for_end(qtbot, widget)
        assert {volume.modality for volume in backend.volumes[-3:] if volume is not None} == {seen}
    assert len(backend.volumes) == 6
    assert widget.review.folders["modality"].value == "CT"  # as it was where the folders were first proposed
    assert (tmp_path / "patients-labels" / "a_labels.nii.gz").is_file()


def test_a_file_that_fails_says_why_and_run_tries_it_again(opened: Any, qtbot: Any, folder: Path) -> None:
    _, widget = opened(FakeBackend())
    tab = widget.folder
    good = (folder / "b.nii.gz").read_bytes()
    (folder / "b.nii.gz").write_text("broken")
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    failed = rows(tab)[1]
    assert failed[1] == "failed"
    assert failed[2]
    assert not failed[2].startswith("b.nii.gz")  # the name stands beside it
    assert tab.status.text() == "2 of 3 done. The others say why; Run tries them again."
    for dark in (False, True):
        tab.set_dark(dark)
        assert tab.table.item(1, 1).foreground().color().name() == COLORS[dark]["failed"]
    (folder / "b.nii.gz").write_bytes(good)
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert [row[1] for row in rows(tab)] == ["done"] * 3
    assert rows(tab)[0][2] == "was done already"


def test_stop_holds_within_a_step_and_run_goes_on(opened: Any, qtbot: Any) -> None:
    backend = LongBackend()
    _, widget = opened(backend)
    tab = widget.folder
    tab.run_button.click()
    qtbot.waitUntil(lambda: backend.frames_made > 4, timeout=90_000)
    qtbot.waitUntil(lambda: any(row[2].startswith("step ") for row in rows(tab)), timeout=90_000)
    assert not tab.run_button.isEnabled()
    assert not widget.segment.panel.run_button.isEnabled()
    assert tab.stop_button.isEnabled()
    tab.stop_button.click()
    made = backend.frames_made
    wait_for_end(qtbot, widget)
    assert backend.frames_made <= made + 2
    assert backend.open_runs == 0
    assert tab.status.text() == "Stopped; 0 of 3 done. Run goes on."
    assert [row[1:] for row in rows(tab)] == [["pending", "stopped"], ["pending", ""], ["pending", ""]]
    backend.finish.set()
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert [row[1] for row in rows(tab)] == ["done"] * 3


@pytest.mark.parametrize("where", ["gone", "empty", "same"])
def test_folders_that_cannot_be_used_are_told_and_the_tab_lives_on(
    opened: Any, qtbot: Any, tmp_path: Path, folder: Path, where: str
) -> None:
    _, widget = opened(FakeBackend())
    tab = widget.folder
    (tmp_path / "empty").mkdir()
    words = {"gone": "no such file", "empty": "no volume there", "same": "is the input folder"}[where]
    tab.form["images"].value = folder if where == "same" else tmp_path / where
    if where == "same":
        tab.form["results"].value = folder
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert words in tab.status.text()
    tab.form["images"].value = folder
    tab.form["results"].value = tmp_path / "out"
    tab.run_button.click()
    wait_for_end(qtbot, widget)
    assert tab.status.text() == "3 of 3 done."


def test_a_folder_for_the_results_is_proposed_until_one_is_named(opened: Any, tmp_path: Path) -> None:
    _, widget = opened(FakeBackend())
    form = widget.folder.form
    form["images"].value = tmp_path / "others"
    assert form["results"].value == tmp_path / "others-labels"
    form["results"].value = tmp_path / "mine"
    form["images"].value = tmp_path / "third"
    assert form["results"].value == tmp_path / "mine"
    assert form["images"].mode == FileDialogMode.EXISTING_DIRECTORY  # its button asks for a folder
    form["results"].line_edit.value = ""
    assert not widget.folder.run_button.isEnabled()


def test_a_closed_dock_keeps_its_cohort(opened: Any, qtbot: Any) -> None:
    backend = LongBackend()
    viewer, widget = opened(backend)
    widget.folder.run_button.click()
    qtbot.waitUntil(lambda: backend.frames_made > 1, timeout=90_000)
    viewer.window.remove_dock_widget(widget)
    backend.finish.set()
    wait_for_end(qtbot, widget)
    assert [row[1] for row in rows(widget.folder)] == ["done"] * 3
