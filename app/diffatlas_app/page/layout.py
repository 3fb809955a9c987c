"""The page: its layout, and which events its components start."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from diffatlas import session
from diffatlas_app import api, limits
from diffatlas_app.events.arrival import Arrival
from diffatlas_app.events.generate import Generate
from diffatlas_app.events.looking import Looking
from diffatlas_app.events.options import Options
from diffatlas_app.events.outcome import Outcome
from diffatlas_app.events.page import DEMO, LEARN, Page, Shown
from diffatlas_app.events.paint import Paint
from diffatlas_app.events.replay import Replay
from diffatlas_app.events.running import Running
from diffatlas_app.events.segment import Segment
from diffatlas_app.page import controls
from diffatlas_app.page import html as markup
from diffatlas_app.page.viewer import viewer
from diffatlas_app.server.hosts import on_space
from diffatlas_app.visitors.sessions import Visitors

LEARN_FIRST = "DIFFATLAS_LEARN_FIRST"
"""Environment variable: 1, the page opens with the teaching scenes; 0, with the viewer."""

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
        with gr.Tabs(selected=LEARN if opens_with_learn() else DEMO, elem_id="pages") as pages:
            if opens_with_learn():
                _learn()
            with (
                gr.Tab("Try it", id=DEMO, elem_id="tab-demo", render_children=True),
                gr.Row(equal_height=False, elem_id="main"),
            ):
                with gr.Column(scale=3, min_width=300, elem_id="controls"):
                    chosen = controls.build(models)
                with gr.Column(scale=8, min_width=320, elem_id="viewer"):
                    shown = _right_side()
            if not opens_with_learn():
                _learn()
        _bind(page, Page(visitors, chosen, shown), pages)
        api.add_endpoints(visitors, RUNNING)
    return page


def opens_with_learn() -> bool:
    """Whether visitors see *Learn* first: as `LEARN_FIRST` says ("1" or "0"), else on a hosted Space."""
    return os.environ.get(LEARN_FIRST, "1" if on_space() else "0") == "1"


def _learn() -> None:
    """The teaching site in a tab; it is fetched when the tab is first opened."""
    with gr.Tab("Learn", id=LEARN, elem_id="tab-learn"):
        gr.HTML(markup.learn_frame(), elem_id="learn")


def _right_side() -> Shown:
    with gr.Row(elem_id="transport"):
        start = gr.Button("Run", variant="primary", scale=0, min_width=140, elem_id="run")
        stop = gr.Button("Stop", interactive=False, scale=0, min_width=88, elem_id="stop")
    with gr.Row(elem_id="views", equal_height=False):
        view = viewer("Viewer", elem_id="view", group="run", min_width=300)
        second = viewer("Viewer of the second run", elem_id="second", group="run", min_width=300, visible=False)
    gallery = gr.HTML(elem_id="gallery", js_on_load=OPEN_PAIR)
    result = gr.HTML(elem_id="result")
    files = gr.HTML(elem_id="files")
    with gr.Row(visible=False, elem_id="after") as after:
        surface = gr.Button("Make surface (GLB)", size="md", scale=0, min_width=190, elem_id="make-surface")
        film = gr.Button("Make film (GIF)", size="md", scale=0, min_width=190, elem_id="make-film")
        seg = gr.Button("Make DICOM SEG", size="md", scale=0, min_width=190, elem_id="make-seg")
        rtstruct = gr.Button("Make RTSTRUCT", size="md", scale=0, min_width=190, elem_id="make-rtstruct")
    with gr.Accordion(
        "Compare with a reference label map", open=False, visible=False, elem_id="reference-panel"
    ) as panel:
        reference = gr.File(
            label="Reference labels on the same voxels (.nii.gz, .nii, .nrrd)", height=120, elem_id="reference"
        )
    return Shown(
        start, stop, view, second, gallery, result, files, after, surface, film, seg, rtstruct, panel, reference
    )


HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
QUICK: dict[str, Any] = {**HIDDEN, "queue": False}
READING: dict[str, Any] = {**HIDDEN, "concurrency_id": "read", "concurrency_limit": limits.READS_AT_ONCE}
# No limit here: `Turns` is the queue and limits it.
RUNNING: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": None}


def _bind(blocks: gr.Blocks, page: Page, pages: gr.Tabs) -> None:
    """Bind events to fields. Inputs are sets: a handler is given the values by component, not by position."""
    chosen, shown, everything = page.chosen, page.shown, page.outputs
    options = Options(page)
    looking = Looking(page)
    outcome = Outcome(page)
    arrival = Arrival(page, looking, options, pages)
    running = Running(
        page,
        {
            "segment": Segment(page, page.visitors, outcome),
            "atlas": Generate(page),
            "paint": Paint(page, page.visitors, outcome),
        },
        Replay(page),
    )
    settings = set(chosen.options)

    opened = blocks.load(arrival.arrive, None, arrival.outputs, **READING)
    waits: dict[str, Any] = {**HIDDEN, "concurrency_id": "warm-up", "concurrency_limit": limits.SESSIONS}
    opened.then(arrival.example_ready, None, everything, **waits)
    blocks.unload(arrival.leave)

    chosen.example.input(looking.open_example, {chosen.example, chosen.beside}, everything, **READING)
    chosen.upload.upload(looking.open_upload, {chosen.upload, chosen.beside}, everything, **READING)
    chosen.which.input(looking.open_volume, {chosen.which, chosen.beside}, everything, **READING)
    for act in (chosen.roi.input, *(slider.release for slider in chosen.centre)):
        act(looking.show_region, settings, [*chosen.centre, chosen.region, shown.view], **READING)

    chosen.model.input(options.card, {chosen.model}, chosen.card, **QUICK)
    for change in (chosen.model.input, chosen.preset.input):
        change(options.noise, {chosen.preset, chosen.model}, chosen.noise, **QUICK)
    for field in (chosen.preset, chosen.model, chosen.steps, chosen.samples, chosen.beside):
        field.change(options.hint, settings, chosen.hint, **QUICK)
    chosen.beside.input(options.lay_out, {chosen.beside}, shown.second, **QUICK)
    chosen.new_seed.click(None, None, chosen.seed, js=NEW_SEED, api_visibility="private")
    chosen.mask_from.input(options.mask_field, {chosen.mask_from}, chosen.mask_upload, **QUICK)
    chosen.mask_upload.upload(looking.open_mask, {chosen.mask_upload}, everything, **READING)
    for task, tab in chosen.tabs.items():
        tab.select(options.change_task(task), None, shown.start, **QUICK)

    pressed = shown.start.click(running.press, None, everything, **QUICK)
    run = pressed.then(running.run, running.fields(), everything, **HIDDEN, **RUNNING)
    run.failure(running.not_begun, None, everything, **QUICK)
    shown.stop.click(running.halt, None, everything, **QUICK)

    shown.gallery.select(looking.open_pair, {chosen.seed}, everything, **READING)
    made = (("surface", shown.surface), ("film", shown.film), ("seg", shown.seg), ("rtstruct", shown.rtstruct))
    for what, button in made:
        button.click(outcome.make(what), None, shown.files, **READING)
    shown.reference.upload(outcome.compare, {shown.reference}, [shown.result, shown.reference], **READING)
