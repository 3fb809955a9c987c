"""How a run walks: the presets, and behind a fold everything a preset decides. Knows neither viewer nor engine."""

from __future__ import annotations

from typing import Any, get_args

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from diffatlas.engine.request import (
    MAX_SAMPLES,
    MAX_STEPS,
    PRESETS,
    DeviceName,
    GuidanceName,
    PrecisionName,
    PresetName,
    SamplerName,
)
from napari_diffatlas.forms.parts import Fold, Text, about, combo_box, yielding

PRESET_TITLES: dict[PresetName, str] = {"fast": "Fast", "watch": "Watch", "published": "As published"}
GUIDANCE_TITLES: dict[GuidanceName, str] = {
    "image": "show it the image",
    "gradient": "pull by gradient",
    "none": "none: the atlas alone",
}
SAMPLER_TITLES: dict[SamplerName, str] = {"ddim": "DDIM", "ddpm": "DDPM (ancestral)", "dpmpp-2m": "DPM-Solver++ 2M"}
DEFAULT_PRESET: PresetName = "watch"
MAX_SEED = 2**31 - 1

# What a step of one sample costs depends on these four: model, device, precision, guidance.
PaceKey = tuple[str, str, str, str]


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
    """What a preset decides, to be decided otherwise: a changed value is sent, an untouched one stays the preset's.

    Signal: ``changed()``.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._preset: PresetName = DEFAULT_PRESET
        self._card_noise = 0.0
        self.guidance_combo = combo_box("How the patient's image steers the run")
        for guidance, title in GUIDANCE_TITLES.items():
            self.guidance_combo.addItem(title, guidance)
        self.noise_slider = QSlider(Qt.Orientation.Horizontal)
        self.noise_slider.setRange(0, 100)
        self.noise_slider.setToolTip(
            "How noisy the network sees the image: left, the clean image decides; right, as noisy as the mask (as\n"
            "published), so that the atlas has more to say"
        )
        self.noise_text = QLabel()
        self.sampler_combo = combo_box("The rule by which noise is taken away")
        for sampler, title in SAMPLER_TITLES.items():
            self.sampler_combo.addItem(title, sampler)
        self.steps_box = _spin(1, MAX_STEPS, "More steps are slower and give more to see")
        self.samples_box = _spin(
            1, MAX_SAMPLES, "Seeds that are run together: their mean is the answer, their\nagreement the confidence"
        )
        self.seed_box = _spin(0, MAX_SEED, "The same seed gives the same labels")
        self.force_box = QCheckBox("run on any modality")
        self.force_box.setToolTip("Run although the image looks like one the model was not trained on")
        self._lay_out()
        for combo in (self.guidance_combo, self.sampler_combo):
            combo.currentIndexChanged.connect(self._on_change)
        for box in (self.noise_slider, self.steps_box, self.samples_box, self.seed_box):
            box.valueChanged.connect(self._on_change)
        self.follow(DEFAULT_PRESET, 0.0)

    def _lay_out(self) -> None:
        form = QGridLayout(self)
        form.setContentsMargins(12, 0, 0, 4)
        form.setColumnStretch(1, 1)
        noise = QHBoxLayout()
        noise.setSpacing(4)
        for part in (QLabel("image"), self.noise_slider, QLabel("atlas")):
            noise.addWidget(part)
        rows: tuple[tuple[str | QLabel, Any], ...] = (
            ("Guidance", self.guidance_combo),
            (self.noise_text, noise),
            ("Sampler", self.sampler_combo),
            ("Steps", self.steps_box),
            ("Samples", self.samples_box),
            ("Seed", self.seed_box),
        )
        for row, (name, part) in enumerate(rows):
            form.addWidget(QLabel(name) if isinstance(name, str) else name, row, 0)
            if isinstance(part, QWidget):
                form.addWidget(part, row, 1)
            else:
                form.addLayout(part, row, 1)
        form.addWidget(self.force_box, len(rows), 0, 1, 2)

    def follow(self, preset: PresetName, card_noise: float) -> None:
        """Take over what ``preset`` decides for a model whose own guidance noise is ``card_noise``."""
        self._preset, self._card_noise = preset, card_noise
        values = PRESETS[preset]
        self.steps_box.setValue(values.steps)
        self.sampler_combo.setCurrentIndex(self.sampler_combo.findData(values.sampler))
        self.noise_slider.setValue(self._default_noise())
        self._on_change()

    def choices(self) -> dict[str, Any]:
        """Arguments of a `Request`; what is as the preset has it is None."""
        preset = PRESETS[self._preset]
        noise, steps, sampler = self.noise_slider.value(), self.steps_box.value(), self.sampler_combo.currentData()
        return {
            "guidance": self.guidance_combo.currentData(),
            "guidance_noise": None if noise == self._default_noise() else noise / 100,
            "sampler": None if sampler == preset.sampler else sampler,
            "steps": None if steps == preset.steps else steps,
            "samples": self.samples_box.value(),
            "seed": self.seed_box.value(),
            "force": self.force_box.isChecked(),
        }

    def _default_noise(self) -> int:
        noise = PRESETS[self._preset].guidance_noise
        return round(100 * (self._card_noise if noise is None else noise))

    def _on_change(self, _: Any = None) -> None:
        self.noise_text.setText(f"Trust {self.noise_slider.value() / 100:.2f}")
        self.noise_slider.setEnabled(self.guidance_combo.currentData() == "image")
        self.changed.emit()


class Options(QWidget):
    """Presets, device and the advanced fold. `choices` gives the arguments of a `Request`."""

    def __init__(self) -> None:
        super().__init__()
        self._model, self._card_noise = "", 0.0
        self._paces: dict[PaceKey, float] = {}
        self._chosen: dict[tuple[str, str], str] = {}
        self.presets = Presets()
        self.preset_text = Text()
        self.device_combo = combo_box("Where the network runs")
        for device in get_args(DeviceName):
            self.device_combo.addItem(device, device)
        self.precision_combo = combo_box("Numbers of 32 bits, or of 16 where the hardware has them")
        for precision in get_args(PrecisionName):
            self.precision_combo.addItem(precision, precision)
        self.device_text = Text()
        self.advanced = Advanced()
        self.fold = Fold("Advanced", self.advanced)
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
        self.advanced.changed.connect(self._say_time)
        for combo in (self.device_combo, self.precision_combo):
            combo.currentIndexChanged.connect(self._say_device)
        self.set_model("", 0.0)

    def set_model(self, name: str, guidance_noise: float) -> None:
        """``guidance_noise``: the one the model's card recommends."""
        self._model, self._card_noise = name, guidance_noise
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

    def set_pace(self, key: PaceKey, seconds: float) -> None:
        """A step of one sample took ``seconds``: from now on the time of a run is announced."""
        self._paces[key] = seconds
        self._say_time()

    def set_chosen(self, device: str, precision: str, chosen: str) -> None:
        """What the engine took for ``device`` and ``precision``, in words."""
        self._chosen[device, precision] = chosen
        self._say_device()

    def _follow(self) -> None:
        self.advanced.follow(self.presets.chosen, self._card_noise)

    def _say_time(self) -> None:
        preset, steps = PRESETS[self.presets.chosen], self.advanced.steps_box.value()
        samples = self.advanced.samples_box.value()
        text = preset.summary[:1].upper() + preset.summary[1:]
        if steps != preset.steps or samples > 1:
            text += f"; now {steps} steps" + (f" of {samples} samples" if samples > 1 else "")
        key = (self._model, *self._device(), self.advanced.guidance_combo.currentData())
        if key in self._paces:
            text += f". Takes about {about(self._paces[key] * steps * samples)} here."
        elif self.presets.chosen == "published":
            text += ". Its time is announced once another run has shown the pace."
        else:
            text += "."
        self.preset_text.setText(text)

    def _device(self) -> tuple[str, str]:
        return self.device_combo.currentData(), self.precision_combo.currentData()

    def _say_device(self, _: Any = None) -> None:
        if "auto" in self._device():
            chosen = self._chosen.get(self._device())
            self.device_text.setText(f"auto chose {chosen}" if chosen else "auto is settled when a run begins")
        else:
            self.device_text.setText("")
        self._say_time()


def _spin(low: int, high: int, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setToolTip(tip)
    return yielding(box)
