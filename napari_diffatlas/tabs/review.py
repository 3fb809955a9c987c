"""The tab for review: one case at a time, the worst first; accept, correct or reject it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer, Signal  # type: ignore[attr-defined, unused-ignore]

from diffatlas import review
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from diffatlas.session import Backend
from napari_diffatlas.forms.edit import DEFAULT_NOISE
from napari_diffatlas.forms.panel import modality_in
from napari_diffatlas.jobs.review import TRAINING, Opened, Review
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.training import Training
from napari_diffatlas.jobs.worker import Done, Failed, Run, Step, Stopped
from napari_diffatlas.tabs.folder import chosen
from napari_diffatlas.tabs.review_form import ReviewForm
from napari_diffatlas.viewer.outcome import Outcome
from napari_diffatlas.viewer.patient import Patient
from napari_diffatlas.viewer.scene import Scene

HINT = "One patient at a time, the doubtful ones first. Correct with napari's brush, then accept."
LOOK_MS = 10
DRAFT_MS = 2000  # after the last stroke


class ReviewTab(ReviewForm):
    """Folders, cases, and the verdict on the case shown. ``options``: the request for cases without labels."""

    _drafted = Signal(str)  # from the thread that writes: what went wrong

    def __init__(
        self, scene: Scene, runner: Runner, backend: Callable[[], Backend], options: Callable[[], Request | None]
    ) -> None:
        super().__init__()
        self._runner, self._backend, self._options = runner, backend, options
        self._patient = Patient(scene, self._on_painted)
        self._review: Review | None = None
        self._index = 0
        self._opened: Opened | None = None
        self._coming: Future[Opened] | None = None
        self._running = False
        self._look = QTimer(self)
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self._on_look)
        self._draft = QTimer(self)
        self._draft.setSingleShot(True)
        self._draft.setInterval(DRAFT_MS)
        self._draft.timeout.connect(self._keep_draft)
        self._drafted.connect(lambda message: self.status.say(message, error=True))
        self._has_draft = False
        self.training = Training()
        self.training.setParent(self)
        self.start_button.clicked.connect(lambda: self.start())
        self.previous_button.clicked.connect(lambda: self.go(-1))
        self.next_button.clicked.connect(lambda: self.go(1))
        self.accept_button.clicked.connect(lambda: self.accept())
        self.reject_button.clicked.connect(lambda: self.reject())
        self.reason_edit.returnPressed.connect(self.reject)
        self.restore_button.clicked.connect(lambda: self.restore())
        self.continue_button.clicked.connect(lambda: self.continue_run())
        self.table_button.clicked.connect(lambda: self.write_table())
        self.undo_button.clicked.connect(lambda: self.undo())
        self.train_button.clicked.connect(lambda: self.train())
        self.training.said.connect(self.train_text.say)
        self.training.ended.connect(self._on_trained)
        self.list.cellDoubleClicked.connect(lambda row, _: self.go_to(row))
        self.status.say(HINT)
        self._enable()

    @property
    def running(self) -> bool:
        """Whether a run goes on from a correction."""
        return self._running

    # -- what the user does ------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Open the folders and show the worst case that is to do."""
        request = self._options()
        images, results = (Path(str(edit.value)) for edit in (self.images_edit, self.results_edit))
        if request is None or not (chosen(images) and chosen(results)):
            self.status.say("choose the folder of the images and the folder of the results", error=True)
            return
        self._close()
        try:
            self._review = Review(
                images.expanduser(),
                results.expanduser(),
                replace(request, roi=None, edit=None),
                self._backend,
                modality_in(self.folders),
            )
        except (BadInput, OSError) as error:
            self.status.say(str(error), error=True)
            return
        cases = self._review.cases
        self.list.setRowCount(len(cases))
        for row in range(len(cases)):
            self._show_row(row)
        to_do = [row for row, case in enumerate(cases) if self._review.state(case) == "to do"]
        self.status.say("\n".join(self._review.notes))
        self.go_to(to_do[0] if to_do else 0)

    def go(self, by: int) -> None:
        """The next case, or the one before."""
        self.go_to(self._index + by)

    def go_to(self, index: int) -> None:
        """Show case ``index``; painted changes of the current one are saved first."""
        if self._review is None or not 0 <= index < len(self._review.cases) or self._running:
            return
        if not self._autosave():
            return
        self._index, self._opened = index, None
        self._coming = self._review.open(index)
        self.list.selectRow(index)
        self._on_look()
        if self._coming is not None:
            case = self._review.cases[index]
            doing = "Opening" if case.labels.exists() else "Segmenting"
            self.case_text.setText(f"{doing} {case.name} ...")
            self.doubt_text.say("")
            self._look.start()
        self._enable()

    def accept(self) -> None:
        """Accept the labels shown and go to the next case."""
        if self._say("corrected" if self._changed() else "accepted", keep=True):
            self._go_on()

    def reject(self) -> None:
        """Reject the labels, save the reason, and go to the next case."""
        reason = self.reason_edit.text().strip()
        if self._opened is not None and not reason:
            self.status.say("say why it is rejected", error=True)
            self.reason_edit.setFocus()
            return
        if self._say("rejected", keep=False, reason=reason):
            self._go_on()

    def restore(self) -> None:
        """The run's own labels again."""
        if self._opened is not None:
            self._patient.set_labels(self._opened.made)
            self.status.say("The labels are as the run made them.")

    def undo(self) -> None:
        """Undo what was painted since the last save; else undo the last save of any case, and show that case."""
        review_ = self._review
        if review_ is None or self._running:
            return
        if self._opened is not None and self._patient.touched():
            self._patient.take_back()
            self.status.say("The labels are as they were saved.")
            return
        try:
            index = review_.undo()
        except (BadInput, OSError) as error:
            self.status.say(str(error), error=True)
            return
        if index is None:
            self.status.say("There is nothing to undo: nothing was saved since Start.")
            return
        self._show_row(index)
        self.go_to(index)
        self.status.say(f"Taken back: {review_.cases[index].name} is {review_.state(review_.cases[index])} again.")

    def train(self) -> None:
        """Train on the accepted cases, or stop the training that runs."""
        if self.training.running:
            self.train_button.setEnabled(False)
            self.train_text.say("Stopping the training; it saves its state ...")
            self.training.stop()
            return
        if self._review is None or not self._autosave():
            return
        try:
            config = self._review.write_training()
        except (BadInput, OSError) as error:
            self.train_text.say(str(error), error=True)
            return
        self.train_text.say(f"Training as {config} says ...")
        self.training.start(config)
        self.train_button.setText("Stop training")

    def continue_run(self) -> None:
        """Continue the run from the labels shown."""
        opened, review_ = self._opened, self._review
        if opened is None or review_ is None or self._runner.busy:
            return
        try:
            labels, source = self._labels(opened), self._patient.source()
        except BadInput as error:
            self.status.say(str(error), error=True)
            return
        model = str(opened.report["provenance"]["model"]["name"])
        changed = labels.data != opened.made.data
        edit = MaskEdit(labels.data, changed if changed.any() else None, DEFAULT_NOISE)
        options = self._options() or Request()
        request = replace(options, task="segment", model=model, edit=edit, roi=None)
        self._running = True
        self.status.say("Running ...")
        present = partial(Outcome.of, source=source, title="")
        self._runner.start(Run(self._backend, lambda: opened.volume, request, present=present), self._on_update)

    def write_table(self) -> None:
        """All cases in one CSV file."""
        if self._review is not None:
            self._autosave()
            try:
                self.status.say(f"Wrote {self._review.write_table()}.")
            except BadInput as error:
                self.status.say(str(error), error=True)

    def _on_trained(self, well: bool) -> None:
        self.train_button.setText("Train on these")
        self._enable()
        if well:
            model = self._review.folder / TRAINING / "model" if self._review is not None else "training/model"
            self.train_text.say(f"Trained: the new model is {model}. Add its folder in Preferences > DiffAtlas.")
        elif "Stopping" in self.train_text.text():
            self.train_text.say("Training stopped; Train on these goes on.")
        else:
            self.train_text.say(f"Training failed: {self.train_text.text()} (training/train.log has all)", error=True)

    # -- one case ----------------------------------------------------------------------------------------------------
    def _on_look(self) -> None:
        """Show the requested case once it is read."""
        coming, review_ = self._coming, self._review
        if coming is None or review_ is None or not coming.done():
            return
        self._look.stop()
        self._coming = None
        try:
            self._opened = coming.result()
        except Exception as error:  # one bad file must not end a review
            self.case_text.setText(f"{self._index + 1} of {len(review_.cases)} · {review_.cases[self._index].name}")
            self.status.say(" ".join(str(error).split())[:300], error=True)
            self._enable()
            return
        self.give_keys_back()
        opened = self._opened
        painted = opened.painted
        self._has_draft = painted is not None
        self._patient.show(opened.image_layer, opened.labels_layer, painted, opened.middle_mm)
        self._show_case()
        if painted is not None:
            self.status.say("What you had painted here is back. It is not saved yet.", warning=True)
        self._enable()

    def _show_case(self) -> None:
        review_, opened = self._review, self._opened
        if review_ is None or opened is None:
            return
        said = review_.verdicts.get(opened.case.name)
        doubt = review.doubt_of(opened.report)
        done = sum(review_.state(case) != "to do" for case in review_.cases)
        words = f"{self._index + 1} of {len(review_.cases)} ({done} reviewed) · {opened.case.name} · doubt {doubt:.2f}"
        if said is not None and said.state != "to do":  # which is what an undo leaves
            words += f" · {said.state} by {said.who}" + (f": {said.reason}" if said.reason else "")
        self.case_text.setText(words)
        self.doubt_text.say("\n".join(opened.doubts), warning=True)
        self.reason_edit.setText("" if said is None else said.reason)
        self._show_row(self._index)

    def _labels(self, opened: Opened) -> LabelMap:
        """The labels shown, on the file's own voxels."""
        ids = self._patient.ids()
        scheme = opened.made.scheme
        shown = LabelMap.from_ids(ids, self._patient.source().grid, scheme)
        return LabelMap(self._patient.source().origin.restore(shown.data), opened.made.grid, scheme)

    def _changed(self) -> bool:
        """Whether the labels shown differ from the run's."""
        opened = self._opened
        if opened is None:
            return False
        return not np.array_equal(self._patient.ids(), self._patient.source().origin.display(opened.made.to_ids()))

    def _on_painted(self) -> None:
        if self._opened is not None:
            self._draft.start()

    def _keep_draft(self) -> None:
        """Write painted changes to the disk, so that a crash does not lose them; remove them there after an undo."""
        self._draft.stop()
        opened, review_ = self._opened, self._review
        if opened is None or review_ is None:
            return
        try:
            touched = self._patient.touched()
            if touched or self._has_draft:
                self._has_draft = touched
                writing = review_.keep_draft(opened, self._labels(opened) if touched else None)
                writing.add_done_callback(self._on_drafted)
        except BadInput as error:
            self.status.say(str(error), error=True)

    def _on_drafted(self, writing: Future[None]) -> None:
        error = writing.exception()
        if error is not None:
            self._drafted.emit(f"What you paint cannot be kept: {error}")

    def _autosave(self) -> bool:
        """Save what was painted since the case was shown; False where that fails, with a message in the tab.

        A rejected case stays rejected until it is accepted; painted changes are kept as a draft until then.
        """
        opened, review_ = self._opened, self._review
        if opened is None or review_ is None or not self._patient.touched():
            return True
        if review_.state(opened.case) == "rejected":
            self._keep_draft()
            return True
        return self._say("corrected" if self._changed() else "accepted", keep=True)

    def _say(self, state: review.State, *, keep: bool, reason: str = "") -> bool:
        opened, review_ = self._opened, self._review
        if opened is None or review_ is None or self._running:
            return False
        try:
            review_.say(opened, state, self._labels(opened) if keep else None, reason)
        except (BadInput, OSError) as error:
            self.status.say(str(error), error=True)
            return False
        self._patient.saved()
        self._draft.stop()
        self._has_draft = False
        self.status.say("")
        self._show_row(self._index)
        return True

    def _go_on(self) -> None:
        review_ = self._review
        if review_ is None:
            return
        count = len(review_.cases)
        to_do = [row for row, case in enumerate(review_.cases) if review_.state(case) == "to do"]
        later = [row for row in to_do if row > self._index] or to_do
        if later:
            self.go_to(later[0])
        elif self._index + 1 < count:
            self.go(1)
        else:
            self._show_case()
        if not to_do:
            self.status.say(f"All {count} cases are reviewed. Write table makes one file of them.")

    # -- a run that goes on from a correction (slots: they run in the GUI thread) ------------------------------------
    def _on_update(self, update: Any) -> None:
        match update:
            case Step(frame):
                self.status.say(f"Running: step {frame.index + 1} of {frame.total} ...")
            case Done(outcome):
                self._patient.set_displayed(outcome.result.labels)
                self.status.say("Continued from your labels; accept them or correct on.")
            case Stopped():
                self.status.say("Stopped.")
            case Failed(message):
                self.status.say(message, error=True)

    def busy_changed(self, busy: bool) -> None:
        if not busy:
            self._running = False
        self._enable()

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _show_row(self, row: int) -> None:
        review_ = self._review
        if review_ is None:
            return
        case = review_.cases[row]
        report = review_.reports.get(case.name)
        self.show_row(row, case.name, review.doubt_of(report) if report else None, review_.state(case))

    def _enable(self) -> None:
        ready = self._opened is not None and not self._running
        for part in (self.accept_button, self.reject_button, self.restore_button, self.reason_edit):
            part.setEnabled(ready)
        self.undo_button.setEnabled(self._review is not None and not self._running)
        self.train_button.setEnabled(self._review is not None or self.training.running)
        self.continue_button.setEnabled(ready and not self._runner.busy)
        count = 0 if self._review is None else len(self._review.cases)
        self.previous_button.setEnabled(not self._running and self._index > 0)
        self.next_button.setEnabled(not self._running and self._index + 1 < count)
        self.table_button.setEnabled(self._review is not None)
        self.start_button.setEnabled(not self._running)

    def _close(self) -> None:
        self._look.stop()
        self._autosave()
        self._draft.stop()
        if self._review is not None:
            self._review.close()
        self._review, self._opened, self._coming, self._index = None, None, None, 0

    def shut_down(self) -> None:
        self._close()
        self.training.shut_down()
