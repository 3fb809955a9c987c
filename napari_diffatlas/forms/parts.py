"""Small widgets of the forms, such as text that keeps its height, a combo box and a fold; and durations as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from magicgui.types import FileDialogMode
from magicgui.widgets import Container, FileEdit
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QComboBox, QLabel, QProgressBar, QScrollArea, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

HEADING = "text-align: left; border: none; background: transparent; padding: 2px 0;"
MAX_HEIGHT = 2**24 - 1  # Qt's own
W = TypeVar("W", bound=QWidget)
# Text colours by whether the background is dark.
ERROR_COLORS = {True: "#ff8a80", False: "#b3261e"}
WARNING_COLORS = {True: "#fdd663", False: "#8f5a00"}


class Text(QLabel):
    """Wrapped text that always has the height it needs; layouts alone cut the last line of rich text."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._grown = QTimer(self)
        self._grown.setSingleShot(True)
        self._grown.timeout.connect(self._tell_parents)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)  # Qt at times asks for a line too many
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setText(text)

    def setText(self, text: str | None) -> None:
        super().setText(text)
        if self.parent() is not None:  # without words no gap in the layout; without a parent it would be a window
            self.setVisible(bool(text))
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        before = self.maximumHeight()
        self.setMinimumHeight(0)  # heightForWidth never answers less than the minimum
        self.setFixedHeight(max(0, self.heightForWidth(self.width())) if self.text() else 0)
        if self.maximumHeight() != before:
            self._grown.start(0)

    def _tell_parents(self) -> None:
        """Make every layout above update: one that works while this text grows would keep its old height."""
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            layout = parent.layout()
            if layout is not None:
                layout.invalidate()
            parent.updateGeometry()
            parent = parent.parentWidget()


class Status(Text):
    """A line for the user: red for an error, amber for a warning."""

    def __init__(self) -> None:
        super().__init__()
        self._dark = True
        self._colors: dict[bool, str] | None = None
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def say(self, text: str, error: bool = False, warning: bool = False) -> None:
        self._colors = ERROR_COLORS if error else WARNING_COLORS if warning else None
        self.setText(text)
        self._paint()

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""
        self._dark = dark
        self._paint()

    def _paint(self) -> None:
        self.setStyleSheet("" if self._colors is None else f"color: {self._colors[self._dark]};")


class Bar(QProgressBar):
    """A progress bar that is painted together with the window.

    Qt's own bar paints at once, and the whole window with it. During a change of layers the canvas would then draw
    deleted textures, which crashes software OpenGL.
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


def fold(title: str, content: QWidget, opened: bool = False) -> QCollapsible:
    """A heading that opens and closes ``content``, without animation, which would cut content that grows later."""
    collapsible = QCollapsible(title, expandedIcon=QIcon(), collapsedIcon=QIcon())
    layout, unused = collapsible.layout(), collapsible.content()
    assert layout is not None  # it always has one; Qt's types do not say so
    layout.removeWidget(unused)
    unused.deleteLater()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(2)
    collapsible.toggleButton().setStyleSheet(HEADING)
    collapsible.setDuration(0)
    collapsible.setContent(content)

    def show(opened: bool) -> None:
        # The arrow is text, because an icon would not change its colour with the theme.
        collapsible.setText(f"{'▾' if opened else '▸'}  {title}")
        content.setMaximumHeight(MAX_HEIGHT if opened else 0)
        content.setVisible(opened)

    collapsible.toggled.connect(show)
    (collapsible.expand if opened else collapsible.collapse)(animate=False)
    return collapsible


class Rows(QWidget):
    """A magicgui form in a narrow dock: no margins, rows as wide as the dock, and all labels as wide as the widest.

    magicgui measures its labels when they are made, in another font than the viewer's.
    """

    def __init__(self, form: Container[Any]) -> None:
        super().__init__()
        form.margins = (0, 0, 0, 0)
        native = form.native
        assert isinstance(native, QWidget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(native)
        self._labels = []
        for row in form:
            yielding(row.native)
            around = row.native.parentWidget()
            label = None if around is native else around.findChild(QLabel)
            if label is not None:
                self._labels.append(label)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        widest = max((label.sizeHint().width() for label in self._labels), default=0)
        for label in self._labels:
            label.setFixedWidth(widest)


def folder_row(name: str, label: str, tip: str) -> FileEdit:
    """A row to choose a folder in: the path has the room, and its button says what it does in its tip."""
    row = FileEdit(mode=FileDialogMode.EXISTING_DIRECTORY, name=name, label=label, tooltip=tip)
    row.choose_btn.text = "…"
    row.choose_btn.tooltip = "Choose the folder"
    row.choose_btn.max_width = 32
    return row


def size_mm(extent: Sequence[float]) -> str:
    """Sides of a box, mm, as text without line breaks."""
    return " × ".join(f"{e:.0f}" for e in extent).replace(" ", "\N{NO-BREAK SPACE}") + "\N{NO-BREAK SPACE}mm"


def yielding(widget: W) -> W:
    """Let a widget become as narrow as the dock; the viewers' style sheets set a larger minimum."""
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
    """A long name without its middle, because names of patients and results differ at their ends."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def about(seconds: float) -> str:
    """A duration as text: "under 1 s", "12 s", "4 min", "1.5 h"."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sentence(note: str) -> str:
    """A note of the engine's, which begins small and has no end, as a sentence among others."""
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")


def in_our_words(message: str) -> str:
    """A message of the engine with the names of the form's settings in place of Python's."""
    message = message.replace("name the modality if you know it", "choose CT or MR as its Modality if you know it")
    message = message.replace("name one as model, and insist", "choose a model, and insist")
    return message.replace("insist with force=True", "tick 'run on any modality' under Advanced")
