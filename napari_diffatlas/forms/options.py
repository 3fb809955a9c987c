"""Options of a run: the presets, and in a fold all that a preset sets. Knows neither viewer nor engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import NoneType
from typing import Any, get_args, get_type_hints

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from diffatlas import session
from diffatlas.engine.request import (
    MAX_SAMPLES,
    MAX_STEPS,
    PRESETS,
    DeviceName,
    GuidanceName,
    PrecisionName,
    PresetName,
    Request,
    SamplerName,
)
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import Plan
from napari_diffatlas.forms.parts import Rows, Text, about, combo_box, fold, yielding

PRESET_TITLES: dict[PresetName, str] = {"fast": "Fast", "watch": "Watch", "published": "As published"}
GUIDANCE_TITLES: dict[GuidanceName, str] = {
    "image": "show it the image",
    "gradient": "pull by gradient",
    "none": "none: the atlas alone",
}
SAMPLER_TITLES: dict[SamplerName, str] = {"ddim": "DDIM", "ddpm": "DDPM (ancestral)", "dpmpp-2m": "DPM-Solver++ 2M"}
DEFAULT_PRESET: PresetName = "watch"
MAX_SEED = 2**31 - 1

# Field of `Request` -> what its row says and takes.
ROWS: dict[str, dict[str, Any]] = {
    "guidance": {
        "label": "Guidance",
        "titles": GUIDANCE_TITLES,
        "tooltip": "How the patient's image steers the run",
    },
    "guidance_noise": {
        "label": "Trust",
        "widget_type": "FloatSlider",
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "The noise at which the network sees the image: 0, the clean image decides; 1, as noisy as the\n"
        "mask (as published), so that the atlas has more to say",
    },
    "sampler": {"label": "Sampler", "titles": SAMPLER_TITLES, "tooltip": "The rule by which noise is taken away"},
    "steps": {
        "label": "Steps",
        "min": 1,
        "max": MAX_STEPS,
        "tooltip": "More steps are slower and give more to see",
    },
    "samples": {
        "label": "Samples",
        "min": 1,
        "max": MAX_SAMPLES,
        "value": 1,
        "tooltip": "Seeds that are run together: their mean is the answer, their\nagreement the confidence",
    },
    "seed": {"label": "Seed", "min": 0, "max": MAX_SEED, "tooltip": "The same seed gives the same labels"},
    "force": {
        "label": "Run on any modality",
        "tooltip": "Run although the image looks like one the model was not trained on",
    },
}
FROM_PRESET = ("guidance_noise", "sampler", "steps")

Planner = Callable[[Volume | None, Request], Plan]


class Presets(QWidget):
    """One button a preset. Signal: ``changed()``."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._group = QButtonGroup(self)
        self.buttons: dict[PresetName, QPushButton] = {}
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for name, title in PRESET_TITLES.items():
            button = QPushButton(title)
            button.setCheckable(True)
            button.setToolTip(PRESETS[name].summary)
            self._group.addButton(button)
            self.buttons[name] = button
            layout.addWidget(yielding(button), len(title) + 6)
        self.choose(DEFAULT_PRESET)
        self._group.buttonToggled.connect(self._on_toggled)

    @property
    def chosen(self) -> PresetName:
        return next(name for name, button in self.buttons.items() if button.isChecked())

    def choose(self, name: PresetName) -> None:
        self.buttons[name].setChecked(True)

    def _on_toggled(self, _: Any, checked: bool) -> None:
        if checked:
            self.changed.emit()


class Advanced(QWidget):
    """The options that a preset sets. A changed value is put into the request; an unchanged one stays the preset's.

    The rows are made by magicgui from the types of `Request`. Signal: ``changed()``.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._default: Request | None = None
        self.form = Container(widgets=[request_widget(name) for name in ROWS], labels=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 0, 0, 4)
        layout.addWidget(Rows(self.form))
        self.form.changed.connect(self._on_change)

    def follow(self, default: Request | None) -> None:
        """Show the values of a preset: ``default`` with sampler, steps and guidance noise filled in."""
        self._default = default
        if default is not None:
            with self.form.changed.blocked():
                for name in FROM_PRESET:
                    self.form[name].value = getattr(default, name)
        self._on_change()

    def choices(self) -> dict[str, Any]:
        """Arguments of a `Request`; None for values equal to the preset's."""
        values = {name: self.form[name].value for name in ROWS}
        for name in FROM_PRESET:
            if self._default is None or values[name] == getattr(self._default, name):
                values[name] = None
        return values

    def _on_change(self, _: Any = None) -> None:
        self.form["guidance_noise"].enabled = self.form["guidance"].value == "image"
        self.changed.emit()


