"""A slider through the recorded steps of a run, tied to the cursor of its convergence plot."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_diffatlas.forms.parts import Text
from napari_diffatlas.forms.plot import Plot
from napari_diffatlas.forms.see import See
from napari_diffatlas.jobs.recording import Trace


class Scrubber(QWidget):
    """Slider, plot, and a text on the kept steps. Signal: ``moved(object)``, a step's index, or None for the newest.

    At its right end the slider follows the run; elsewhere it stays while the run goes on. ``see``: the form for how
    steps are shown.
    """

    moved = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._trace: Trace | None = None
        self._index: int | None = None
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip("Walk back through the steps of the run")
        self.newest_button = QPushButton("Newest")
        self.newest_button.setToolTip("Go back to the newest step, or to the result")
        self.see = See()
        self.text = Text()
        self.plot = Plot()
        self.kept_text = Text()
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.newest_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.text)
        layout.addWidget(self.see)
        layout.addWidget(self.plot)
        layout.addWidget(self.kept_text)
        self.slider.valueChanged.connect(self._on_slider)
        self.plot.clicked.connect(self.go_to)
        self.newest_button.clicked.connect(self.follow)
        self.clear()

    @property
    def index(self) -> int | None:
        """The step of the slider; None where it follows the newest."""
        return self._index

    def clear(self) -> None:
        """Hide: nothing is recorded."""
        self._trace = self._index = None
        self._draw()

    def show_trace(self, trace: Trace) -> None:
        """Update to a trace with more steps, or with fewer kept ones."""
        if not trace.kept:
            return
        self._trace = trace
        if self._index is not None:
            self._index = _nearest(trace.kept, self._index)
        self._draw()

    def follow(self, _: Any = None) -> None:
        """Go to the newest step and follow the run."""
        if self._index is not None:
            self._index = None
            self._draw()
            self.moved.emit(None)

    def go_to(self, index: int) -> None:
        """Go to the kept step nearest to ``index``."""
        if self._trace is None:
            return
        near = _nearest(self._trace.kept, index)
        new = None if near == self._trace.kept[-1] else near
        if new != self._index:
            self._index = new
            self._draw()
            self.moved.emit(new)

    def set_dark(self, dark: bool) -> None:
        self.plot.set_dark(dark)

    def _on_slider(self, position: int) -> None:
        if self._trace is not None:
            self.go_to(self._trace.kept[position])

    def _draw(self) -> None:
        trace = self._trace
        self.setVisible(trace is not None)
        if trace is None:
            self.plot.show_trace(None, None)
            return
        at = trace.kept[-1] if self._index is None else self._index
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, len(trace.kept) - 1)
            self.slider.setValue(trace.kept.index(at))
        self.slider.setEnabled(len(trace.kept) > 1)
        self.newest_button.setEnabled(self._index is not None)
        seconds = trace.metrics[at].seconds
        self.text.setText(f"Step {at + 1} of {trace.total} · noise {max(trace.levels[at], 0):.2f} · {seconds:.1f} s")
        self.plot.show_trace(trace, at)
        kept, made = len(trace.kept), len(trace.metrics)
        megabytes = f"{trace.nbytes / 2**20:.0f} of {trace.limit_bytes / 2**20:.0f} MB"
        which = f"all {made} steps" if kept == made else f"{kept} of {made} steps, evenly spread"
        self.kept_text.setText(f"Keeps {which}: {megabytes}.")


def _nearest(kept: tuple[int, ...], index: int) -> int:
    return min(kept, key=lambda k: abs(k - index))
