"""The tab that segments a folder: input, output, and the state of every file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
)

from diffatlas import session
from diffatlas.cohort import MAX_WORKERS, Status
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelScheme
from diffatlas.session import Backend
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.forms.panel import modality_in, modality_row
from napari_diffatlas.forms.parts import Bar, Rows, Text, folder_row, yielding
from napari_diffatlas.forms.parts import Status as StatusLine
from napari_diffatlas.jobs.folder import Finished, FolderRun, FolderUpdate, Listed
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.worker import Failed, Stopped
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.scene import Scene

# Readable on a dark and on a light ground.
COLORS = {
    True: {"done": "#81c995", "failed": "#ff8a80", "running": "#fdd663"},
    False: {"done": "#137333", "failed": "#b3261e", "running": "#8f5a00"},
}
TABLE_ROWS = 8


class FolderTab(Tab):
    """Segment every volume of a folder with the model and the options of the Segment tab.

    ``options`` returns these, None where no model is installed. ``backend`` is called in the worker. Signal:
    ``folders_chosen(str, str, str)``: the folder of the volumes, the folder of the results, and the modality (a choice
    of `modality_row`).
    """

    title = "Folder"
    folders_chosen = Signal(str, str, str)

    def __init__(
        self,
        scene: Scene,
        runner: Runner,
        backend: Callable[[], Backend],
        options: Callable[[], Request | None],
        plan: Planner = session.plan,
    ) -> None:
        super().__init__()
        self._scene, self._runner, self._backend, self._options, self._plan = scene, runner, backend, options, plan
        self._files: dict[str, tuple[int, Path, Path]] = {}
        self._states: dict[str, str] = {}
        self._scheme: LabelScheme | None = None
        self._running, self._dark = False, True
        self._proposed = ""
        self.form: Container[Any] = Container(
            widgets=[
                folder_row("images", "From", "A folder of NIfTI, NRRD or MetaImage files, or DICOM series"),
                folder_row("results", "To", "A folder of its own; it is made where it does not exist"),
                modality_row(),
                create_widget(
                    annotation=int,
                    name="workers",
                    label="At a time",
                    value=1,
                    options={
                        "min": 1,
                        "max": min(MAX_WORKERS, max(1, os.cpu_count() or 1)),
                        "tooltip": "Volumes on their way at a time; each takes memory of its own",
                    },
                ),
            ]
        )
        self.options_text = Text()
        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Segment what is not done yet, and try again what failed")
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("End after the step each volume is at; Run goes on from there")
        self.rerun_button = QPushButton("Rerun all")
        self.rerun_button.setToolTip("Segment everything again, also what is done")
        self.progress = Bar()
        self.status = StatusLine()
        self.table = QTableWidget(0, 3)
        self._lay_out()
        self.form["images"].changed.connect(self._on_input)
        self.form["results"].changed.connect(lambda _: self._enable())
        self.run_button.clicked.connect(lambda: self.start())
        self.rerun_button.clicked.connect(lambda: self.start(redo=True))
        self.stop_button.clicked.connect(self._on_stop)
        self.table.cellDoubleClicked.connect(self._on_open)
        self._enable()

    def _lay_out(self) -> None:
        hint = Text("Each volume of the folder leaves labels (.nii.gz) and a report that can be replayed (.json).")
        buttons = QHBoxLayout()
        for button in (self.run_button, self.stop_button, self.rerun_button):
            buttons.addWidget(yielding(button), 1)
        self.table.setHorizontalHeaderLabels(["File", "State", "Note"])
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setToolTip("Double-click a file that is done to open it with its labels")
        sides, head = self.table.verticalHeader(), self.table.horizontalHeader()
        assert sides is not None  # both always exist; Qt's types do not say so
        assert head is not None
        sides.hide()
        head.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        head.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names of cases differ at their ends
        row_px = self.table.fontMetrics().height() + 6
        sides.setMinimumSectionSize(row_px)
        sides.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)  # rows grow with their notes
        self.table.setMinimumHeight(TABLE_ROWS * row_px + head.sizeHint().height())
        self.table.hide()
        self.progress.setTextVisible(False)
        self.column.addWidget(hint)
        self.column.addWidget(Rows(self.form))
        self.column.addWidget(self.options_text)
        self.column.addLayout(buttons)
        for part in (self.progress, self.status):
            self.column.addWidget(part)
        self.column.addWidget(self.table, 1)
        self.column.addStretch(0)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Show the options for the folder; they may have changed in the Segment tab."""
        request = self._options()
        if request is None:
            self.options_text.setText("No model is installed; install napari-diffatlas again.")
        else:
            self.options_text.setText(f"As chosen under Segment: {self._plan(None, request).summary}.")
        self._enable()

    # -- the user ----------------------------------------------------------------------------------------------------
    def _on_input(self, folder: Path) -> None:
        """Propose an output folder beside the input, unless the user has named one."""
        if chosen(folder) and chosen(self.form["results"].value) in ("", self._proposed):
            self._proposed = results_beside(folder)
            self.form["results"].value = self._proposed
        self._enable()

    def start(self, redo: bool = False) -> None:
        """Run the folder as the form says; ``redo`` also runs cases that are done."""
        request = self._options()
        if self._runner.busy or request is None or not self._filled:
            return
        folder, output = (Path(self.form[key].value).expanduser() for key in ("images", "results"))
        self.folders_chosen.emit(str(folder), str(output), self.form["modality"].value)
        self._running = True
        self._files, self._states = {}, {}
        with contextlib.suppress(BadInput):  # the run reports a missing model
            self._scheme = session.model_card(request.model).scheme
        self.table.setRowCount(0)
        self.status.say("Looking into the folder ...")
        self.progress.setRange(0, 0)
        run = FolderRun(
            folder,
            output,
            request,
            self._backend,
            modality=modality_in(self.form),
            workers=self.form["workers"].value,
            redo=redo,
        )
        self._runner.start(run, self._on_update)

    def _on_stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.status.say("Stopping after this step ...")
        self._runner.stop()

    def _on_open(self, row: int, _: int = 0) -> None:
        """The image of a row and its labels, as layers."""
        for name, (at, path, labels) in self._files.items():
            if at == row and self._states.get(name) == "done":
                try:
                    self._scene.open_files((path, labels), self._scheme)
                except BadInput as error:
                    self.status.say(str(error), error=True)

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_update(self, update: FolderUpdate) -> None:
        match update:
            case Listed(cases, notes):
                self._files = {name: (row, path, labels) for row, (name, path, labels) in enumerate(cases)}
                self.table.setRowCount(len(cases))
                self.table.show()
                self.progress.setRange(0, len(cases))
                self.progress.setValue(0)
                for name in self._files:
                    self._show(Status(name))
                self.status.say("\n".join(["Running ...", *notes]))
            case Status():
                self._show(update)
            case Finished(statuses):
                for status in statuses:
                    self._show(status)
                failed = sum(status.state == "failed" for status in statuses)
                done = f"{len(statuses) - failed} of {len(statuses)} done."
                again = " The others say why; Run tries them again." if failed else ""
                self.status.say(done + again, error=failed > 0)
            case Stopped(done):
                self._show_stopped()
                self.status.say(f"Stopped; {done} of {len(self._files)} done. Run goes on.")
            case Failed(message):
                self.progress.setRange(0, 1)
                self._show_stopped()
                self.status.say(message, error=True)

    def busy_changed(self, busy: bool) -> None:
        if not busy:
            if self._running and self.progress.maximum() == 0:
                self.progress.setRange(0, 1)
            self._running = False
        self._enable()

    def set_dark(self, dark: bool) -> None:
        self._dark = dark
        self.status.set_dark(dark)
        for name, state in self._states.items():
            self._paint(self._files[name][0], state)

    def _show_stopped(self) -> None:
        for name, state in self._states.items():
            if state == "running":
                self._show(Status(name, reason="stopped"))

    def _show(self, status: Status) -> None:
        row = self._files[status.name][0]
        note = status.reason
        path = self._files[status.name][1]
        if note.startswith(f"{path.name}: "):  # the file name is in the same row
            note = note[len(path.name) + 2 :]
        if status.state == "running" and status.step:
            note = f"step {status.step} of {status.total}"
        elif status.state == "done" and status.seconds is not None:
            note = f"{status.seconds:.1f} s"
        for column, text in enumerate((status.name, status.state, note)):
            item = self.table.item(row, column)
            if item is None:
                item = QTableWidgetItem()
                self.table.setItem(row, column, item)
            item.setText(text)
            item.setToolTip("" if column == 1 else text)
        self._states[status.name] = status.state
        self._paint(row, status.state)
        self.progress.setValue(sum(state in ("done", "failed") for state in self._states.values()))

    def _paint(self, row: int, state: str) -> None:
        item, color = self.table.item(row, 1), COLORS[self._dark].get(state)
        if item is not None:
            item.setData(Qt.ItemDataRole.ForegroundRole, None if color is None else QColor(color))

    @property
    def _filled(self) -> bool:
        return bool(chosen(self.form["images"].value) and chosen(self.form["results"].value))

    def _enable(self) -> None:
        idle = not self._runner.busy
        ready = idle and self._filled and self._options() is not None
        self.run_button.setEnabled(ready)
        self.rerun_button.setEnabled(ready)
        self.stop_button.setEnabled(self._running)
        self.form.enabled = not self._running


def chosen(folder: object) -> str:
    """The path in a file picker; "" where nothing is chosen (the picker then returns the current folder)."""
    return "" if str(folder).strip() in ("", ".") else str(folder)


def results_beside(folder: Path) -> str:
    """The folder that is proposed for the results of the volumes in ``folder``."""
    return str(folder.parent / f"{folder.name}-labels")
