"""Crossing out parts of the image that a run should ignore: the buttons of the form, and the layer to paint in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QWidget

from diffatlas.errors import BadInput
from napari_diffatlas.forms.panel import Card
from napari_diffatlas.forms.parts import Status, yielding
from napari_diffatlas.viewer.doubt import in_ml
from napari_diffatlas.viewer.layers import Source
from napari_diffatlas.viewer.scene import Scene

COUNT_MS = 150  # after the last stroke


class CrossOut(QWidget):
    """Two buttons and a line of text. `mask_for` gives the voxels that a run ignores."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene
        self._crossed = scene.crossed(self._on_painted)
        self._image: str | None = None
        self._card: Card | None = None
        self._idle = True
        self.start_button = QPushButton("Cross out")
        self.start_button.setToolTip(
            "Brush over what is not to be believed (metal, motion, a missing part): the run leaves it to the atlas"
        )
        self.clear_button = QPushButton("Believe all")
        self.clear_button.setToolTip("Take the crossings away")
        self.text = Status()
        self._count = QTimer(self)
        self._count.setSingleShot(True)
        self._count.setInterval(COUNT_MS)
        self._count.timeout.connect(self.refresh)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        form = QGridLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(4)
        form.addWidget(QLabel("Belief"), 0, 0)
        for column, button in enumerate((self.start_button, self.clear_button), start=1):
            form.addWidget(yielding(button), 0, column)
            form.setColumnStretch(column, 1)
        form.addWidget(self.text, 1, 0, 1, 3)
        self.start_button.clicked.connect(lambda: self.start())
        self.clear_button.clicked.connect(lambda: self.clear())
        self.refresh()

    def use(self, image: str | None, card: Card | None) -> None:
        """The form's image and model."""
        self._image, self._card = image, card
        self.refresh()

    def set_idle(self, idle: bool) -> None:
        """Whether no run is on its way."""
        self._idle = idle
        self.refresh()

    def start(self) -> None:
        """Select the brush on the layer."""
        source = self._source()
        if source is not None:
            self._crossed.open(source)
            self.refresh()

    def clear(self) -> None:
        """Clear all crossed-out voxels."""
        source = self._source()
        if source is not None:
            self._crossed.close(source)
            self.refresh()

    def mask_for(self, source: Source) -> NDArray[np.bool_] | None:
        """The mask that a run on ``source`` ignores, on its displayed voxels; None for no voxel."""
        return self._crossed.mask(source)

    def finished(self) -> None:
        """A result is shown: hide the layer."""
        self._crossed.hide()

    def refresh(self) -> None:
        """Say how much is crossed out, and whether the model supports it."""
        source = self._source()
        layer = None if source is None else self._crossed.layer(source)
        self.start_button.setEnabled(source is not None and self._idle and not source.large)
        self.clear_button.setEnabled(layer is not None and self._idle)
        text, warn = "", False
        if source is not None and layer is not None:
            ml = float(np.count_nonzero(layer.data)) * source.grid.voxel_volume_ml
            text = f"{in_ml(ml)} crossed out; Run leaves them to the atlas." if ml else "Brush over the image."
            if self._card is not None and not self._card.evidence:
                warn = True
                text += " This model cannot be told: it takes crossed-out voxels for the darkest ones."
        self.text.say(text, warning=warn)

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""
        self.text.set_dark(dark)

    def shut_down(self) -> None:
        """The widget closes."""
        self._count.stop()
        self._crossed.disconnect()

    def _source(self) -> Source | None:
        try:
            return None if self._image is None else self._scene.source(self._image)
        except BadInput:  # the run reports it
            return None

    def _on_painted(self, _: Any = None) -> None:
        self._count.start()
