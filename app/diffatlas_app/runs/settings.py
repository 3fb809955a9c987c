"""The settings of a visitor: converted to a `Request`, to the address of the page, and back.

A permalink holds settings and the name of an example, never anything of a visitor's own file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints
from urllib.parse import urlencode

from diffatlas import session
from diffatlas.engine.request import GuidanceName, PresetName, Request, Roi, SamplerName
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Modality, Volume
from diffatlas_app import limits
from diffatlas_app.visitors.source import EXAMPLES

BESIDE = {
    "": "Nothing",
    "unguided": "Without guidance",
    "clean": "Guided by the clean image (0)",
    "published": "Guided by the noisy image, as published (1)",
    "seed": "The next seed",
}
"""What a second run beside the first does differently."""

MODALITIES: dict[str, Modality | None] = {"": None, "ct": "ct", "mr": "mr"}


@dataclass(frozen=True)
class Settings:
    """The options of a run; None takes the preset's or the model's.

    ``example``: one of `EXAMPLES`, or empty for a file of the visitor's. ``modality``: what the visitor says that the
    image is, "ct" or "mr", or empty. ``beside``: one of `BESIDE`. ``centre``: of
    the region of interest, percent of the volume's length along each of its axes, or None for the whole volume.
    """

    example: str = "heart-ct"
    model: str = "auto"
    preset: PresetName = "watch"
    guidance: GuidanceName = "image"
    noise: float | None = None
    sampler: SamplerName | None = None
    steps: int | None = None
    samples: int = 1
    seed: int = 0
    beside: str = ""
    centre: tuple[float, float, float] | None = None
    modality: str = ""

    def request(self, roi: Roi | None = None) -> Request:
        """The request of the run. `BadInput` for values that this page does not offer or no run takes."""
        # A request may name a folder; a visitor may not.
        if self.model not in ("auto", *(card.name for card in session.available_models())):
            raise BadInput(f"there is no model {self.model[:60]!r} on this page")
        if self.modality not in MODALITIES:
            raise BadInput(f"the modality must be ct or mr, not {self.modality[:40]!r}")
        if (self.steps or 0) > limits.MAX_STEPS or self.samples > limits.MAX_SAMPLES:
            raise BadInput(
                f"this page runs up to {limits.MAX_STEPS} steps and {limits.MAX_SAMPLES} samples; the command line "
                f"takes more"
            )
        return Request(
            task="segment",
            model=self.model,
            preset=self.preset,
            guidance=self.guidance,
            guidance_noise=self.noise,
            sampler=self.sampler,
            steps=self.steps,
            samples=self.samples,
            seed=self.seed,
            roi=roi,
        )

    def named(self, volume: Volume) -> Volume:
        """The volume as an image of the modality that the visitor says it is."""
        modality = MODALITIES[self.modality]
        return volume if modality is None else volume.named(modality)

    def requests(self, roi: Roi | None = None) -> tuple[Request, ...]:
        """The run, and the one beside it if there is to be one."""
        first = self.request(roi)
        if not self.beside:
            return (first,)
        if self.beside not in BESIDE:
            raise BadInput(f"the second run must be one of {', '.join(BESIDE)}, not {self.beside[:40]!r}")
        second = {
            "unguided": replace(first, guidance="none"),
            "clean": replace(first, guidance="image", guidance_noise=0.0),
            "published": replace(first, guidance="image", guidance_noise=1.0),
            "seed": replace(first, seed=first.seed + 1),
        }[self.beside]
        if session.plan(None, first).request == session.plan(None, second).request:
            raise BadInput(
                f"the second run, “{BESIDE[self.beside]}”, would repeat the first, which is guided like that already: "
                f"choose another one beside it"
            )
        return first, second

    def captions(self) -> tuple[str, ...]:
        """A name for each run; empty for one that is alone."""
        if not self.beside:
            return ("",)
        if self.beside == "seed":
            return f"Seed {self.seed}", f"Seed {self.seed + 1}"
        words = {"image": "Guided by the image", "gradient": "Guided by its gradient", "none": "Without guidance"}
        first = words[self.guidance]
        if self.guidance == "image":
            noise = usual_noise(self.preset, self.model) if self.noise is None else self.noise
            first += f", guidance noise {noise:g}"
        return first, BESIDE[self.beside]

    def link(self) -> str:
        """The query of an address that restores these settings: only what differs from the first screen's."""
        plain = Settings()
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(plain, name)}
        if isinstance(changed.get("centre"), tuple):
            changed["centre"] = ",".join(f"{c:g}" for c in changed["centre"])
        return "?" + urlencode({"run": 1} | {n: f"{v:g}" if isinstance(v, float) else v for n, v in changed.items()})

    @classmethod
    def from_link(cls, query: Mapping[str, str]) -> Settings:
        """Inverse of `link`; unknown names are ignored, impossible values raise `BadInput`."""
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = query.get(field.name)
            if text is None or len(text) > 100:
                continue
            try:
                values[field.name] = _parsed(field.name, hints[field.name], text)
            except ValueError as error:
                raise BadInput(f"the address asks for {field.name} = {text[:40]!r}, which cannot be") from error
        made = cls(**values)
        if made.example not in ("", *EXAMPLES):
            raise BadInput(f"the address asks for an example that is not here: {made.example[:40]!r}")
        made.requests()
        return made


def _parsed(name: str, hint: Any, text: str) -> Any:
    if name == "centre":
        parts = tuple(_finite(part) for part in text.split(","))
        if len(parts) != 3 or not all(0 <= part <= 100 for part in parts):
            raise ValueError
        return parts
    kinds = get_args(hint) or (hint,)
    if int in kinds:
        return int(text)
    return _finite(text) if float in kinds else text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def whole(name: str, value: float | None) -> int:
    """A whole number from a number field, or `BadInput`; gradio hands over floats, and None where it is empty."""
    if value is None or not math.isfinite(value) or int(value) != value:
        raise BadInput(f"{name} must be a whole number")
    return int(value)


def usual_noise(preset: str, model: str) -> float:
    """The guidance noise of a preset for a model, from the engine's plan."""
    planned = session.plan(None, Request(preset=preset, model=model, force=True))  # type: ignore[arg-type]
    return float(planned.request.guidance_noise or 0.0)


def region(grid: Grid, centre: tuple[float, float, float], extent_mm: tuple[float, float, float]) -> Roi:
    """The box of ``extent_mm`` (of the model's field of view, along world axes) around a point of the volume.

    ``centre``: percent of each array axis. Half-open voxel ranges, cut at the volume's border.
    """
    box = []
    for axis, (size, percent) in enumerate(zip(grid.shape, centre, strict=True)):
        # The world axis closest to this array axis.
        along = int(abs(grid.affine[:3, axis]).argmax())
        half = extent_mm[along] / grid.spacing_mm[axis] / 2
        middle = percent / 100 * size
        # The box keeps its size at a border, as far as the volume reaches.
        low = min(max(middle - half, 0.0), max(size - 2 * half, 0.0))
        box.append((int(low), max(int(low) + 1, min(size, math.ceil(low + 2 * half)))))
    return (box[0], box[1], box[2])
