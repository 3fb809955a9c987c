"""The directions of an image's axes where the image does not state them: shows the assumption, which can be changed."""

from __future__ import annotations

from qtpy.QtCore import Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QWidget

from napari_diffatlas.forms.parts import yielding

TIP = (
    "The layer has no axis labels. Say where its axes run, a letter each: R or L (right, left), A or P (front, back),\n"
    "S or I (head, feet). An array in z, y, x order is often SPL or IPL"
)


class OrientationRow(QWidget):
    """Three letters. Signal: ``changed(str)``, what the user wrote."""

    changed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.edit = yielding(QLineEdit())
        self.edit.setMaxLength(3)
        self.edit.setToolTip(TIP)
        label = QLabel("Axes assumed to run to")
        label.setToolTip(TIP)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(label)
        row.addWidget(self.edit, 1)
        self.edit.editingFinished.connect(self._on_edited)
        self._shown = ""
        self.show_letters("")

    def show_letters(self, letters: str) -> None:
        """Show the assumed letters; "" hides the row, because the image states its axes."""
        self._shown = letters
        self.edit.setText(letters)
        self.setVisible(bool(letters))

    def _on_edited(self) -> None:
        if self.edit.text().upper() != self._shown:
            self.changed.emit(self.edit.text())
