"""Another image, mask or region is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr

from diffatlas.errors import BadInput, SeveralVolumes
from diffatlas_app.events import region as regions
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page import html as markup
from diffatlas_app.page.controls import settings_of
from diffatlas_app.page.viewer import empty_message, open_message
from diffatlas_app.runs import pairs, settings
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Visitor
from diffatlas_app.visitors.source import EXAMPLES, RECORDED, read_labels


class Looking:
    """The events that open something in the viewer.

    A dropdown reports its value when it is chosen *and* when it loses the focus, which the press of Run takes from it.
    So what is on show already is not opened again: that would end the run that has just begun.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def open_example(self, given: Given, request: gr.Request) -> Updates:
        page = self.page
        name = given[page.chosen.example]
        if name is None:  # an upload cleared the choice
            return page.nothing()
        visitor = page.visitor(request)
        if visitor.viewed is not None and visitor.viewed.key == name:
            return page.nothing()
        visitor.make_way()
        try:
            recorded = name not in EXAMPLES
            source = page.visitors.recorded(name.removeprefix(RECORDED)) if recorded else page.visitors.example(name)
            visitor.source = source
            return self.opened(visitor, bool(given[page.chosen.beside]))
        except Exception as error:
            return page.refused(error)

    def open_upload(self, given: Given, request: gr.Request) -> Updates:
        page = self.page
        visitor = page.visitor(request)
        visitor.make_way()
        before = visitor.source
        try:
            visitor.take_upload(Path(given[page.chosen.upload]))
            taken = {page.chosen.upload: None, page.chosen.example: None}
            try:
                return {**self.opened(visitor, bool(given[page.chosen.beside])), **taken}
            except SeveralVolumes as several:
                return {**self._asking(visitor, several), **taken}
        except Exception as error:
            visitor.source = before
            return {**page.refused(error), page.chosen.upload: None}

    def open_volume(self, given: Given, request: gr.Request) -> Updates:
        """One of the volumes that an upload holds."""
        page = self.page
        if given[page.chosen.which] is None:
            return page.nothing()
        visitor = page.visitor(request)
        try:
            if visitor.source is None or visitor.source.path is None:
                raise BadInput("no file to choose from: drop one")
            source = replace(visitor.source, index=settings.whole("volume", given[page.chosen.which]))
            if visitor.shows(source):
                return page.nothing()
            visitor.make_way()
            visitor.source = source
            out = self.opened(visitor, bool(given[page.chosen.beside]))
            del out[page.chosen.which]  # another volume of the file can be chosen
            return out
        except Exception as error:
            return page.refused(error)

    def _asking(self, visitor: Visitor, several: SeveralVolumes) -> Updates:
        """List the volumes of an upload to choose from; none is shown yet."""
        page = self.page
        visitor.viewed = None
        choices = [(f"{number}: {choice}", number) for number, choice in enumerate(several.choices)]
        return {
            **page.idle,
            **page.blank,
            page.chosen.which: gr.update(choices=choices, value=None, visible=True),
            page.chosen.source: "",
            page.shown.gallery: "",
            page.shown.view: empty_message(f"This file holds {len(choices)} volumes: choose one on the left."),
        }

    def open_pair(self, given: Given, request: gr.Request, event: gr.EventData) -> Updates:
        page = self.page
        visitor = page.visitor(request)
        visitor.make_way()
        try:
            seed = settings.whole("seed", given[page.chosen.seed])
            source = pairs.open_pair(visitor, int(event.index), seed)
            out = self.opened(visitor, False)
            out[page.shown.view] = open_message(
                source.read(), name=source.name, labels=source.true_labels, hint="Drawn from the atlas: image and mask."
            )
            del out[page.shown.gallery]
            return {**out, page.chosen.example: None}
        except Exception as error:
            return page.refused(error)

    def open_mask(self, given: Given, request: gr.Request) -> Updates:
        """A label map to paint an image onto, shown at once."""
        page = self.page
        visitor = page.visitor(request)
        visitor.make_way()
        try:
            visitor.mask = visitor.take_labels(Path(given[page.chosen.mask_upload]), "mask")
            name, path = visitor.mask
            view = open_message(None, name=name, labels=read_labels(name, path), hint="Press Paint an image.")
            visitor.viewed = None
            return {**page.blank, **page.idle, page.shown.view: view}
        except Exception as error:
            visitor.mask = None
            return {**page.refused(error), page.chosen.mask_upload: None}

    def opened(self, visitor: Visitor, beside: bool) -> Updates:
        """The visitor's image in the viewer, and in the second one if that is on the page."""
        page, source = self.page, visitor.source
        assert source is not None
        volume = source.read()
        hint = "Press Run and watch."
        if source.recorded is not None:
            hint = "A recorded run: press Run to play it. Nothing is computed for it."
        message = open_message(volume, name=source.name, hint=hint, caption="")
        visitor.viewed = source
        out = {
            **page.idle,
            **page.blank,
            page.shown.view: message,
            page.shown.gallery: "",
            page.chosen.source: markup.source_line(source.name, volume),
            page.chosen.which: gr.update(visible=False),
        }
        return {**out, page.shown.second: gr.update(value=message, visible=True)} if beside else out

    def show_region(self, given: Given, request: gr.Request) -> Updates:
        """The region of interest in words, and as a box in the viewer unless that shows a run."""
        page, c = self.page, self.page.chosen
        visitor = page.visitor(request)
        on = bool(given[c.roi])
        out: Updates = {slider: gr.update(visible=on) for slider in c.centre}
        try:
            if visitor.source is None:
                raise BadInput("no image yet: choose an example or drop a file")
            volume, running = visitor.source.read(), visitor.pressed or not visitor.idle.is_set()
            if not on:
                view = {} if running else {page.shown.view: open_message(volume, name=visitor.source.name)}
                return {**out, c.region: "", **view}
            wanted = settings_of(c, given, None)
            assert wanted.centre is not None
            card = regions.card_for(wanted.named(volume), wanted.model)
            roi = settings.region(volume.grid, wanted.centre, card.space.extent_mm)
            out[c.region] = markup.paragraph(regions.in_words(roi))
            if not running:
                seen = regions.view_of(card, volume.grid, roi)
                out[page.shown.view] = open_message(volume, name=visitor.source.name, labels=seen)
            return out
        except Exception as error:
            return {**out, c.region: markup.error(told(error))}
