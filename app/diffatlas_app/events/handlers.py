"""What happens when a visitor does something: from the page's values to the page's values."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from diffatlas import render, session
from diffatlas.engine.request import PRESETS
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from diffatlas_app.events import region as regions
from diffatlas_app.page import html as markup
from diffatlas_app.page.controls import Controls, Task, settings_of
from diffatlas_app.page.pictures import jpeg
from diffatlas_app.page.viewer import (
    done_message,
    empty_message,
    error_message,
    frame_message,
    open_message,
    recording_message,
    stopped_message,
    waiting_message,
)
from diffatlas_app.runs import pairs, settings
from diffatlas_app.runs import stream as runs
from diffatlas_app.runs.queue import until_my_turn
from diffatlas_app.server.callers import absence, caller_of
from diffatlas_app.visitors import uploads
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Visitor, Visitors
from diffatlas_app.visitors.source import EXAMPLES, RECORDED, Source, read_labels

Out = dict[Any, Any]
RUN_WORDS: dict[Task, str] = {"segment": "Run", "atlas": "Draw pairs", "paint": "Paint an image"}


@dataclass(frozen=True)
class Shown:
    """The right side: what events write."""

    start: gr.Button
    stop: gr.Button
    task: gr.State
    view: gr.HTML
    second: gr.HTML
    gallery: gr.HTML
    result: gr.HTML
    files: gr.HTML
    after: gr.Row
    surface: gr.Button
    film: gr.Button
    panel: gr.Accordion
    reference: gr.File


class Events:
    """The handlers; they keep nothing but where the visitors are.

    ``request`` comes first: gradio hands it over by position, and cannot behind ``*values``.
    """

    def __init__(self, visitors: Visitors, chosen: Controls, shown: Shown) -> None:
        self.visitors = visitors
        self.chosen = chosen
        self.shown = shown
        self.idle: Out = {shown.start: gr.update(interactive=True), shown.stop: gr.update(interactive=False)}
        self.busy: Out = {shown.start: gr.update(interactive=False), shown.stop: gr.update(interactive=True)}
        self.blank: Out = {
            shown.result: "",
            shown.files: "",
            shown.after: gr.update(visible=False),
            shown.panel: gr.update(visible=False),
        }
        right = [
            getattr(shown, f.name) for f in fields(shown) if f.name not in ("task", "surface", "film", "reference")
        ]
        self.outputs = [*right, chosen.source, chosen.example, chosen.upload, chosen.mask_upload]
        self.arrival = [*self.outputs, *chosen.options, chosen.hint, chosen.card]

    # -- who is there ----------------------------------------------------------------------------------------------

    def visitor(self, request: gr.Request) -> Visitor:
        return self.visitors.get(request.session_hash or secrets.token_hex(16), caller_of(request).address)

    def leave(self, request: gr.Request) -> None:
        if request.session_hash:
            self.visitors.leave(request.session_hash)

    def arrive(self, request: gr.Request) -> Out:
        """The first screen: what the address asks for, else the first example; a recorded run while that is made."""
        visitor = self.visitor(request)
        wanted = settings.Settings()
        wrong: Exception | None = None
        try:
            wanted = settings.Settings.from_link(dict(request.query_params))
        except BadInput as error:
            wrong = error
        out = self._restored(wanted)
        try:
            if not wanted.example:
                return {
                    **out,
                    **self.blank,
                    self.shown.view: empty_message("Drop the file that this link was made for."),
                }
            ready = self.visitors.has_example(wanted.example)
            visitor.source = self.visitors.example(wanted.example) if ready else self._meanwhile(wanted.example)
            out |= self._opened(visitor, wanted)
            if not ready and visitor.source.recorded is not None:
                out[self.chosen.example] = visitor.source.key
        except Exception as error:
            wrong = error
        if wrong is not None:
            out |= {**self.idle, self.shown.view: error_message(told(wrong))}
        return out

    def _meanwhile(self, example: str) -> Source:
        """A recorded run of the example where there is one, else the example itself, waited for."""
        try:
            return self.visitors.recorded(example)
        except BadInput:
            return self.visitors.example(example)

    def _restored(self, wanted: settings.Settings) -> Out:
        c = self.chosen
        shown: Sequence[float] = wanted.centre or (50.0, 50.0, 50.0)
        noise = wanted.noise if wanted.noise is not None else self.noise(wanted.preset, wanted.model)
        out: Out = {
            c.example: wanted.example or None,
            c.model: wanted.model,
            c.card: self.card(wanted.model),
            c.preset: wanted.preset,
            c.guidance: wanted.guidance,
            c.noise: noise,
            c.sampler: wanted.sampler or "",
            c.steps: wanted.steps or 0,
            c.samples: wanted.samples,
            c.seed: wanted.seed,
            c.beside: wanted.beside,
            c.roi: wanted.centre is not None,
            c.hint: self.hint(wanted.preset, wanted.model, wanted.steps, wanted.samples, wanted.beside),
            self.shown.second: gr.update(visible=bool(wanted.beside)),
        }
        for slider, value in zip(c.centre, shown, strict=True):
            out[slider] = gr.update(value=value, visible=wanted.centre is not None)
        return out

    # -- what is looked at -----------------------------------------------------------------------------------------

    def open_example(self, request: gr.Request, name: str | None, *values: Any) -> Out:
        if name is None:  # an upload cleared the choice
            return {self.shown.view: gr.skip()}
        visitor = self.visitor(request)
        visitor.make_way()
        try:
            known = name in EXAMPLES
            visitor.source = (
                self.visitors.example(name) if known else self.visitors.recorded(name.removeprefix(RECORDED))
            )
            return self._opened(visitor, settings_of(name, values))
        except Exception as error:
            return self._refused(error)

    def open_upload(self, request: gr.Request, path: str, *values: Any) -> Out:
        visitor = self.visitor(request)
        visitor.make_way()
        before = visitor.source
        try:
            visitor.take_upload(Path(path))
            out = self._opened(visitor, settings_of("", values))
            return {**out, self.chosen.upload: None, self.chosen.example: None}
        except Exception as error:
            visitor.source = before
            return {**self._refused(error), self.chosen.upload: None}

    def open_pair(self, seed: float | None, request: gr.Request, event: gr.EventData) -> Out:
        visitor = self.visitor(request)
        visitor.make_way()
        try:
            source = pairs.open_pair(visitor, int(event.index), settings.whole("seed", seed))
            out = self._opened(visitor, None)
            out[self.shown.view] = open_message(
                source.read(), name=source.name, labels=source.true_labels, hint="Drawn from the atlas: image and mask."
            )
            del out[self.shown.gallery]
            return {**out, self.chosen.example: None}
        except Exception as error:
            return self._refused(error)

    def open_mask(self, path: str, request: gr.Request) -> Out:
        """A label map to paint an image onto, shown at once."""
        visitor = self.visitor(request)
        visitor.make_way()
        try:
            visitor.mask = visitor.take_labels(Path(path), "mask")
            view = open_message(
                None, name=visitor.mask[0], labels=read_labels(*visitor.mask), hint="Press Paint an image."
            )
            return {**self.blank, **self.idle, self.shown.view: view}
        except Exception as error:
            visitor.mask = None
            return {**self._refused(error), self.chosen.mask_upload: None}

    def _opened(self, visitor: Visitor, wanted: settings.Settings | None) -> Out:
        source = visitor.source
        assert source is not None
        volume = source.read()
        words = {self.shown.start: gr.update(interactive=True)}
        hint = "Press Run and watch."
        if source.recorded is not None:
            hint = "A recorded run: press Run to play it. Nothing is computed for it."
        return {
            **self.idle,
            **words,
            **self.blank,
            self.shown.view: open_message(volume, name=source.name, hint=hint),
            self.shown.second: open_message(volume, name=source.name, hint=hint),
            self.shown.gallery: "",
            self.chosen.source: markup.source_line(source.name, volume),
        }

    def show_region(self, request: gr.Request, *values: Any) -> Out:
        """The region of interest as a box in the viewer, and in words."""
        visitor = self.visitor(request)
        on, centre = bool(values[9]), tuple(float(v) for v in values[10:13])
        out: Out = {slider: gr.update(visible=on) for slider in self.chosen.centre}
        try:
            if visitor.source is None:
                raise BadInput("no image yet: choose an example or drop a file")
            volume = visitor.source.read()
            if not on:
                return {**out, self.chosen.region: "", self.shown.view: open_message(volume, name=visitor.source.name)}
            card = regions.card_for(volume, values[0])
            roi = settings.region(volume.grid, (centre[0], centre[1], centre[2]), card.space.extent_mm)
            seen = regions.view_of(card, volume.grid, roi)
            return {
                **out,
                self.chosen.region: markup.paragraph(regions.in_words(roi)),
                self.shown.view: open_message(volume, name=visitor.source.name, labels=seen),
            }
        except Exception as error:
            return {**out, self.chosen.region: markup.error(told(error))}

    # -- options ---------------------------------------------------------------------------------------------------

    def card(self, name: str) -> str:
        models = session.available_models()
        found = next((m for m in models if m.name == name), None)
        return markup.auto_card(models) if found is None else markup.card(found)

    def noise(self, preset: str, model: str) -> float:
        card = next((m for m in session.available_models() if model in ("auto", m.name)), None)
        return 1.0 if card is None else settings.default_noise(preset, card)

    def hint(self, preset: str, model: str, steps: float | None, samples: float, beside: str | None) -> str:
        count = int(steps or 0) or PRESETS[preset].steps
        takes = self.visitors.pace.seconds_for(count, int(samples) * (2 if beside else 1))
        return markup.preset_line(preset, takes, int(steps or 0))

    def lay_out(self, beside: str | None) -> Any:
        return gr.update(visible=bool(beside))

    def mask_field(self, choice: str) -> Any:
        return gr.update(visible=choice == "upload")

    def change_task(self, task: Task) -> Callable[[], Out]:
        def change() -> Out:
            return {self.shown.start: gr.update(value=RUN_WORDS[task]), self.shown.task: task}

        return change

    # -- runs ------------------------------------------------------------------------------------------------------

    def press(self, request: gr.Request) -> Out:
        self.visitor(request).press()
        waiting = waiting_message("Starting…")
        return {**self.busy, **self.blank, self.shown.view: waiting, self.shown.second: waiting}

    def run(
        self,
        request: gr.Request,
        task: Task,
        example: str | None,
        atlas_model: str,
        atlas_count: float,
        mask_from: str,
        *values: Any,
    ) -> Iterator[Out]:
        visitor = self.visitor(request)
        if not visitor.take_press(absence(self.visitors.presence, request)):
            yield {self.shown.start: gr.skip()}
            return
        try:
            wanted = settings_of(example, values)
            if task == "segment" and visitor.source is not None and visitor.source.recorded is not None:
                yield self._played(visitor.source)
                return
            with self.visitors.turns.ticket(caller_of(request)) as ticket:
                for ahead in until_my_turn(ticket, visitor.should_stop):
                    words = f"Waiting: {ahead} {'run' if ahead == 1 else 'runs'} before yours…"
                    yield {self.shown.view: waiting_message(words)}
                if visitor.should_stop():
                    yield self._stopped(None)
                elif task == "segment":
                    yield from self._segment(visitor, wanted)
                elif task == "atlas":
                    yield from self._draw(visitor, wanted, atlas_model, atlas_count)
                else:
                    yield from self._paint(visitor, wanted, mask_from)
        except Exception as error:
            yield self._refused(error)
        finally:
            visitor.rest()

    def _segment(self, visitor: Visitor, wanted: settings.Settings) -> Iterator[Out]:
        source = visitor.source
        if source is None:
            raise BadInput("no image yet: choose an example or drop a file")
        volume = source.read()
        roi, doubt = regions.chosen(source, volume, wanted), False
        if roi is None and session.needs_search(volume, wanted.model):
            for looking in regions.search(volume, wanted.request()):
                if visitor.should_stop():
                    yield self._stopped(None)
                    return
                waiting, roi, doubt = waiting_message(looking.words, looking.view), looking.found, looking.doubt
                yield {self.shown.view: waiting, self.shown.second: waiting}
            volume = replace(volume, notes=(*volume.notes, looking.words))
        requests = wanted.requests(roi)
        yield {
            view: frame_message(session.start(volume, request))
            for view, request in zip((self.shown.view, self.shown.second), requests, strict=False)
        }
        last = None
        ends: dict[int, runs.Update] = {}
        for last in runs.run(self.visitors, visitor, volume, requests):
            out = self._step(
                last, "Done, but the search found nothing for certain: read the note below" if doubt else ""
            )
            if last.frame.result is not None:
                ends[last.side] = last
            if last.saved is not None:
                out |= self._finished(visitor, [ends[side] for side in sorted(ends)], wanted)
            yield out
        if last is None or last.saved is None:
            yield self._stopped(last)
        else:
            network_calls = sum(u.frame.total for u in ends.values()) * wanted.samples
            self.visitors.pace.learn(last.seconds, network_calls)

    def _draw(self, visitor: Visitor, wanted: settings.Settings, model: str, count: float) -> Iterator[Out]:
        request = pairs.draw_request(model, settings.whole("pairs", count), wanted.seed, wanted.preset)
        last = None
        # No image is on show: the pair's own image half is what the viewer draws.
        yield {self.shown.view: open_message(None, name="A pair of the atlas"), self.shown.gallery: ""}
        yield {self.shown.view: frame_message(session.start(None, request))}
        for last in pairs.draw(visitor, request):
            out = self._step(last)
            if last.frame.result is not None:
                out |= {**self.idle, self.shown.gallery: self._gallery(last.frame.result, wanted.seed)}
            yield out
        if last is None or last.frame.result is None:
            yield self._stopped(last)

    def _paint(self, visitor: Visitor, wanted: settings.Settings, mask_from: str) -> Iterator[Out]:
        if mask_from == "last":
            name, mask = pairs.last_mask(visitor)
        elif visitor.mask is None:
            raise BadInput("no label map yet: drop one")
        else:
            name, mask = visitor.mask[0], read_labels(*visitor.mask)
        request = pairs.paint_request(mask, wanted.seed, wanted.preset)
        last = None
        yield {self.shown.view: open_message(None, name=f"An image for {name}", labels=mask)}
        for last in pairs.paint(self.visitors, visitor, mask, request, uploads.stem_of(name)):
            out = self._step(last)
            if last.saved is not None:
                out |= self._finished(visitor, [last], None)
            yield out
        if last is None or last.saved is None:
            yield self._stopped(last)

    def _step(self, update: runs.Update, end: str = "") -> Out:
        view = self.shown.second if update.side else self.shown.view
        if update.frame.result is None:
            return {view: frame_message(update.frame, update.metrics, left_s=update.seconds_left)}
        return {view: done_message(update.frame, update.metrics, seconds=update.seconds, words=end)}

    def _finished(self, visitor: Visitor, ends: Sequence[runs.Update], wanted: settings.Settings | None) -> Out:
        results = [u.frame.result for u in ends if u.frame.result is not None]
        saved = ends[-1].saved
        assert saved is not None
        first, source = results[0], visitor.source
        scores, against = None, ""
        truth = None if source is None or wanted is None else source.true_labels
        if truth is not None and _comparable(truth, first.labels):
            scores, against = (
                session.compare(first.labels, truth),
                "the true labels" + (" (the first run)" if len(ends) > 1 else ""),
            )
        visitor.link = None if wanted is None else wanted.link()
        visitor.table = ([r.volumes_ml for r in results], first.notes)
        return {
            **self.idle,
            self.shown.result: markup.result(
                [r.volumes_ml for r in results], saved.scheme, first.notes, scores, against
            ),
            self.shown.files: markup.downloads(saved, visitor.link),
            self.shown.after: gr.update(visible=True),
            self.shown.panel: gr.update(visible=wanted is not None),
        }

    def _played(self, source: Source) -> Out:
        assert source.recorded is not None
        frames = source.recorded.frames
        result = frames[-1].result
        assert result is not None
        notes = ("This run was recorded: it was not computed now.", *result.notes)
        return {
            **self.idle,
            self.shown.view: recording_message(frames, result.metrics, words="Recorded run"),
            self.shown.result: markup.result([result.volumes_ml], result.labels.scheme, notes),
        }

    def _gallery(self, result: session.Result, seed: int) -> str:
        pictures = [
            (jpeg(render.montage(image, mask, height_px=120)), f"Seed {seed + i}")
            for i, (image, mask) in enumerate(zip(result.images, result.masks, strict=True))
        ]
        return markup.gallery(pictures)

    def halt(self, request: gr.Request) -> Out:
        """Stop only raises the flag: the run's own last words then reach the page after its last picture.

        Were the event cancelled instead, what it had already sent could arrive after this answer, which takes another
        way.
        """
        if self.visitor(request).halt():
            return self._stopped(None)
        return {self.shown.stop: gr.update(interactive=False)}

    def not_begun(self, request: gr.Request) -> Out:
        if self.visitor(request).halt():
            return self._refused(BadInput("too many people are waiting: try again in a minute"))
        return {self.shown.start: gr.skip()}

    def _stopped(self, last: runs.Update | None) -> Out:
        words = "Stopped before the first step." if last is None else ""
        return {**self.idle, self.shown.view: stopped_message(words), self.shown.second: stopped_message(words)}

    def _refused(self, error: Exception) -> Out:
        return {**self.idle, self.shown.view: error_message(told(error))}

    # -- after a run -----------------------------------------------------------------------------------------------

    def surface(self, request: gr.Request) -> Out:
        return self._made(request, "surface")

    def film(self, request: gr.Request) -> Out:
        return self._made(request, "film")

    def _made(self, request: gr.Request, what: str) -> Out:
        visitor = self.visitor(request)
        saved = visitor.saved
        try:
            if saved is None:
                raise BadInput("there is no finished run yet")
            getattr(saved, what)()
            return {self.shown.files: markup.downloads(saved, visitor.link)}
        except Exception as error:
            return {self.shown.files: markup.error(told(error))}

    def compare(self, path: str, request: gr.Request) -> Out:
        visitor = self.visitor(request)
        try:
            if visitor.saved is None:
                raise BadInput("there is no finished run yet")
            _, labels = pairs.last_mask(visitor)
            name, kept = visitor.take_labels(Path(path), "reference")
            reference = read_labels(name, kept, visitor.saved.scheme)
            volumes, notes = visitor.table
            scores = session.compare(labels, reference)
            shown = markup.result(volumes, visitor.saved.scheme, notes, scores, name)
            return {self.shown.result: shown, self.shown.reference: None}
        except Exception as error:
            return {self.shown.result: markup.error(told(error)), self.shown.reference: None}


def _comparable(a: LabelMap, b: LabelMap) -> bool:
    return a.grid.shape == b.grid.shape and a.grid.same_as(b.grid) and a.scheme.ids == b.scheme.ids
