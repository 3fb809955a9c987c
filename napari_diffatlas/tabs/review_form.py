"""The form of the Review tab: folders, buttons, the list of cases. Knows neither viewer nor engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import Container
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
)

from napari_diffatlas.forms.panel import modality_row
from napari_diffatlas.forms.parts import Rows, Status, Text, folder_row, yielding
from napari_diffatlas.tabs.folder import COLORS, chosen, results_beside
from napari_diffatlas.tabs.tab import Tab

TABLE_ROWS = 8
LOOKS = {"accepted": "done", "corrected": "running", "rejected": "failed"}  # state -> colour of the Folder tab


class ReviewForm(Tab):
    """The widgets of the Review tab; `ReviewTab` holds their actions."""

    title = "Review"

    def __init__(self) -> None:
        super().__init__()
        self._proposed, self._dark = "", True
        self.images_edit = folder_row("images", "Images", "The folder of the volumes")
        self.results_edit = folder_row("results", "Results", "The folder of their labels: a batch's output")
        self.folders = Container(widgets=[self.images_edit, self.results_edit, modality_row()], labels=True)
        self.start_button = QPushButton("Start")
        self.start_button.setToolTip("Cases without labels are segmented with the options of the Segment tab")
        self.case_text = Text()
        self.doubt_text = Status()
        self.previous_button, self.next_button = QPushButton("Previous"), QPushButton("Next")
        self.accept_button = QPushButton("Accept")
        self.accept_button.setToolTip("Keep the labels as they are now, and go to the next case")
        self.restore_button = QPushButton("Restore")
        self.restore_button.setToolTip("The run's own labels again, also after they were corrected and saved")
        self.continue_button = QPushButton("Continue from here")
        self.continue_button.setToolTip("Run on from the labels in sight; the voxels you changed are held")
        self.reason_edit = QLineEdit()
        self.reason_edit.setPlaceholderText("reason, to reject")
        self.reject_button = QPushButton("Reject")
        self.reject_button.setToolTip(
            "Keep no labels, but the reason, and go to the next case; Return in the reason does the same"
        )
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip("Take back what was painted since the last save; then what was saved, case by case")
        self.train_button = QPushButton("Train on these")
        self.train_button.setToolTip(
            "Train the model further on the accepted and corrected cases, in a process of its own:\n"
            "training/train.yaml in the folder of the results says how"
        )
        self.train_text = Status()
        self.table_button = QPushButton("Write table")
        self.table_button.setToolTip("review.csv in the folder of the results: status and volumes of every case")
        self.status = Status()
        self.list = QTableWidget(0, 3)
        self._lay_out()
        self.images_edit.changed.connect(self._on_images)

    def _lay_out(self) -> None:
        rows = (
            (self.previous_button, self.next_button),
            (self.accept_button, self.undo_button),
            (self.reason_edit, self.reject_button),
            (self.continue_button, self.restore_button),
        )
        head = self.list.horizontalHeader()
        sides = self.list.verticalHeader()
        assert head is not None  # both always exist; Qt's types do not say so
        assert sides is not None
        sides.hide()
        self.list.setHorizontalHeaderLabels(["Case", "Doubt", "Status"])
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)  # a key with Ctrl would add to it
        self.list.setToolTip("Double-click a case to go to it")
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names of cases differ at their ends
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        row_px = self.list.fontMetrics().height() + 6
        sides.setMinimumSectionSize(row_px)
        sides.setDefaultSectionSize(row_px)
        self.list.setMinimumHeight(TABLE_ROWS * row_px)
        self.column.addWidget(Rows(self.folders))
        self.column.addWidget(self.start_button)
        self.column.addWidget(self.case_text)
        self.column.addWidget(self.doubt_text)
        for parts in rows:
            row_layout = QHBoxLayout()
            for part in parts:
                row_layout.addWidget(yielding(part), 1)
                if isinstance(part, QPushButton):  # a click leaves the keyboard to the viewer
                    part.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            self.column.addLayout(row_layout)
        self.column.addWidget(self.status)
        self.column.addWidget(self.list, 1)
        ends = QHBoxLayout()
        for part in (self.table_button, self.train_button):
            ends.addWidget(yielding(part), 1)
        self.column.addLayout(ends)
        self.column.addWidget(self.train_text)

    def give_keys_back(self) -> None:
        """Give the keyboard focus back to the viewer."""
        focused = QApplication.focusWidget()
        if focused is not None and self.isAncestorOf(focused):
            focused.clearFocus()

    def show_row(self, row: int, name: str, doubt: float | None, state: str) -> None:
        """Show a case in the list. ``doubt``: None where it has no run yet."""
        for column, text in enumerate((name, "" if doubt is None else f"{doubt:.2f}", state)):
            item = self.list.item(row, column)
            if item is None:
                item = QTableWidgetItem()
                self.list.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(text)
        self._paint(row)

    def set_dark(self, dark: bool) -> None:
        self._dark = dark
        for line in (self.doubt_text, self.status, self.train_text):
            line.set_dark(dark)
        for row in range(self.list.rowCount()):
            self._paint(row)

    def _paint(self, row: int) -> None:
        item: Any = self.list.item(row, 2)
        if item is not None:
            color = COLORS[self._dark].get(LOOKS.get(item.text(), ""))
            item.setData(Qt.ItemDataRole.ForegroundRole, None if color is None else QColor(color))

    def _on_images(self, folder: Path) -> None:
        """Propose a folder of results beside the images, unless the user has named one."""
        if chosen(folder) and chosen(self.results_edit.value) in ("", self._proposed):
            self._proposed = results_beside(folder)
            self.results_edit.value = Path(self._proposed)

    def propose(self, images: str, results: str, modality: str) -> None:
        """Propose the folders and the modality of the Folder tab where no folder is chosen here."""
        if not chosen(self.images_edit.value):
            self.folders["modality"].value = modality
            self.images_edit.value = Path(images)
            if chosen(self.results_edit.value) in ("", self._proposed):
                self.results_edit.value = Path(results)
