"""Runs as files: save the report of a result, and replay a report of napari, the command line or the web page."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_volume
from diffatlas.session import RecordedRun
from napari_diffatlas.forms.parts import yielding
from napari_diffatlas.viewer.layers import Source, volume_to_layer
from napari_diffatlas.viewer.scene import Scene

FILTER = "Run of DiffAtlas (*.json)"


class RunFiles(QWidget):
    """Two buttons. Signals: ``save_chosen(Path)``, ``replay_chosen(Path)``."""

    save_chosen = Signal(object)
    replay_chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.save_button = QPushButton("Save run …")
        self.save_button.setToolTip("Write what the result in sight was made of; the command line replays it, too")
        self.replay_button = QPushButton("Replay run …")
        self.replay_button.setToolTip("Run again what a report records: the same image and weights, the same labels")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for button in (self.save_button, self.replay_button):
            row.addWidget(yielding(button))
        self.save_button.clicked.connect(lambda: self.ask_save())
        self.replay_button.clicked.connect(lambda: self.ask_replay())
        self.set_ready(has_result=False, idle=True)

    def set_ready(self, has_result: bool, idle: bool) -> None:
        self.save_button.setEnabled(has_result)
        self.replay_button.setEnabled(idle)

    def ask_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save run", "run.json", FILTER)
        if name:
            self.save_chosen.emit(Path(name if name.lower().endswith(".json") else f"{name}.json"))

    def ask_replay(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Replay run", "", FILTER)
        if name:
            self.replay_chosen.emit(Path(name))


class Replay:
    """A recorded run and the layer to run it on. `volume` is for the worker: it hashes every voxel."""

    def __init__(self, path: Path, scene: Scene, chosen: str | None) -> None:
        """Find the image among the layers, else open its file; `BadInput` where neither is there."""
        self.run = session.read_run(path)
        card = session.model_card(self.run.request.model)
        if reason := self.run.other_weights(card.name, card.sha256):
            raise BadInput(f"{reason}; install the model that it was made with")
        self.source = _find(self.run, scene, chosen)

    def volume(self) -> Volume:
        """The volume to run on; `BadInput` where it is not the one of the report."""
        volume = self.run.prepared(self.source.file_volume())
        if reason := self.run.other_image(volume, f"'{self.source.name}'"):
            raise BadInput(f"{reason}; open '{self.run.source.name}' and choose it as Image")
        return volume


def _find(run: RecordedRun, scene: Scene, chosen: str | None) -> Source:
    """The layer from the recorded file, else the chosen one or any other of the same size, else the file itself."""
    fitting = []
    for name in scene.image_names():
        try:
            source = scene.source(name)
        except BadInput:
            continue
        if run.source.shape in (None, source.origin.grid.shape):
            fitting.append(source)
    from_file = [s for s in fitting if s.origin.path is not None and s.origin.path == run.source.path]
    fitting.sort(key=lambda source: source.name != chosen)
    for source in (*from_file, *fitting):
        return source
    if run.source.path is None or not run.source.path.exists():
        raise BadInput(f"the image of {run.file} is not open: open '{run.source.name}' first")
    data, state, _ = volume_to_layer(read_volume(run.source.path), run.source.path.absolute())
    return scene.add_image(data, state)
