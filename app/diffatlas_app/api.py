"""The page as a service: two named endpoints, for `gradio_client` and anything else that speaks JSON.

Files come back inside the answer (gzip NIfTI, base64), so that no address on the server holds a caller's result.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from diffatlas import io, session
from diffatlas.errors import BadInput
from diffatlas.session import Result
from diffatlas_app import limits
from diffatlas_app.events import region as regions
from diffatlas_app.runs import pairs, settings
from diffatlas_app.runs import stream as runs
from diffatlas_app.server.callers import absence, caller_of
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Visitor, Visitors

SEGMENT = """Segment a volume (.nii, .nii.gz, .nrrd, .mha, or a zipped DICOM series).

Returns {"volumes_ml": {structure: ml}, "report": {...}, "labels": {"name", "nii_gz_base64"}}, where the labels lie on
the voxels of the volume and the report is one that `diffatlas replay` reads; or {"error": "..."}. model: "auto" or
a name; preset: fast, watch, published; seed: 0 or more; samples: 1 to 8 runs that are averaged; guidance_noise: 0
(image) to 1 (atlas), or -1 for the preset's own; modality: "ct" or "mr" where you know it; volume_index: of a file that
holds several volumes, from 0."""
GENERATE = """Draw image-mask pairs from a model's atlas.

Returns {"pairs": [{"seed", "volumes_ml", "image": {"name", "nii_gz_base64"}, "mask": {...}}]} or {"error": "..."}.
model: a name; count: 1 to 8; seed: of the first pair; preset: fast, watch, published."""
PARAMETERS = {
    "segment": ("volume", "model", "preset", "seed", "samples", "guidance_noise", "modality", "volume_index"),
    "generate": ("model", "count", "seed", "preset"),
}
"""Arguments in the order of the endpoints' lists; one that is missing, or null, takes its default."""
PRESETS = ("fast", "watch", "published")


@dataclass(frozen=True)
class SegmentArguments:
    """What a call of ``segment`` asks for, checked. Raises `BadInput` in one line for anything of another kind."""

    volume: Path
    wanted: settings.Settings
    index: int | None = None

    @classmethod
    def of(
        cls,
        volume: Any,
        model: Any,
        preset: Any,
        seed: Any,
        samples: Any,
        noise: Any,
        modality: Any = None,
        index: Any = None,
    ) -> SegmentArguments:
        if not isinstance(volume, dict) or not isinstance(volume.get("path"), str):
            raise BadInput("give a volume: upload a .nii, .nii.gz, .nrrd, .mha or a zipped DICOM series first")
        share = _number("guidance_noise", noise, -1.0)
        if share != -1 and not 0 <= share <= 1:
            raise BadInput(f"guidance_noise must be 0 to 1, or -1 for the preset's own, not {share:g}")
        wanted = settings.Settings(
            example="",
            model=_choice("model", model, "auto", _models("auto")),
            preset=_choice("preset", preset, "fast", PRESETS),  # type: ignore[arg-type]
            seed=_whole("seed", seed, 0, 0, None),
            samples=_whole("samples", samples, 1, 1, limits.MAX_SAMPLES),
            noise=None if share < 0 else share,
            modality=_choice("modality", modality, "", ("", "ct", "mr")),
        )
        number = _whole("volume_index", index, -1, -1, io.MAX_CHOICES)
        return cls(Path(volume["path"]), wanted, None if number < 0 else number)


@dataclass(frozen=True)
class GenerateArguments:
    """What a call of ``generate`` asks for, checked as `SegmentArguments` are."""

    model: str
    count: int
    seed: int
    preset: str

    @classmethod
    def of(cls, model: Any, count: Any, seed: Any, preset: Any) -> GenerateArguments:
        names = _models()
        return cls(
            model=_choice("model", model, names[0] if names else "", names),
            count=_whole("count", count, 1, 1, limits.MAX_PAIRS),
            seed=_whole("seed", seed, 0, 0, None),
            preset=_choice("preset", preset, "watch", PRESETS),
        )


def _models(*more: str) -> tuple[str, ...]:
    return (*more, *(card.name for card in session.available_models()))


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _choice(name: str, value: Any, default: str, choices: Sequence[str]) -> str:
    if value is None:
        return default
    if not isinstance(value, str) or value not in choices:
        raise BadInput(f"{name} must be one of {', '.join(choices)}, not {_shown(value)}")
    return value


