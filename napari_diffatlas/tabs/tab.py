"""The base class of the widget's tabs: a page that scrolls, with methods for changes of layers and theme."""

from __future__ import annotations

from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget


class Tab(QWidget):
    """A page of the widget. ``column`` takes its parts, top to bottom; they scroll where the dock is too small.

    The widget calls the methods below; a tab overrides those it needs.
    """

    title = ""

    def __init__(self) -> None:
        super().__init__()
        page = QWidget()
        self.column = QVBoxLayout(page)
        self.column.setContentsMargins(6, 9, 6, 9)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidget(page)
        area.setMinimumWidth(324)  # the names of structures need it beside five figures
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(area)

    def layers_changed(self) -> None:
        """Layers came, went or were renamed."""

    def active_changed(self) -> None:
        """Another layer is the active one."""

    def busy_changed(self, busy: bool) -> None:
        """A run of the engine, this tab's or another's, began or ended."""

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""

    def shut_down(self) -> None:
        """The widget closes: drop pending work. The widget stops the run itself."""