def request_widget(name: str) -> Any:
    """The row of a field of `Request`, made from its type, with title and range."""
    # Resolve this field's type alone: some other fields have types that exist for type checkers only.
    field = type("Field", (), {"__annotations__": {name: Request.__annotations__[name]}})
    hint = get_type_hints(field, vars(sys.modules[Request.__module__]))[name]
    options = dict(ROWS[name])
    titles = options.pop("titles", None)
    annotation = next((part for part in get_args(hint) if part is not NoneType), hint) if _optional(hint) else hint
    if titles is not None:
        options["choices"] = [(titles[value], value) for value in get_args(annotation)]
    return create_widget(annotation=annotation, name=name, label=options.pop("label"), options=options)


def _optional(hint: Any) -> bool:
    return NoneType in get_args(hint)


class Options(QWidget):
    """Presets, device and the advanced fold. `choices` gives the arguments of a `Request`.

    ``plan`` says what a request will do, see `diffatlas.session.plan`. Signal: ``changed()``.
    """

    changed = Signal()

    def __init__(self, plan: Planner = session.plan) -> None:
        super().__init__()
        self._plan, self._model = plan, ""
        self._chosen: dict[tuple[str, str], str] = {}
        self.presets = Presets()
        self.preset_text = Text()
        self.device_combo = combo_box("Where the network runs; auto is settled when a run begins, and then said below")
        for device in get_args(DeviceName):
            self.device_combo.addItem(device, device)
        self.precision_combo = combo_box("Numbers of 32 bits, or of 16 where the hardware has them")
        for precision in get_args(PrecisionName):
            self.precision_combo.addItem(precision, precision)
        self.device_text = Text()
        self.advanced = Advanced()
        self.fold = fold("Advanced", self.advanced)
        device_row = QHBoxLayout()
        device_row.addWidget(QLabel("Device"))
        device_row.addWidget(self.device_combo, 1)
        device_row.addWidget(self.precision_combo, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.presets)
        layout.addWidget(self.preset_text)
        layout.addLayout(device_row)
        layout.addWidget(self.device_text)
        layout.addWidget(self.fold)
        self.presets.changed.connect(self._follow)
        self.advanced.changed.connect(self.refresh)
        for combo in (self.device_combo, self.precision_combo):
            combo.currentIndexChanged.connect(self._say_device)
        self.set_model("")

    def set_model(self, name: str) -> None:
        self._model = name
        self._follow()
        self._say_device()

    def choices(self) -> dict[str, Any]:
        """Arguments of a `Request`."""
        return {
            "preset": self.presets.chosen,
            "device": self.device_combo.currentData(),
            "precision": self.precision_combo.currentData(),
            **self.advanced.choices(),
        }

    def set_chosen(self, device: str, precision: str, chosen: str) -> None:
        """Show the device and precision that the engine used."""
        self._chosen[device, precision] = chosen
        self._say_device()

    def refresh(self) -> None:
        """Show steps and time of a run, from the engine's plan."""
        plan = self._planned(**self.choices())
        if plan is None:
            self.preset_text.setText("")
            return
        text = plan.preset.summary[:1].upper() + plan.preset.summary[1:]
        samples = plan.request.samples
        if plan.steps != plan.preset.steps or samples > 1:
            text += f" ({plan.steps} steps{f', {samples} samples' if samples > 1 else ''})"
        time = "announced once a run has shown it"
        if plan.seconds is not None:
            time = f"{'' if plan.seconds < 1 else 'about '}{about(plan.seconds)} here"
        self.preset_text.setText(f"{text}. Time: {time}.")
        self.changed.emit()

    def _follow(self) -> None:
        plan = self._planned(preset=self.presets.chosen)
        self.advanced.follow(None if plan is None else plan.request)

    def _planned(self, **choices: Any) -> Plan | None:
        if not self._model:
            return None
        try:
            return self._plan(None, Request(model=self._model, **choices))
        except BadInput:  # the run reports it
            return None

    def _device(self) -> tuple[str, str]:
        return self.device_combo.currentData(), self.precision_combo.currentData()

    def _say_device(self, _: Any = None) -> None:
        chosen = self._chosen.get(self._device()) if "auto" in self._device() else None
        self.device_text.setText(f"auto chose {chosen}" if chosen else "")
        self.refresh()
