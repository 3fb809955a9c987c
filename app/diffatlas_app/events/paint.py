"""The task *Mask to image*: paint an image onto a given mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffatlas.errors import BadInput
from diffatlas_app.events.outcome import Outcome
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page.viewer import done_message, frame_message, open_message
from diffatlas_app.runs import pairs, settings
from diffatlas_app.visitors import uploads
from diffatlas_app.visitors.sessions import Visitor, Visitors
from diffatlas_app.visitors.source import read_labels


@dataclass(frozen=True)
class Paint:
    """Runs of the task."""

    page: Page
    visitors: Visitors
    outcome: Outcome

    def fields(self) -> set[Any]:
        c = self.page.chosen
        return {c.mask_from, c.seed, c.preset}

    def run(self, visitor: Visitor, given: Given) -> Iterator[Updates]:
        page, c = self.page, self.page.chosen
        if given[c.mask_from] == "last":
            name, mask = pairs.last_mask(visitor)
        elif visitor.mask is None:
            raise BadInput("no label map yet: drop one")
        else:
            name, mask = visitor.mask[0], read_labels(*visitor.mask)
        request = pairs.paint_request(mask, settings.whole("seed", given[c.seed]), given[c.preset])
        visitor.viewed = None
        yield {page.shown.view: open_message(None, name=f"An image for {name}", labels=mask, caption="")}
        last = None
        for last in pairs.paint(self.visitors, visitor, mask, request, uploads.stem_of(name)):
            if last.frame.result is None:
                yield {page.shown.view: frame_message(last.frame, last.metrics, left_s=last.seconds_left)}
                continue
            out: Updates = {page.shown.view: done_message(last.frame, last.metrics, seconds=last.seconds)}
            if last.saved is not None:
                out |= self.outcome.shown(visitor, [last], link=None)
            yield out
        if last is None or last.saved is None:
            yield page.stopped(begun=last is not None)
