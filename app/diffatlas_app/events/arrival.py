"""A page is opened or closed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import gradio as gr

from diffatlas.errors import BadInput
from diffatlas_app import limits
from diffatlas_app.events.looking import Looking
from diffatlas_app.events.options import Options
from diffatlas_app.events.page import DEMO, Page, Updates
from diffatlas_app.page.viewer import empty_message, error_message
from diffatlas_app.runs import settings
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.source import Source

LOOK_EVERY_S = 0.5


class Arrival:
    """The first screen: what the address asks for, else the first example."""

    def __init__(self, page: Page, looking: Looking, options: Options, pages: gr.Tabs) -> None:
        self.page = page
        self.looking = looking
        self.options = options
        self.pages = pages
        self.outputs = [pages, *page.outputs, *page.chosen.options, page.chosen.hint, page.chosen.card]

    def arrive(self, request: gr.Request) -> Updates:
        """Open the page: the settings in its address, and the example if it is ready, else a recorded run of it."""
        page = self.page
        wanted = settings.Settings()
        wrong: Exception | None = None
        try:
            wanted = settings.Settings.from_link(dict(request.query_params))
        except BadInput as error:
            wrong = error
        out = self._restored(wanted)
        if "run" in request.query_params:  # the link of a run's settings: not to the teaching scenes
            out[self.pages] = gr.Tabs(selected=DEMO)
        try:
            visitor = page.visitor(request)
            visitor.laid_out, visitor.noise_of = wanted.beside, (wanted.preset, wanted.model)
            if not wanted.example:
                empty = empty_message("Drop the file that this link was made for.")
                return {**out, **page.blank, page.shown.view: empty}
            ready = page.visitors.has_example(wanted.example)
            visitor.source = page.visitors.example(wanted.example) if ready else self._meanwhile(wanted.example)
            visitor.awaits = "" if ready else wanted.example
            out |= self.looking.opened(visitor, bool(wanted.beside))
            if not ready and visitor.source.recorded is not None:
                out[page.chosen.example] = visitor.source.key
        except Exception as error:
            wrong = error
        if wrong is not None:
            out |= {**page.idle, page.shown.view: error_message(told(wrong))}
        return out

    def example_ready(self, request: gr.Request) -> Iterator[Updates]:
        """Replace the recorded run by the example once that is made, unless the visitor does something else first."""
        page = self.page
        visitor = page.visitor(request)
        shown, name, until = visitor.source, visitor.awaits, time.monotonic() + limits.WARM_UP_S
        while name and time.monotonic() < until and not visitor.gone and visitor.source is shown:
            if page.visitors.has_example(name) and visitor.idle.is_set() and not visitor.pressed:
                visitor.awaits = ""
                visitor.source = page.visitors.example(name)
                yield {**self.looking.opened(visitor, False), page.chosen.example: name}
                return
            time.sleep(LOOK_EVERY_S)
        yield page.nothing()

    def leave(self, request: gr.Request) -> None:
        if request.session_hash:
            self.page.visitors.leave(request.session_hash)

    def _meanwhile(self, example: str) -> Source:
        """A recorded run of the example where there is one; else wait for the example."""
        try:
            return self.page.visitors.recorded(example)
        except BadInput:
            return self.page.visitors.example(example)

    def _restored(self, wanted: settings.Settings) -> Updates:
        c = self.page.chosen
        shown: Sequence[float] = wanted.centre or (50.0, 50.0, 50.0)
        noise = wanted.noise
        out: Updates = {
            c.example: wanted.example or None,
            c.model: wanted.model,
            c.card: self.options.card_of(wanted.model),
            c.preset: wanted.preset,
            c.guidance: wanted.guidance,
            c.noise: settings.usual_noise(wanted.preset, wanted.model) if noise is None else noise,
            c.sampler: wanted.sampler or "",
            c.steps: wanted.steps or 0,
            c.samples: wanted.samples,
            c.seed: wanted.seed,
            c.modality: wanted.modality,
            c.beside: wanted.beside,
            c.roi: wanted.centre is not None,
            c.hint: self.options.hint_of(wanted),
            self.page.shown.second: gr.update(visible=bool(wanted.beside)),
        }
        for slider, value in zip(c.centre, shown, strict=True):
            out[slider] = gr.update(value=value, visible=wanted.centre is not None)
        return out
