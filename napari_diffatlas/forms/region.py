"""The region that the model looks at: the buttons of the form, and the box in the viewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QWidget

from diffatlas.engine.request import Request, Roi
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Array, Grid
from diffatlas.geometry.space import field_of_view, world_box
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.forms.panel import Card
from napari_diffatlas.forms.parts import Text, in_our_words, sentence, size_mm, yielding
from napari_diffatlas.jobs.large import coarse
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.search import Found, Locate, Looked, Search
from napari_diffatlas.jobs.worker import Failed, Stopped
from napari_diffatlas.viewer.doubt import much_smaller
from napari_diffatlas.viewer.layers import Source
from napari_diffatlas.viewer.scene import Scene

LARGER = 1.15  # a drawn region longer than this many fields of view is called larger


@dataclass(frozen=True, eq=False)
class Region:
    """A region of an image. ``centre_mm``: RAS [3]; ``drawn``: the voxel ranges that the user drew, else None."""

    layer: str
    grid: Grid
    centre_mm: Array
    drawn: Roi | None
    words: str


class RegionForm(QWidget):
    """Buttons and one line of text; knows neither viewer nor engine."""

    cursor_clicked = Signal()
    draw_clicked = Signal()
    find_clicked = Signal()
    clear_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.cursor_button = QPushButton("Cursor")
        self.cursor_button.setToolTip("A box of the model's size about the place last clicked, in the slice in sight")
        self.draw_button = QPushButton("Draw")
        self.draw_button.setCheckable(True)
        self.draw_button.setToolTip(
            "Draw a rectangle on a slice; a second one in another plane makes it a box.\n"
            "Or select a Shapes layer of yours before: what is drawn in it counts"
        )
        self.find_button = QPushButton("Find it")
        self.find_button.setToolTip("Search the whole image for the structures of the model")
        self.clear_button = QPushButton("Clear")
        self.clear_button.setToolTip("No box: the run decides where to look")
        self.text = Text()
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        form = QGridLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(4)
        form.addWidget(QLabel("Region"), 0, 0)
        buttons = (self.cursor_button, self.draw_button, self.find_button, self.clear_button)
        for column, (button, width) in enumerate(zip(buttons, (7, 6, 7, 6), strict=True), start=1):
            form.addWidget(yielding(button), 0, column)
            form.setColumnStretch(column, width)
        form.addWidget(self.text, 1, 0, 1, 5)
        self.cursor_button.clicked.connect(lambda: self.cursor_clicked.emit())
        self.draw_button.clicked.connect(lambda: self.draw_clicked.emit())
        self.find_button.clicked.connect(lambda: self.find_clicked.emit())
        self.clear_button.clicked.connect(lambda: self.clear_clicked.emit())

    def set_state(self, ready: bool, chosen: bool, drawing: bool, text: str) -> None:
        """``ready``: there is an image and a model, and no run; ``chosen``: there is a box."""
        for button in (self.cursor_button, self.draw_button, self.find_button):
            button.setEnabled(ready)
        self.clear_button.setEnabled(ready and (chosen or drawing))
        with QSignalBlocker(self.draw_button):
            self.draw_button.setChecked(drawing)
        self.text.setText(text)


class RegionControl(RegionForm):
    """The form with its actions.

    Signals: ``said(str, bool)`` (a line for the user; is it an error), ``searching(int, int)`` (looks done, looks at
    most; 0, 0 at the end).
    """

    said = Signal(str, bool)
    searching = Signal(int, int)

    def __init__(self, scene: Scene, runner: Runner, locate: Locate, plan: Planner) -> None:
        super().__init__()
        self._scene, self._runner, self._locate, self._plan = scene, runner, locate, plan
        self._box = scene.box(self._on_drawn)
        self._source: Source | None = None
        self._card: Card | None = None
        self._region: Region | None = None
        self._options: Callable[[], Request] = Request
        self.cursor_clicked.connect(self._at_cursor)
        self.draw_clicked.connect(self._draw)
        self.find_clicked.connect(self._find)
        self.clear_clicked.connect(self.clear)
        self.refresh()

    def use(self, image: str | None, card: Card | None, options: Callable[[], Request]) -> None:
        """Set image, model and options of the form; the box is kept where it still fits the image."""
        try:
            source = None if image is None else self._scene.source(image)
        except BadInput:  # the run reports it
            source = None
        moved = self._card is not card
        self._source, self._card, self._options = source, card, options
        region = self._region
        if region is not None and (
            source is None or not source.grid.same_as(region.grid) or not (self._box.shown or moved)
        ):
            self.clear()
        elif region is not None and moved:
            self._show(region)
        self.refresh()

    def roi_for(self, grid: Grid) -> Roi | None:
        """The voxel ranges to run on; None where no box is set for this image."""
        region, card = self._region, self._card
        if region is None or card is None or not region.grid.same_as(grid):
            return None
        return region.drawn or field_of_view(card.space, grid, region.centre_mm)

    def clear(self) -> None:
        """No box."""
        self._region = None
        self._box.end_drawing()
        self._box.hide()
        self.refresh()

    def refresh(self) -> None:
        """Show which region a run will look at."""
        ready = self._source is not None and self._card is not None and not self._runner.busy
        self.set_state(ready, self._region is not None, self._box.drawing, self._words())

    @property
    def assumed_axes(self) -> str:
        """The assumed letters of the image's axes; "" where the image states them."""
        return "" if self._source is None else self._source.placement.assumed

    def shut_down(self) -> None:
        self._box.disconnect()

    # -- what the user does ------------------------------------------------------------------------------------------
    def _at_cursor(self) -> None:
        source, card = self._source, self._card
        if source is None or card is None:
            return
        self._box.end_drawing()
        wanted = self._box.cursor_mm(source.placement)
        roi = field_of_view(card.space, source.grid, wanted)
        centre = source.grid.to_world(np.array([(a + b - 1) / 2 for a, b in roi]))
        self._set(Region(source.name, source.grid, centre, None, "about the cursor"))

    def _draw(self) -> None:
        if self._source is None:
            return
        if self._box.drawing:
            self._box.end_drawing()
        else:
            if self._box.draw(self._source):
                self._on_drawn()
            else:
                self.said.emit("Draw a rectangle on the image; a second one in another plane makes it a box.", False)
        self.refresh()

    def _on_drawn(self) -> None:
        source, card = self._source, self._card
        if source is None or card is None:
            return
        try:
            centre, roi = self._box.drawn(source, card.space.extent_mm)
        except BadInput as error:
            self.said.emit(str(error), True)
            return
        view = field_of_view(card.space, source.grid, centre)
        larger = any(b - a > LARGER * (d - c) for (a, b), (c, d) in zip(roi, view, strict=True))
        words = (
            "in the middle of what you drew, which is larger"
            if larger
            else "around what you drew, with labels within it"
        )
        self._set(Region(source.name, source.grid, centre, roi, words))
        self.said.emit("", False)

    def _find(self) -> None:
        source, card = self._source, self._card
        if source is None or card is None or self._runner.busy:
            return
        self._box.end_drawing()
        self.searching.emit(0, 1)
        volume = (lambda: coarse(source, card.space).volume()) if source.large else source.volume
        self._runner.start(Search(self._locate, volume, self._options()), self._on_search)

    def _on_search(self, update: Any) -> None:
        match update:
            case Looked(done, total):
                self.searching.emit(done, total)
                return
            case Found(proposal):
                source = self._source
                if source is not None and proposal.confidence > 0:
                    self._set(Region(source.name, source.grid, proposal.centre_mm, None, proposal.words))
                self.said.emit(f"Search: {proposal.words}.", False)
            case Stopped():
                self.said.emit("Search stopped.", False)
            case Failed(message):
                self.said.emit(message, True)
        self.searching.emit(0, 0)

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _set(self, region: Region) -> None:
        self._region = region
        self._show(region)
        self.refresh()

    def _show(self, region: Region) -> None:
        if self._source is not None and self._card is not None:
            self._box.show(region.centre_mm, self._card.space.extent_mm, self._source.placement)

    def _words(self) -> str:
        source, card, region = self._source, self._card, self._region
        if source is None or card is None:
            return ""
        extent = card.space.extent_mm
        if region is not None:
            return f"Looks at {size_mm(extent)}: {region.words}."
        low, high = world_box(source.grid)
        size = tuple(float(s) for s in high - low)
        if much_smaller(card.space, source.grid):
            return (
                f"Doubtful: the image ({size_mm(size)}) is far smaller than what the model looks at "
                f"({size_mm(extent)}). What it draws beyond the image is made up."
            )
        try:
            where = self._plan(source.placeholder(), self._options()).where
        except BadInput as error:  # a modality that the model does not know is shown before the run
            return in_our_words(str(error))
        return sentence(where) if where else ""
