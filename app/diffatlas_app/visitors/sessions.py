"""Who is there: one folder a visitor, with a random name, gone when they leave or are not seen any more.

Volumes live on disk and in the run that uses them, never in the page's state.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diffatlas import io, session
from diffatlas.engine.request import Request, Roi
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas_app import limits
from diffatlas_app.runs import recording
from diffatlas_app.runs.queue import Turns
from diffatlas_app.runs.results import Saved
from diffatlas_app.visitors import uploads

RECORDED = "recorded:"
EXAMPLES = {"heart-ct": "Phantom heart CT", "heart-mr": "Phantom heart MR"}


def read_limits() -> io.Limits:
    """How much of a visitor's file is read, and that another process decodes it."""
    return io.Limits(limits.MAX_VOXELS, limits.MAX_BYTES, contained=True)


@dataclass(frozen=True)
class Source:
    """What a visitor looks at: an example's or a generated volume, or a file of theirs; ``name`` is what they call it.

    ``key``: of `EXAMPLES` or of a recorded run, else empty. ``true_labels``: of an example or a drawn pair. ``region``:
    of interest, which an example brings.
    """

    name: str
    volume: Volume | None = None
    path: Path | None = None
    key: str = ""
    true_labels: LabelMap | None = None
    recorded: recording.Recording | None = None
    region: Roi | None = None

    def read(self) -> Volume:
        """The volume; `BadInput` speaks of the visitor's file name, not of ours."""
        if self.recorded is not None:
            last = self.recorded.frames[-1]
            return self.recorded.volume or Volume(last.image, last.grid, "unknown", self.name)
        if self.volume is not None:
            return self.volume
        assert self.path is not None
        with in_their_words(self.path, self.name):
            volume = io.read_volume(self.path, limits=read_limits())
        notes = tuple(_renamed(note, self.path, self.name) for note in volume.notes)
        return replace(volume, name=uploads.stem_of(self.name), notes=notes)


class in_their_words:
    """`BadInput` raised in the block names the file as its sender does, and no folder of ours."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadInput):
            raise BadInput(_renamed(str(error), self.path, self.name)) from error


def _renamed(message: str, path: Path, name: str) -> str:
    return message.replace(str(path), name).replace(path.name, name)


@dataclass
class Visitor:
    """One open page: its folder, what it shows, and the run it asked for.

    A press of Run waits (``pressed``) until a run takes it; a run takes one press and no more. ``stop`` ends the run
    that is on or waits, ``idle`` says that none is. ``last`` is the random name of the folder with the last finished
    run's files, ``saved`` what they are. ``pairs``: files of image and mask, drawn from the
    atlas last, and the scheme of the masks.
    """

    folder: Path
    source: Source | None = None
    last: str | None = None
    saved: Saved | None = None
    table: tuple[Sequence[dict[str, float]], Sequence[str]] = ((), ())
    link: str | None = None
    pairs: tuple[tuple[Path, Path], ...] = ()
    pairs_scheme: LabelScheme | None = None
    mask: tuple[str, Path] | None = None
    pressed: bool = False
    gone: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    seen: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.idle.set()

    def press(self) -> None:
        """Ask for a run."""
        with self._lock:
            self.pressed = True

    def take_press(self) -> bool:
        """Whether a run was asked for and not called off; it begins now, and `rest` must follow when it ends."""
        with self._lock:
            taken, self.pressed = self.pressed, False
            if taken:
                self.stop = threading.Event()
                self.idle.clear()
            if self.gone:
                self.stop.set()
            return taken

    def rest(self) -> None:
        """The run has ended."""
        self.idle.set()

    def halt(self) -> bool:
        """Call off the run; True where it had not begun, else it ends after the step it is in."""
        with self._lock:
            waiting, self.pressed = self.pressed, False
            self.stop.set()
            return waiting

    def make_way(self) -> None:
        """End the run before another image is shown: its last picture must not come after."""
        self.halt()
        self.idle.wait(limits.STEP_TIME_S)

    def take_upload(self, path: Path) -> Source:
        """Move an uploaded volume into the visitor's folder, so that no URL reaches it any more."""
        name = uploads.display_name(path.name)
        self.source = Source(name, path=uploads.take(path, self.folder, "volume"))
        return self.source

    def take_labels(self, path: Path, kind: str) -> tuple[str, Path]:
        """Move an uploaded label map into the folder; its display name and where it is."""
        return uploads.display_name(path.name), uploads.take(path, self.folder, kind, uploads.VOLUMES)


