"""The tab that draws new image-mask pairs from the atlas: a gallery, each pair to be opened as layers or saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QListView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
)

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.session import Backend
from napari_diffatlas.forms.options import MAX_SEED, Presets
from napari_diffatlas.forms.panel import Card, legend
from napari_diffatlas.forms.parts import Bar, Rows, Status, Text, yielding
from napari_diffatlas.forms.thumbnail import HEIGHT, WIDTH, picture, pixmap
from napari_diffatlas.jobs.pairs import AllDrawn, Coming, Drawn, Pair, Pairs
from napari_diffatlas.jobs.runner import Runner
from napari_diffatlas.jobs.worker import Failed, Stopped
from napari_diffatlas.tabs.tab import Tab
from napari_diffatlas.viewer.scene import Scene

MAX_PAIRS = 64
COUNT = {"min": 1, "max": MAX_PAIRS, "tooltip": "How many pairs to draw, one after the other"}
SEED = {
    "min": 0,
    "max": MAX_SEED,
    "tooltip": "The first pair's seed; the next pair has the next one. The same seed, the same pair",
}
HINT = "Pairs that no patient has: the atlas alone draws an image and its mask, out of noise."


class AtlasTab(Tab):
    """Model, count, seed, and a gallery of the pairs. ``backend`` is called in the worker."""

    title = "Atlas"

    def __init__(self, scene: Scene, runner: Runner, backend: Callable[[], Backend], cards: Sequence[Card]) -> None:
        super().__init__()
        self._scene, self._runner, self._backend = scene, runner, backend
        self._cards = {card.name: card for card in cards}
        self._running = False
        self._model, self._count = "", 0
        self.pairs: list[Pair] = []
        models = {"choices": [(card.title, card.name) for card in cards], "tooltip": "The atlas to draw from"}
        self.form: Container[Any] = Container(
            widgets=[
                create_widget(annotation=str, name="model", label="Model", widget_type="ComboBox", options=models),
                create_widget(annotation=int, name="count", label="Pairs", value=6, options=COUNT),
                create_widget(annotation=int, name="seed", label="Seed", value=0, options=SEED),
            ]
        )
        self.model_text = Text()
        self.presets = Presets()
        self.draw_button = QPushButton("Draw pairs")
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("End after this step; the pairs that are done stay")
        self.progress = Bar()
        self.status = Status()
        self.gallery = QListWidget()
        self.open_button = QPushButton("Open as layers")
        self.open_button.setToolTip("Image and mask of every chosen pair; a double click opens one")
        self.save_button = QPushButton("Save all …")
        self.save_button.setToolTip("Every pair of the gallery as two NIfTI files, in a folder of your choice")
        self._lay_out()
        self.form["model"].changed.connect(self._show_model)
        self.draw_button.clicked.connect(self._on_draw)
        self.stop_button.clicked.connect(self._on_stop)
        self.open_button.clicked.connect(self._on_open)
        self.save_button.clicked.connect(self._on_save)
        self.gallery.itemDoubleClicked.connect(lambda item: self._open([item]))
        self.gallery.itemSelectionChanged.connect(self._enable)
        self._show_model()
        self.status.say(HINT)
        self._enable()

    def _lay_out(self) -> None:
        gallery = self.gallery
        gallery.setViewMode(QListView.ViewMode.IconMode)
        gallery.setResizeMode(QListView.ResizeMode.Adjust)
        gallery.setMovement(QListView.Movement.Static)
        gallery.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        gallery.setIconSize(QSize(WIDTH, HEIGHT))
        gallery.setSpacing(4)
        gallery.setMinimumHeight(2 * HEIGHT + 80)
        buttons, after = QHBoxLayout(), QHBoxLayout()
        buttons.addWidget(yielding(self.draw_button), 2)
        buttons.addWidget(yielding(self.stop_button), 1)
        after.addWidget(yielding(self.open_button), 1)
        after.addWidget(yielding(self.save_button), 1)
        self.column.addWidget(Rows(self.form))
        self.column.addWidget(self.model_text)
        self.column.addWidget(self.presets)
        self.column.addLayout(buttons)
        self.column.addWidget(self.progress)
        self.column.addWidget(self.status)
        self.column.addWidget(gallery, 1)
        self.column.addLayout(after)
        self._reset_progress()

    # -- what the widget tells ---------------------------------------------------------------------------------------
    def busy_changed(self, busy: bool) -> None:
        if not busy and self._running:
            self._running = False
            for row in range(self.gallery.count() - 1, len(self.pairs) - 1, -1):
                self.gallery.takeItem(row)  # the unfinished pair
        self._enable()

    def set_dark(self, dark: bool) -> None:
        self.status.set_dark(dark)

    # -- what the user does ------------------------------------------------------------------------------------------
    def _on_draw(self) -> None:
        model = self.form["model"].value
        if self._runner.busy or model is None:
            return
        self.pairs.clear()
        self.gallery.clear()
        self._running, self._model = True, model
        self.progress.setRange(0, 0)
        self.progress.setTextVisible(False)
        self.status.say("Loading the model ...")
        request = Request(model=model, preset=self.presets.chosen, seed=self.form["seed"].value)
        self._count = int(self.form["count"].value)
        self._runner.start(Pairs(self._backend, request, self._count), self._on_update)

    def _on_stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.status.say("Stopping after this step ...")
        self._runner.stop()

    def _on_open(self) -> None:
        self._open(self.gallery.selectedItems())

    def _open(self, items: Sequence[QListWidgetItem]) -> None:
        rows = sorted(self.gallery.row(item) for item in items)
        for row in rows:
            if row < len(self.pairs):
                pair = self.pairs[row]
                self._scene.add_pair(pair.image, pair.mask, f"pair, seed {pair.seed}")

    def _on_save(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the pairs")
        if folder:
            self.save(Path(folder))

    def save(self, folder: Path) -> None:
        """Write every pair of the gallery into ``folder``, unless it holds pairs already."""
        try:
            if any(folder.glob("case-*_image.nii.gz")):
                raise BadInput(f"{folder.name} holds pairs already; choose another folder")
            for index, pair in enumerate(self.pairs):
                session.write_pair(folder, index, pair.image, pair.mask)
        except BadInput as error:
            self.status.say(str(error), error=True)
            return
        self.status.say(f"Saved {_pairs(len(self.pairs))} in {folder}.")

    # -- the worker (slots: they run in the GUI thread) --------------------------------------------------------------
    def _on_update(self, update: Any) -> None:
        match update:
            case Coming(number, frame):
                rgb = picture(frame.image, frame.labels, frame.grid, frame.scheme)
                self._show(number, rgb, f"step {frame.index + 1} of {frame.total}")
                self._advance(number, (frame.index + 1) / frame.total)
            case Drawn(number, pair):
                self.pairs.append(pair)
                rgb = picture(pair.image.data, pair.mask.data, pair.mask.grid, pair.mask.scheme)
                self._show(number, rgb, f"seed {pair.seed}")
                self._advance(number + 1, 0.0)
                self._item(number).setToolTip(_volumes(pair))
            case AllDrawn(count, seconds):
                self.status.say(f"Drew {_pairs(count)} in {seconds:.1f} s.")
            case Stopped(count):
                self._reset_progress()
                self.status.say(f"Stopped after {_pairs(count)}.")
            case Failed(message):
                self._reset_progress()
                self.status.say(message, error=True)

    def _show(self, number: int, rgb: Any, text: str) -> None:
        if number == self.gallery.count():
            self.gallery.addItem(QListWidgetItem())
            self.gallery.scrollToBottom()
        item = self._item(number)
        item.setIcon(QIcon(pixmap(rgb)))
        item.setText(text)
        item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)

    def _item(self, number: int) -> QListWidgetItem:
        item = self.gallery.item(number)
        assert item is not None  # every pair that began has an item
        return item

    def _advance(self, done: int, share: float) -> None:
        self.progress.setRange(0, 100 * self._count)
        self.progress.setTextVisible(True)
        self.progress.setValue(round(100 * (done + share)))
        self.status.say(f"Drawing pair {min(done + 1, self._count)} of {self._count} ...")

    # -- what is shown -----------------------------------------------------------------------------------------------
    def _show_model(self, _: Any = None) -> None:
        card = self._cards.get(self.form["model"].value)
        self.model_text.setText("No model is installed." if card is None else legend(card.scheme))

    def _reset_progress(self) -> None:
        self.progress.setRange(0, 1)
        self.progress.setValue(0)
        self.progress.setTextVisible(True)

    def _enable(self) -> None:
        idle = not self._runner.busy
        self.draw_button.setEnabled(idle and self.form["model"].value is not None)
        self.stop_button.setEnabled(self._running)
        self.form.enabled = not self._running
        self.presets.setEnabled(not self._running)
        self.open_button.setEnabled(any(self.gallery.row(i) < len(self.pairs) for i in self.gallery.selectedItems()))
        self.save_button.setEnabled(bool(self.pairs) and not self._running)


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def _volumes(pair: Pair) -> str:
    return "\n".join(f"{name}: {ml:.3g} ml" for name, ml in pair.mask.volumes_ml().items())
