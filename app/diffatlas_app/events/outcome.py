"""What stands below the viewer after a run: volumes, files, surface, film, and the comparison with a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.metrics import Comparison
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.page import html as markup
from diffatlas_app.runs import pairs
from diffatlas_app.runs import stream as runs
from diffatlas_app.runs.results import Made, Measured
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Finished, Visitor
from diffatlas_app.visitors.source import read_labels


@dataclass(frozen=True)
class Outcome:
    """The events below the viewer."""

    page: Page

    def shown(
        self,
        visitor: Visitor,
        ends: Sequence[runs.Update],
        *,
        link: str | None,
        scores: Sequence[Comparison] = (),
        against: str = "",
        doubt: bool = False,
    ) -> Updates:
        """The last update of the run, and of the run beside it, as volumes and files."""
        page = self.page
        results = [end.frame.result for end in ends if end.frame.result is not None]
        saved = ends[-1].saved
        assert saved is not None
        measured = [Measured.of(r) for r in results]
        visitor.finished = Finished(measured, results[0].notes, link, doubt)
        table = markup.result(measured, saved.scheme, results[0].notes, scores, against, doubt=doubt)
        return {
            **page.idle,
            page.shown.result: table,
            page.shown.files: markup.downloads(saved, link),
            page.shown.after: gr.update(visible=True),
            page.shown.panel: gr.update(visible=link is not None),
        }

    def make(self, what: Made) -> Callable[[gr.Request], str]:
        """The event that makes one more file of the last run, and of the one beside it."""

        def event(request: gr.Request) -> str:
            return self._made(request, what)

        return event

    def _made(self, request: gr.Request, what: Made) -> str:
        visitor = self.page.visitor(request)
        saved, line = visitor.saved, ""
        try:
            if saved is None:
                raise BadInput("there is no finished run yet")
            note = saved.make(what)
            line = markup.paragraph(note) if note else ""
        except Exception as error:
            line = markup.error(told(error))
        return line + (markup.downloads(saved, visitor.finished.link) if saved else "")

    def compare(self, given: Given, request: gr.Request) -> Updates:
        """Scores against a label map of the visitor. Where that is refused, the table stays and a line says why."""
        visitor, shown = self.page.visitor(request), self.page.shown
        saved, finished = visitor.saved, visitor.finished
        scores: Sequence[Comparison] = ()
        name, refused = "", ""
        try:
            if saved is None:
                raise BadInput("there is no finished run yet")
            _, labels = pairs.last_mask(visitor)
            name, kept = visitor.take_labels(Path(given[shown.reference]), "reference")
            scores = [session.compare(labels, read_labels(name, kept, saved.scheme))]
        except Exception as error:
            refused, name = markup.error(told(error)), ""
        table = ""
        if saved is not None:
            table = markup.result(
                finished.measured,
                saved.scheme,
                finished.notes,
                scores,
                name,
                doubt=finished.doubt and not scores,
            )
        return {shown.result: refused + table, shown.reference: None}