def read_labels(name: str, path: Path, scheme: LabelScheme | None = None) -> LabelMap:
    """A visitor's label map, in the first shipped scheme that knows its ids unless told."""
    with in_their_words(path, name):
        return _any_labels(path) if scheme is None else io.read_label_map(path, scheme, limits=read_limits())


def _any_labels(path: Path) -> LabelMap:
    ids, grid = io.read_label_ids(path, limits=read_limits())
    found = {int(i) for i in np.unique(ids) if i != 0}
    if not found:
        raise BadInput(f"{path.name}: is empty; give a label map with at least one structure")
    for card in session.available_models():
        if found <= set(card.scheme.ids):
            return LabelMap.from_ids(ids, grid, card.scheme)
    known = "; ".join(f"{card.title}: {', '.join(map(str, card.scheme.ids))}" for card in session.available_models())
    raise BadInput(f"{path.name}: holds the ids {sorted(found)[:8]}, which no model here knows ({known})")


class Pace:
    """How long a step of the engine takes on this machine, so that a preset's time can be told; unknown at first."""

    def __init__(self) -> None:
        self.step_s: float | None = None

    def learn(self, seconds: float, steps: int) -> None:
        """From a run: ``seconds`` over ``steps`` network calls; later runs weigh more."""
        if steps > 0:
            new = seconds / steps
            self.step_s = new if self.step_s is None else (self.step_s + new) / 2

    def measure(self, volume: Volume, region: Roi) -> None:
        """From a short run of our own."""
        request = Request(preset="fast", steps=3, roi=region)
        marks = [f.metrics.seconds for f in session.stream(volume, request)]
        self.learn(marks[-1] - marks[0], len(marks) - 1)

    def seconds_for(self, steps: int, samples: int = 1) -> float | None:
        """What a run of so many steps takes."""
        return None if self.step_s is None else self.step_s * steps * samples


class Visitors:
    """All open pages, by the page's own random key; bounded in number and age. Also their line for the engine."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="diffatlas-visitors-", ignore_cleanup_errors=True)
        self._visitors: dict[str, Visitor] = {}
        self._examples: dict[str, tuple[Volume, LabelMap]] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._closed = threading.Event()
        self.turns = Turns()
        self.pace = Pace()
        threading.Thread(target=self._sweep, name="visitors", daemon=True).start()

    def __len__(self) -> int:
        return len(self._visitors)

    def get(self, key: str) -> Visitor:
        """The visitor with this key, new if unseen."""
        with self._lock:
            now = time.monotonic()
            known = self._visitors.get(key)
            if known is None:
                self._make_room(now)
                known = Visitor(Path(tempfile.mkdtemp(dir=self._root.name)))
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
        """A folder for the files of a run, in the place of the last one's; its random name opens the way to them."""
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
                if visitor.last is not None and secrets.compare_digest(visitor.last, run):
                    path = visitor.folder / visitor.last / name
                    return path if path.is_file() else None
        return None

    def leave(self, key: str) -> None:
        """Forget a visitor: the run stops, the files go."""
        with self._lock:
            self._forget(key)

    def expire(self) -> None:
        """Forget those not seen for too long; whoever runs is there."""
        with self._lock:
            now = time.monotonic()
            for key, visitor in list(self._visitors.items()):
                if not visitor.idle.is_set():
                    visitor.seen = now
                elif now - visitor.seen > limits.SESSION_AGE_S:
                    self._forget(key)

    def close(self) -> None:
        """Forget everyone."""
        self._closed.set()
        with self._lock:
            for key in list(self._visitors):
                self._forget(key)
            self._root.cleanup()

    def warm(self) -> None:
        """Load the models, have the first one answer, and make the examples, so that the first visitor need not wait.

        The first example is offered once a run on it begins at once.
        """
        first, *others = EXAMPLES
        for card in session.available_models():
            if card.convention.one_step:
                session.load_model(card.name)
        made = session.example(first)
        try:
            self.pace.measure(made[0], session.EXAMPLE_REGION)
        finally:  # models of one's own may not know this image; it can be looked at all the same
            with self._making:
                self._examples[first] = made
        for name in others:
            self.example(name)

    def _sweep(self) -> None:
        while not self._closed.wait(limits.SWEEP_S):
            self.expire()

    def _make_room(self, now: float) -> None:
        by_age = sorted(self._visitors, key=lambda k: self._visitors[k].seen)
        surplus = len(by_age) - limits.SESSIONS + 1
        for rank, key in enumerate(by_age):
            if rank < surplus or now - self._visitors[key].seen > limits.SESSION_AGE_S:
                self._forget(key)

    def _forget(self, key: str) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            visitor.halt()
            shutil.rmtree(visitor.folder, ignore_errors=True)
