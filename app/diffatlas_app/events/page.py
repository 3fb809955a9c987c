"""The page as its events see it: the components they write, and answers that several of them give."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from diffatlas_app.page.controls import Controls
from diffatlas_app.page.viewer import error_message, stopped_message
from diffatlas_app.server.callers import caller_of
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.sessions import Visitor, Visitors

Updates = dict[Any, Any]
"""What an event writes: component to its new value."""

Given = dict[Any, Any]
"""What an event is given: component to the value that its field has."""


DEMO, LEARN = "demo", "learn"
"""Ids of the page's two tabs."""


@dataclass(frozen=True)
class Shown:
    """The right side: what events write."""

    start: gr.Button
    stop: gr.Button
    view: gr.HTML
    second: gr.HTML
    gallery: gr.HTML
    result: gr.HTML
    files: gr.HTML
    after: gr.Row
    surface: gr.Button
    film: gr.Button
    nrrd: gr.Button
    seg: gr.Button
    rtstruct: gr.Button
    panel: gr.Accordion
    reference: gr.File


class Page:
    """The components of a page and the visitors who have it open."""

    def __init__(self, visitors: Visitors, chosen: Controls, shown: Shown) -> None:
        self.visitors = visitors
        self.chosen = chosen
        self.shown = shown
        self.idle: Updates = {shown.start: gr.update(interactive=True), shown.stop: gr.update(interactive=False)}
        self.busy: Updates = {shown.start: gr.update(interactive=False), shown.stop: gr.update(interactive=True)}
        self.blank: Updates = {
            shown.result: "",
            shown.files: "",
            shown.after: gr.update(visible=False),
            shown.panel: gr.update(visible=False),
        }
        silent = ("surface", "film", "nrrd", "seg", "rtstruct", "reference")
        right = [getattr(shown, f.name) for f in fields(shown) if f.name not in silent]
        self.outputs = [*right, chosen.source, chosen.which, chosen.example, chosen.upload, chosen.mask_upload]

    def visitor(self, request: gr.Request) -> Visitor:
        return self.visitors.get(request.session_hash or secrets.token_hex(16), caller_of(request).address)

    def nothing(self) -> Updates:
        """An answer that changes nothing: gradio wants one component at least."""
        return {self.shown.start: gr.skip()}

    def refused(self, error: Exception) -> Updates:
        """One line in red; everything else stays as it was."""
        return {**self.idle, self.shown.view: error_message(told(error))}

    def stopped(self, begun: bool) -> Updates:
        words = "" if begun else "Stopped before the first step."
        return {**self.idle, self.shown.view: stopped_message(words), self.shown.second: stopped_message(words)}
