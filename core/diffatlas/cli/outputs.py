"""The files of a run: paths are checked before the run; after it all files are written, or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffatlas.geometry.volume import Volume
    from diffatlas.io import LabelFormat
    from diffatlas.session import Frame, Result

GIF_FPS = 12
GIF_HOLD_S = 2.0
# At most about this many steps go into a GIF; the published preset has 300.
GIF_MAX_FRAMES = 100


@dataclass(frozen=True)
class Outputs:
    """Where a run writes; None is not asked for. ``format``: of the labels, where the extension leaves a choice."""

    labels: Path
    confidence: Path | None = None
    report: Path | None = None
    gif: Path | None = None
    frames: Path | None = None
    format: LabelFormat | None = None

    def files(self) -> dict[str, Path]:
        """The files and folders that will be written, by kind."""
        named = {
            "labels": self.labels,
            "confidence": self.confidence,
            "report": self.report,
            "gif": self.gif,
            "frames": self.frames,
        }
        return {kind: path for kind, path in named.items() if path is not None}

    def check(self, *inputs: Path) -> None:
        """`BadInput` where writing would fail or would replace an input. Call before the run."""
        from diffatlas import io

        io.check_label_output(self.labels, self.format)
        if self.confidence is not None:
            io.check_output(self.confidence)
        if self.report is not None:
            io.check_output(self.report, (".json",))
        if self.gif is not None:
            io.check_output(self.gif, (".gif",))
        if self.frames is not None:
            check_folder(self.frames)
            if any(self.frames.glob("frame-*.png")):
                raise BadInput(f"{self.frames}: holds the frames of another run; give a new folder")
        for folder in {path.absolute().parent for path in self.files().values()}:
            io.sweep(folder)
        # Not Path.resolve, which fails on a loop of links.
        seen: dict[str, str] = {os.path.realpath(path): "the input" for path in inputs}
        for kind, path in self.files().items():
            taken = seen.setdefault(os.path.realpath(path), f"the {kind} output")
            if taken != f"the {kind} output":
                raise BadInput(f"{path}: is also {taken}; give the {kind} a name of their own")


class Recorder:
    """Pictures of a run's frames, made only where a GIF or a folder of frames was asked for."""

    def __init__(self, outputs: Outputs, source: Volume, folder: Path | None) -> None:
        self._gif = outputs.gif is not None
        self._source = source
        self.folder = folder
        self.pictures: list[NDArray[np.uint8]] = []

    def add(self, frame: Frame) -> None:
        every = -(-frame.total // GIF_MAX_FRAMES)
        in_gif = self._gif and (frame.index % every == 0 or frame.index == frame.total - 1)
        if not in_gif and self.folder is None:
            return
        from diffatlas import render

        picture = render.frame_picture(frame, self._source)
        if in_gif:
            self.pictures.append(picture)
        if self.folder is not None:
            save_png(picture, self.folder / f"frame-{frame.index:04d}.png")


def write_run(outputs: Outputs, result: Result, source: Volume, recorder: Recorder, report: dict[str, Any]) -> None:
    """Write every file under a temporary name, then rename them all, the report last.

    A failure leaves no file. A process that is killed leaves no report beside labels of another run.
    """
    from diffatlas import io, render
    from diffatlas.engine.run_record import to_json

    confidence = result.confidence
    if outputs.confidence is not None and confidence is None:
        raise BadInput("this run has no confidence map to write: run more than one sample, or a calibrated model")
    if outputs.frames is not None and recorder.folder is not None:
        publish(recorder.folder, outputs.frames)
    wanted = (outputs.confidence, outputs.gif, outputs.labels, outputs.report)
    with io.atomic_paths([path for path in wanted if path is not None]) as made:
        temporary = dict(zip([path for path in wanted if path is not None], made, strict=True))
        io.write_label_map(result.labels, temporary[outputs.labels], source=source, format=outputs.format)
        if outputs.confidence is not None and confidence is not None:
            io.write_array(confidence, source.grid, temporary[outputs.confidence], header=source.header)
        if outputs.gif is not None:
            with io.atomic_path(temporary[outputs.gif]) as path:
                render.write_gif(recorder.pictures, path, fps=GIF_FPS, hold_last_s=GIF_HOLD_S)
        if outputs.report is not None:
            with io.atomic_path(temporary[outputs.report]) as path:
                path.write_text(to_json(report) + "\n", encoding="utf-8")


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """uint8 [H, W, 3] as a PNG file."""
    from PIL import Image

    Image.fromarray(picture).save(path, optimize=False)


def check_folder(folder: Path) -> None:
    """`BadInput` where a folder of results cannot be made."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file; give the name of a folder")
    place = folder if folder.is_dir() else folder.absolute().parent
    if not place.is_dir():
        raise BadInput(f"{folder}: the folder {place} does not exist; create it first")
    if not os.access(place, os.W_OK):
        raise BadInput(f"{folder}: no permission to write in {place}; choose another folder")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing; `BadInput` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({(error.strerror or str(error)).lower()})") from error


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``folder``; it is removed at the end in any case."""
    from diffatlas import io

    check_folder(folder)
    io.sweep(folder.absolute().parent)
    path = io.temporary_folder_in(folder.absolute().parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(staged: Path, folder: Path) -> None:
    """Move the files of a staging folder into ``folder``, replacing those of an earlier run."""
    folder.mkdir(exist_ok=True)
    for path in sorted(staged.iterdir()):
        path.replace(folder / path.name)
