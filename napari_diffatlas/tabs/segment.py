"""The tab that segments: joins the form (`_panel`), the viewer (`_scene`) and the engine (`_worker`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diffatlas import session
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Backend
from napari_diffatlas.forms.edit import DEFAULT_NOISE, EditPanel
from napari_diffatlas.forms.panel import Card, Choice, Panel
from napari_diffatlas.forms.parts import Fold
from napari_diffatlas.forms.region import RegionControl
from napari_diffatlas.forms.run_files import Replay, RunFiles
from napari_diffatlas.forms.scrubber import Scrubber
from napari_diffatlas.forms.table import Table
from napari_diffatlas.jobs.recording import Recording
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.search import Locate
from napari_diffatlas.jobs.worker import Done, Failed, Paused, Resumed, Run, Step, Stopped, Update
from napari_diffatlas.preferences import preferences
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.layers import Outcome, Source
from napari_diffatlas.viewer.scene import Scene

EMPTY_HINT = "Open a volume, or try File > Open Sample > DiffAtlas."


class SegmentTab(Tab):
    """Choose an image and a model, press Run, watch the pair come out of noise. ``backend`` is called in the worker."""

    title = "Segment"

    def __init__(
        self,
        scene: Scene,
        runner: Runner,
        backend: Callable[[], Backend],
        cards: Sequence[Card],
        locate: Locate = session.locate,
    ) -> None:
        super().__init__()
        self._scene = scene
        self._runner = runner
        self._backend = backend
        self._source: Source | None = None
        self._running = False
        self._request = Request()
        self._recording = Recording()
        self._next: Callable[[], None] | None = None
        self._recorded: int | None = None
        self.panel = Panel(cards)
        self.region = RegionControl(scene, runner, locate)
        self.panel.region.addWidget(self.region)
        self.scrubber = Scrubber()
        self.volumes = Table(("Structure", "ml", "SD, ml"))
        self.edit = EditPanel()
        self.edit_fold = Fold("Edit and continue", self.edit)
        self.run_files = RunFiles()
        for part in (self.panel, self.scrubber, self.volumes, self.edit_fold, self.run_files):
            self.column.addWidget(part)
        self.column.addStretch(1)

        self.panel.subject_changed.connect(self._on_subject)
        self.region.said.connect(self.panel.set_status)
        self.region.searching.connect(self._on_searching)
        self.panel.run_clicked.connect(self._on_run)
        self.panel.pause_clicked.connect(self._on_pause)
        self.panel.stop_clicked.connect(self._runner.stop)
        self.scrubber.moved.connect(self._on_scrub)
        self.edit.continue_clicked.connect(self._on_continue)
        self.edit.paint_clicked.connect(self._on_paint)
        self.edit.undo_clicked.connect(self._on_undo)
        self.edit.result_chosen.connect(self._on_result)
        self.run_files.save_chosen.connect(self.save_run)
        self.run_files.replay_chosen.connect(self.replay_run)

    def prefer(self, model: str, device: str) -> None:
        """Choose these at first, as far as they are there."""
        for combo, value in ((self.panel.model_combo, model), (self.panel.options.device_combo, device)):
            index = combo.findData(value)
            if index >= 0:
                combo.setCurrentIndex(index)

    def options(self) -> Request | None:
        """What the form says of how to run, whatever the image; None where no model is installed."""
        model = self.panel.model_combo.currentData()
        return None if model is None else Request(model=model, **self.panel.options.choices())

    # -- the user ----------------------------------------------------------------------------------------------------
    def _on_run(self, choice: Choice) -> None:
        if self._runner.busy:
            return
        try:
            source = self._scene.source(choice.image)
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        request = replace(choice.request, roi=self.region.roi_for(source.grid))
        self._start(source, request, f"labels, seed {request.seed}")

    def _start(self, source: Source, request: Request, title: str, volume: Callable[[], Volume] | None = None) -> None:
        """Run ``request`` on ``source``; ``title`` names the layer it will leave.

        The engine sees the file's own voxels, everything here the displayed ones: this is where they meet.
        ``volume`` gives the file's voxels, called in the worker; None takes them from ``source``.
        """
        self._scene.begin(source, request.model)
        self._source, self._request = source, request
        self._recording, self._recorded = Recording(preferences().recording_mb * 2**20), None
        self.scrubber.clear()
        self._running = True
        self.panel.set_running(True)
        self.panel.reset_progress(busy=True)
        self.panel.set_status("Loading the model ...")
        origin = source.origin
        run = Run(
            self._backend,
            volume or source.file_volume,
            origin.restore_request(request),
            recording=self._recording,
            present=partial(Outcome.of, source=source, title=title),
        )
        self._runner.start(run, self._on_update)

    def _on_pause(self, paused: bool) -> None:
        self._runner.pause(paused)

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
        request = replace(
            self._options(), task="segment", model=edited.model, edit=edit, roi=self.region.roi_for(edited.source.grid)
        )
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

    def save_run(self, path: Path) -> None:
        """Write the report of the result in sight."""
        try:
            if self._scene.chosen is None:
                raise BadInput("there is no result in sight to save; run first")
            made = self._scene.results[self._scene.chosen]
            session.write_report(made.result, path, made.source.origin.path)
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        hint = "" if made.source.origin.path else " The image is not a file: save it beside the run to replay it later."
        self.panel.set_status(f"Saved {path.name}: Replay run, or diffatlas replay, gives the same labels.{hint}")

    def replay_run(self, path: Path) -> None:
        """Run again what a report records."""
        if self._runner.busy:
            return
        try:
            replay = Replay(path, self._scene, self.panel.image_combo.currentData())
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return
        request = replay.source.origin.display_request(replay.run.request)
        self._start(replay.source, request, f"labels, seed {request.seed}, replayed", replay.volume)

    def _after_this(self, start: Callable[[], None]) -> None:
        """Start now, or once the run that is on its way has stopped."""
        if not self._runner.busy:
            start()
        else:
            self._next = start
            self._runner.stop()

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
        scene, idle = self._scene, not self._runner.busy
        self.edit.set_results([made.name for made in scene.results], scene.chosen)
        self._show_volumes()
        ready = scene.chosen is not None or scene.has_steps
        self.edit.set_ready(ready and (idle or self.panel.paused), idle)
        self.run_files.set_ready(scene.chosen is not None, idle)
        if idle and scene.chosen != self._recorded:
            self.scrubber.clear()
        else:
            self.scrubber.show_trace(self._recording.trace())

    def _show_volumes(self) -> None:
        """The volumes of the result in sight; with several samples, how far apart theirs lie."""
        if self._scene.chosen is None:
            self.volumes.set_rows(())
            return
        outcome = self._scene.results[self._scene.chosen].outcome
        spread = outcome.spread_ml
        rows = [
            (name, f"{ml:.2f}", f"{spread[name]:.2f}" if name in spread else "")
            for name, ml in outcome.volumes_ml.items()
        ]
        self.volumes.set_rows(rows, [s.color for s in outcome.result.labels.scheme.structures])
        self.volumes.table.setColumnHidden(2, not spread)

    def _on_scrub(self, index: int | None) -> None:
        """Draw a recorded step (None: the newest), and once the run is over the result at its end."""
        trace = self._recording.trace()
        moment = self._recording.at(trace.kept[-1] if index is None else index) if trace.kept else None
        if moment is not None:
            self._scene.show_result(index is None)
            self._scene.show(moment)

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_searching(self, done: int, total: int) -> None:
        self._running = total > 0
        self.panel.set_running(self._running, pauses=False)
        self.panel.reset_progress(busy=total == 1)
        if total:
            self.panel.set_status("Searching the image ...")
        if total > 1:
            self.panel.set_looks(done, total)

    def _on_update(self, update: Update) -> None:
        match update:
            case Step(frame, pace_s):
                self.scrubber.show_trace(self._recording.trace())
                if self.scrubber.index is None:  # else the user looks at an earlier step
                    self._scene.show(frame)
                if self.panel.progress.maximum() == 0:
                    self.panel.reset_progress()
                    self.panel.set_status("Running ...")
                self.panel.set_progress(frame.index + 1, frame.total, frame.t, update.seconds_left)
                self._note_pace(pace_s)
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
            case Done(outcome):
                self._finish(outcome)
                self.panel.set_status(self._summary(update))
            case Stopped(steps):
                self._show_newest()
                self.panel.reset_progress()
                self.panel.set_status(f"Stopped after {_steps(steps)}.")
            case Failed(message):
                self._show_newest()
                self.panel.reset_progress()
                self.panel.set_status(_in_our_words(message), error=True)

    def _finish(self, outcome: Outcome) -> None:
        self.scrubber.follow()
        self._scene.finish(outcome)
        self._recorded = self._scene.chosen
        self.edit.set_noise(DEFAULT_NOISE)
        self._note_device(outcome.result.provenance)

    def busy_changed(self, busy: bool) -> None:
        self.panel.set_blocked(busy and not self._running)
        if self._running and not busy:
            self._running, self._source = False, None
            self.panel.set_running(False)
        self.region.refresh()
        self._show_results()
        if not busy and self._next is not None:
            start, self._next = self._next, None
            start()

    def _show_newest(self) -> None:
        """Catch up with the steps that were made but not drawn, unless the user looks at an earlier one."""
        self.scrubber.show_trace(self._recording.trace())
        if self.scrubber.index is None:
            self._on_scrub(None)

    def _summary(self, done: Done) -> str:
        notes = dict.fromkeys((*(self._source.notes if self._source else ()), *done.result.result.notes))
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

    # -- the viewer --------------------------------------------------------------------------------------------------
    def _on_subject(self) -> None:
        self.region.use(self.panel.image_combo.currentData(), self.panel.card, self._options)

    def layers_changed(self) -> None:
        names = self._scene.image_names()
        self.panel.set_images(names)
        self._on_subject()
        if not self._runner.busy:
            self._scene.face_patient()
        shown = self.panel.status.text()
        if not names and not shown:
            self.panel.set_status(EMPTY_HINT)
        elif names and shown == EMPTY_HINT:
            self.panel.set_status("")

    def set_dark(self, dark: bool) -> None:
        self.panel.set_dark(dark)
        self.scrubber.set_dark(dark)

    def shut_down(self) -> None:
        self._next = None
        self.region.shut_down()


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _in_our_words(message: str) -> str:
    """The engine's one line, where it names an option of the command line, with the name it has here."""
    return message.replace("insist with force=True", "tick 'run on any modality' under Advanced")
