"""The form for work on a result: continue from an edit, paint an image onto a mask, return to earlier results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from napari_diffatlas.forms.parts import Text, combo_box, short, yielding

HINT = "Pause a run or let it finish, correct the labels with napari's brush, then continue."
HOLD_TITLES = {
    True: "is held, the rest adapts to it",
    False: "is where the run starts from",
}
DEFAULT_NOISE = 0.5
MIN_NOISE = 0.05


class EditPanel(QWidget):
    """Signals: ``continue_clicked(bool, float)`` (is the edit held; noise level in (0, 1] to resume from),
    ``paint_clicked()``, ``undo_clicked()``, ``result_chosen(int)``.
    """

    continue_clicked = Signal(bool, float)
    paint_clicked = Signal()
    undo_clicked = Signal()
    result_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.result_combo = combo_box("Every result of this session; choosing one shows it")
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip("Take back the edit of this result; where there is none, return to the one before")
        self.hold_combo = combo_box("What becomes of the voxels you changed")
        for held, title in HOLD_TITLES.items():
            self.hold_combo.addItem(title, held)
        self.noise_slider = QSlider(Qt.Orientation.Horizontal)
        self.noise_slider.setRange(round(100 * MIN_NOISE), 100)
        self.noise_slider.setToolTip(
            "The noise level the run resumes from: little noise keeps most of the mask, much noise forgets it"
        )
        self.noise_text = QLabel()
        self.continue_button = QPushButton("Continue from here")
        self.continue_button.setToolTip("Run on from the labels as they are now")
        self.paint_button = QPushButton("Paint an image")
        self.paint_button.setToolTip("The same model backwards: generate an image that fits these labels")
        self.hint = Text(HINT)
        self._lay_out()
        self.noise_slider.valueChanged.connect(self._on_noise)
        self.set_noise(DEFAULT_NOISE)
        self.continue_button.clicked.connect(self._on_continue)
        self.paint_button.clicked.connect(lambda: self.paint_clicked.emit())
        self.undo_button.clicked.connect(lambda: self.undo_clicked.emit())
        self.result_combo.currentIndexChanged.connect(self._on_result)
        self.set_results((), None)
        self.set_ready(False)

    def _lay_out(self) -> None:
        form = QGridLayout(self)
        form.setContentsMargins(12, 0, 0, 4)
        form.setColumnStretch(1, 1)
        results = QHBoxLayout()
        results.addWidget(self.result_combo, 1)
        results.addWidget(self.undo_button)
        noise = QHBoxLayout()
        noise.setSpacing(4)
        for part in (QLabel("touch up"), self.noise_slider, QLabel("redo")):
            noise.addWidget(part)
        buttons = QHBoxLayout()
        buttons.addWidget(yielding(self.continue_button), 4)
        buttons.addWidget(yielding(self.paint_button), 3)
        form.addWidget(self.hint, 0, 0, 1, 2)
        form.addWidget(QLabel("Result"), 1, 0)
        form.addLayout(results, 1, 1)
        form.addWidget(QLabel("My edit"), 2, 0)
        form.addWidget(self.hold_combo, 2, 1)
        form.addWidget(self.noise_text, 3, 0)
        form.addLayout(noise, 3, 1)
        form.addLayout(buttons, 4, 0, 1, 2)

    def set_results(self, names: Sequence[str], chosen: int | None) -> None:
        """Offer these results, oldest first; ``chosen`` is the one shown."""
        with QSignalBlocker(self.result_combo):
            self.result_combo.clear()
            self.result_combo.addItems([short(name) for name in names] or ["none yet"])
            for index, name in enumerate(names):
                self.result_combo.setItemData(index, name, Qt.ItemDataRole.ToolTipRole)
            if names:
                self.result_combo.setCurrentIndex(-1 if chosen is None else chosen)
        self._has_results = bool(names)

    def set_ready(self, ready: bool, idle: bool = True) -> None:
        """``ready``: there are labels to continue from; ``idle``: no run goes on."""
        for part in (self.hold_combo, self.noise_slider, self.continue_button):
            part.setEnabled(ready)
        self.paint_button.setEnabled(ready and idle)
        for part in (self.result_combo, self.undo_button):
            part.setEnabled(self._has_results and idle)
        self.hint.setVisible(not ready)

    def set_noise(self, t: float) -> None:
        """Propose to resume from noise level ``t``."""
        self.noise_slider.setValue(round(100 * t))

    def _on_noise(self, value: int) -> None:
        self.noise_text.setText(f"Noise {value / 100:.2f}")

    def _on_continue(self) -> None:
        self.continue_clicked.emit(self.hold_combo.currentData(), self.noise_slider.value() / 100)

    def _on_result(self, index: Any) -> None:
        if index >= 0:
            self.result_chosen.emit(index)
