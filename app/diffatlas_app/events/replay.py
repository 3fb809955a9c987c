"""A recorded run is played: nothing is computed."""

from __future__ import annotations

from diffatlas_app.events.page import Page, Updates
from diffatlas_app.page import html as markup
from diffatlas_app.page.viewer import recording_message
from diffatlas_app.runs.results import Measured
from diffatlas_app.visitors.source import Source


class Replay:
    """Plays recorded runs."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def played(self, source: Source) -> Updates:
        """The whole run at once; the browser plays it."""
        assert source.recorded is not None
        frames = source.recorded.frames
        result = frames[-1].result
        assert result is not None
        notes = ("This run was recorded: it was not computed now.", *result.notes)
        return {
            **self.page.idle,
            self.page.shown.view: recording_message(frames, result.metrics, words="Recorded run"),
            self.page.shown.result: markup.result([Measured.of(result)], result.labels.scheme, notes),
        }
