"""Reviewing a folder of patients through the real viewer: by key, saved as one goes, worst first."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from diffatlas import io, review
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, Volume
from napari_diffatlas import commands
from napari_diffatlas.jobs import training
from tests.fakes import FakeBackend
from tests.gui.page import Page

OpenPage = Callable[..., Page]
COUNT = 5


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five patients of different size and place, and a folder for what comes of them."""
    (tmp_path / "images").mkdir()
    for index in range(COUNT):
        affine = np.diag([-2.0, -2.0, 2.0, 1.0])
        affine[:3, 3] = 40 * index
        shape = (20 + index, 22, 18)
        data = np.random.default_rng(index).normal(100, 30, shape).astype(np.float32)
        io.write_volume(Volume(data, Grid(shape, affine), "mr"), tmp_path / "images" / f"p{index}.nii.gz")
    return tmp_path / "images", tmp_path / "labels"


class Reviewer:
    """What a person at the Review tab does and sees."""

    def __init__(self, page: Page, images: Path, results: Path) -> None:
        self.page, self.tab = page, page.widget.review
        self.results = results
        self.tab.images_edit.value, self.tab.results_edit.value = images, results
        self.press(self.tab.start)

    def press(self, what: Callable[[], Any]) -> float:
        """Do it and wait for the case that comes; seconds of the GUI's own thread, whatever else the machine does."""
        begin = time.thread_time()
        what()
        self.page.wait_until(lambda: self.tab._opened is not None)
        return time.thread_time() - begin

    @property
    def case(self) -> str:
        return str(self.tab._opened.case.name) if self.tab._opened else ""

    @property
    def layers(self) -> tuple[Any, Any]:
        image, labels = (layer for layer in self.page.viewer.layers if layer.visible)
        return image, labels

    def paint(self, id_: int) -> None:
        _, labels = self.layers
        labels.data_setitem((np.array([3, 3, 4]), np.array([5, 6, 5]), np.array([7, 7, 7])), id_)

    @property
    def said(self) -> dict[str, str]:
        return {case: verdict.state for case, verdict in review.read(self.results).items()}


