"""Shows a run of the Segment tab: draws and records its steps, shows progress, slider and result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Backend
from napari_diffatlas.forms.edit import DEFAULT_NOISE, EditPanel
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.forms.panel import Card, Panel
from napari_diffatlas.forms.parts import in_our_words, sentence
from napari_diffatlas.forms.scrubber import Scrubber
from napari_diffatlas.jobs.large import LargeRun
from napari_diffatlas.jobs.recording import Picture, Recording
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.worker import Done, Failed, Paused, Resumed, Run, Step, Stopped, Update, guarded
from napari_diffatlas.preferences import preferences
from napari_diffatlas.viewer.against import How, seen_patient
from napari_diffatlas.viewer.doubt import in_ml
from napari_diffatlas.viewer.layers import Source
from napari_diffatlas.viewer.outcome import Outcome
from napari_diffatlas.viewer.scene import Scene


class RunView(QObject):
    """Starts runs and shows them in the form and the viewer.

    The viewer changes with the first step of a run, so a run that the engine refuses changes nothing there. Signals:
    ``results_changed()``: the results that can be continued, saved or listed may have changed; ``finished()``: a result
    is shown.
    """

    results_changed = Signal()
    finished = Signal()

    def __init__(
        self,
        scene: Scene,
        runner: Runner,
        backend: Callable[[], Backend],
        plan: Planner,
        panel: Panel,
        scrubber: Scrubber,
        edit: EditPanel,
    ) -> None:
        super().__init__()
        self._scene, self._runner, self._backend, self._plan = scene, runner, backend, plan
        self._panel, self._scrubber, self._edit = panel, scrubber, edit
        self._source: Source | None = None
        self._large: LargeRun | None = None
        self._seen: tuple[Source, Card] | None = None
        self._coming: tuple[Source, Request, Recording] | None = None
        self._recorded: int | None = None
        self._how: tuple[How, float] = ("off", 0.5)
        self.recording = Recording()
        self.before: Recording | None = None
        self.request = Request()
        self.running = False

    def start(self, source: Source, request: Request, title: str, volume: Callable[[], Volume] | None = None) -> None:
        """Run ``request`` on ``source``; ``title`` names the layer of its result.

        The engine gets the file's own voxels, all else here uses the displayed ones: this method converts.
        ``volume`` gives the file's voxels, called in the worker; None takes them from ``source``.
        """
        recording = Recording(preferences().recording_mb * 2**20)
        self._coming, self._source = (source, request, recording), source
        self.running = True
        self._panel.set_running(True)
        self._panel.reset_progress(busy=True)
        self._panel.set_status(self._opening_words(source, request))
        card = self._panel.card_of(request.model)
        self._large = None
        if source.large and card is not None and volume is None:
            self._large = LargeRun(self._backend, source, request, card.space, title, card, recording)
        run: Run | None = self._large
        if run is None:
            run = Run(
                self._backend,
                volume or source.file_volume,
                source.origin.restore_request(request),
                recording=recording,
                present=partial(Outcome.of, source=source, title=title, card=card),
            )
        self._runner.start(run, self.on_update)

    def scrub(self, index: int | None) -> None:
        """Draw a recorded step (None: the newest, or the result once the run is over)."""
        trace = self.recording.trace()
        moment = self.recording.at(trace.kept[-1] if index is None else index) if trace.kept else None
        if moment is not None:
            self._scene.show_result(index is None)
            self._scene.show(moment, self._twin(moment))

    @property
    def shows_step(self) -> bool:
        """Whether what is in the viewer is a step of the run, not a result."""
        return self._scrubber.index is not None or self._scene.chosen is None

    def show_slider(self) -> None:
        """Show the slider while the result of the last run is shown."""
        if not self._runner.busy and self._scene.chosen != self._recorded:
            self._scrubber.clear()
        else:
            self._scrubber.show_trace(self.recording.trace())
        self._scrubber.see.choose(self._scene.view_mode)
        self._scrubber.see.set_ready(self.before is not None)

    def compare_with_patient(self, how: How, share: float) -> None:
        """Compare the generated image with the patient's, which a worker first converts to the model's grid."""
        self._how = how, share
        moment, seen = self.recording.at(0), self._seen
        if how == "off" or self._scene.has_patient or moment is None or seen is None:
            self._scene.compare_with_patient(how, share)
            return
        source, card = seen

        def work() -> Iterator[NDArray[np.float32] | Failed]:
            def image() -> Iterator[NDArray[np.float32]]:
                yield seen_patient(source.volume(), moment.grid, card.space)

            yield from guarded(image())

        worker = create_worker(work, _start_thread=False)
        worker.yielded.connect(partial(self._on_patient, self.recording))
        worker.start()

    def _on_patient(self, recording: Recording, patient: Any) -> None:
        if recording is not self.recording:  # another run has begun meanwhile
            return
        if isinstance(patient, Failed):
            self._panel.set_status(patient.message, error=True)
        else:
            self._scene.use_patient(patient)
            self._scene.compare_with_patient(*self._how)

    def _twin(self, moment: Picture) -> Picture | None:
        """The step of the run before whose noise level is nearest."""
        if self.before is None:
            return None
        levels = self.before.trace().levels
        return self.before.at(min(levels, key=lambda index: abs(levels[index] - moment.t))) if levels else None

    def ended(self) -> None:
        """The engine has become free."""
        if self.running:
            self.running, self._source, self._coming = False, None, None
            self._panel.set_running(False)
            self._panel.options.refresh()  # the time of a run is known now

    # -- what a job says (slots: they run in the GUI thread) ---------------------------------------------------------
    def on_searching(self, done: int, total: int) -> None:
        """A search for the region has made ``done`` of at most ``total`` looks; 0, 0 at its end."""
        self.running = total > 0
        self._panel.set_running(self.running, pauses=False)
        self._panel.reset_progress(busy=total == 1)
        if total:
            self._panel.set_status("Searching the image ...")
        if total > 1:
            self._panel.set_looks(done, total)

    def on_update(self, update: Update) -> None:
        match update:
            case Step():
                self._on_step(update)
            case Paused(steps):
                self._panel.set_paused(True)
                self._panel.set_status(f"Paused after {_steps(steps)}.")
                self._scene.arm_live_brush()
                self._edit.set_noise(self.recording.trace().levels[steps - 1])
                self.results_changed.emit()
            case Resumed():
                self._panel.set_paused(False)
                self._panel.set_status("Running ...")
                self.results_changed.emit()
            case Done(outcome):
                self._finish(outcome)
                self._panel.set_status(self._summary(update), bool(outcome.doubts), bool(outcome.warnings))
            case Stopped(steps):
                self._catch_up()
                self._panel.set_status(f"Stopped after {_steps(steps)}.")
            case Failed(message):
                self._catch_up()
                self._panel.set_status(in_our_words(message), error=True)

    def _opening_words(self, source: Source, request: Request) -> str:
        """A line on what the run does before its first step, from the engine's plan."""
        if source.large:
            return "Reading the image, which is larger than memory: once at low resolution, then the region found ..."
        try:
            searches = self._plan(source.placeholder(), request).search
        except BadInput:  # the run reports it
            searches = False
        return "Searching the image for the place, which takes seconds ..." if searches else "Loading the model ..."

    def _on_step(self, step: Step) -> None:
        if self._coming is not None:  # the first step: from here on the viewer shows this run
            self.before = self.recording if self.recording.trace().kept else None
            source, self.request, self.recording = self._coming
            if self._large is not None:  # steps and labels lie on the region that was read
                source = self._source = self._large.source
            self._coming = self._recorded = None
            card = self._panel.card_of(self.request.model)
            self._seen = None if card is None else (source, card)
            self._scrubber.clear()
            self._scene.begin(source, self.request.model)
            self.results_changed.emit()  # volumes in sight were those of the run before
        frame = step.frame
        self._scrubber.show_trace(self.recording.trace())
        if self._scrubber.index is None:  # else the user looks at an earlier step
            self._scene.show(frame, self._twin(frame))
        if self._panel.progress.maximum() == 0:
            self._panel.reset_progress()
            self._panel.set_status("Running ...")
        self._panel.set_progress(frame.index + 1, frame.total, frame.t, step.seconds_left)

    def _finish(self, outcome: Outcome) -> None:
        self._scrubber.follow()
        self._scene.finish(outcome)
        if self._how[0] != "off":
            self.compare_with_patient(*self._how)
        self._recorded = self._scene.chosen
        self._edit.set_noise(DEFAULT_NOISE)
        self._note_device(outcome.result.provenance)
        self.finished.emit()

    def _catch_up(self) -> None:
        """Draw the steps that were made but not drawn, unless the user looks at an earlier one."""
        self._panel.reset_progress()
        if self._coming is None:
            self._scrubber.show_trace(self.recording.trace())
            if self._scrubber.index is None:
                self.scrub(None)

    def _summary(self, done: Done) -> str:
        notes = dict.fromkeys((*(self._source.notes if self._source else ()), *done.result.result.notes))
        against = (*done.result.doubts, *done.result.warnings)
        part_ml = sum(done.result.crossed_ml.values())
        crossed = [f"{in_ml(part_ml)} of the labels lie where you crossed the image out."] if part_ml else []
        return "\n".join(
            [*against, f"Done in {done.seconds:.1f} s.", *crossed, *map(sentence, map(in_our_words, notes))]
        )

    def _note_device(self, provenance: dict[str, Any]) -> None:
        chosen = ", ".join(str(provenance[key]) for key in ("device", "precision") if key in provenance)
        self._panel.options.set_chosen(self.request.device, self.request.precision, chosen)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