def _number(name: str, value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{name} must be a number, not {_shown(value)}")
    return float(value)


def _whole(name: str, value: Any, default: int, low: int, high: int | None) -> int:
    if value is None:
        return default
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not whole or int(value) != value or value < low or (high is not None and value > high):
        wanted = f"{low} or more" if high is None else f"{low} to {high}"
        raise BadInput(f"{name} must be a whole number, {wanted}, not {_shown(value)}")
    return int(value)


def add_endpoints(visitors: Visitors, running: dict[str, Any]) -> None:
    """Add the endpoints to the page that is being built; ``running``: gradio's options of what runs the engine."""

    def segment(
        volume: Any,
        model: Any,
        preset: Any,
        seed: Any,
        samples: Any,
        guidance_noise: Any,
        modality: Any,
        volume_index: Any,
        request: gr.Request,
    ) -> dict[str, Any]:
        try:
            asked = SegmentArguments.of(volume, model, preset, seed, samples, guidance_noise, modality, volume_index)
            engine_request = asked.wanted.request()
            with _turn(visitors, request) as visitor:
                source = replace(visitor.take_upload(asked.volume), index=asked.index)
                read = asked.wanted.named(source.read())
                name = f"{read.name}_labels.nii.gz"
                for looking in regions.search(
                    read, engine_request
                ):  # here, so that the search ends when the caller leaves
                    if visitor.should_stop():
                        raise BadInput("the caller has gone")
                    if looking.found is not None:
                        engine_request = replace(engine_request, roi=looking.found)
                        read = replace(read, notes=(*read.notes, looking.words))
                result = _finished(runs.watch(visitor, read, (engine_request,)))
                return {
                    "volumes_ml": result.volumes_ml,
                    "report": json.loads(json.dumps(result.report(), allow_nan=False)),
                    "labels": _file(name, visitor, lambda p: io.write_label_map(result.labels, p, read.header)),
                }
        except Exception as error:
            return {"error": told(error)}

    def generate(model: Any, count: Any, seed: Any, preset: Any, request: gr.Request) -> dict[str, Any]:
        try:
            asked = GenerateArguments.of(model, count, seed, preset)
            drawing = pairs.draw_request(asked.model, asked.count, asked.seed, asked.preset)  # type: ignore[arg-type]
            with _turn(visitors, request) as visitor:
                result = _finished(runs.watch(visitor, None, (drawing,)))
                return {
                    "pairs": [
                        {
                            "seed": number,
                            "volumes_ml": mask.volumes_ml(),
                            "image": _file(f"pair-{number}_image.nii.gz", visitor, _writer(io.write_volume, image)),
                            "mask": _file(f"pair-{number}_label.nii.gz", visitor, _writer(io.write_label_map, mask)),
                        }
                        for number, (image, mask) in enumerate(
                            zip(result.images, result.masks, strict=True), asked.seed
                        )
                    ]
                }
        except Exception as error:
            return {"error": told(error)}

    names = _models()
    # Raw values: gradio's own conversions answer a wrong type with an error that says nothing.
    calling: dict[str, Any] = {**running, "preprocess": False}
    with gr.Row(visible=False):
        answer = gr.JSON()
        button = gr.Button()
        button.click(
            segment,
            [
                gr.File(label="volume"),
                gr.Dropdown(["auto", *names], value="auto", label="model"),
                gr.Radio(PRESETS, value="fast", label="preset"),
                gr.Number(0, label="seed"),
                gr.Number(1, label="samples"),
                gr.Number(-1, label="guidance_noise"),
                gr.Radio(["", "ct", "mr"], value="", label="modality"),
                gr.Number(-1, label="volume_index"),
            ],
            answer,
            api_name="segment",
            api_description=SEGMENT,
            **calling,
        )
        button.click(
            generate,
            [
                gr.Dropdown(list(names), value=names[0] if names else None, label="model"),
                gr.Number(1, label="count"),
                gr.Number(0, label="seed"),
                gr.Radio(PRESETS, value="watch", label="preset"),
            ],
            answer,
            api_name="generate",
            api_description=GENERATE,
            **calling,
        )


@contextmanager
def _turn(visitors: Visitors, request: gr.Request) -> Iterator[Visitor]:
    """A visitor for the length of a call, once its turn has come: files are read and the engine runs within it."""
    caller, gone = caller_of(request), absence(visitors.presence, request)
    with visitors.turns.ticket(caller) as ticket:
        while not ticket.wait(0.5) and not gone():
            pass
        if gone():
            raise BadInput("the caller has gone")
        key = f"call-{secrets.token_hex(16)}"
        visitor = visitors.get(key, caller.address)
        try:
            visitor.press()
            visitor.take_press(gone)
            yield visitor
        finally:
            visitor.rest()
            visitors.leave(key)


def _finished(updates: Iterator[runs.Update]) -> Result:
    """Run to the end, and return the result."""
    last = None
    for update in updates:
        last = update
    if last is None or last.frame.result is None:
        raise BadInput("the run was stopped")
    return last.frame.result


def _writer(write: Any, value: Any) -> Any:
    return lambda path: write(value, path)


def _file(name: str, visitor: Visitor, write: Any) -> dict[str, str]:
    """What ``write`` puts into a file, for JSON."""
    with tempfile.TemporaryDirectory(dir=visitor.folder) as folder:
        path = Path(folder) / "file.nii.gz"
        write(path)
        return {"name": name, "nii_gz_base64": base64.b64encode(path.read_bytes()).decode("ascii")}
