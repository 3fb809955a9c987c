"""The DiffAtlas widget: tabs that share one viewer and one engine. A viewer has one such widget."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import napari
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QSizePolicy, QTabWidget, QVBoxLayout, QWidget

from diffatlas import session
from diffatlas.session import Backend
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.function import register_types
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.keys import WIDGET, register
from napari_diffatlas.preferences import models, preferences
from napari_diffatlas.reader import prefer_our_reader
from napari_diffatlas.tabs.atlas import AtlasTab
from napari_diffatlas.tabs.compare import CompareTab
from napari_diffatlas.tabs.folder import FolderTab
from napari_diffatlas.tabs.review import ReviewTab
from napari_diffatlas.tabs.segment import SegmentTab
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.scene import Scene


def open_widget() -> DiffAtlasWidget:
    """The widget of the current viewer, for napari to dock; an existing one is taken out of its dock.

    napari names the dock after the plugin where a program opens it, and after its title where the menu does. It would
    therefore open a second widget.
    """
    viewer = napari.current_viewer()
    if viewer is None:
        raise RuntimeError("no viewer is open")
    window = viewer.window._qt_window
    there = window.findChild(DiffAtlasWidget, WIDGET)
    if there is None:
        return DiffAtlasWidget(viewer)
    with suppress(LookupError):  # its dock was closed; the window keeps the widget
        viewer.window.remove_dock_widget(there)
    there.show()
    return there


class DiffAtlasWidget(QWidget):
    """Segment an image, draw from the atlas, compare label layers: a tab each, one run of the engine at a time.

    ``backend`` is called in the worker thread, at the first run; None takes the engine on this machine. ``plan`` says
    what a request will do, without loading a network.
    """

    def __init__(
        self, napari_viewer: Any, backend: Callable[[], Backend] | None = None, plan: Planner = session.plan
    ) -> None:
        super().__init__()
        self.setObjectName(WIDGET)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._viewer = napari_viewer
        backend = backend or session.local_backend
        wanted = preferences()
        cards, warning = models(wanted.weights_folder)
        self._scene = Scene(napari_viewer)
        self.runner = Runner()
        self.runner.setParent(self)
        self.segment = SegmentTab(self._scene, self.runner, backend, cards, plan=plan)
        self.atlas = AtlasTab(self._scene, self.runner, backend, cards)
        self.compare = CompareTab(self._scene)
        self.folder = FolderTab(self._scene, self.runner, backend, self.segment.options, plan)
        self.review = ReviewTab(self._scene, self.runner, backend, self.segment.options)
        self.folder.folders_chosen.connect(self.review.propose)
        self.pages: tuple[Tab, ...] = (self.segment, self.atlas, self.compare, self.folder, self.review)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for page in self.pages:
            self.tabs.addTab(page, page.title)
            self.runner.busy_changed.connect(page.busy_changed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tabs)
        self._scene.connect(self._on_layers, self._on_theme, self._on_active)
        self._on_theme()
        self._on_layers()
        self.segment.prefer(wanted.model, wanted.device)
        if warning:
            self.segment.panel.set_status(warning, error=True)
        register()
        register_types()
        prefer_our_reader()

    @property
    def running(self) -> bool:
        """Whether a run is on its way, whichever tab began it."""
        return self.runner.busy

    def event(self, event: Any) -> bool:
        """Qt's event handler. napari takes the widget out of a closed dock without closing or deleting it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            QTimer.singleShot(0, self._wait_in_window)
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        self._shut_down()
        super().closeEvent(event)

    def _wait_in_window(self) -> None:
        """The dock was closed: keep the widget in the window, so that a run goes on and it can be opened again."""
        if self.parent() is None:  # else it was docked again meanwhile
            self.hide()
            window = self._viewer.window._qt_window
            self.setParent(getattr(window, "__wrapped__", window))  # napari gives plugins a proxy, Qt needs the window

    def _on_active(self, _: Any = None) -> None:
        for page in self.pages:
            page.active_changed()

    def _on_layers(self, _: Any = None) -> None:
        for page in self.pages:
            page.layers_changed()

    def _on_theme(self, _: Any = None) -> None:
        for page in self.pages:
            page.set_dark(self._scene.is_dark)

    def _shut_down(self) -> None:
        """Stop the run and disconnect from the viewer; its layers stay."""
        for page in self.pages:
            page.shut_down()
        self.runner.abandon()
        self._scene.disconnect()
