"""How recorded steps are shown: one view, four, or two runs; and the generated image against the patient's."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSlider, QWidget

from napari_diffatlas.forms.parts import combo_box

VIEWS = {"one": "One view", "four": "Four views", "runs": "With the run before"}
AGAINST = {"off": "Off", "blend": "Blend", "swipe": "Swipe", "difference": "Difference"}


class See(QWidget):
    """Signals: ``noisy_changed(bool)``, ``view_changed(str)``, a key of `VIEWS`; ``against_changed(str, float)``, a key
    of `AGAINST` and the slider's share in [0, 1].
    """

    noisy_changed = Signal(bool)
    view_changed = Signal(str)
    against_changed = Signal(str, float)

    def __init__(self) -> None:
        super().__init__()
        self.view_combo = combo_box(
            "Four views: noisy state, generated image, mask on it, mask on the patient.\n"
            "With the run before: the same noise level of both runs, image and mask"
        )
        for key, title in VIEWS.items():
            self.view_combo.addItem(title, key)
        self.noisy_box = QCheckBox("Noisy state")
        self.noisy_box.setToolTip(
            "What the run is at, out of noise, instead of the image that the network makes of it at this step"
        )
        self.against_combo = combo_box("The generated image against the patient's, both as the model sees them")
        for key, title in AGAINST.items():
            self.against_combo.addItem(title, key)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setValue(50)
        self.slider.setToolTip("Left: the patient's image. Right: the generated one")
        form = QGridLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setColumnStretch(1, 1)
        form.setColumnStretch(2, 1)
        form.addWidget(QLabel("Show"), 0, 0)
        form.addWidget(self.view_combo, 0, 1, 1, 2)
        form.addWidget(self.noisy_box, 1, 1, 1, 2)
        form.addWidget(QLabel("Compare"), 2, 0)
        form.addWidget(self.against_combo, 2, 1)
        form.addWidget(self.slider, 2, 2)
        self.noisy_box.toggled.connect(self.noisy_changed.emit)
        self.view_combo.currentIndexChanged.connect(lambda _: self.view_changed.emit(self.view_combo.currentData()))
        self.against_combo.currentIndexChanged.connect(self._on_against)
        self.slider.valueChanged.connect(self._on_against)
        self.set_ready(has_before=False)
        self._on_against()

    def set_ready(self, has_before: bool) -> None:
        """``has_before``: the steps of an earlier run are kept, too."""
        item = getattr(self.view_combo.model(), "item", lambda _: None)(list(VIEWS).index("runs"))
        if item is not None:
            item.setEnabled(has_before)

    def choose(self, view: str) -> None:
        """Select the shown view in the form."""
        self.view_combo.setCurrentIndex(self.view_combo.findData(view))

    def _on_against(self, _: Any = None) -> None:
        how = self.against_combo.currentData()
        self.slider.setEnabled(how in ("blend", "swipe"))
        self.against_changed.emit(how, self.slider.value() / 100)
