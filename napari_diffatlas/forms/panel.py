"""The form of the Segment tab: inputs and state of a run. Emits plain data; knows neither viewer nor engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelScheme, Modality
from napari_diffatlas.forms.options import Options, Planner
from napari_diffatlas.forms.orientation import OrientationRow
from napari_diffatlas.forms.parts import Bar, Status, Text, about, combo_box, fold, offer, size_mm, yielding

MODALITIES: dict[str, Modality | None] = {"auto": None, "CT": "ct", "MR": "mr"}
MODALITY_TIP = (
    "What the image is: it decides which intensities the model is shown.\n"
    "auto takes the file's word, or judges by the voxels"
)


def modality_row() -> Any:
    """A row "Modality" for a form that is about many volumes; `modality_in` reads it."""
    choices = [(title, title) for title in MODALITIES]
    options = {"choices": choices, "tooltip": MODALITY_TIP.replace("the image is:", "the volumes are:")}
    return create_widget(annotation=str, name="modality", label="Modality", widget_type="ComboBox", options=options)


def modality_in(form: Container[Any]) -> Modality | None:
    """What the row "Modality" of ``form`` says; None leaves it to the files and the voxels."""
    return MODALITIES[form["modality"].value]


class Card(Protocol):
    """What the form shows of a model; `diffatlas.session.available_models` gives them."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def scheme(self) -> LabelScheme: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def space(self) -> ModelSpace: ...
    @property
    def licence(self) -> str: ...
    @property
    def limits(self) -> tuple[str, ...]: ...
    @property
    def evidence(self) -> bool: ...
    @property
    def expected_volumes_ml(self) -> list[float] | None: ...


@dataclass(frozen=True, eq=False)
class Choice:
    """What the user asks for: the name of an image layer, and the request to run on it."""

    image: str
    request: Request


