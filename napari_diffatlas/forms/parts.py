"""Small pieces that the forms are made of: text that keeps its height, a combo box, a fold, words for seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QProgressBar, QSizePolicy, QToolButton, QVBoxLayout, QWidget

W = TypeVar("W", bound=QWidget)
ERROR_COLORS = {True: "#ff8a80", False: "#b3261e"}  # readable on a dark and on a light ground


class Text(QLabel):
    """Wrapped text that always has the height it needs; layouts alone cut the last line of rich text."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setText(text)

    def setText(self, text: str | None) -> None:
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # heightForWidth never answers less than the minimum
        self.setFixedHeight(max(0, self.heightForWidth(self.width())) if self.text() else 0)


class Status(Text):
    """A line for the user, red where it says that something went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._dark, self._error = True, False
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def say(self, text: str, error: bool = False) -> None:
        self._error = error
        self.setText(text)
        self._paint()

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""
        self._dark = dark
        self._paint()

    def _paint(self) -> None:
        self.setStyleSheet(f"color: {ERROR_COLORS[self._dark]};" if self._error else "")


class Bar(QProgressBar):
    """A progress bar that is painted when the window is.

    Qt's own paints at once and the whole window with it. In the middle of a change of layers, the canvas would then
    draw textures that are gone; software OpenGL dies of that.
    """

    def setValue(self, value: int) -> None:
        self._later(super().setValue, value)

    def setRange(self, minimum: int, maximum: int) -> None:
        self._later(super().setRange, minimum, maximum)

    def setTextVisible(self, visible: bool) -> None:
        self._later(super().setTextVisible, visible)

    def _later(self, change: Callable[..., None], *values: int) -> None:
        self.setUpdatesEnabled(False)
        change(*values)
        self.setUpdatesEnabled(True)


class Fold(QWidget):
    """A heading that opens and closes what stands below it."""

    def __init__(self, title: str, content: QWidget, opened: bool = False) -> None:
        super().__init__()
        self.content = content
        self.heading = QToolButton()
        self.heading.setText(title)
        self.heading.setCheckable(True)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setStyleSheet("QToolButton { border: none; padding: 2px 0; background: transparent; }")
        self.heading.toggled.connect(self._show)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.heading)
        layout.addWidget(content)
        self.heading.setChecked(opened)
        self._show(opened)

    @property
    def opened(self) -> bool:
        return bool(self.heading.isChecked())

    def open(self, opened: bool = True) -> None:
        self.heading.setChecked(opened)

    def _show(self, opened: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        self.content.setVisible(opened)


def size_mm(extent: Sequence[float]) -> str:
    """Sides of a box, mm, in words that no line breaks apart."""
    return " × ".join(f"{e:.0f}" for e in extent).replace(" ", "\N{NO-BREAK SPACE}") + "\N{NO-BREAK SPACE}mm"


def yielding(widget: W) -> W:
    """Let a widget become as narrow as the dock wants it; viewers' styles ask for more room than there is."""
    widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    widget.setMinimumWidth(50)
    return widget


def combo_box(tip: str) -> QComboBox:
    """A combo box that cuts long layer names rather than making the dock wide."""
    combo = QComboBox()
    combo.setToolTip(tip)
    return yielding(combo)


def offer(combo: QComboBox, names: list[str], empty: str) -> None:
    """Offer these names; keeps the current choice where it is still there, else takes the last (topmost) one."""
    current = combo.currentData()
    wanted: list[str | None] = [*names] if names else [None]
    if [combo.itemData(i) for i in range(combo.count())] == wanted:
        return
    combo.clear()
    for name in names:
        combo.addItem(short(name), name)
        combo.setItemData(combo.count() - 1, name, Qt.ItemDataRole.ToolTipRole)
    if not names:
        combo.addItem(empty, None)
    elif current in names:
        combo.setCurrentIndex(names.index(current))
    else:
        combo.setCurrentIndex(len(names) - 1)


def short(name: str, length: int = 34) -> str:
    """A long name with its middle left out: names of patients and results differ at their ends."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def about(seconds: float) -> str:
    """A time in few words: "under 1 s", "12 s", "4 min", "1.5 h"."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def in_our_words(message: str) -> str:
    """The engine's one line, where it names a setting as Python does, with the name it has here."""
    message = message.replace("name the modality if you know it", "choose CT or MR as its Modality if you know it")
    message = message.replace("name one as model, and insist", "choose a model, and insist")
    return message.replace("insist with force=True", "tick 'run on any modality' under Advanced")
