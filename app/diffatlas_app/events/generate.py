"""The task *Atlas*: pairs of image and mask, drawn from noise alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffatlas import render, session
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page import html as markup
from diffatlas_app.page.pictures import jpeg
from diffatlas_app.page.viewer import done_message, frame_message, open_message
from diffatlas_app.runs import pairs, settings
from diffatlas_app.visitors.sessions import Visitor


@dataclass(frozen=True)
class Generate:
    """Runs of the task."""

    page: Page

    def fields(self) -> set[Any]:
        c = self.page.chosen
        return {c.atlas_model, c.atlas_count, c.seed, c.preset}

    def run(self, visitor: Visitor, given: Given) -> Iterator[Updates]:
        page, c = self.page, self.page.chosen
        seed = settings.whole("seed", given[c.seed])
        count = settings.whole("pairs", given[c.atlas_count])
        request = pairs.draw_request(given[c.atlas_model], count, seed, given[c.preset])
        # No image is on show: the pair's own image half is what the viewer draws.
        visitor.viewed = None
        yield {page.shown.view: open_message(None, name="A pair of the atlas", caption=""), page.shown.gallery: ""}
        yield {page.shown.view: frame_message(session.start(None, request))}
        last = None
        for last in pairs.draw(visitor, request):
            result = last.frame.result
            if result is None:
                yield {page.shown.view: frame_message(last.frame, last.metrics, left_s=last.seconds_left)}
                continue
            done = done_message(last.frame, last.metrics, seconds=last.seconds)
            yield {**page.idle, page.shown.view: done, page.shown.gallery: _gallery(result, seed)}
        if last is None or last.frame.result is None:
            yield page.stopped(begun=last is not None)


def _gallery(result: session.Result, seed: int) -> str:
    pictures = [
        (jpeg(render.montage(image, mask, height_px=120)), f"Seed {seed + i}")
        for i, (image, mask) in enumerate(zip(result.images, result.masks, strict=True))
    ]
    return markup.gallery(pictures)
