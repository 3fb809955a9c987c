"""The left column: the components for what a visitor can choose, without their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from diffatlas import session
from diffatlas.engine.request import PresetName
from diffatlas.session import ModelCard
from diffatlas_app import limits
from diffatlas_app.page import html as markup
from diffatlas_app.runs import recording, settings
from diffatlas_app.visitors.source import EXAMPLES, RECORDED

Task = Literal["segment", "atlas", "paint"]
PRESETS = [("Fast", "fast"), ("Watch", "watch"), ("As published", "published")]
GUIDANCE = [("The image", "image"), ("Its gradient", "gradient"), ("None", "none")]
SAMPLERS = [("The preset's", ""), ("DDIM", "ddim"), ("DDPM (ancestral)", "ddpm"), ("DPM++ 2M", "dpmpp-2m")]
MODALITIES = [("What its file says, or what it looks like", ""), ("CT", "ct"), ("MR", "mr")]
OWN_MASK = [("Labels of the last run", "last"), ("A label map of mine", "upload")]


@dataclass(frozen=True)
class Controls:
    """The components that events read or write."""

    tabs: dict[Task, gr.Tab]
    example: gr.Dropdown
    upload: gr.File
    which: gr.Dropdown
    source: gr.HTML
    model: gr.Dropdown
    card: gr.HTML
    preset: gr.Radio
    hint: gr.HTML
    seed: gr.Number
    new_seed: gr.Button
    guidance: gr.Radio
    noise: gr.Slider
    sampler: gr.Dropdown
    steps: gr.Number
    samples: gr.Slider
    modality: gr.Dropdown
    beside: gr.Dropdown
    roi: gr.Checkbox
    centre: tuple[gr.Slider, gr.Slider, gr.Slider]
    region: gr.HTML
    atlas_model: gr.Dropdown
    atlas_count: gr.Slider
    mask_from: gr.Radio
    mask_upload: gr.File

    @property
    def options(self) -> list[Any]:
        """The fields that `settings_of` reads."""
        return [
            self.model,
            self.preset,
            self.guidance,
            self.noise,
            self.sampler,
            self.steps,
            self.samples,
            self.seed,
            self.modality,
            self.beside,
            self.roi,
            *self.centre,
        ]


def build(models: Sequence[ModelCard]) -> Controls:
    """Make the column in the page that is being built."""
    made: dict[str, Any] = {}
    with gr.Tabs(elem_id="tasks"):
        with gr.Tab("Segment", id="segment", elem_id="tab-segment") as segment:
            _image(made)
            with gr.Accordion("More settings", open=False, elem_id="more"):
                _more(made)
        with gr.Tab("Atlas", id="atlas", elem_id="tab-atlas") as atlas:
            gr.HTML(markup.paragraph("Draw new image–mask pairs from noise alone: what the atlas has learnt."))
            made["atlas_model"] = gr.Dropdown(
                [(m.title, m.name) for m in models],
                value=models[0].name if models else None,
                label="Model",
                elem_id="atlas-model",
            )
            made["atlas_count"] = gr.Slider(1, limits.MAX_PAIRS, 4, step=1, label="Pairs", elem_id="atlas-count")
        with gr.Tab("Mask to image", id="paint", elem_id="tab-paint") as paint:
            gr.HTML(markup.paragraph("Hold a mask fixed and let the atlas paint an image that belongs to it."))
            made["mask_from"] = gr.Radio(OWN_MASK, value="last", label="Mask", elem_id="mask-from")
            made["mask_upload"] = gr.File(
                label="Label map (.nii.gz, .nii, .nrrd)", height=132, visible=False, elem_id="mask-upload"
            )
    with gr.Group():
        made["preset"] = gr.Radio(PRESETS, value="watch", label="Preset", elem_id="preset")
        made["hint"] = gr.HTML(elem_id="hint")
        with gr.Row(elem_id="seeds", equal_height=False):
            made["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90, elem_id="seed")
            made["new_seed"] = gr.Button("New seed", size="sm", min_width=90, scale=0, elem_id="new-seed")
    return Controls(tabs={"segment": segment, "atlas": atlas, "paint": paint}, **made)


def _image(made: dict[str, Any]) -> None:
    models = session.available_models()
    with gr.Group():
        made["example"] = gr.Dropdown(example_choices(), value="heart-ct", label="Example", elem_id="examples")
        made["upload"] = gr.File(label="Or a scan of your own", height=132, elem_id="upload")
        gr.HTML(
            markup.paragraph(f"NIfTI, NRRD, MetaImage, or DICOM (a series zipped); {limits.in_words()}."),
            elem_id="limits",
        )
        made["which"] = gr.Dropdown(
            label="Which of its volumes", visible=False, allow_custom_value=False, elem_id="which-volume"
        )
        made["source"] = gr.HTML(elem_id="source")
    with gr.Group():
        made["model"] = gr.Dropdown(
            [("Automatic", "auto"), *((m.title, m.name) for m in models)], value="auto", label="Model", elem_id="model"
        )
        made["card"] = gr.HTML(markup.auto_card(models), elem_id="card")


def _more(made: dict[str, Any]) -> None:
    made["guidance"] = gr.Radio(GUIDANCE, value="image", label="Guided by", elem_id="guidance")
    made["noise"] = gr.Slider(
        0,
        1,
        1,
        step=0.05,
        label="From image (0) to atlas (1): how noisy the image is shown",
        elem_id="noise",
    )
    made["sampler"] = gr.Dropdown(SAMPLERS, value="", label="Sampler", elem_id="sampler")
    with gr.Row():
        made["steps"] = gr.Number(
            0, label="Steps (0: the preset's)", precision=0, minimum=0, maximum=limits.MAX_STEPS, elem_id="steps"
        )
        made["samples"] = gr.Slider(1, limits.MAX_SAMPLES, 1, step=1, label="Samples", elem_id="samples")
    made["modality"] = gr.Dropdown(MODALITIES, value="", label="The image is", elem_id="modality")
    made["beside"] = gr.Dropdown(
        [(words, name) for name, words in settings.BESIDE.items()],
        value="",
        label="A second run beside it",
        elem_id="beside",
    )
    made["roi"] = gr.Checkbox(False, label="Choose the region (for volumes larger than the model sees)", elem_id="roi")
    with gr.Group(visible=True, elem_id="centre"):
        made["centre"] = tuple(
            gr.Slider(0, 100, 50, step=1, label=f"Centre along axis {axis}, %", visible=False, elem_id=f"centre-{axis}")
            for axis in "XYZ"
        )
    made["region"] = gr.HTML(elem_id="region")


def example_choices() -> list[tuple[str, str]]:
    """Examples and recorded runs, as a dropdown lists them."""
    return [(words, key) for key, words in EXAMPLES.items()] + [
        (entry.title, RECORDED + entry.key) for entry in recording.available()
    ]


def settings_of(chosen: Controls, given: Mapping[Any, Any], example: str | None) -> settings.Settings:
    """What the fields hold, as `Settings`. Raises `BadInput`."""
    preset: PresetName = given[chosen.preset]
    model, noise = given[chosen.model], given[chosen.noise]
    usual = settings.usual_noise(preset, model)
    x, y, z = (given[slider] for slider in chosen.centre)
    return settings.Settings(
        example=example or "",
        model=model,
        preset=preset,
        guidance=given[chosen.guidance],
        noise=None if abs(noise - usual) < 1e-6 else float(noise),
        sampler=given[chosen.sampler] or None,
        steps=settings.whole("steps", given[chosen.steps] or 0) or None,
        samples=settings.whole("samples", given[chosen.samples]),
        seed=settings.whole("seed", given[chosen.seed]),
        modality=given[chosen.modality] or "",
        beside=given[chosen.beside] or "",
        centre=(float(x), float(y), float(z)) if given[chosen.roi] else None,
    )
