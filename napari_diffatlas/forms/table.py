"""A small table of figures that fits its rows and copies to the clipboard as tab-separated text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

Color = tuple[int, int, int]


class Table(QWidget):
    """Rows of text and numbers. The first column holds names, with a colour in front where there is one.

    ``titles``: the columns' names in full, for the clipboard; None takes those that are shown.
    """

    def __init__(self, columns: Sequence[str], titles: Sequence[str] | None = None) -> None:
        super().__init__()
        self._columns = list(columns)
        self._titles = list(titles or columns)
        self.table = QTableWidget(0, len(self._columns))
        self.table.setHorizontalHeaderLabels(self._columns)
        sides, header = self.table.verticalHeader(), self.table.horizontalHeader()
        assert sides is not None  # both always exist; Qt's types do not say so
        assert header is not None
        sides.hide()
        self._sides, self._head = sides, header
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.table.setStyleSheet("QHeaderView::section { padding: 2px 1px; } QTableWidget::item { padding: 0; }")
        self.table.setIconSize(QSize(8, 8))
        self.table.setWordWrap(True)  # left ventricle and left atrium differ at their ends only
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.copy_button = QPushButton("Copy table")
        self.copy_button.setToolTip("To the clipboard, ready for a spreadsheet")
        self.copy_button.clicked.connect(self.copy)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.copy_button, 0, Qt.AlignmentFlag.AlignRight)
        self.set_rows(())
        header.sectionResized.connect(lambda *_: self._fit())

    def set_rows(self, rows: Sequence[Sequence[str]], colors: Sequence[Color | None] = ()) -> None:
        """Show these rows; hidden without rows."""
        self.table.setRowCount(len(rows))
        for y, row in enumerate(rows):
            color = colors[y] if y < len(colors) else None
            for x, text in enumerate(row):
                item = QTableWidgetItem(text)
                item.setToolTip(text)  # a narrow dock cuts long names
                if x:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                elif color is not None:
                    patch = QPixmap(8, 8)
                    patch.fill(QColor(*color))
                    item.setIcon(QIcon(patch))
                self.table.setItem(y, x, item)
        self.setVisible(bool(rows))
        row_px = self.table.fontMetrics().height() + 4
        self._sides.setMinimumSectionSize(row_px)
        self._sides.setDefaultSectionSize(row_px)
        self._fit()

    def _fit(self) -> None:
        """Fit the row heights to their wrapped text, and the table to its rows."""
        self.table.resizeRowsToContents()
        rows_px = sum(self.table.rowHeight(y) for y in range(self.table.rowCount()))
        self.table.setFixedHeight(rows_px + self._head.sizeHint().height() + 4)

    def rows(self) -> list[list[str]]:
        """What the table shows."""
        return [[self._text(y, x) for x in range(len(self._columns))] for y in range(self.table.rowCount())]

    def copy(self, _: Any = None) -> None:
        """Copy header and visible rows to the clipboard, cells separated by tabs."""
        seen = [x for x in range(len(self._columns)) if not self.table.isColumnHidden(x)]
        lines = ["\t".join(row[x] for x in seen) for row in (self._titles, *self.rows())]
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText("\n".join(lines))

    def _text(self, y: int, x: int) -> str:
        item = self.table.item(y, x)
        return "" if item is None else str(item.text())
