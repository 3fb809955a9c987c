"""The tab that compares two label layers: a table of scores, and a layer that shows where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import napari.layers
from magicgui.widgets import Container, create_widget
from napari.qt.threading import create_worker
from qtpy.QtWidgets import QPushButton

from diffatlas.errors import BadInput
from napari_diffatlas.forms.panel import legend
from napari_diffatlas.forms.parts import Bar, Rows, Status, Text, short
from napari_diffatlas.forms.table import Table
from napari_diffatlas.jobs.worker import Failed, guarded
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.agreement import Agreement, agree
from napari_diffatlas.viewer.layers import LabelSource
from napari_diffatlas.viewer.scene import Scene, disagreement_scheme

HINT = "Any two label layers: a result, an edit of it, another reader's file."
TOLERANCE = {
    "min": 0.0,
    "max": 50.0,
    "step": 0.5,
    "tooltip": "Surfaces that are no farther apart count as one in the surface Dice",
}
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
    """Labels, reference, tolerance. The scores are computed in a worker thread, also during a run of the engine."""

    title = "Compare"

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene
        self._asked: tuple[LabelSource, LabelSource] | None = None
        self.form: Container[Any] = Container(
            widgets=[
                self._layer_choice("labels", "The labels to judge"),
                self._layer_choice("reference", "What they are judged by"),
                create_widget(annotation=float, name="tolerance", label="Tolerance, mm", value=2.0, options=TOLERANCE),
            ]
        )
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
        self.column.addWidget(Rows(self.form))
        for part in (self.compare_button, self.progress, self.status, self.table, self.legend):
            self.column.addWidget(part)
        self.column.addStretch(1)
        self.compare_button.clicked.connect(self._on_compare)
        self.form.changed.connect(self._enable)
        self.status.say(HINT)
        self._enable()

    @property
    def busy(self) -> bool:
        """Whether scores are being computed."""
        return self._asked is not None

    # -- what the widget tells ---------------------------------------------------------------------------------------
    def layers_changed(self) -> None:
        first, second = before = self._chosen
        layers = self._scene.label_layers()
        self.form.reset_choices()
        if first not in layers:
            first = next((layer for layer in layers if layer is not second), None)
        if second not in layers or second is first:
            second = next((layer for layer in reversed(layers) if layer is not first), first)
        if None not in (first, second):  # a renamed layer stays chosen
            self.form["labels"].value, self.form["reference"].value = first, second
        if (first, second) != before:
            self._enable()

    def choices(self, _: Any = None) -> list[tuple[str, napari.layers.Labels]]:
        """The label layers with their names; long names are cut in the middle."""
        layers = self._scene.label_layers()
        names = [short(str(layer.name)) for layer in layers]
        return [(s if names.count(s) == 1 else str(la.name), la) for s, la in zip(names, layers, strict=True)]

    @property
    def _chosen(self) -> tuple[Any, Any]:
        return self.form["labels"].value, self.form["reference"].value

    def _layer_choice(self, name: str, tip: str) -> Any:
        """napari's choice of a layer, of those that can be compared."""
        options = {"choices": self.choices, "tooltip": tip}
        return create_widget(annotation=napari.layers.Labels, name=name, label=name.title(), options=options)

    def set_dark(self, dark: bool) -> None:
        self.status.set_dark(dark)

    # -- what the user does ------------------------------------------------------------------------------------------
    def _on_compare(self) -> None:
        if self.busy:
            return
        try:
            first, second = (self._scene.label_source(layer) for layer in self._chosen)
        except BadInput as error:
            self.status.say(str(error), error=True)
            return
        self._asked = first, second
        self.table.set_rows(())
        self.legend.setText("")
        self.progress.show()
        self.status.say("Measuring ...")
        self._enable()
        tolerance_mm = float(self.form["tolerance"].value)

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
        first, second = self._chosen
        self.compare_button.setEnabled(not self.busy and None not in (first, second) and first is not second)


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _volume(ml: float) -> str:
    return f"{ml:.0f}" if ml >= 100 else f"{ml:.3g}"
