"""The command that carries out a protocol and writes its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffatlas.errors import BadInput


def evaluate(
    protocol: Annotated[Path, typer.Argument(metavar="PROTOCOL", help="A YAML file; see benchmarks/protocols/.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where tables and figure go.", show_default="the protocol's"
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this long, minutes.", show_default="when everything is done")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="Train and score only this method; repeatable.", show_default="all"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="How many trainings to make side by side, a process each.")
    ] = 1,
    tables: Annotated[bool, typer.Option("--tables", help="Train and score nothing; write the tables again.")] = False,
) -> None:
    """Train an atlas and baselines on the same cases, score them on others, and write tables with intervals.

    What is done is kept: a run that was stopped goes on, and nothing is done twice.
    """
    if minutes is not None and not minutes > 0:
        raise BadInput(f"--minutes must be above 0, not {minutes:g}")
    if not protocol.is_file():
        raise BadInput(f"{protocol}: no such file; give the YAML file of a protocol")

    from diffatlas.cli import terminal
    from diffatlas.evaluate.machine import machine
    from diffatlas.evaluate.protocol import load_protocol
    from diffatlas.evaluate.runs import carry_out
    from diffatlas.evaluate.tables import rows_of, write

    asked = load_protocol(protocol)
    console = terminal.stdout()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    finished = carry_out(asked, minutes, say, only_read=tables, methods=methods or (), workers=workers)
    written = write(finished, output or asked.output, machine())
    lines = []
    for row in rows_of(finished):
        dice = row.measures["mean"]["dice"]
        other = "" if row.difference is None else f"{row.difference.mean:+.3f}"
        interval = f"{dice.mean:.3f} ({dice.low:.3f} to {dice.high:.3f})"
        lines.append((row.setting, row.method, row.run, str(dice.n), interval, other))
    numbers = ("n", "Dice (95 % interval)", "difference")
    console.print(terminal.rows(("setting", "method", "asked", *numbers), lines, right=numbers))
    for text in finished.lacking:
        say(f"not done yet: {text}")
    for path in written:
        say(f"written: {path}")
