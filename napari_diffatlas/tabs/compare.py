"""The tab that compares two label layers: a table of scores, and a layer of where they disagree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtWidgets import QDoubleSpinBox, QGridLayout, QLabel, QPushButton

from diffatlas.errors import BadInput
from napari_diffatlas.forms.panel import legend
from napari_diffatlas.forms.parts import Bar, Status, Text, combo_box, offer, yielding
from napari_diffatlas.forms.table import Table
from napari_diffatlas.jobs.worker import Failed, guarded
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.agreement import Agreement, agree
from napari_diffatlas.viewer.layers import LabelSource
from napari_diffatlas.viewer.scene import Scene, disagreement_scheme

HINT = "Any two label layers: a result, an edit of it, another reader's file."
COLUMNS = ("Structure", "Dice", "Surf.", "HD95", "ml", "ref.")  # short: a dock is narrow
TITLES = ("structure", "Dice", "surface Dice", "HD95, mm", "volume, ml", "reference volume, ml")
TIPS = (
    "Matched by name where both layers carry names, else by id",
    "Overlap, 0 to 1",
    "Surface Dice: share of both surfaces that lies within the tolerance of the other, 0 to 1",
    "95th percentile of the distance between the surfaces, mm",
    "Volume in the labels, ml",
    "Volume in the reference, ml",
)


class CompareTab(Tab):
    """Labels, reference, tolerance; the figures come from a worker thread, a run of the engine may go on meanwhile."""

    title = "Compare"

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene
        self._asked: tuple[LabelSource, LabelSource] | None = None
        self.labels_combo = combo_box("The labels to judge")
        self.reference_combo = combo_box("What they are judged by")
        self.tolerance_box = yielding(QDoubleSpinBox())
        self.tolerance_box.setRange(0.0, 50.0)
        self.tolerance_box.setSingleStep(0.5)
        self.tolerance_box.setValue(2.0)
        self.tolerance_box.setSuffix(" mm")
        self.tolerance_box.setToolTip("Surfaces that are no farther apart count as one in the surface Dice")
        self.compare_button = QPushButton("Compare")
        self.progress = Bar()
        self.progress.setRange(0, 0)
        self.progress.setTextVisible(False)
        self.progress.hide()
        self.status = Status()
        self.table = Table(COLUMNS, TITLES)
        for column, tip in enumerate(TIPS):
            item = self.table.table.horizontalHeaderItem(column)
            assert item is not None
            item.setToolTip(tip)
        self.legend = Text()
        form = QGridLayout()
        form.setColumnStretch(1, 1)
        parts = (("Labels", self.labels_combo), ("Reference", self.reference_combo), ("Tolerance", self.tolerance_box))
        for row, (name, part) in enumerate(parts):
            form.addWidget(QLabel(name), row, 0)
            form.addWidget(part, row, 1)
        self.column.addLayout(form)
        for part in (self.compare_button, self.progress, self.status, self.table, self.legend):
            self.column.addWidget(part)
        self.column.addStretch(1)
        self.compare_button.clicked.connect(self._on_compare)
        for combo in (self.labels_combo, self.reference_combo):
            combo.currentIndexChanged.connect(self._enable)
        self.status.say(HINT)
        self._enable()

    @property
    def busy(self) -> bool:
        """Whether figures are on their way."""
        return self._asked is not None

    # -- what the widget tells ---------------------------------------------------------------------------------------
    def layers_changed(self) -> None:
        names = self._scene.labels_names()
        fresh = self.labels_combo.currentData() is None or self.reference_combo.currentData() is None
        offer(self.labels_combo, names, "no labels yet")
        offer(self.reference_combo, names, "no labels yet")
        if len(names) > 1 and (fresh or self.labels_combo.currentData() == self.reference_combo.currentData()):
            other = [name for name in names if name != self.labels_combo.currentData()]
            self.reference_combo.setCurrentIndex(self.reference_combo.findData(other[-1]))
        self._enable()

    def set_dark(self, dark: bool) -> None:
        self.status.set_dark(dark)

    # -- what the user does ------------------------------------------------------------------------------------------
    def _on_compare(self) -> None:
        if self.busy:
            return
        try:
            first = self._scene.label_source(self.labels_combo.currentData())
            second = self._scene.label_source(self.reference_combo.currentData())
        except BadInput as error:
            self.status.say(str(error), error=True)
            return
        self._asked = first, second
        self.table.set_rows(())
        self.legend.setText("")
        self.progress.show()
        self.status.say("Measuring ...")
        self._enable()
        tolerance_mm = self.tolerance_box.value()

        def work() -> Iterator[Agreement | Failed]:
            def figures() -> Iterator[Agreement]:
                yield agree(first, second, tolerance_mm)

            yield from guarded(figures())

        worker = create_worker(work, _start_thread=False)
        worker.yielded.connect(self._on_figures)
        worker.finished.connect(self._on_finished)
        worker.start()

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_figures(self, figures: Any) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        first, second = asked
        if isinstance(figures, Failed):
            self.status.say(figures.message, error=True)
            return
        self._show(figures)
        self._scene.show_disagreement(figures.disagreement, first.name, second)
        self.legend.setText(legend(disagreement_scheme(first.name, second.name)))
        self.status.say("\n".join((f"'{first.name}' against '{second.name}'.", *figures.notes)))

    def _on_finished(self) -> None:
        self._asked = None
        self.progress.hide()
        self._enable()

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _show(self, figures: Agreement) -> None:
        rows = [
            (
                row.name,
                _number(row.dice, ".3f"),
                _number(row.surface_dice, ".3f"),
                _number(row.hd95_mm, ".1f"),
                _volume(row.volume_prediction_ml),
                _volume(row.volume_reference_ml),
            )
            for row in figures.comparison.rows
        ]
        mean = figures.comparison.mean
        means = (_number(mean["dice"], ".3f"), _number(mean["surface_dice"], ".3f"), _number(mean["hd95_mm"], ".1f"))
        if len(rows) > 1:
            rows.append(("mean", *means, "", ""))
        self.table.set_rows(rows, [s.color for s in figures.scheme.structures])

    def _enable(self, _: Any = None) -> None:
        names = self.labels_combo.currentData(), self.reference_combo.currentData()
        self.compare_button.setEnabled(not self.busy and None not in names and names[0] != names[1])


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _volume(ml: float) -> str:
    return f"{ml:.0f}" if ml >= 100 else f"{ml:.3g}"
