"""The form: what a run is made of and what it says of itself. Emits plain data; knows neither viewer nor engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from diffatlas.request import PRESETS, PresetName
from diffatlas.volume import LabelScheme

PRESET_TITLES: dict[PresetName, str] = {"fast": "Fast", "watch": "Watch", "published": "As published"}
DEFAULT_PRESET: PresetName = "watch"
MAX_SEED = 2**31 - 1
ERROR_COLORS = {True: "#ff8a80", False: "#b3261e"}  # readable on a dark and on a light ground


class Card(Protocol):
    """What the form shows of a model; `diffatlas.session.available_models` gives them."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def scheme(self) -> LabelScheme: ...
    @property
    def limits(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Choice:
    """What the user asks for: names of an image layer and a model, preset and seed."""

    image: str
    model: str
    preset: PresetName
    seed: int


class Panel(QWidget):
    """Form, Run and Stop, progress, one status line. Signals: ``run_clicked(Choice)``, ``stop_clicked()``."""

    run_clicked = Signal(object)
    stop_clicked = Signal()

    def __init__(self, cards: Sequence[Card], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._cards = {card.name: card for card in cards}
        self._running = False
        self._dark = True
        self._status = ("", False)

        self.image_combo = _combo("The volume to segment")
        self.model_combo = _combo("The atlas that generates the image-mask pair")
        for card in cards:
            self.model_combo.addItem(card.title, card.name)
        self.model_text = _Text()
        self.preset_combo = _combo("How the noise is walked down")
        for name, title in PRESET_TITLES.items():
            self.preset_combo.addItem(title, name)
            tip = PRESETS[name].summary
            self.preset_combo.setItemData(self.preset_combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.preset_combo.setCurrentIndex(self.preset_combo.findData(DEFAULT_PRESET))
        self.preset_text = _Text()
        self.seed_box = QSpinBox()
        self.seed_box.setRange(0, MAX_SEED)
        self.seed_box.setToolTip("The same seed gives the same labels")
        self.run_button = QPushButton("Run")
        self.stop_button = QPushButton("Stop")
        self.progress = QProgressBar()
        self.progress_text = _Text()
        self.status = _Text()
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._lay_out()

        self.model_combo.currentIndexChanged.connect(self._show_model)
        self.preset_combo.currentIndexChanged.connect(self._show_preset)
        self.run_button.clicked.connect(self._run)
        self.stop_button.clicked.connect(self._stop)
        self._show_model()
        self._show_preset()
        self.reset_progress()
        self._enable()

    def _lay_out(self) -> None:
        form = QGridLayout()
        form.setColumnStretch(1, 1)
        rows: tuple[tuple[str, QWidget], ...] = (
            ("Image", self.image_combo),
            ("Model", self.model_combo),
            ("", self.model_text),
            ("Preset", self.preset_combo),
            ("", self.preset_text),
            ("Seed", self.seed_box),
        )
        for row, (name, box) in enumerate(rows):
            if name:
                form.addWidget(QLabel(name), row, 0)
                form.addWidget(box, row, 1)
            else:
                form.addWidget(box, row, 0, 1, 2)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.stop_button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.progress_text)
        layout.addWidget(self.status)
        layout.addStretch(1)

    # -- what the form is told ---------------------------------------------------------------------------------------
    def set_images(self, names: Sequence[str]) -> None:
        """Offer these image layers; keeps the current choice where it is still there, else takes the topmost."""
        current = self.image_combo.currentData()
        self.image_combo.clear()
        for name in names:
            self.image_combo.addItem(name, name)
        if not names:
            self.image_combo.addItem("open a volume first", None)
        elif current in names:
            self.image_combo.setCurrentIndex(names.index(current))
        else:
            self.image_combo.setCurrentIndex(len(names) - 1)
        self._enable()

    def set_running(self, running: bool) -> None:
        self._running = running
        self._enable()

    def set_progress(self, step: int, total: int, t: float, seconds_left: float | None) -> None:
        """``step`` of ``total`` steps are done; ``t`` is the noise level, 1 to 0."""
        self.progress.setRange(0, total)
        self.progress.setValue(step)
        parts = [f"step {step} of {total}", f"noise {max(t, 0.0):.2f}"]
        if seconds_left is not None and step < total:
            parts.append(_left(seconds_left))
        self.progress_text.setText(" · ".join(parts))

    def reset_progress(self, busy: bool = False) -> None:
        """An empty bar, or (``busy``) one that moves without saying how far."""
        self.progress.setRange(0, 0 if busy else 1)
        self.progress.setValue(0)
        self.progress.setTextVisible(not busy)
        self.progress_text.setText("")

    def set_status(self, text: str, error: bool = False) -> None:
        self._status = (text, error)
        self.status.setText(text)
        self.status.setStyleSheet(f"color: {ERROR_COLORS[self._dark]};" if error else "")

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""
        self._dark = dark
        self.set_status(*self._status)

    # -- what the user does ------------------------------------------------------------------------------------------
    def _run(self) -> None:
        self.run_clicked.emit(
            Choice(
                image=self.image_combo.currentData(),
                model=self.model_combo.currentData(),
                preset=self.preset_combo.currentData(),
                seed=self.seed_box.value(),
            )
        )

    def _stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.set_status("Stopping after this step ...")
        self.stop_clicked.emit()

    def _show_model(self, _: Any = None) -> None:
        card = self._cards.get(self.model_combo.currentData())
        if card is None:
            self.model_text.setText("No model is installed; install napari-diffatlas again.")
            return
        self.model_combo.setToolTip(card.title)
        # No-break spaces inside a structure, a plain one between two: lines break only there.
        structures = "&nbsp;&nbsp; ".join(
            f'<span style="color: rgb{s.color};">■</span>&nbsp;{escape(s.name).replace(" ", "&nbsp;")}'
            for s in card.scheme.structures
        )
        lines = (structures, *(escape(limit[:1].upper() + limit[1:]) for limit in card.limits), "Not for clinical use.")
        self.model_text.setText("".join(f'<p style="margin: 0 0 4px 0;">{line}</p>' for line in lines))

    def _show_preset(self, _: Any = None) -> None:
        self.preset_text.setText(escape(PRESETS[self.preset_combo.currentData()].summary))

    def _enable(self) -> None:
        ready = self.image_combo.currentData() is not None and self.model_combo.currentData() is not None
        self.run_button.setEnabled(ready and not self._running)
        self.stop_button.setEnabled(self._running)
        for box in (self.image_combo, self.model_combo, self.preset_combo, self.seed_box):
            box.setEnabled(not self._running)


def _left(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s left"
    return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


class _Text(QLabel):
    """Wrapped text that always has the height it needs; layouts alone cut the last line of rich text."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def setText(self, text: str | None) -> None:
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # heightForWidth never answers less than the minimum
        self.setFixedHeight(max(0, self.heightForWidth(self.width())) if self.text() else 0)


def _combo(tip: str) -> QComboBox:
    combo = QComboBox()
    combo.setToolTip(tip)
    # Long layer names are cut in the box rather than making the dock wide.
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(20)
    return combo