def test_five_patients_by_key_alone(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    page = open_page()
    person = Reviewer(page, *folders)
    assert person.case == "p0"
    image, labels = person.layers
    volume = io.read_volume(folders[0] / "p0.nii.gz")
    origin = image.metadata["diffatlas"]["origin"]
    assert np.array_equal(origin.restore(image.data), volume.data)
    assert labels.selected_label in MMWHS.ids
    person.press(commands.review_accept)
    assert person.case == "p1"
    image, labels = person.layers
    assert (image.name, labels.name) == ("p1", "p1 labels")
    assert page.point == pytest.approx(io.read_volume(folders[0] / "p1.nii.gz").grid.centre_mm, abs=4.0)
    person.paint(500)
    person.press(commands.review_accept)
    person.tab.reason_edit.setText("moved")
    person.press(commands.review_reject)
    person.paint(600)
    person.press(commands.review_next)  # painted, and saved on the way
    assert person.said == {"p0": "accepted", "p1": "corrected", "p2": "rejected", "p3": "corrected"}
    kept = review.read(person.results)["p1"]
    assert kept.run["model"] == "heart-phantom"
    assert min(kept.changed_dice.values()) < 1
    assert review.read(person.results)["p2"].reason == "moved"
    ids, grid = io.read_label_ids(person.results / kept.labels)
    assert grid.same_as(io.read_volume(folders[0] / "p1.nii.gz").grid)
    made, _ = io.read_label_ids(person.results / "p1_labels.nii.gz")
    assert 0 < np.count_nonzero(ids != made) <= 3  # the run's own labels stay
    person.press(commands.review_previous)
    _, labels = person.layers
    assert (labels.data[[3, 3, 4], [5, 6, 5], 7] == 600).all()  # as they were left
    person.tab.restore_button.click()
    person.press(commands.review_next)
    assert person.said["p3"] == "accepted"
    person.tab.table_button.click()
    assert (person.results / review.TABLE).read_text(encoding="utf-8").count("\n") == COUNT + 1
    assert len([layer for layer in page.viewer.layers if layer.visible]) == 2


def test_the_next_patient_is_there_before_the_key(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    page = open_page()
    person = Reviewer(page, *folders)
    review_ = person.tab._review
    assert review_ is not None
    seconds = []
    for index in range(1, COUNT):
        page.wait_until(review_.open(index - 1).done)
        page.wait_until(review_._opened[index].done)
        seconds.append(person.press(commands.review_next))
    assert sorted(seconds)[COUNT // 2 - 1] < 0.5, seconds


def test_a_review_goes_on_where_it_was_worst_first(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    images, results = folders
    page = open_page()
    person = Reviewer(page, images, results)
    for _ in range(COUNT - 1):
        person.press(commands.review_next)
    for name, residual in (("p3", 0.9), ("p1", 0.7)):
        report = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        report["frames"][-1]["guidance_residual"] = residual
        (results / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")
    review.add(results, review.Verdict("p3", "rejected", "moved"))
    person.press(person.tab.start)
    cells: Any = person.tab.list  # Qt's types say that a cell may be missing
    names = [cells.item(row, 0).text() for row in range(COUNT)]
    assert names == ["p3", "p1", "p0", "p2", "p4"]
    assert person.case == "p1"  # the worst that is to do
    assert cells.item(0, 2).text() == "rejected"


def test_a_file_that_cannot_be_read_is_said_and_the_others_are_shown(
    open_page: OpenPage, folders: tuple[Path, Path]
) -> None:
    (folders[0] / "p0.nii.gz").write_bytes(b"no volume")
    page = open_page()
    tab = page.widget.review
    tab.images_edit.value, tab.results_edit.value = folders
    tab.start_button.click()
    page.wait_until(lambda: "p0.nii.gz" in tab.status.text())
    tab.next_button.click()
    page.wait_until(lambda: tab._opened is not None)
    assert tab._opened is not None
    assert tab._opened.case.name == "p1"


def test_a_correction_is_continued_and_its_voxels_are_held(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    backend = FakeBackend()
    page = open_page(backend)
    person = Reviewer(page, *folders)
    person.paint(500)
    person.tab.continue_button.click()
    page.wait_for_end()
    edit = backend.requests[-1].edit
    assert edit is not None
    assert edit.pinned is not None
    assert 0 < np.count_nonzero(edit.pinned) <= 3
    assert edit.labels.shape == io.read_volume(folders[0] / "p0.nii.gz").data.shape
    assert "Continued" in person.tab.status.text()


def test_the_modality_that_is_named_holds_for_the_run_and_for_what_goes_on_from_it(
    open_page: OpenPage, folders: tuple[Path, Path]
) -> None:
    backend = FakeBackend()
    page = open_page(backend)
    form = page.widget.review.folders
    form["modality"].value = "CT"
    person = Reviewer(page, *folders)
    assert backend.volumes[0] is not None
    assert backend.volumes[0].modality == "ct"
    form["modality"].value = "auto"
    person.press(person.tab.start)  # the labels are there: what their run took the image for holds
    person.paint(500)
    person.tab.continue_button.click()
    page.wait_for_end()
    assert backend.requests[-1].edit is not None
    assert backend.volumes[-1] is not None
    assert backend.volumes[-1].modality == "ct"


def test_undo_goes_back_across_saves(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    page = open_page()
    person = Reviewer(page, *folders)
    page.widget.tabs.setCurrentWidget(person.tab)
    _, labels = person.layers
    made = labels.data.copy()
    person.paint(500)
    assert not np.array_equal(labels.data, made)
    person.press(commands.undo)  # painted, and not saved yet
    assert np.array_equal(labels.data, made)
    assert person.said == {}
    person.paint(500)
    painted = labels.data.copy()
    person.press(commands.review_accept)
    person.press(commands.review_accept)
    assert (person.case, person.said) == ("p2", {"p0": "corrected", "p1": "accepted"})
    kept = person.results / "reviewed" / "p0_labels.nii.gz"
    first = kept.read_bytes()
    person.press(commands.review_previous)
    person.press(commands.review_previous)
    person.paint(600)
    person.press(commands.review_next)  # a second save of the same case
    assert kept.read_bytes() != first
    person.press(commands.undo)
    assert person.case == "p0"
    assert kept.read_bytes() == first
    assert np.array_equal(person.layers[1].data, painted)
    person.press(commands.undo)
    assert person.case == "p1"
    assert person.said["p1"] == "to do"
    person.press(commands.undo)
    assert (person.case, person.said) == ("p0", {"p0": "to do", "p1": "to do"})
    assert np.array_equal(person.layers[1].data, made)
    assert not kept.exists()
    person.press(commands.undo)
    assert "nothing to undo" in person.tab.status.text()


def test_napari_s_undo_does_not_paint_the_last_patient_s_strokes_on_this_one(
    open_page: OpenPage, folders: tuple[Path, Path]
) -> None:
    person = Reviewer(open_page(), *folders)
    person.paint(500)
    person.press(commands.review_accept)
    _, labels = person.layers
    shown = labels.data.copy()
    labels.undo()  # Ctrl+Z on the canvas
    assert np.array_equal(labels.data, shown)
    person.paint(600)
    painted = labels.data.copy()
    person.tab.restore_button.click()
    assert np.array_equal(labels.data, shown)
    labels.undo()  # what a button did to the labels is one stroke
    assert np.array_equal(labels.data, painted)
    labels.undo()
    assert np.array_equal(labels.data, shown)


def test_what_was_painted_survives_a_crash(
    open_page: OpenPage, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, results = folders
    person = Reviewer(open_page(), images, results)
    person.tab._draft.setInterval(20)
    person.paint(500)
    painted = person.layers[1].data.copy()
    draft = results / "reviewed" / "drafts" / "p0_labels.nii.gz"
    person.page.wait_until(draft.exists)
    shutil.copytree(results, tmp_path / "crashed")  # what a crash would leave
    person.layers[1].undo()
    person.page.wait_until(lambda: not draft.exists())
    person = Reviewer(person.page, images, tmp_path / "crashed")
    assert person.case == "p0"
    assert np.array_equal(person.layers[1].data, painted)
    assert "not saved yet" in person.tab.status.text()
    assert person.said == {}
    person.press(commands.review_next)
    assert person.said == {"p0": "corrected"}
    person.press(commands.review_previous)
    assert np.array_equal(person.layers[1].data, painted)
    assert not (tmp_path / "crashed" / "reviewed" / "drafts" / "p0_labels.nii.gz").exists()


def test_a_rejected_case_keeps_no_labels_and_what_is_painted_on_it_waits(
    open_page: OpenPage, folders: tuple[Path, Path], qtbot: Any
) -> None:
    person = Reviewer(open_page(), *folders)
    person.press(commands.review_accept)
    kept = person.results / "reviewed" / "p0_labels.nii.gz"
    assert kept.exists()
    person.press(commands.review_previous)
    qtbot.keyClicks(person.tab.reason_edit, "motion")
    person.press(lambda: qtbot.keyClick(person.tab.reason_edit, Qt.Key.Key_Return))
    assert (person.case, person.said) == ("p1", {"p0": "rejected"})
    assert not kept.exists()  # of a rejected case nothing is there to be collected
    person.press(commands.review_previous)
    person.paint(500)
    painted = person.layers[1].data.copy()
    person.press(commands.review_next)
    assert person.said == {"p0": "rejected"}
    person.press(commands.review_previous)
    assert np.array_equal(person.layers[1].data, painted)
    person.press(commands.review_accept)
    assert person.said == {"p0": "corrected"}


def test_accept_goes_to_the_next_case_that_is_to_do(open_page: OpenPage, folders: tuple[Path, Path]) -> None:
    person = Reviewer(open_page(), *folders)
    for _ in range(3):
        person.press(commands.review_accept)
    person.press(lambda: person.tab.go_to(0))
    person.press(commands.review_accept)
    assert person.case == "p3"
    cells: Any = person.tab.list
    assert [cells.item(0, column).text() for column in range(3)] == ["p0", cells.item(0, 1).text(), "accepted"]
    assert float(cells.item(0, 1).text()) >= 0
    person.tab.images_edit.value = folders[0].parent / "others"
    assert person.tab.results_edit.value == person.results  # chosen by hand
    other = open_page().widget.review
    other.images_edit.value = folders[0]
    assert other.results_edit.value == folders[0].parent / "images-labels"


def test_the_accepted_cases_are_trained_on(
    open_page: OpenPage, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page()
    person = Reviewer(page, *folders)
    person.tab.train_button.click()
    assert "no case is accepted" in person.tab.train_text.text()
    person.press(commands.review_accept)
    person.paint(500)
    person.press(commands.review_accept)
    wait = "import sys, time; print('step 1 of 400', flush=True); time.sleep(60)"
    monkeypatch.setattr(training, "COMMAND", (sys.executable, "-c", wait))
    person.tab.train_button.click()
    assert person.tab.train_button.text() == "Stop training"
    page.wait_until(lambda: "step 1 of 400" in person.tab.train_text.text())
    person.tab.train_button.click()
    page.wait_until(lambda: "goes on" in person.tab.train_text.text())
    config = person.results / "training" / "train.yaml"
    echo = "import sys; print('model: trained on', sys.argv[1])"
    monkeypatch.setattr(training, "COMMAND", (sys.executable, "-c", echo))
    person.tab.train_button.click()
    page.wait_until(lambda: "the new model is" in person.tab.train_text.text())
    assert str(config) in config.with_name("train.log").read_text(encoding="utf-8")
    fail = "import sys; print('no such device'); sys.exit(2)"
    monkeypatch.setattr(training, "COMMAND", (sys.executable, "-c", fail))
    person.tab.train_button.click()
    page.wait_until(lambda: "failed: no such device" in person.tab.train_text.text())
    assert person.tab.train_button.text() == "Train on these"
