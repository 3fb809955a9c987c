"""What a run looks like in a terminal: progress, noise level, volumes, convergence, live; plain lines elsewhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from diffatlas.geometry.volume import LabelScheme
    from diffatlas.session import Frame, Result

BARS = "▁▂▃▄▅▆▇█"
# Where no progress is drawn, a longer run prints its expected time, seconds.
LONG_S = 60
SPARKLINE_WIDTH = 40


def stdout() -> Console:
    """Console on the current stdout: results. Text is printed as it is: no markup and no emoji codes."""
    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Console on the current stderr: progress, notes, errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """A line on stdout, as it is."""
    stdout().print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """``value`` as JSON on stdout; NaN and infinity, which JSON does not have, become null.

    Written without rich, which would format it. Characters that the stream's encoding lacks become JSON's own
    escapes.
    """
    from diffatlas.engine.run_record import to_json

    text = to_json(value)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def notes(lines: Iterable[str]) -> None:
    """Findings worth knowing, in yellow on stderr, each once."""
    for line in dict.fromkeys(lines):
        stderr().print(f"note: {line}", style="yellow", soft_wrap=True)


def watched(frames: Iterator[Frame], title: str) -> Generator[Frame]:
    """Pass every frame on; on a terminal, draw it first. Closing this closes ``frames``, which stops the run.

    Elsewhere a run that will take long says so after its first step.
    """
    try:
        console = stderr()
        if not console.is_terminal:
            for frame in frames:
                if frame.index == 0 and (left_s := _left_s(frame)) > LONG_S:
                    console.print(f"{title}: {frame.total} steps, about {left_s / 60:.0f} min")
                yield frame
            return
        changes: list[float] = []
        waiting = Spinner("dots", Text(f"{title}: loading the model"))
        with Live(waiting, console=console, refresh_per_second=12, transient=True) as live:
            for frame in frames:
                if frame.metrics.mask_change is not None:
                    changes.append(frame.metrics.mask_change)
                live.update(_picture(frame, title, changes))
                yield frame
    finally:
        if isinstance(frames, Generator):
            frames.close()


def sparkline(values: Sequence[float], width: int = SPARKLINE_WIDTH) -> str:
    """Shares in [0, 1] as a row of bars, the last ``width`` of them; square root, so that small changes still show."""
    last = [min(max(value, 0.0), 1.0) for value in values[-width:]]
    return "".join(BARS[min(int(math.sqrt(value) * len(BARS)), len(BARS) - 1)] for value in last)


def _left_s(frame: Frame) -> float:
    """Seconds to the end at the pace so far."""
    done = frame.index + 1
    return frame.metrics.seconds / done * (frame.total - done)


def _picture(frame: Frame, title: str, changes: Sequence[float]) -> RenderableType:
    done = frame.index + 1
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(title, style="bold"),
        ProgressBar(total=frame.total, completed=done, width=30),
        f"step {done}/{frame.total}",
        f"noise {frame.t:.2f}",
        f"{_left_s(frame):.0f} s left",
    )
    parts: list[RenderableType] = [head, volumes_table(frame.metrics.volumes_ml, frame.scheme)]
    if changes:
        parts.append(Text(f"mask change {sparkline(changes)} {changes[-1]:.1%}"))
    return Group(*parts)


def volumes_table(
    volumes_ml: dict[str, float],
    scheme: LabelScheme,
    between_ml: Mapping[str, tuple[float, float]] = {},
    cut_off: Mapping[str, float] = {},
) -> Table:
    """Structure, id and volume, each structure in its own colour; where it is known, between which volumes the true
    one lies nine times in ten; and how much of it lies beyond the image."""
    table = Table.grid(padding=(0, 2))
    for structure in scheme.structures:
        more = ""
        if structure.name in cut_off:
            more = f"(cut off: {cut_off[structure.name]:.0%} lies beyond the image)"
        elif structure.name in between_ml:
            more = "(90 %: {:.2f} to {:.2f})".format(*between_ml[structure.name])
        table.add_row(
            Text("■", style="rgb({},{},{})".format(*structure.color)),
            structure.name,
            Text(str(structure.id), style="dim", justify="right"),
            Text(f"{volumes_ml.get(structure.name, 0.0):.2f} ml", justify="right"),
            Text(more, style="dim"),
        )
    return table


def summary(result: Result, written: dict[str, Path]) -> None:
    """The end of a run on stdout: volumes, time, files."""
    console = stdout()
    console.print(volumes_table(result.volumes_ml, result.labels.scheme, result.volume_intervals_ml, result.cut_off))
    if (doubt := result.doubt) is not None:
        say(f"{doubt:.0%} of the labelled voxels are wrong, on average, on cases like those of the model's card")
    model = result.provenance.get("model", {}).get("name", "")
    seconds = result.metrics[-1].seconds if result.metrics else 0.0
    console.print(f"{model}, {len(result.metrics)} steps, {seconds:.1f} s")
    for kind, path in written.items():
        console.print(f"{kind}: {path}", soft_wrap=True)


def rows(columns: Sequence[str], lines: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in ``right`` hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table
