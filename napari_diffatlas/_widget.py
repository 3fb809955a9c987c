"""The DiffAtlas widget: joins the form (`_panel`), the viewer (`_layers`) and the engine (`_worker`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from napari.utils import progress
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.request import MaskEdit, Request
from diffatlas.session import Backend, Result
from napari_diffatlas._edit import DEFAULT_NOISE, EditPanel
from napari_diffatlas._layers import Source
from napari_diffatlas._panel import Choice, Panel
from napari_diffatlas._parts import Fold
from napari_diffatlas._recording import Recording
from napari_diffatlas._scene import Scene
from napari_diffatlas._scrubber import Scrubber
from napari_diffatlas._table import Table
from napari_diffatlas._worker import Done, Failed, Paused, Resumed, Run, Step, Stopped, Update

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
        self._request = Request()
        self._recording = Recording()
        self._next: Callable[[], None] | None = None
        self._recorded: int | None = None
        self._workers = 0
        self._activity: progress | None = None
        self._stop_on_destroyed: Callable[[], None] | None = None
        self.panel = Panel(session.available_models())
        self.scrubber = Scrubber()
        self.volumes = Table(("Structure", "ml", "SD, ml"))
        self.edit = EditPanel()
        self.edit_fold = Fold("Edit and continue", self.edit)
        page = QWidget()
        column = QVBoxLayout(page)
        column.addWidget(self.panel)
        column.addWidget(self.scrubber)
        column.addWidget(self.volumes)
        column.addWidget(self.edit_fold)
        column.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(_scrolling(page))

        self.panel.run_clicked.connect(self._on_run)
        self.panel.pause_clicked.connect(self._on_pause)
        self.panel.stop_clicked.connect(self._on_stop)
        self.scrubber.moved.connect(self._on_scrub)
        self.edit.continue_clicked.connect(self._on_continue)
        self.edit.paint_clicked.connect(self._on_paint)
        self.edit.undo_clicked.connect(self._on_undo)
        self.edit.result_chosen.connect(self._on_result)
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
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        self._start(source, choice.request, f"labels, seed {choice.request.seed}")

    def _start(self, source: Source, request: Request, title: str) -> None:
        """Run ``request`` on ``source``; ``title`` names the layer it will leave."""
        self._scene.begin(source, request.model, title)
        self._source, self._request = source, request
        self._recording, self._recorded = Recording(), None
        self.scrubber.clear()
        self._run = run = Run(self._backend, source.volume, request, recording=self._recording)
        # A viewer that closes deletes this widget without any event; the run must not outlive it.
        self._stop_on_destroyed = run.stop
        self.destroyed.connect(self._stop_on_destroyed)
        self.panel.set_running(True)
        self.panel.reset_progress(busy=True)
        self.panel.set_status("Loading the model ...")
        self._show_results()
        worker = create_worker(run.updates, _start_thread=False)
        worker.yielded.connect(self._on_update)
        worker.finished.connect(self._on_finished)
        self._workers += 1
        worker.start()
        # napari's bar handles waiting events when it is made: the run may already be over, and another on its way.
        activity = progress(total=0, desc="DiffAtlas")
        if self._run is run:
            self._activity = activity
        else:
            activity.close()

    def _on_stop(self) -> None:
        if self._run is not None:
            self._run.stop()

    def _on_pause(self, paused: bool) -> None:
        if self._run is not None:
            (self._run.pause if paused else self._run.resume)()

    def _on_continue(self, held: bool, t: float) -> None:
        """Run on from the labels in sight; a run that is on its way ends first."""
        try:
            edited = self._scene.edited(live=self._live_in_sight)
            if held and not edited.changed.any():
                raise BadInput("nothing is edited: paint on the labels first, or continue with them as a start only")
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        edit = MaskEdit(edited.labels.data, edited.changed if held else None, t)
        request = replace(self._options(), task="segment", model=edited.model, edit=edit)
        self._after_this(lambda: self._start(edited.source, request, f"labels, seed {request.seed}, edited"))

    def _on_paint(self) -> None:
        try:
            edited = self._scene.edited(live=self._live_in_sight)
            if not edited.labels.data.any():
                raise BadInput("the mask is empty: there is nothing to paint an image onto")
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        request = replace(self._options(), task="paint", model=edited.model, edit=MaskEdit(edited.labels.data))
        self._after_this(lambda: self._start(edited.source, request, f"painted, seed {request.seed}"))

    def _on_undo(self) -> None:
        self.scrubber.follow()  # what is undone is a result, not a step
        self.panel.set_status(self._scene.undo())
        self._show_results()

    def _on_result(self, index: int) -> None:
        if index < len(self._scene.results):
            self.scrubber.follow()
            self._scene.choose(index)
            self.panel.set_status("")
            self._show_results()

    def _after_this(self, start: Callable[[], None]) -> None:
        """Start now, or once the run that is on its way has stopped."""
        if self._run is None:
            start()
        else:
            self._next = start
            self._run.stop()

    @property
    def _live_in_sight(self) -> bool:
        """Whether what is shown is a step of the run, not a result."""
        return self.scrubber.index is not None or self._scene.chosen is None

    def _options(self) -> Request:
        """The form's options; where its image is gone, those of the last run."""
        choice = self.panel.choice()
        return self._request if choice is None else choice.request

    def _show_results(self) -> None:
        """Offer the results; the slider belongs to the last run and is there while its result is in sight."""
        scene, idle = self._scene, self._run is None
        self.edit.set_results([made.name for made in scene.results], scene.chosen)
        self._show_volumes()
        ready = scene.chosen is not None or scene.has_steps
        self.edit.set_ready(ready and (idle or self.panel.paused), idle)
        if idle and scene.chosen != self._recorded:
            self.scrubber.clear()
        else:
            self.scrubber.show_trace(self._recording.trace())

    def _show_volumes(self) -> None:
        """The volumes of the result in sight; with several samples, how far apart theirs lie."""
        if self._scene.chosen is None:
            self.volumes.set_rows(())
            return
        result = self._scene.results[self._scene.chosen].result
        several = [mask.volumes_ml() for mask in result.masks]
        rows = []
        for name, ml in result.volumes_ml.items():
            spread = np.std([volumes[name] for volumes in several], ddof=1) if len(several) > 1 else None
            rows.append((name, f"{ml:.2f}", "" if spread is None else f"{spread:.2f}"))
        self.volumes.set_rows(rows, [s.color for s in result.labels.scheme.structures])
        self.volumes.table.setColumnHidden(2, len(several) < 2)

    def _on_scrub(self, index: int | None) -> None:
        """Draw a recorded step (None: the newest), and once the run is over the result at its end."""
        trace = self._recording.trace()
        moment = self._recording.at(trace.kept[-1] if index is None else index) if trace.kept else None
        if moment is not None:
            self._scene.show_result(index is None)
            self._scene.show(moment)

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_update(self, update: Update) -> None:
        run = self._run
        if run is None:
            return
        match update:
            case Step(frame, pace_s):
                try:
                    self.scrubber.show_trace(self._recording.trace())
                    if self.scrubber.index is None:  # else the user looks at an earlier step
                        self._scene.show(frame)
                finally:
                    run.shown()
                if self.panel.progress.maximum() == 0:
                    self.panel.reset_progress()
                    self.panel.set_status("Running ...")
                self.panel.set_progress(frame.index + 1, frame.total, frame.t, update.seconds_left)
                self._note_pace(pace_s)
                self._show_activity(frame.index + 1, frame.total)
            case Paused(steps):
                self.panel.set_paused(True)
                self.panel.set_status(f"Paused after {_steps(steps)}.")
                self._scene.arm_live_brush()
                self.edit.set_noise(self._recording.trace().levels[steps - 1])
                self._show_results()
            case Resumed():
                self.panel.set_paused(False)
                self.panel.set_status("Running ...")
                self._show_results()
            case Done(result):
                try:
                    self._finish(result)
                    self.panel.set_status(self._summary(update))
                finally:  # whatever the viewer says to new layers, the widget works again
                    self._end()
            case Stopped(steps):
                self._show_newest()
                self.panel.reset_progress()
                self.panel.set_status(f"Stopped after {_steps(steps)}.")
                self._end()
            case Failed(message):
                self._show_newest()
                self.panel.reset_progress()
                self.panel.set_status(_in_our_words(message), error=True)
                self._end()

    def _finish(self, result: Result) -> None:
        self.scrubber.follow()
        if self._request.task == "paint":
            self._scene.finish_painting(result)
        else:
            self._scene.finish(result)
        self._recorded = self._scene.chosen
        self.edit.set_noise(DEFAULT_NOISE)
        self._note_device(result.provenance)

    def _on_finished(self) -> None:
        """A worker's thread is free; usually its run has said how it ended by now, and another may be on its way."""
        self._workers -= 1
        if self._run is not None and self._workers == 0:
            self.panel.reset_progress()
            self.panel.set_status("Stopped.")
            self._end()

    def _end(self) -> None:
        if self._stop_on_destroyed is not None:
            self.destroyed.disconnect(self._stop_on_destroyed)
            self._stop_on_destroyed = None
        self._run = None
        self._source = None
        activity, self._activity = self._activity, None
        if activity is not None:
            activity.close()
        self.panel.set_running(False)
        self._show_results()
        start, self._next = self._next, None
        if start is not None:
            start()

    def _show_newest(self) -> None:
        """Catch up with the steps that were made but not drawn, unless the user looks at an earlier one."""
        self.scrubber.show_trace(self._recording.trace())
        if self.scrubber.index is None:
            self._on_scrub(None)

    def _summary(self, done: Done) -> str:
        notes = dict.fromkeys((*(self._source.notes if self._source else ()), *done.result.notes))
        return "\n".join([f"Done in {done.seconds:.1f} s.", *notes])

    def _note_pace(self, pace_s: float | None) -> None:
        """Announce the time of later runs once this one has shown what a step costs."""
        if pace_s is None:
            return
        asked = self._request
        key = (asked.model, asked.device, asked.precision, asked.guidance)
        self.panel.options.set_pace(key, pace_s / asked.samples)

    def _note_device(self, provenance: dict[str, Any]) -> None:
        chosen = ", ".join(str(provenance[key]) for key in ("device", "precision") if key in provenance)
        self.panel.options.set_chosen(self._request.device, self._request.precision, chosen)

    def _show_activity(self, done: int, total: int) -> None:
        """napari's own activity bar, which stays in sight when our dock is covered."""
        activity = self._activity  # it handles waiting events when it moves: the run may be over on the next line
        if activity is not None:
            if activity.total != total:
                activity.total = total
            if done > activity.n:
                activity.update(done - activity.n)

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
        dark = self._scene.is_dark
        self.panel.set_dark(dark)
        self.scrubber.set_dark(dark)

    def _shut_down(self) -> None:
        """Stop the run and let go of the viewer; what was drawn stays."""
        self._next = None
        if self._run is not None:
            self._run.stop()
            self._end()
        self._scene.disconnect()


def _scrolling(page: QWidget) -> QScrollArea:
    """A page that scrolls where the dock is too small for it."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidget(page)
    area.setMinimumWidth(300)
    return area


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _in_our_words(message: str) -> str:
    """The engine's one line, where it names an option of the command line, with the name it has here."""
    return message.replace("insist with --force", "tick 'run on any modality' under Advanced")
