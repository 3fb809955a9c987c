"""The DiffAtlas widget: tabs that share one viewer and one engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from diffatlas import session
from diffatlas.session import Backend
from napari_diffatlas.commands import register
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.preferences import models, preferences
from napari_diffatlas.tabs.atlas import AtlasTab
from napari_diffatlas.tabs.compare import CompareTab
from napari_diffatlas.tabs.folder import FolderTab
from napari_diffatlas.tabs.segment import SegmentTab
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.scene import Scene


class DiffAtlasWidget(QWidget):
    """Segment an image, draw from the atlas, compare label layers: a tab each, one run of the engine at a time.

    ``backend`` is called in the worker thread, at the first run; None takes the engine on this machine.
    """

    def __init__(self, napari_viewer: Any, backend: Callable[[], Backend] | None = None) -> None:
        super().__init__()
        backend = backend or session.local_backend
        wanted = preferences()
        cards, warning = models(wanted.weights_folder)
        self._scene = Scene(napari_viewer)
        self.runner = Runner()
        self.runner.setParent(self)
        self.segment = SegmentTab(self._scene, self.runner, backend, cards)
        self.atlas = AtlasTab(self._scene, self.runner, backend, cards)
        self.compare = CompareTab(self._scene)
        self.folder = FolderTab(self._scene, self.runner, backend, self.segment.options)
        self.pages: tuple[Tab, ...] = (self.segment, self.atlas, self.compare, self.folder)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for page in self.pages:
            self.tabs.addTab(page, page.title)
            self.runner.busy_changed.connect(page.busy_changed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tabs)
        self._scene.connect(self._on_layers, self._on_theme)
        self._on_theme()
        self._on_layers()
        self.segment.prefer(wanted.model, wanted.device)
        if warning:
            self.segment.panel.set_status(warning, error=True)
        register()

    @property
    def running(self) -> bool:
        """Whether a run is on its way, whichever tab began it."""
        return self.runner.busy

    def event(self, event: Any) -> bool:
        """Qt's entry: napari takes a closed dock's widget out of its parent without closing or deleting it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._shut_down()
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        self._shut_down()
        super().closeEvent(event)

    def _on_layers(self, _: Any = None) -> None:
        for page in self.pages:
            page.layers_changed()

    def _on_theme(self, _: Any = None) -> None:
        for page in self.pages:
            page.set_dark(self._scene.is_dark)

    def _shut_down(self) -> None:
        """Stop the run and let go of the viewer; what was drawn stays."""
        for page in self.pages:
            page.shut_down()
        self.runner.abandon()
        self._scene.disconnect()
