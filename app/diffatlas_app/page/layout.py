"""The page: its layout and its events, and nothing of what they compute."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffatlas import session
from diffatlas_app import api, limits
from diffatlas_app.events.handlers import Events, Shown
from diffatlas_app.page import controls
from diffatlas_app.page import html as markup
from diffatlas_app.page.viewer import viewer
from diffatlas_app.visitors.sessions import Visitors

# A press on a picture of the gallery becomes a "select" with its number.
OPEN_PAIR = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-pair]');
  if (button) trigger('select', {index: Number(button.dataset.pair)});
});"""
# A seed is chosen in the browser: the server need not know.
NEW_SEED = "() => Math.floor(Math.random() * 1e6)"


def build_page(visitors: Visitors) -> gr.Blocks:
    """The page with its events; ``visitors`` keeps who is there."""
    models = session.available_models()
    with gr.Blocks(title="DiffAtlas", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(markup.header(), elem_id="header")
        with gr.Row(equal_height=False, elem_id="main"):
            with gr.Column(scale=3, min_width=300, elem_id="controls"):
                chosen = controls.build(models)
            with gr.Column(scale=8, min_width=320, elem_id="viewer"):
                shown = _right_side()
        _bind(page, Events(visitors, chosen, shown), chosen, shown, visitors)
    return page


def _right_side() -> Shown:
    with gr.Row(elem_id="transport"):
        start = gr.Button("Run", variant="primary", scale=0, min_width=140, elem_id="run")
        stop = gr.Button("Stop", interactive=False, scale=0, min_width=88, elem_id="stop")
        task = gr.State("segment")
    with gr.Row(elem_id="views", equal_height=False):
        view = viewer("Viewer", elem_id="view", group="run", min_width=300)
        second = viewer("Viewer of the second run", elem_id="second", group="run", min_width=300, visible=False)
    gallery = gr.HTML(elem_id="gallery", js_on_load=OPEN_PAIR)
    result = gr.HTML(elem_id="result")
    files = gr.HTML(elem_id="files")
    with gr.Row(visible=False, elem_id="after") as after:
        surface = gr.Button("Make surface (GLB)", size="md", scale=0, min_width=190, elem_id="make-surface")
        film = gr.Button("Make film (GIF)", size="md", scale=0, min_width=190, elem_id="make-film")
    with gr.Accordion(
        "Compare with a reference label map", open=False, visible=False, elem_id="reference-panel"
    ) as panel:
        reference = gr.File(
            label="Reference labels on the same voxels (.nii.gz, .nii, .nrrd)", height=120, elem_id="reference"
        )
    return Shown(start, stop, task, view, second, gallery, result, files, after, surface, film, panel, reference)


def _bind(page: gr.Blocks, events: Events, chosen: controls.Controls, shown: Shown, visitors: Visitors) -> None:
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    quick: dict[str, Any] = {**hidden, "queue": False}
    reading: dict[str, Any] = {**hidden, "concurrency_id": "read", "concurrency_limit": limits.READS_AT_ONCE}
    # As many as come: they stand in line in `Turns`, which knows how many there may be.
    running: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": None}
    options, everything = chosen.options, events.outputs
    hint_from: list[Any] = [chosen.preset, chosen.model, chosen.steps, chosen.samples, chosen.beside]

    page.load(events.arrive, None, events.arrival, **reading)
    page.unload(events.leave)

    chosen.example.input(events.open_example, [chosen.example, *options], everything, **reading)
    chosen.upload.upload(events.open_upload, [chosen.upload, *options], everything, **reading)
    for act in (chosen.roi.input, *(slider.release for slider in chosen.centre)):
        act(events.show_region, options, [*chosen.centre, chosen.region, shown.view], **reading)

    chosen.model.input(events.card, chosen.model, chosen.card, **quick)
    for change in (chosen.model.input, chosen.preset.input):
        change(events.noise, [chosen.preset, chosen.model], chosen.noise, **quick)
    for field in hint_from:
        field.change(events.hint, hint_from, chosen.hint, **quick)
    chosen.beside.input(events.lay_out, chosen.beside, shown.second, **quick)
    chosen.new_seed.click(None, None, chosen.seed, js=NEW_SEED, api_visibility="private")
    chosen.mask_from.input(events.mask_field, chosen.mask_from, chosen.mask_upload, **quick)
    chosen.mask_upload.upload(events.open_mask, chosen.mask_upload, [*everything], **reading)
    for name, tab in chosen.tabs.items():
        tab.select(events.change_task(name), None, [shown.start, shown.task], **quick)

    pressed = shown.start.click(events.press, None, everything, **quick)
    run = pressed.then(
        events.run,
        [shown.task, chosen.example, chosen.atlas_model, chosen.atlas_count, chosen.mask_from, *options],
        everything,
        **hidden,
        **running,
    )
    run.failure(events.not_begun, None, everything, **quick)
    shown.stop.click(events.halt, None, everything, **quick)

    shown.gallery.select(events.open_pair, chosen.seed, everything, **reading)
    shown.surface.click(events.surface, None, [shown.files, shown.result], **reading)
    shown.film.click(events.film, None, [shown.files, shown.result], **reading)
    shown.reference.upload(events.compare, shown.reference, [shown.result, shown.reference], **reading)

    api.add_endpoints(visitors, running)
