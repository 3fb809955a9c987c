"""What a user does with the widget, and what a user sees: tests speak of these, not of the widget's parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.geometry.volume import LabelMap, Volume
from napari_diffatlas.viewer.layers import label_map_to_layer, volume_to_layer
from napari_diffatlas.viewer.live_layers import LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend

TIMEOUT_MS = 90_000


class Page:
    """A viewer with the widget in it, on a fake engine."""

    def __init__(self, viewer: Any, widget: DiffAtlasWidget, backend: FakeBackend, qtbot: Any) -> None:
        self.viewer, self.widget, self.backend, self._qtbot = viewer, widget, backend, qtbot

    # -- what a user does --------------------------------------------------------------------------------------------
    def add(self, volume: Volume) -> Any:
        """Open a volume."""
        data, state, _ = volume_to_layer(volume)
        return self.viewer.add_image(data, **state)

    def add_labels(self, labels: LabelMap, name: str) -> Any:
        data, state, _ = label_map_to_layer(labels, name)
        return self.viewer.add_labels(data, **state)

    def open(self, *paths: Path) -> list[Any]:
        """Open files by our reader, as File > Open does."""
        return list(self.viewer.open([str(path) for path in paths], plugin="napari-diffatlas"))

    def choose_model(self, title: str) -> None:
        combo = self._panel.model_combo
        combo.setCurrentIndex(combo.findText(title))

    def choose_seed(self, seed: int) -> None:
        self._panel.options.advanced.form["seed"].value = seed

    def press_run(self) -> None:
        self._panel.run_button.click()

    def run(self, seed: int | None = None) -> None:
        """Press Run and wait for its end."""
        if seed is not None:
            self.choose_seed(seed)
        self.press_run()
        self.wait_for_end()

    def stop(self) -> None:
        self._panel.stop_button.click()
        self.wait_for_end()

    def undo(self) -> None:
        self.widget.segment.edit.undo_button.click()

    def paint_an_image(self) -> None:
        self.widget.segment.edit.paint_button.click()
        self.wait_for_end()

    def place_box_at_cursor(self) -> None:
        self.widget.segment.region.cursor_button.click()

    def say_axes(self, letters: str) -> None:
        """Write where the axes of the image run."""
        edit = self._panel.orientation.edit
        edit.setText(letters)
        edit.editingFinished.emit()

    def name_modality(self, title: str) -> None:
        """Choose under Modality, as by hand."""
        combo = self._panel.modality_combo
        combo.setCurrentIndex(combo.findText(title))
        combo.activated.emit(combo.currentIndex())

    def close_dock(self) -> None:
        self.viewer.window.remove_dock_widget(self.widget)

    def compare(self) -> None:
        """Press Compare and wait for the figures."""
        tab = self.widget.compare
        tab.compare_button.click()
        self.wait_until(lambda: not tab.busy and tab.compare_button.isEnabled())

    # -- what a user waits for ---------------------------------------------------------------------------------------
    def wait_until(self, condition: Callable[[], bool]) -> None:
        self._qtbot.waitUntil(condition, timeout=TIMEOUT_MS)

    def wait_for_end(self) -> None:
        self.wait_until(lambda: not self.widget.running)
        self.settle()

    def wait_for_steps(self, steps: int = 2) -> None:
        self.wait_until(lambda: LIVE_LABELS in self.viewer.layers and self._panel.progress.value() >= steps)

    def settle(self) -> None:
        """Let what waits for its turn in the event loop be done."""
        for _ in range(3):
            self._qtbot.wait(1)

    # -- what a user sees --------------------------------------------------------------------------------------------
    @property
    def status(self) -> str:
        return str(self._panel.status.text())

    @property
    def image(self) -> str:
        """What the form says under Image."""
        return str(self._panel.image_combo.currentData())

    @property
    def region_words(self) -> str:
        return str(self.widget.segment.region.text.text())

    @property
    def assumed_axes(self) -> str:
        """The letters in the form; "" where it does not ask."""
        row = self._panel.orientation
        return "" if row.isHidden() else str(row.edit.text())

    @property
    def modality(self) -> str:
        """What the form says under Modality."""
        return str(self._panel.modality_combo.currentText())

    @property
    def visible(self) -> list[str]:
        """Names of the layers in sight, bottom to top."""
        return [layer.name for layer in self.viewer.layers if layer.visible]

    @property
    def point(self) -> np.ndarray[Any, Any]:
        """Where the slices in sight lie, world."""
        return np.asarray(self.viewer.dims.point)

    @property
    def comparison(self) -> list[list[str]]:
        return list(self.widget.compare.table.rows())

    @property
    def _panel(self) -> Any:
        return self.widget.segment.panel
