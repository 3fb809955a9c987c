"""The tab for segmentation: turns the form into requests. `RunView` shows their runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from diffatlas import session
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality
from diffatlas.session import Backend
from napari_diffatlas.forms.cross_out import CrossOut
from napari_diffatlas.forms.edit import EditPanel
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.forms.panel import Card, Choice, Panel
from napari_diffatlas.forms.parts import fold
from napari_diffatlas.forms.region import RegionControl
from napari_diffatlas.forms.run_files import Replay, RunFiles
from napari_diffatlas.forms.scrubber import Scrubber
from napari_diffatlas.forms.table import Table
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.search import Locate
from napari_diffatlas.tabs.run_view import RunView
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.scene import Edited, Scene

EMPTY_HINT = "Open a volume, or try File > Open Sample > DiffAtlas."


class SegmentTab(Tab):
    """Choose an image and a model, press Run, and see the pair form. ``backend`` is called in the worker."""

    title = "Segment"

    def __init__(
        self,
        scene: Scene,
        runner: Runner,
        backend: Callable[[], Backend],
        cards: Sequence[Card],
        locate: Locate = session.locate,
        plan: Planner = session.plan,
    ) -> None:
        super().__init__()
        self._scene, self._runner = scene, runner
        self._next: Callable[[], None] | None = None
        self._active: str | None = None
        self._said_of: str | None = None
        self.panel = Panel(cards, plan)
        self.region = RegionControl(scene, runner, locate, plan)
        self.cross_out = CrossOut(scene)
        self.panel.region.addWidget(self.region)
        self.panel.region.addWidget(self.cross_out)
        self.volumes = Table(("Structure", "ml", "SD, ml", "crossed, ml", "90 %, ml"))
        self.scrubber = Scrubber()
        self.edit = EditPanel()
        self.edit_fold = fold("Edit and continue", self.edit)
        self.run_files = RunFiles()
        self.view = RunView(scene, runner, backend, plan, self.panel, self.scrubber, self.edit)
        for part in (self.panel, self.volumes, self.scrubber, self.edit_fold, self.run_files):
            self.column.addWidget(part)
        self.column.addStretch(1)

        self.panel.subject_changed.connect(self._on_subject)
        self.panel.options.changed.connect(self.region.refresh)
        self.panel.orientation.changed.connect(self._on_orientation)
        self.panel.modality_named.connect(self._on_modality)
        self.region.said.connect(self.panel.set_status)
        self.region.searching.connect(self.view.on_searching)
        self.panel.run_clicked.connect(self._on_run)
        self.panel.pause_clicked.connect(self._runner.pause)
        self.panel.stop_clicked.connect(self._runner.stop)
        self.scrubber.moved.connect(self.view.scrub)
        self.scrubber.see.noisy_changed.connect(scene.show_noisy)
        self.scrubber.see.view_changed.connect(scene.set_view)
        self.scrubber.see.against_changed.connect(self.view.compare_with_patient)
        self.view.results_changed.connect(self._show_results)
        self.view.finished.connect(self.cross_out.finished)
        self.edit.continue_clicked.connect(self._on_continue)
        self.edit.paint_clicked.connect(self._on_paint)
        self.edit.undo_clicked.connect(self._on_undo)
        self.edit.result_chosen.connect(self._on_result)
        self.run_files.save_chosen.connect(self.save_run)
        self.run_files.replay_chosen.connect(self.replay_run)

    def prefer(self, model: str, device: str) -> None:
        """Choose these at first, where they exist."""
        for combo, value in ((self.panel.model_combo, model), (self.panel.options.device_combo, device)):
            index = combo.findData(value)
            if index >= 0:
                combo.setCurrentIndex(index)

    def options(self) -> Request | None:
        """The form's options for a run on any image; None where no model is installed."""
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
        request = replace(choice.request, roi=self.region.roi_for(source.grid), ignore=self.cross_out.mask_for(source))
        self.view.start(source, request, f"labels, seed {request.seed}")

    def _on_continue(self, held: bool, t: float) -> None:
        """Continue from the labels shown; a run that goes on is stopped first."""
        edited = self._edited()
        if edited is None:
            return
        if held and not edited.changed.any():
            line = "nothing is edited: paint on the labels first, or continue with them as a start only"
            self.panel.set_status(line, error=True)
            return
        edit = MaskEdit(edited.labels.data, edited.changed if held else None, t)
        roi = self.region.roi_for(edited.source.grid)
        ignore = self.cross_out.mask_for(edited.source)
        request = replace(self._asked(), task="segment", model=edited.model, edit=edit, roi=roi, ignore=ignore)
        self._after_this(lambda: self.view.start(edited.source, request, f"labels, seed {request.seed}, edited"))

    def _on_paint(self) -> None:
        edited = self._edited()
        if edited is None:
            return
        if not edited.labels.data.any():
            self.panel.set_status("the mask is empty: there is nothing to paint an image onto", error=True)
            return
        request = replace(self._asked(), task="paint", model=edited.model, edit=MaskEdit(edited.labels.data))
        self._after_this(lambda: self.view.start(edited.source, request, f"painted, seed {request.seed}"))

    def _on_undo(self) -> None:
        self.scrubber.follow()  # undo is for results, not for steps
        self.panel.set_status(self._scene.undo())
        self._show_results()

    def _on_result(self, index: int) -> None:
        if index < len(self._scene.results):
            self.scrubber.follow()
            self._scene.choose(index)
            outcome = self._scene.results[index].outcome
            against = (*outcome.doubts, *outcome.warnings)
            self.panel.set_status("\n".join(against), bool(outcome.doubts), bool(outcome.warnings))
            self._show_results()

    def save_run(self, path: Path) -> None:
        """Write the report of the result shown."""
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
        self.view.start(replay.source, request, f"labels, seed {request.seed}, replayed", replay.volume)

    def _on_orientation(self, letters: str) -> None:
        """The user says where the axes of the image run."""
        try:
            self._scene.set_orientation(self.panel.image_combo.currentData(), letters)
            self.panel.set_status("")
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
        self._on_subject()

    def _on_modality(self, named: Modality | None) -> None:
        """The user says what the image is."""
        try:
            self._scene.set_modality(self.panel.image_combo.currentData(), named)
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
        self._on_subject()

    def _edited(self) -> Edited | None:
        """The labels shown; None, with a message to the user, where there are none."""
        try:
            return self._scene.edited(live=self.view.shows_step)
        except BadInput as error:
            self.panel.set_status(str(error), error=True)
            return None

    def _after_this(self, start: Callable[[], None]) -> None:
        """Start now, or once the current run has stopped."""
        if not self._runner.busy:
            start()
        else:
            self._next = start
            self._runner.stop()

    def _asked(self) -> Request:
        """The form's options; where its image is gone, those of the last run."""
        choice = self.panel.choice()
        return self.view.request if choice is None else choice.request

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _show_results(self) -> None:
        scene, idle = self._scene, not self._runner.busy
        self.edit.set_results([made.name for made in scene.results], scene.chosen)
        self._show_volumes()
        ready = scene.chosen is not None or scene.has_steps
        self.edit.set_ready(ready and (idle or self.panel.paused), idle)
        self.run_files.set_ready(scene.chosen is not None, idle)
        self.view.show_slider()

    def _show_volumes(self) -> None:
        """The volumes of the result shown; with several samples their spread; with a calibrated model their 90 %
        intervals."""
        if self._scene.chosen is None:
            self.volumes.set_rows(())
            return
        outcome = self._scene.results[self._scene.chosen].outcome
        spread, crossed = outcome.spread_ml, outcome.crossed_ml
        result = outcome.result
        between = {n: f"{low:.3g} to {high:.3g}" for n, (low, high) in result.volume_intervals_ml.items()}
        between |= {n: f"cut off: {share:.0%} beyond the image" for n, share in result.cut_off.items()}
        rows = [
            (
                name,
                f"{ml:.2f}",
                *(f"{part[name]:.2f}" if name in part else "" for part in (spread, crossed)),
                between.get(name, ""),
            )
            for name, ml in outcome.volumes_ml.items()
        ]
        self.volumes.set_rows(rows, [s.color for s in outcome.result.labels.scheme.structures])
        self.volumes.table.setColumnHidden(2, not spread)
        self.volumes.table.setColumnHidden(3, not crossed)
        self.volumes.table.setColumnHidden(4, not between)

    # -- what the widget tells ---------------------------------------------------------------------------------------
    def busy_changed(self, busy: bool) -> None:
        self.panel.set_blocked(busy and not self.view.running)
        if not busy:
            self.view.ended()
        self.region.refresh()
        self.cross_out.set_idle(not busy)
        self._show_results()
        if not busy and self._next is not None:
            start, self._next = self._next, None
            start()

    def _on_subject(self) -> None:
        """Another image or model is chosen, or one of them was removed."""
        image = self.panel.image_combo.currentData()
        if image is not None and image != self._said_of:
            if self._said_of is not None and not self._runner.busy:  # what was said is of another patient
                self.panel.set_status("")
                self.panel.reset_progress()
            self._said_of = image
        self.region.use(image, self.panel.card, self._asked)
        self.cross_out.use(image, self.panel.card)
        self.panel.orientation.show_letters(self.region.assumed_axes)
        self.panel.show_modality(None if image is None else self._scene.modality_named(image))

    def layers_changed(self) -> None:
        names = self._scene.image_names()
        self.panel.set_images(names)
        self.active_changed()
        self._on_subject()
        if not self._runner.busy:
            self._scene.face_patient()
        shown = self.panel.status.text()
        if not names and not shown:
            self.panel.set_status(EMPTY_HINT)
        elif names and shown == EMPTY_HINT:
            self.panel.set_status("")

    def active_changed(self) -> None:
        """The user opened or selected an image: choose it for the run and move the view to it."""
        active = self._scene.active_image
        if active == self._active or self.view.running:
            return
        self._active = active
        index = -1 if active is None else self.panel.image_combo.findData(active)
        if index >= 0 and active is not None:
            self.panel.image_combo.setCurrentIndex(index)
            self._scene.look_at(active)

    def set_dark(self, dark: bool) -> None:
        self.panel.set_dark(dark)
        self.scrubber.set_dark(dark)
        self.cross_out.set_dark(dark)

    def shut_down(self) -> None:
        self._next = None
        self.region.shut_down()
        self.cross_out.shut_down()
