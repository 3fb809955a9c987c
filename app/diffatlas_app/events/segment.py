"""The task *Segment*: the search for the region, the steps of one run or of two side by side, and the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from diffatlas_app.events import region as regions
from diffatlas_app.events.outcome import Outcome
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page.controls import settings_of
from diffatlas_app.page.viewer import done_message, frame_message, open_message, waiting_message
from diffatlas_app.runs import settings
from diffatlas_app.runs import stream as runs
from diffatlas_app.visitors.sessions import Visitor, Visitors

IN_DOUBT = "Done, but the search found nothing for certain: the structures may not be in this image"


@dataclass(frozen=True)
class Segment:
    """Runs of the task."""

    page: Page
    visitors: Visitors
    outcome: Outcome

    def fields(self) -> set[Any]:
        return {self.page.chosen.example, *self.page.chosen.options}

    def run(self, visitor: Visitor, given: Given) -> Iterator[Updates]:
        page = self.page
        wanted = settings_of(page.chosen, given, given[page.chosen.example])
        source = visitor.source
        if source is None:
            raise BadInput("no image yet: choose an example or drop a file")
        views = (page.shown.view, page.shown.second)
        captions = wanted.captions()
        yield {v: waiting_message("Reading…", caption=c) for v, c in zip(views, captions, strict=False)}
        volume = wanted.named(source.read())
        if not visitor.shows(source):  # a pair of the atlas, or a mask, was on show since
            yield {
                v: open_message(volume, name=source.name, hint="Starting…", caption=c)
                for v, c in zip(views, captions, strict=False)
            }
            visitor.viewed = source
        roi, doubt = regions.chosen(source, volume, wanted), False
        if roi is None:
            for looking in regions.search(volume, wanted.request()):
                if visitor.should_stop():
                    yield page.stopped(begun=False)
                    return
                roi, doubt = looking.found, looking.doubt
                waiting = waiting_message(looking.words, looking.view)
                yield dict.fromkeys(views[: len(captions)], waiting)
                if roi is not None:
                    volume = replace(volume, notes=(*volume.notes, looking.words))
        requests = wanted.requests(roi)
        yield {v: frame_message(session.start(volume, r)) for v, r in zip(views, requests, strict=False)}
        last = None
        ends: dict[int, runs.Update] = {}
        for last in runs.run(self.visitors, visitor, volume, requests):
            view = views[last.side]
            if last.frame.result is None:
                yield {view: frame_message(last.frame, last.metrics, left_s=last.seconds_left)}
                continue
            ends[last.side] = last
            words = IN_DOUBT if doubt else ""
            out: Updates = {
                view: done_message(last.frame, last.metrics, seconds=last.seconds, words=words, doubt=doubt)
            }
            if last.saved is not None:
                out |= self._finished(visitor, [ends[side] for side in sorted(ends)], wanted, doubt)
            yield out
        if last is None or last.saved is None:
            yield page.stopped(begun=last is not None)

    def _finished(
        self, visitor: Visitor, ends: Sequence[runs.Update], wanted: settings.Settings, doubt: bool
    ) -> Updates:
        truth = None if visitor.source is None else visitor.source.true_labels
        results = [end.frame.result for end in ends if end.frame.result is not None]
        scores = []
        if truth is not None and all(_comparable(truth, r.labels) for r in results):
            scores = [session.compare(r.labels, truth) for r in results]
        return self.outcome.shown(
            visitor, ends, link=wanted.link(), scores=scores, against="the true labels", doubt=doubt
        )


def _comparable(a: LabelMap, b: LabelMap) -> bool:
    return a.grid.shape == b.grid.shape and a.grid.same_as(b.grid) and a.scheme.ids == b.scheme.ids
