"""What the page does, without the page: visitors, their files, and runs as streams of pictures.

Each visitor has a folder with a random name that no URL reaches; files in it have names of our own. Volumes live on
disk and in the run that uses them, never in the page's state. A run is a generator of `Update`; closing it, or setting
the visitor's stop flag, ends the engine's stream within one step.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffatlas import io, session
from diffatlas.errors import BadInput
from diffatlas.request import Request
from diffatlas.session import FrameMetrics, Result
from diffatlas.volume import Volume
from diffatlas_app import limits, viewer

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
EXAMPLES = {"heart-ct": "Phantom heart CT", "heart-mr": "Phantom heart MR"}


@dataclass(frozen=True)
class Source:
    """What a visitor looks at: an example's volume, or a file of theirs; ``name`` is what they call it."""

    name: str
    volume: Volume | None = None
    path: Path | None = None

    def read(self) -> Volume:
        """The volume; `BadInput` speaks of the visitor's file name, not of ours."""
        if self.volume is not None:
            return self.volume
        assert self.path is not None
        try:
            volume = io.read_volume(self.path, limits=io.Limits(limits.MAX_VOXELS, limits.MAX_BYTES))
        except BadInput as error:
            raise BadInput(self._in_their_words(str(error))) from error
        notes = tuple(self._in_their_words(note) for note in volume.notes)
        return replace(volume, name=_stem(self.name), notes=notes)

    def _in_their_words(self, message: str) -> str:
        assert self.path is not None
        return message.replace(str(self.path), self.name).replace(self.path.name, self.name)


@dataclass
class Visitor:
    """One open page: its folder, what it shows, and the run it asked for.

    A press of Run waits in the page's queue (``pressed``) until a run takes it; a run takes one press and no more.
    ``stop`` ends the run that is on, ``idle`` says that none is.
    """

    folder: Path
    source: Source | None = None
    pressed: bool = False
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

    def take_upload(self, path: Path) -> Source:
        """Move an uploaded file into the visitor's folder, so that no URL reaches it any more."""
        name = display_name(path.name)
        suffix = next((s for s in FORMATS if path.name.lower().endswith(s)), None)
        if suffix is None:
            path.unlink(missing_ok=True)
            raise BadInput(f"{name}: not a volume this page reads; give one of {', '.join(FORMATS)}")
        for old in self.folder.glob("volume*"):
            old.unlink()
        target = self.folder / f"volume{suffix}"
        shutil.move(path, target)
        self.source = Source(name, path=target)
        return self.source


class Visitors:
    """All open pages, by the page's own random key; bounded in number and age."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="diffatlas-visitors-", ignore_cleanup_errors=True)
        self._visitors: dict[str, Visitor] = {}
        self._examples: dict[str, Volume] = {}
        self._lock = threading.Lock()

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
        if name not in self._examples:
            self._examples[name] = session.example(name)[0]
        return Source(EXAMPLES[name], volume=self._examples[name])

    def leave(self, key: str) -> None:
        """Forget a visitor: the run stops, the files go."""
        with self._lock:
            self._forget(key)

    def close(self) -> None:
        """Forget everyone."""
        with self._lock:
            for key in list(self._visitors):
                self._forget(key)
            self._root.cleanup()

    def _make_room(self, now: float) -> None:
        by_age = sorted(self._visitors, key=lambda k: self._visitors[k].seen)
        surplus = len(by_age) - limits.SESSIONS + 1
        for rank, key in enumerate(by_age):
            if rank < surplus or now - self._visitors[key].seen > limits.SESSION_AGE_S:
                self._forget(key)

    def _forget(self, key: str) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            visitor.halt()
            shutil.rmtree(visitor.folder, ignore_errors=True)


@dataclass(frozen=True)
class Files:
    """What a finished run leaves for download: gzipped NIfTI on the source grid, and the report as JSON."""

    stem: str
    labels: bytes
    report: bytes


@dataclass(frozen=True, eq=False)
class Update:
    """One step of a run, as the page shows it.

    ``message``: for the viewer. ``seconds_left``: None until it can be estimated. ``result`` and ``files``: on the
    last update only.
    """

    index: int
    total: int
    t: float
    message: str
    volumes_ml: dict[str, float]
    seconds: float
    seconds_left: float | None
    result: Result | None = None
    files: Files | None = None


def run(visitor: Visitor, request: Request) -> Iterator[Update]:
    """Run ``request`` on what the visitor looks at; pictures come at most `limits.FRAMES_PER_S` times a second.

    Ends early, and silently, when the visitor's stop flag is set.
    """
    if visitor.source is None:
        raise BadInput("no image yet: choose an example or drop a file")
    stop = visitor.stop
    volume = visitor.source.read()
    key = secrets.token_hex(4)
    start = first = time.monotonic()
    shown = -float("inf")
    metrics: list[FrameMetrics] = []
    stream = session.local_backend().stream(volume, request)
    try:
        for frame in stream:
            now = time.monotonic()
            if stop.is_set():
                return
            if now - start > limits.RUN_TIME_S:
                raise BadInput(f"stopped after {limits.RUN_TIME_S / 60:.0f} minutes: choose a faster preset")
            metrics.append(frame.metrics)
            if frame.index == 0:
                first = now
            if frame.result is None and now - shown < 1 / limits.FRAMES_PER_S:
                continue
            done = frame.index + 1
            left = (now - first) / (done - 1) * (frame.total - done) if done > 1 else None
            if frame.result is None:
                message = viewer.frame_message(frame, metrics, left_s=left, run=key)
            else:
                message = viewer.done_message(frame, metrics, seconds=now - start, run=key)
            yield Update(
                index=frame.index,
                total=frame.total,
                t=frame.t,
                message=message,
                volumes_ml=frame.metrics.volumes_ml if frame.result is None else frame.result.volumes_ml,
                seconds=now - start,
                seconds_left=left,
                result=frame.result,
                files=None if frame.result is None else _files(frame.result, volume, visitor.folder),
            )
            shown = time.monotonic()  # after drawing and sending, so that most of the time is the engine's
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def display_name(name: str) -> str:
    """A visitor's file name made fit to show and to offer for download: no folders, no markup, 60 characters."""
    base = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w.\- ]", "_", base).strip(". ") or "volume"
    if len(clean) <= 60:
        return clean
    suffix = next((s for s in FORMATS if clean.lower().endswith(s)), "")
    return clean[: 59 - len(suffix)] + "…" + suffix


def _stem(name: str) -> str:
    suffix = next((s for s in FORMATS if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or "volume"


def _files(result: Result, volume: Volume, folder: Path) -> Files:
    path = folder / "labels.nii.gz"
    io.write_label_map(result.labels, path, header=volume.header)
    labels = path.read_bytes()
    path.unlink()
    report = json.dumps(result.report(), indent=2, allow_nan=False)
    return Files(display_name(volume.name).replace(" ", "-"), labels, report.encode("utf-8"))
