"""The DiffAtlas widget: joins the form (`_panel`), the viewer (`_layers`) and the engine (`_worker`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.request import Request
from diffatlas.session import Backend, Result
from napari_diffatlas._layers import Scene, Source
from napari_diffatlas._panel import Choice, Panel
from napari_diffatlas._worker import Done, Failed, Run, Step, Stopped, Update

EMPTY_HINT = "Open a volume, or try File > Open Sample > DiffAtlas."


class DiffAtlasWidget(QWidget):
    """Choose an image and a model, press Run, watch the pair come out of noise.

    ``backend`` is called in the worker thread, at the first run; None takes the engine on this machine.
    """

    def __init__(self, napari_viewer: Any, backend: Callable[[], Backend] | None = None) -> None:
        super().__init__()
        self._backend = backend or session.local_backend
        self._scene = Scene(napari_viewer)
        self._source: Source | None = None
        self._run: Run | None = None
        self._stop_on_destroyed: Callable[[], None] | None = None
        self.panel = Panel(session.available_models())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)

        self.panel.run_clicked.connect(self._on_run)
        self.panel.stop_clicked.connect(self._on_stop)
        self._scene.connect(self._on_layers, self._on_theme)
        self._on_theme()
        self._on_layers()

    @property
    def running(self) -> bool:
        """Whether a run is on its way."""
        return self._run is not None

    def event(self, event: Any) -> bool:
        """Qt's entry: napari takes a closed dock's widget out of its parent without closing or deleting it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._shut_down()
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        self._shut_down()
        super().closeEvent(event)

    # -- the user ----------------------------------------------------------------------------------------------------
    def _on_run(self, choice: Choice) -> None:
        if self._run is not None:
            return
        try:
            source = self._scene.source(choice.image)
            request = Request(model=choice.model, preset=choice.preset, seed=choice.seed)
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        self._scene.begin(source, choice.seed)
        self._source = source
        self._run = Run(self._backend, source.volume, request)
        # A viewer that closes deletes this widget without any event; the run must not outlive it.
        self._stop_on_destroyed = self._run.stop
        self.destroyed.connect(self._stop_on_destroyed)
        self.panel.set_running(True)
        self.panel.reset_progress(busy=True)
        self.panel.set_status("Loading the model ...")
        worker = create_worker(self._run.updates, _start_thread=False)
        worker.yielded.connect(self._on_update)
        worker.finished.connect(self._on_finished)
        worker.start()

    def _on_stop(self) -> None:
        if self._run is not None:
            self._run.stop()

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_update(self, update: Update) -> None:
        run = self._run
        if run is None:
            return
        match update:
            case Step(frame, seconds_left):
                try:
                    self._scene.show(frame)
                finally:
                    run.shown()
                if frame.index == 0 or self.panel.progress.maximum() == 0:
                    self.panel.reset_progress()
                    self.panel.set_status("Running ...")
                self.panel.set_progress(frame.index + 1, frame.total, frame.t, seconds_left)
            case Done(result):
                self._scene.finish(result)
                self.panel.set_status(self._summary(result))
                self._end()
            case Stopped(steps):
                self.panel.reset_progress()
                self.panel.set_status(f"Stopped after {steps} steps." if steps != 1 else "Stopped after 1 step.")
                self._end()
            case Failed(message):
                self.panel.reset_progress()
                self.panel.set_status(message, error=True)
                self._end()

    def _on_finished(self) -> None:
        """The worker's thread is free; usually the run has said how it ended by now."""
        if self._run is not None:
            self.panel.reset_progress()
            self.panel.set_status("Stopped.")
            self._end()

    def _end(self) -> None:
        if self._stop_on_destroyed is not None:
            self.destroyed.disconnect(self._stop_on_destroyed)
            self._stop_on_destroyed = None
        self._run = None
        self._source = None
        self.panel.set_running(False)

    def _summary(self, result: Result) -> str:
        seconds = result.metrics[-1].seconds if result.metrics else 0.0
        volumes = [f"{name} {ml:.1f} ml" for name, ml in result.volumes_ml.items()]
        notes = dict.fromkeys((*(self._source.notes if self._source else ()), *result.notes))
        return "\n".join([f"Done in {seconds:.1f} s", *volumes, *notes])

    # -- the viewer --------------------------------------------------------------------------------------------------
    def _on_layers(self, _: Any = None) -> None:
        names = self._scene.image_names()
        self.panel.set_images(names)
        if self._run is None:
            self._scene.face_patient()
        shown = self.panel.status.text()
        if not names and not shown:
            self.panel.set_status(EMPTY_HINT)
        elif names and shown == EMPTY_HINT:
            self.panel.set_status("")

    def _on_theme(self, _: Any = None) -> None:
        self.panel.set_dark(self._scene.is_dark)

    def _shut_down(self) -> None:
        """Stop the run and let go of the viewer; what was drawn stays."""
        if self._run is not None:
            self._run.stop()
            self._end()
        self._scene.disconnect()
