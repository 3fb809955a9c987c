"""Log of a training run: a table, TensorBoard events and pictures in its folder, and lines on the terminal.

After a resume, rows and events later than the checkpoint are removed, so that no update is logged twice.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from diffatlas.io import atomic_path
from diffatlas.render import write_png

TABLE = "log.csv"
EVENTS = "events"
PICTURES = "pictures"

Row = Mapping[str, float]


class Table:
    """``log.csv``: a row whenever there is something to say, empty where a number was not measured."""

    def __init__(self, path: Path, step: int) -> None:
        """Open the table at ``path``, and take back rows beyond update ``step``."""
        self.path = path
        self.columns: list[str] = []
        self.last = math.nan
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or ())
                rows = [row for row in reader if _whole(row) and int(row["step"]) <= step]
            self._rewrite(rows)

    def write(self, row: Row) -> None:
        """Append ``row``, by column; a second row of an update adds to its first."""
        new = [name for name in row if name not in self.columns]
        again = self.last == row["step"]
        self.last = row["step"]
        if new or again:
            rows: list[dict[str, str]] = []
            if self.columns:
                with self.path.open(newline="", encoding="utf-8") as file:
                    rows = list(csv.DictReader(file))
            self.columns += new
            if again:
                rows[-1] |= {k: _cell(v) for k, v in row.items() if not math.isnan(v)}
            self._rewrite(rows)
        if again:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow({k: _cell(v) for k, v in row.items()})

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with atomic_path(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def _whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a row was written to its end: a killed process may leave a part of its last one."""
    return None not in row.values() and None not in row and str(row.get("step", "")).isdigit()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}" if isinstance(value, float) else str(value)


class Log:
    """All of it for one run, used as a context; silent, and without files, in every process but the first (``speaks``).

    ``total``: updates of the run; ``step``: those already done.
    """

    def __init__(self, folder: Path, name: str, total: int, step: int, speaks: bool = True) -> None:
        self.folder, self.total, self.speaks = folder, total, speaks
        self.table: Table | None = None
        self.events: Any = None
        self.progress: Progress | None = None
        self.console = Console(highlight=False, emoji=False)
        self.said: dict[str, Any] = {"loss": "", "dice": "", "left": ""}
        if not speaks:
            return
        self.table = Table(folder / TABLE, step)
        if find_spec("tensorboard") is None:
            self.say("note: no TensorBoard events, tensorboard is not installed: pip install 'napari-diffatlas[train]'")
        else:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            more = TextColumn("{task.fields[loss]}  {task.fields[dice]}  {task.fields[left]}")
            self.progress = Progress(*columns, more, console=self.console)
            self.bar = self.progress.add_task(name, total=total, completed=step, **self.said)

    def __enter__(self) -> Self:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.events is not None:
            self.events.close()

    def say(self, text: str) -> None:
        """A line on the terminal."""
        if self.speaks:
            self.console.print(text, markup=False, soft_wrap=True)

    def advance(self, step: int, left_s: float) -> None:
        """After every update: ``left_s`` seconds to the end."""
        self.said["left"] = f"{duration(left_s)} left"
        if self.progress is not None:
            self.progress.update(self.bar, completed=step, **self.said)

    def row(self, row: Row) -> None:
        """Numbers of an update ("step", "seconds", "rate", "loss", ..., "dice", "dice STRUCTURE"); NaN for none."""
        if self.table is None:
            return
        self.table.write(row)
        step = int(row["step"])
        if self.events is not None:
            for name, value in row.items():
                if name != "step" and not math.isnan(value):
                    group = "validation" if name.startswith("dice") else "train"
                    self.events.add_scalar(f"{group}/{name}", value, step)
        if not math.isnan(row["loss"]):
            self.said["loss"] = f"loss {row['loss']:.4f}"
        if not math.isnan(row.get("dice", math.nan)):
            self.said["dice"] = f"Dice {row['dice']:.3f}"
        if self.progress is not None:
            self.progress.update(self.bar, **self.said)
        else:
            self.say(
                "  ".join(part for part in (f"update {step} of {self.total}", *map(str, self.said.values())) if part)
            )

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        """A picture uint8 [H, W, 3] of what the network knows after ``step`` updates."""
        if self.table is None:
            return
        folder = self.folder / PICTURES
        folder.mkdir(exist_ok=True)
        write_png(picture, folder / f"{step:06d}.png")
        if self.events is not None:
            self.events.add_image("samples", picture, step, dataformats="HWC")
            self.events.flush()


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
