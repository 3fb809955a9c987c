"""The page as a service: two named endpoints, for `gradio_client` and anything else that speaks JSON.

Files come back inside the answer (gzip NIfTI, base64), so that no address on the server holds a caller's result.
"""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from diffatlas import io, session
from diffatlas.errors import BadInput
from diffatlas.session import Result
from diffatlas_app.page.components import uploads_only
from diffatlas_app.runs import pairs, settings
from diffatlas_app.runs import stream as runs
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Visitor, Visitors

SEGMENT = """Segment a volume (.nii, .nii.gz, .nrrd, .mha, or a zipped DICOM series).

Returns {"volumes_ml": {structure: ml}, "report": {...}, "labels": {"name", "nii_gz_base64"}}, where the labels lie on
the voxels of the volume and the report is one that `diffatlas replay` reads; or {"error": "..."}. model: "auto" or
a name; preset: fast, watch, published; seed: 0 or more; samples: 1 to 8 runs that are averaged; guidance_noise: 0
(image) to 1 (atlas), or -1 for the preset's own."""
GENERATE = """Draw image-mask pairs from a model's atlas.

Returns {"pairs": [{"seed", "volumes_ml", "image": {"name", "nii_gz_base64"}, "mask": {...}}]} or {"error": "..."}.
model: a name; count: 1 to 8; seed: of the first pair; preset: fast, watch, published."""


def add_endpoints(visitors: Visitors, running: dict[str, Any]) -> None:
    """Add the endpoints to the page that is being built; ``running``: gradio's options of what runs the engine."""

    def segment(
        volume: str | None, model: str, preset: str, seed: float, samples: float, guidance_noise: float
    ) -> dict[str, Any]:
        key = f"call-{secrets.token_hex(16)}"
        try:
            if volume is None:
                raise BadInput("give a volume: .nii, .nii.gz, .nrrd, .mha or a zipped DICOM series")
            chosen = settings.Settings(
                example="",
                model=model,
                preset=preset,  # type: ignore[arg-type]
                seed=settings.whole("seed", seed),
                samples=settings.whole("samples", samples),
                noise=None if guidance_noise < 0 else guidance_noise,
            )
            request = chosen.request()
            visitor = visitors.get(key)
            source = visitor.take_upload(Path(volume))
            read = source.read()
            name = f"{read.name}_labels.nii.gz"
            result = _finished(visitors, visitor, runs.watch(visitor, read, (request,)))
            return {
                "volumes_ml": result.volumes_ml,
                "report": json.loads(json.dumps(result.report(), allow_nan=False)),
                "labels": _file(name, lambda p: io.write_label_map(result.labels, p, read.header)),
            }
        except Exception as error:
            return {"error": told(error)}
        finally:
            visitors.leave(key)
            if volume is not None:
                Path(volume).unlink(missing_ok=True)

    def generate(model: str, count: float, seed: float, preset: str) -> dict[str, Any]:
        key = f"call-{secrets.token_hex(16)}"
        try:
            first = settings.whole("seed", seed)
            request = pairs.draw_request(model, settings.whole("count", count), first, preset)  # type: ignore[arg-type]
            visitor = visitors.get(key)
            result = _finished(visitors, visitor, runs.watch(visitor, None, (request,)))
            return {
                "pairs": [
                    {
                        "seed": first + i,
                        "volumes_ml": mask.volumes_ml(),
                        "image": _file(f"pair-{first + i}_image.nii.gz", lambda p, v=image: io.write_volume(v, p)),
                        "mask": _file(f"pair-{first + i}_label.nii.gz", lambda p, m=mask: io.write_label_map(m, p)),
                    }
                    for i, (image, mask) in enumerate(zip(result.images, result.masks, strict=True))
                ]
            }
        except Exception as error:
            return {"error": told(error)}
        finally:
            visitors.leave(key)

    names = [card.name for card in session.available_models()]
    presets = ["fast", "watch", "published"]
    with gr.Row(visible=False):
        answer = gr.JSON()
        button = gr.Button()
        button.click(
            segment,
            [
                uploads_only(gr.File(label="volume")),
                gr.Dropdown(["auto", *names], value="auto", label="model"),
                gr.Radio(presets, value="fast", label="preset"),
                gr.Number(0, label="seed"),
                gr.Number(1, label="samples"),
                gr.Number(-1, label="guidance_noise"),
            ],
            answer,
            api_name="segment",
            api_description=SEGMENT,
            **running,
        )
        button.click(
            generate,
            [
                gr.Dropdown(names, value=names[0] if names else None, label="model"),
                gr.Number(1, label="count"),
                gr.Number(0, label="seed"),
                gr.Radio(presets, value="watch", label="preset"),
            ],
            answer,
            api_name="generate",
            api_description=GENERATE,
            **running,
        )


def _finished(visitors: Visitors, visitor: Visitor, updates: Any) -> Result:
    """Wait in line, run to the end, and return the result."""
    visitor.press()
    visitor.take_press()
    try:
        with visitors.turns.ticket() as ticket:
            while not ticket.wait(1.0):
                if visitor.stop.is_set():
                    raise BadInput("the page was closed")
            last = None
            for update in updates:
                last = update
    finally:
        visitor.rest()
    if last is None or last.frame.result is None:
        raise BadInput("the run was stopped")
    result: Result = last.frame.result
    return result


def _file(name: str, write: Any) -> dict[str, str]:
    """What ``write`` puts into a file, for JSON."""
    with tempfile.TemporaryDirectory(prefix="diffatlas-call-") as folder:
        path = Path(folder) / "file.nii.gz"
        write(path)
        return {"name": name, "nii_gz_base64": base64.b64encode(path.read_bytes()).decode("ascii")}
