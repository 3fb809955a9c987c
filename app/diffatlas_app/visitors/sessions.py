"""Visitors: each has a folder with a random name, which is deleted when the visitor leaves or is not seen for long.

Volumes live on disk and in the run that uses them, never in the page's state.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas_app import limits
from diffatlas_app.runs import recording
from diffatlas_app.runs.queue import Turns
from diffatlas_app.runs.results import Measured, Saved
from diffatlas_app.visitors import uploads
from diffatlas_app.visitors.folders import ProcessFolder
from diffatlas_app.visitors.inbox import Inbox
from diffatlas_app.visitors.presence import Presence
from diffatlas_app.visitors.source import EXAMPLES, RECORDED, Source


@dataclass(frozen=True)
class Finished:
    """What the page says of the last finished run: each structure's volume (of one run or two), notes, the address that
    restores its settings, and whether the search was in doubt."""

    measured: Sequence[Measured] = ()
    notes: Sequence[str] = ()
    link: str | None = None
    doubt: bool = False


@dataclass
class Visitor:
    """One open page: its folder, what it shows, and the run it asked for.

    A press of Run is kept (``pressed``) until a run takes it; each press starts one run. ``stop`` ends the run that
    goes on or waits; ``idle`` is set while there is none. ``last``: random name of the folder of the last finished
    run; ``saved``: its files. ``pairs``: files of image and mask that were drawn from the atlas last, and the scheme
    of the masks. ``absent``: whether nobody listens for the run's answer any more.
    ``address``: where the page was opened from. ``task``: the tab that is open. ``awaits``: the example that the page
    was opened for while it was not made yet. ``viewed``: the source whose image the viewer shows, None while it shows
    something else. ``laid_out``, ``noise_of``: the second run, and preset and model, that the page was last arranged
    for.
    """

    folder: Path
    inbox: Inbox
    address: str = ""
    source: Source | None = None
    viewed: Source | None = None
    laid_out: str = ""
    noise_of: tuple[str, str] = ("", "")
    last: str | None = None
    saved: Saved | None = None
    finished: Finished = field(default_factory=lambda: Finished())
    task: Literal["segment", "atlas", "paint"] = "segment"
    awaits: str = ""
    pairs: tuple[tuple[Path, Path], ...] = ()
    pairs_scheme: LabelScheme | None = None
    mask: tuple[str, Path] | None = None
    pressed: bool = False
    gone: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    seen: float = field(default_factory=time.monotonic)
    absent: Callable[[], bool] = field(default=lambda: False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.idle.set()

    def shows(self, source: Source) -> bool:
        """Whether the viewer shows the image of ``source``."""
        seen = self.viewed
        return seen is source or (
            seen is not None and seen.path is not None and (seen.path, seen.index) == (source.path, source.index)
        )

    def press(self) -> None:
        """Ask for a run."""
        with self._lock:
            self.pressed = True

    def take_press(self, absent: Callable[[], bool] = lambda: False) -> bool:
        """Whether a run was asked for and not called off; it begins now, and `rest` must follow when it ends."""
        with self._lock:
            taken, self.pressed = self.pressed, False
            if taken:
                self.stop = threading.Event()
                self.absent = absent
                self.idle.clear()
            if self.gone:
                self.stop.set()
            return taken

    def should_stop(self) -> bool:
        """Whether the run is to end: it was stopped, or nobody waits for it."""
        return self.stop.is_set() or self.absent()

    def rest(self) -> None:
        """The run has ended."""
        self.idle.set()

    def halt(self) -> bool:
        """Stop the run; True where it had not begun, else it ends after its step."""
        with self._lock:
            waiting, self.pressed = self.pressed, False
            self.stop.set()
            return waiting

    def make_way(self) -> None:
        """End the run before another image is shown, so that none of its pictures comes later."""
        self.halt()
        self.idle.wait(limits.STEP_TIME_S)

    def take_upload(self, path: Path) -> Source:
        """Put an uploaded volume of the inbox into the visitor's folder, and look at it."""
        name = uploads.display_name(path.name)
        self.source = Source(name, path=self._taken(path, "volume", uploads.FORMATS))
        return self.source

    def take_labels(self, path: Path, kind: str) -> tuple[str, Path]:
        """Put an uploaded label map into the folder; its display name and where it is."""
        return uploads.display_name(path.name), self._taken(path, kind, uploads.VOLUMES)

    def _taken(self, path: Path, kind: str, formats: tuple[str, ...]) -> Path:
        # The server has already refused other paths; this check makes sure that no other visitor's file is taken.
        if not self.inbox.holds(path):
            raise BadInput("this is no file that was sent to this page (or not any more): upload it again")
        taken = uploads.take(path, self.folder, kind, formats)
        self.inbox.mark_used(path)
        return taken


