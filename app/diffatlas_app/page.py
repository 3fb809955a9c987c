"""The page: its controls, its events, and nothing of what they compute."""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.request import Request
from diffatlas_app import limits, markup, runs, viewer

log = logging.getLogger(__name__)
PRESETS = [("Fast", "fast"), ("Watch", "watch"), ("As published", "published")]
FIRST_EXAMPLE = "heart-ct"


def uploads_only(field: gr.File) -> gr.File:
    """Make a file field refuse an address in place of a file, which gradio would fetch.

    Done on the instance: gradio writes a stub file beside every module that subclasses one of its components.
    """
    move = field.async_move_resource_to_block_cache

    async def move_unless_address(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("give a file, not an address", print_exception=False)
        return await move(path)

    setattr(field, "async_move_resource_to_block_cache", move_unless_address)  # noqa: B010 (a method, to mypy)
    return field


def build_page(visitors: runs.Visitors) -> gr.Blocks:
    """The page with its events; ``visitors`` keeps who is there."""
    models = session.available_models()
    cards = {model.name: markup.card(model) for model in models}
    cards["auto"] = markup.auto_card(models)

    with gr.Blocks(title="DiffAtlas", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(markup.header(), elem_id="header")
        with gr.Row(equal_height=False, elem_id="main"):
            with gr.Column(scale=3, min_width=300, elem_id="controls"):
                with gr.Group():
                    examples = gr.Radio(
                        [(runs.EXAMPLES[name].split()[-1], name) for name in session.EXAMPLES],
                        value=FIRST_EXAMPLE,
                        label="Example: phantom heart",
                        elem_id="examples",
                    )
                    upload = uploads_only(gr.File(label="Or a scan of your own", height=132, elem_id="upload"))
                    source = gr.HTML(elem_id="source")
                with gr.Group():
                    model = gr.Dropdown(
                        [("Automatic", "auto"), *((m.title, m.name) for m in models)],
                        value="auto",
                        label="Model",
                        elem_id="model",
                    )
                    card = gr.HTML(cards["auto"], elem_id="card")
                with gr.Group():
                    preset = gr.Radio(PRESETS, value="watch", label="Preset", elem_id="preset")
                    hint = gr.HTML(markup.preset_line("watch"), elem_id="hint")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            with gr.Column(scale=8, min_width=320, elem_id="viewer"):
                view = viewer.viewer("Run", elem_id="view")
                with gr.Row(elem_id="transport"):
                    start = gr.Button("Run", variant="primary", scale=0, min_width=104, elem_id="run")
                    stop = gr.Button("Stop", interactive=False, scale=0, min_width=88, elem_id="stop")
                    status = gr.HTML(markup.status("Loading the example…"), elem_id="status")
                result = gr.HTML(elem_id="result")

        shown = [view, status, result, source, start, stop]
        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        reading: dict[str, Any] = {**hidden, "concurrency_id": "read", "concurrency_limit": limits.READS_AT_ONCE}
        running: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": limits.RUNS_AT_ONCE}

        idle: dict[Any, Any] = {start: gr.update(interactive=True), stop: gr.update(interactive=False)}
        busy: dict[Any, Any] = {start: gr.update(interactive=False), stop: gr.update(interactive=True)}

        def visitor_of(request: gr.Request) -> runs.Visitor:
            return visitors.get(request.session_hash or secrets.token_hex(16))

        def show(visitor: runs.Visitor) -> dict[Any, Any]:
            assert visitor.source is not None
            volume = visitor.source.read()
            return {
                **idle,
                view: viewer.open_message(volume, name=visitor.source.name),
                status: markup.status("Ready: press Run and watch."),
                source: markup.source_line(visitor.source.name, volume),
                result: "",
            }

        def refused(error: Exception) -> dict[Any, Any]:
            words = _told(error)
            return {**idle, view: viewer.error_message(words), status: markup.error(words)}

        def make_way(visitor: runs.Visitor) -> None:
            """End the visitor's run before another image is shown: its last picture must not come after."""
            visitor.halt()
            visitor.idle.wait(limits.STEP_TIME_S)

        def open_example(name: str | None, request: gr.Request) -> dict[Any, Any]:
            if name is None:  # an upload cleared the choice
                return {status: gr.skip()}
            visitor = visitor_of(request)
            make_way(visitor)
            try:
                visitor.source = visitors.example(name)
                return show(visitor)
            except Exception as error:
                return refused(error)

        def open_upload(path: str, request: gr.Request) -> dict[Any, Any]:
            visitor = visitor_of(request)
            make_way(visitor)
            before = visitor.source
            try:
                visitor.take_upload(Path(path))
                return {**show(visitor), upload: None, examples: None}
            except Exception as error:
                visitor.source = before
                return {**refused(error), upload: None}

        def wait(request: gr.Request) -> dict[Any, Any]:
            visitor_of(request).press()
            return {
                **busy,
                view: viewer.waiting_message(),
                status: markup.status("Waiting for a free processor…"),
                result: "",
            }

        def watch(
            model_name: str, preset_name: str, number: float | None, request: gr.Request
        ) -> Iterator[dict[Any, Any]]:
            visitor = visitor_of(request)
            if not visitor.take_press():
                yield {status: gr.skip()}
                return
            last = None
            try:
                for last in runs.run(visitor, _request(model_name, preset_name, number)):
                    out: dict[Any, Any] = {
                        view: last.message,
                        status: markup.progress(last),
                    }
                    if last.result is not None:
                        out |= {**idle, result: markup.result(last)}
                    yield out
                if last is None or last.result is None:
                    yield {**idle, view: viewer.stopped_message(), status: markup.stopped(last)}
            except Exception as error:
                yield refused(error)
            finally:
                visitor.rest()

        # Stop only raises the flag: the run's own last words then reach the page after its last picture. Were the event
        # cancelled instead, what it had already sent could arrive after this answer, which takes another way.
        def halt(request: gr.Request) -> dict[Any, Any]:
            if visitor_of(request).halt():
                return {**idle, view: viewer.stopped_message(), status: markup.stopped(None)}
            return {stop: gr.update(interactive=False)}

        def not_begun(request: gr.Request) -> dict[Any, Any]:
            if visitor_of(request).halt():
                return refused(BadInput("too many people are waiting: try again in a minute"))
            return {status: gr.skip()}

        def segment(path: str | None, model_name: str, preset_name: str, number: float | None) -> dict[str, Any]:
            """Segment a volume: {"volumes_ml", "report", "labels": {"name", "nii_gz_base64"}} or {"error"}."""
            key = secrets.token_hex(16)
            try:
                if path is None:
                    raise BadInput("give a volume: .nii, .nii.gz, .nrrd or .mha")
                visitor = visitors.get(key)
                visitor.take_upload(Path(path))
                *_, last = runs.run(visitor, _request(model_name, preset_name, number))
                return _answer(last)
            except Exception as error:
                return {"error": _told(error)}
            finally:
                visitors.leave(key)

        def leave(request: gr.Request) -> None:
            if request.session_hash:
                visitors.leave(request.session_hash)

        page.load(open_example, examples, shown, **reading)
        pressed = start.click(wait, None, shown, queue=False, **hidden)
        run_event = pressed.then(watch, [model, preset, seed], shown, **hidden, **running)
        run_event.failure(not_begun, None, shown, queue=False, **hidden)
        stop.click(halt, None, shown, queue=False, **hidden)
        examples.input(open_example, examples, shown, **reading)
        upload.upload(open_upload, upload, [*shown, upload, examples], **reading)
        model.input(cards.__getitem__, model, card, queue=False, **hidden)
        preset.input(markup.preset_line, preset, hint, queue=False, **hidden)
        page.unload(leave)

        endpoint = gr.Button(visible=False)
        answer = gr.JSON(visible=False)
        endpoint.click(segment, [upload, model, preset, seed], answer, api_name="segment", **running)

    return page


def _request(model: str, preset: str, seed: float | None) -> Request:
    if seed is None or int(seed) != seed:
        raise BadInput("seed must be a whole number, 0 or more")
    return Request(task="segment", model=model, preset=preset, seed=int(seed))  # type: ignore[arg-type]


def _told(error: Exception) -> str:
    """One line for the visitor; what is not their doing also goes to the log, with its traceback."""
    if isinstance(error, BadInput):
        return str(error)
    log.error("a run failed", exc_info=error)
    first = (str(error).splitlines() or [""])[0][:200]
    return f"This is our fault, not yours: {type(error).__name__}: {first}"


def _answer(last: runs.Update) -> dict[str, Any]:
    assert last.files is not None
    return {
        "volumes_ml": last.volumes_ml,
        "report": json.loads(last.files.report),
        "labels": {
            "name": f"{last.files.stem}_labels.nii.gz",
            "nii_gz_base64": base64.b64encode(last.files.labels).decode("ascii"),
        },
    }
