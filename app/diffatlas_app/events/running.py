"""The buttons Run and Stop. Run waits in the queue, then starts the run of the chosen task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import gradio as gr

from diffatlas.errors import BadInput
from diffatlas_app.events.page import Given, Page, Updates
from diffatlas_app.events.replay import Replay
from diffatlas_app.page.controls import Task
from diffatlas_app.page.viewer import waiting_message
from diffatlas_app.runs.queue import until_my_turn
from diffatlas_app.server.callers import absence, caller_of
from diffatlas_app.visitors.sessions import Visitor


class TaskRun(Protocol):
    """One task of the page: what its run shows, step by step."""

    def fields(self) -> set[Any]:
        """The components whose values it needs."""

    def run(self, visitor: Visitor, given: Given) -> Iterator[Updates]:
        """Run; ends early when `Visitor.should_stop` says so."""


class Running:
    """The events of the two buttons."""

    def __init__(self, page: Page, tasks: dict[Task, TaskRun], replay: Replay) -> None:
        self.page = page
        self.tasks = tasks
        self.replay = replay

    def fields(self) -> set[Any]:
        return set().union(*(task.fields() for task in self.tasks.values()))

    def press(self, request: gr.Request) -> Updates:
        self.page.visitor(request).press()
        waiting = waiting_message("Starting…")
        shown = self.page.shown
        return {**self.page.busy, **self.page.blank, shown.view: waiting, shown.second: waiting}

    def run(self, given: Given, request: gr.Request) -> Iterator[Updates]:
        page = self.page
        visitor = page.visitor(request)
        if not visitor.take_press(absence(page.visitors.presence, request)):
            yield page.nothing()
            return
        try:
            if visitor.task == "segment" and visitor.source is not None and visitor.source.recorded is not None:
                yield self.replay.played(visitor.source)
                return
            with page.visitors.turns.ticket(caller_of(request)) as ticket:
                for ahead in until_my_turn(ticket, visitor.should_stop):
                    words = f"Waiting: {ahead} {'run' if ahead == 1 else 'runs'} before yours…"
                    yield {page.shown.view: waiting_message(words)}
                if visitor.should_stop():
                    yield page.stopped(begun=False)
                else:
                    yield from self.tasks[visitor.task].run(visitor, given)
        except Exception as error:
            yield page.refused(error)
        finally:
            visitor.rest()

    def halt(self, request: gr.Request) -> Updates:
        """Set the stop flag; the run then sends its last message after its last picture.

        The event is not cancelled: pictures that it had already sent could arrive after this answer.
        """
        if self.page.visitor(request).halt():
            return self.page.stopped(begun=False)
        return {self.page.shown.stop: gr.update(interactive=False)}

    def not_begun(self, request: gr.Request) -> Updates:
        if self.page.visitor(request).halt():
            return self.page.refused(BadInput("too many people are waiting: try again in a minute"))
        return self.page.nothing()
