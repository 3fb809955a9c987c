"""How long from a key to the next patient? A review of 50 phantoms by keyboard alone, in a real window.

    python benchmarks/bench_review.py [--cases 50] [--look 1.0]

Draws the phantoms, segments each with ``heart`` (fast preset) as ``diffatlas batch`` does, opens the Review tab
on them and presses keys on the canvas: accept, on every fifth case a stroke of the brush before, on every tenth reject
with a reason, on every eighth previous and next. After a key the script waits until the next patient stands in the
canvas and has been drawn; before the next key it looks at the case for ``--look`` seconds, during which the program
reads ahead. Beside each key stands what napari alone takes, in a window of its own, to show another image and other
labels of the same size in two layers that are there.
Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python ...``. Writes benchmarks/results/review.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from bench_gui import wait
from common import UNSEEN_HEARTS, write_results
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from diffatlas import review, session
from diffatlas.cohort import Cohort, find_cases
from diffatlas.engine.request import Request
from diffatlas.io import read_label_ids, read_volume, write_volume
from diffatlas.phantom import phantom
from napari_diffatlas.widget import DiffAtlasWidget

KEYS = {"accept": Qt.Key.Key_A, "reject": Qt.Key.Key_J, "next": Qt.Key.Key_N, "previous": Qt.Key.Key_B}
TIMEOUT_S = 120.0


class Person:
    """Presses keys and waits for patients."""

    def __init__(self, viewer: Any, widget: DiffAtlasWidget) -> None:
        self.viewer, self.tab = viewer, widget.review
        self.canvas = viewer.window._qt_viewer.canvas
        self.drawn = 0
        self.canvas._scene_canvas.events.draw.connect(self._on_draw)

    def press(self, what: str) -> float:
        """Seconds from the key to the first picture of the patient that comes."""
        self.canvas.native.setFocus()
        before = self.tab._opened
        begin = time.perf_counter()
        both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
        QTest.keyClick(self.canvas.native, KEYS[what], both)  # type: ignore[call-overload]
        self.wait_for_other(before)
        return time.perf_counter() - begin

    def wait_for_other(self, before: Any) -> None:
        wait(lambda: self.tab._opened not in (None, before), TIMEOUT_S, 5)
        if self.tab._opened in (None, before):
            raise SystemExit(f"no other patient came: {self.tab.status.text()}")
        drawn = self.drawn
        self.canvas.native.update()
        wait(lambda: self.drawn > drawn, 5.0, 5)

    def paint(self) -> None:
        """A stroke of the eraser over what is labelled."""
        labels = self.viewer.layers.selection.active
        at = np.argwhere(labels.data)
        labels.paint(tuple(at[len(at) // 2]), 0)

    def _on_draw(self, _: Any = None) -> None:
        self.drawn += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--look", type=float, default=1.0, help="seconds between a patient and the next key")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        images, results = Path(parent) / "images", Path(parent) / "labels"
        prepared_s = prepare(images, results, options.cases)
        seconds, alone, rejected, corrected = play(images, results, options.cases, options.look)
        said = review.read(results)
    states = [verdict.state for verdict in said.values()]
    counts = {state: states.count(state) for state in ("accepted", "corrected", "rejected")}
    assert (counts["rejected"], counts["corrected"]) == (rejected, corrected), counts
    assert len(said) == options.cases, f"{len(said)} of {options.cases} cases were reviewed"
    rows = {
        "cases": options.cases,
        "segmented ahead, s a case": round(prepared_s / options.cases, 2),
        "keys": len(seconds),
        "median_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.percentile(seconds, 95)), 3),
        "longest_s": round(max(seconds), 3),
        "over_half_a_second": sum(s > 0.5 for s in seconds),
        "napari_alone_median_s": round(float(np.median(alone)), 3),
        "times_napari_alone": round(float(np.median(np.array(seconds) / np.array(alone))), 2),
        "load_average": round(os.getloadavg()[0], 1),
        **counts,
    }
    for name, value in rows.items():
        print(f"{name:28s} {value}")
    print(write_results("review", rows))


def prepare(images: Path, results: Path, count: int) -> float:
    """Draw the phantoms and segment them; seconds of the second."""
    images.mkdir()
    for index in range(count):
        write_volume(phantom(UNSEEN_HEARTS + index, "ct")[0], images / f"case-{index:03d}.nii.gz")
    begin = time.monotonic()
    cases, _ = find_cases([images], results)
    request = Request(model="heart", preset="fast", roi=session.EXAMPLE_REGION)
    for status in Cohort(cases, request, backend=session.local_backend).run():
        if status.state == "failed":
            raise SystemExit(f"{status.name}: {status.reason}")
    return time.monotonic() - begin


class Alone:
    """napari without the plugin: two layers whose voxels become those of another patient."""

    def __init__(self, images: Path, results: Path) -> None:
        self.viewer = napari.Viewer(show=True, show_welcome_screen=False)
        self.viewer.window.resize(1280, 800)
        self.patients = [
            (read_volume(images / f"{name}.nii.gz").data, read_label_ids(results / f"{name}_labels.nii.gz")[0])
            for name in ("case-000", "case-001")
        ]
        self.layers = self.viewer.add_image(self.patients[0][0]), self.viewer.add_labels(self.patients[0][1])
        self.canvas = self.viewer.window._qt_viewer.canvas
        self.drawn = self.turn = 0
        self.canvas._scene_canvas.events.draw.connect(self._on_draw)
        wait(lambda: False, 1.0)

    def show_next(self) -> float:
        """Seconds to the first picture of the other patient."""
        self.turn += 1
        begin, drawn = time.perf_counter(), self.drawn
        for layer, data in zip(self.layers, self.patients[self.turn % 2], strict=True):
            layer.data = data.copy()
            layer.affine = np.diag([1.0 + 0.1 * (self.turn % 2)] * 3 + [1.0])
        self.viewer.reset_view()
        self.canvas.native.update()
        wait(lambda: self.drawn > drawn, 5.0, 5)
        return time.perf_counter() - begin

    def _on_draw(self, _: Any = None) -> None:
        self.drawn += 1


def play(images: Path, results: Path, count: int, look_s: float) -> tuple[list[float], list[float], int, int]:
    """Seconds a key, and beside each those of napari alone; how many cases were rejected and corrected."""
    napari_alone = Alone(images, results)
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1280, 800)
    widget = DiffAtlasWidget(viewer)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    widget.tabs.setCurrentWidget(widget.review)
    person, tab = Person(viewer, widget), widget.review
    tab.images_edit.value, tab.results_edit.value = images, results
    tab.start_button.click()
    person.wait_for_other(None)
    seconds, alone, rejected, corrected = [], [], 0, 0

    def press(what: str) -> None:
        seconds.append(person.press(what))
        alone.append(napari_alone.show_next())

    for number in range(1, count + 1):
        wait(lambda: False, look_s)
        last = number == count
        if number % 8 == 0 and not last:
            press("previous")
            wait(lambda: False, look_s)
            press("next")
            wait(lambda: False, look_s)
        if number % 10 == 0:
            tab.reason_edit.setText("moved")
            rejected += 1
        elif number % 5 == 0:
            person.paint()
            corrected += 1
        what = "reject" if number % 10 == 0 else "accept"
        if last:  # no patient comes after it
            (tab.reject_button if what == "reject" else tab.accept_button).click()
        else:
            press(what)
    viewer.close()
    napari_alone.viewer.close()
    return seconds, alone, rejected, corrected


if __name__ == "__main__":
    main()