class Panel(QWidget):
    """Form, Run, Pause and Stop, progress, one status line.

    Signals: ``run_clicked(Choice)``, ``pause_clicked(bool)`` (True pauses, False resumes), ``stop_clicked()``,
    ``subject_changed()`` (another image or model is chosen), ``modality_named(Modality | None)`` (the user
    names the modality; None: guess it from the intensities). ``region``: layout for the forms of the region and of
    crossing out.
    """

    run_clicked = Signal(object)
    pause_clicked = Signal(bool)
    stop_clicked = Signal()
    subject_changed = Signal()
    modality_named = Signal(object)

    def __init__(self, cards: Sequence[Card], plan: Planner = session.plan, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._cards = {card.name: card for card in cards}
        self._running = self._paused = self._blocked = False
        self._pauses = True

        self.image_combo = combo_box("The volume to segment")
        self.model_combo = combo_box("The atlas that generates the image-mask pair")
        for card in cards:
            self.model_combo.addItem(card.title, card.name)
        self.orientation = OrientationRow()
        self.modality_combo = combo_box(MODALITY_TIP)
        for title, modality in MODALITIES.items():
            self.modality_combo.addItem(title, modality)
        self.model_text = Text()
        self.about_text = Text()
        self.about = fold("About · not for clinical use", self.about_text, opened=True)
        self.region = QVBoxLayout()
        self.options = Options(plan)
        self.run_button = QPushButton("Run")
        self.pause_button = QPushButton("Pause")
        self.pause_button.setToolTip("Hold the run after this step; everything can be looked at and edited")
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip("End the run after this step")
        self.progress = Bar()
        self.progress_text = Text()
        self.status = Status()
        self._lay_out()

        self.model_combo.currentIndexChanged.connect(self._show_model)
        for combo in (self.image_combo, self.model_combo):
            combo.currentIndexChanged.connect(lambda _: self.subject_changed.emit())
        self.modality_combo.activated.connect(lambda _: self.modality_named.emit(self.modality_combo.currentData()))
        self.run_button.clicked.connect(self._run)
        self.pause_button.clicked.connect(self._pause)
        self.stop_button.clicked.connect(self._stop)
        self._show_model()
        self.reset_progress()
        self._enable()

    def _lay_out(self) -> None:
        form = QGridLayout()
        form.setColumnStretch(1, 1)
        rows = {0: ("Image", self.image_combo), 2: ("Modality", self.modality_combo), 3: ("Model", self.model_combo)}
        for row, (name, box) in rows.items():
            form.addWidget(QLabel(name), row, 0)
            form.addWidget(box, row, 1)
        form.addWidget(self.orientation, 1, 0, 1, 2)
        form.addWidget(self.model_text, 4, 0, 1, 2)
        form.addWidget(self.about, 5, 0, 1, 2)
        buttons = QHBoxLayout()
        for button in (self.run_button, self.pause_button, self.stop_button):
            buttons.addWidget(yielding(button), 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(self.region)
        layout.addWidget(self.options)
        layout.addLayout(buttons)
        layout.addWidget(self.progress)
        layout.addWidget(self.progress_text)
        layout.addWidget(self.status)

    @property
    def card(self) -> Card | None:
        """The model that is chosen."""
        return self._cards.get(self.model_combo.currentData())

    def card_of(self, model: str) -> Card | None:
        """The card of a model by name; None where it is not among those offered."""
        return self._cards.get(model)

    @property
    def paused(self) -> bool:
        """Whether the run is paused."""
        return self._paused

    def choice(self) -> Choice | None:
        """What the form says now; None where image or model is missing."""
        image, model = self.image_combo.currentData(), self.model_combo.currentData()
        if image is None or model is None:
            return None
        return Choice(image, Request(model=model, **self.options.choices()))

    # -- what the form is told ---------------------------------------------------------------------------------------
    def set_images(self, names: Sequence[str]) -> None:
        """Offer these image layers; keeps the current choice where it is still there, else takes the topmost."""
        offer(self.image_combo, list(names), "open a volume first")
        self._enable()

    def show_modality(self, named: Modality | None) -> None:
        """Show the modality that the user named for the chosen image."""
        self.modality_combo.setCurrentIndex(list(MODALITIES.values()).index(named))

    def set_running(self, running: bool, pauses: bool = True) -> None:
        """``pauses``: the run can be paused."""
        self._running, self._paused, self._pauses = running, False, pauses
        if running:
            self.about.collapse(animate=False)  # the user has seen it until now; the run needs the space
        self._enable()

    def set_blocked(self, blocked: bool) -> None:
        """``blocked``: the engine runs for another tab, so Run is disabled."""
        self._blocked = blocked
        self._enable()

    def set_paused(self, paused: bool) -> None:
        self._paused = paused
        self._enable()

    def set_progress(self, step: int, total: int, t: float, seconds_left: float | None) -> None:
        """``step`` of ``total`` steps are done; ``t`` is the noise level, 1 to 0."""
        self.progress.setRange(0, total)
        self.progress.setValue(step)
        parts = [f"step {step} of {total}", f"noise {max(t, 0.0):.2f}"]
        if seconds_left is not None and step < total:
            parts.append(f"{about(seconds_left)} left")
        self.progress_text.setText(" · ".join(parts))

    def set_looks(self, done: int, total: int) -> None:
        """A search has looked at ``done`` places of at most ``total``."""
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.progress_text.setText(f"{done} places of at most {total}")

    def reset_progress(self, busy: bool = False) -> None:
        """An empty bar, or (``busy``) one that moves without a value."""
        self.progress.setRange(0, 0 if busy else 1)
        self.progress.setValue(0)
        self.progress.setTextVisible(not busy)
        self.progress_text.setText("")

    def set_status(self, text: str, error: bool = False, warning: bool = False) -> None:
        self.status.say(text, error, warning)

    def set_dark(self, dark: bool) -> None:
        """Choose colours for words on a dark or on a light ground."""
        self.status.set_dark(dark)

    # -- what the user does ------------------------------------------------------------------------------------------
    def _run(self) -> None:
        choice = self.choice()
        if choice is not None:
            self.run_clicked.emit(choice)

    def _pause(self) -> None:
        self.pause_button.setEnabled(False)  # until the run has paused or resumed
        if not self._paused:
            self.set_status("Pausing after this step ...")
        self.pause_clicked.emit(not self._paused)

    def _stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.pause_button.setEnabled(False)
        self.set_status("Stopping after this step ...")
        self.stop_clicked.emit()

    def _show_model(self, _: Any = None) -> None:
        card = self.card
        if card is None:
            self.model_text.setText("No model is installed; install napari-diffatlas again.")
            self.about.hide()
            return
        self.model_combo.setToolTip(card.title)
        self.model_text.setText(legend(card.scheme))
        self.about_text.setText("".join(f'<p style="margin: 0 0 4px 0;">{line}</p>' for line in _facts(card)))
        self.options.set_model(card.name)

    def _enable(self) -> None:
        ready = self.image_combo.currentData() is not None and self.model_combo.currentData() is not None
        self.run_button.setEnabled(ready and not self._running and not self._blocked)
        self.pause_button.setEnabled(self._running and self._pauses)
        self.pause_button.setText("Resume" if self._paused else "Pause")
        self.stop_button.setEnabled(self._running)
        for box in (self.image_combo, self.orientation, self.modality_combo, self.model_combo, self.options):
            box.setEnabled(not self._running)


def legend(scheme: LabelScheme) -> str:
    """The structures and their colours, as rich text."""
    # No-break spaces inside a structure, a plain one between two: lines break only there.
    return "&nbsp;&nbsp; ".join(
        f'<span style="color: rgb{s.color};">■</span>&nbsp;{escape(s.name).replace(" ", "&nbsp;")}'
        for s in scheme.structures
    )


def _facts(card: Card) -> list[str]:
    """Modality, field of view and licence in a line of rich text, then a line for each limit."""
    modalities = " and ".join(m.upper() for m in card.modalities)
    limits = (limit[:1].upper() + limit[1:] for limit in card.limits)
    return [
        escape(f"For {modalities}. Looks at {size_mm(card.space.extent_mm)}. Licence: {card.licence}."),
        *map(escape, limits),
    ]