class Visitors:
    """All open pages, by the page's own random key; bounded in number and age. Also holds the queue for the engine."""

    def __init__(self) -> None:
        self._folder = ProcessFolder()
        self._root = self._folder.path / "visitors"
        self._root.mkdir()
        self.inbox = Inbox(self._folder.path / "inbox")
        self.presence = Presence()
        self._visitors: dict[str, Visitor] = {}
        self._examples: dict[str, tuple[Volume, LabelMap]] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._closed = threading.Event()
        self.turns = Turns()
        threading.Thread(target=self._sweep, name="visitors", daemon=True).start()

    def __len__(self) -> int:
        return len(self._visitors)

    def get(self, key: str, address: str = "") -> Visitor:
        """The visitor with this key, new if unseen. `BadInput` where there is no room for another."""
        with self._lock:
            now = time.monotonic()
            known = self._visitors.get(key)
            if known is None:
                self._make_room(now, address)
                known = Visitor(Path(tempfile.mkdtemp(dir=self._root)), self.inbox, address)
                self._visitors[key] = known
            known.seen = now
            return known

    def example(self, name: str) -> Source:
        """One of `EXAMPLES`, made once (it takes seconds) and shared by all, who only read it."""
        with self._making:
            if name not in self._examples:
                self._examples[name] = session.example(name)
        volume, labels = self._examples[name]
        return Source(EXAMPLES[name], volume=volume, key=name, true_labels=labels, region=session.EXAMPLE_REGION)

    def recorded(self, key: str) -> Source:
        """A recorded run by its key."""
        for entry in recording.available():
            if entry.key == key:
                return Source(entry.title, key=RECORDED + key, recorded=recording.load(entry.path))
        raise BadInput(f"there is no recorded run {key[:60]!r} here")

    def has_example(self, name: str) -> bool:
        """Whether an example is ready."""
        return name in self._examples

    def new_run(self, visitor: Visitor) -> str:
        """A new folder for the files of a run; the last run's is deleted. Files are fetched by its random name."""
        name = f"run-{secrets.token_urlsafe(24)}"
        with self._lock:
            if visitor.gone:
                raise BadInput("this page was closed")
            for old in visitor.folder.glob("run-*"):
                shutil.rmtree(old, ignore_errors=True)
            (visitor.folder / name).mkdir()
            visitor.last, visitor.saved = name, None
        return name

    def file(self, run: str, name: str) -> Path | None:
        """A file of a finished run by the random name of its folder; None where there is none (any more)."""
        with self._lock:
            for visitor in self._visitors.values():
                # As bytes: of two strings, `compare_digest` takes ASCII only.
                if visitor.last is not None and secrets.compare_digest(visitor.last.encode(), run.encode()):
                    path = visitor.folder / visitor.last / name
                    return path if path.is_file() else None
        return None

    def leave(self, key: str) -> None:
        """Stop the run of a visitor and delete the files."""
        with self._lock:
            self._forget(key)

    def expire(self) -> None:
        """Forget visitors who were not seen for too long; one with a run counts as seen."""
        with self._lock:
            now = time.monotonic()
            for key, visitor in list(self._visitors.items()):
                if not visitor.idle.is_set() or self.presence.is_open(key):
                    visitor.seen = now
                elif now - visitor.seen > limits.SESSION_AGE_S:
                    self._forget(key)

    def close(self) -> None:
        """Forget everyone."""
        self._closed.set()
        with self._lock:
            for key in list(self._visitors):
                self._forget(key)
            self._folder.close()

    def warm(self) -> None:
        """Load the models, run the first one, and make the examples, so that the first visitor need not wait.

        The first example is offered once its model is loaded.
        """
        first, *others = EXAMPLES
        for card in session.available_models():
            if card.convention.one_step:
                session.load_model(card.name)
        made = session.example(first)
        try:
            request = Request(preset="fast", steps=3, roi=session.EXAMPLE_REGION)
            for _ in session.stream(made[0], request):  # the engine learns from it how long a run takes here
                pass
        finally:  # an operator's own models may not know this image; it can be shown all the same
            with self._making:
                self._examples[first] = made
        for name in others:
            self.example(name)

    def _sweep(self) -> None:
        while not self._closed.wait(limits.SWEEP_S):
            self.expire()
            self.inbox.expire()

    def _make_room(self, now: float, address: str) -> None:
        """Forget one visitor to make room; never one with a run or an open page."""
        idle = {k: v for k, v in self._visitors.items() if v.idle.is_set() and not self.presence.is_open(k)}
        neighbours = sum(v.address == address for v in self._visitors.values())
        if address and neighbours >= limits.SESSIONS_PER_ADDRESS:
            may_go = [k for k, v in idle.items() if v.address == address]
        elif len(self._visitors) >= limits.SESSIONS:
            may_go = [k for k, v in idle.items() if now - v.seen > limits.YOUNG_S]
        else:
            return
        if not may_go:
            raise BadInput(f"{len(self._visitors)} visitors are here, as many as this page takes: try again later")
        self._forget(min(may_go, key=lambda k: self._visitors[k].seen))

    def _forget(self, key: str) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            visitor.halt()
            shutil.rmtree(visitor.folder, ignore_errors=True)
