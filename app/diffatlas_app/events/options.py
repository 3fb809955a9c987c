"""A setting is changed: update the fields and texts of the left side."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page import html as markup
from diffatlas_app.page.controls import Task, settings_of
from diffatlas_app.page.viewer import open_message
from diffatlas_app.runs import settings

RUN_WORDS: dict[Task, str] = {"segment": "Run", "atlas": "Draw pairs", "paint": "Paint an image"}


class Options:
    """The events of the fields on the left."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def card(self, given: Given) -> str:
        return self.card_of(given[self.page.chosen.model])

    def card_of(self, name: str) -> str:
        models = session.available_models()
        found = next((m for m in models if m.name == name), None)
        return markup.auto_card(models) if found is None else markup.card(found)

    def noise(self, given: Given, request: gr.Request) -> Updates:
        """The guidance noise of a preset for a model; one's own stays while these are the same."""
        page, c = self.page, self.page.chosen
        visitor = page.visitor(request)
        chosen = (given[c.preset], given[c.model])
        if visitor.noise_of == chosen:  # a dropdown also reports that it lost the focus
            return {c.noise: gr.skip()}
        visitor.noise_of = chosen
        return {c.noise: settings.usual_noise(*chosen)}

    def hint(self, given: Given) -> str:
        """What a run with these settings will do, from the engine's plan."""
        try:
            return self.hint_of(settings_of(self.page.chosen, given, None))
        except BadInput as error:
            return markup.paragraph(str(error))

    def hint_of(self, wanted: settings.Settings) -> str:
        requests = wanted.requests()
        plans = [session.plan(None, request) for request in requests]
        known = [p.seconds for p in plans if p.seconds is not None]
        return markup.plan_line(plans[0], sum(known) if len(known) == len(plans) else None)

    def lay_out(self, given: Given, request: gr.Request) -> Updates:
        """Show or hide the second viewer; it shows the same image."""
        page = self.page
        beside = given[page.chosen.beside]
        visitor = page.visitor(request)
        if visitor.laid_out == beside:
            return {page.shown.second: gr.skip()}
        visitor.laid_out = beside
        out: Updates = {page.shown.second: gr.update(visible=bool(beside))}
        if beside and visitor.source is not None and visitor.idle.is_set():
            source = visitor.source
            message = open_message(source.read(), name=source.name, hint="The second run comes here.")
            out[page.shown.second] = gr.update(value=message, visible=True)
        return out

    def mask_field(self, given: Given) -> Updates:
        c = self.page.chosen
        return {c.mask_upload: gr.update(visible=given[c.mask_from] == "upload")}

    def change_task(self, task: Task) -> Callable[[gr.Request], Updates]:
        def change(request: gr.Request) -> Updates:
            self.page.visitor(request).task = task
            return {self.page.shown.start: gr.update(value=RUN_WORDS[task])}

        return change
