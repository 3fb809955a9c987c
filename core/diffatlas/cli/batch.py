"""The command that runs a model on many volumes: batch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffatlas.cli import options as opt
from diffatlas.cli.errors import BAD_INPUT, OUR_FAULT, STOPPED

if TYPE_CHECKING:
    from collections.abc import Generator

    from diffatlas.cohort import Cohort, Status


def batch(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Volumes, DICOM folders, folders of these.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="NAME_labels.nii.gz and NAME.json of each.")
    ],
    model: opt.Model = "auto",
    preset: opt.Preset = "fast",
    steps: opt.Steps = None,
    guidance: opt.Guidance = "image",
    guidance_noise: opt.GuidanceNoise = None,
    sampler: opt.Sampler = None,
    samples: opt.Samples = 1,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    force: opt.Force = False,
    workers: Annotated[int, typer.Option(metavar="N", help="Volumes on their way at a time.")] = 1,
    redo: Annotated[bool, typer.Option("--redo", help="Run also what is done already.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Segment many volumes; run it again to go on where it stopped and to try again what failed."""
    from diffatlas.cli import terminal
    from diffatlas.cohort import Cohort, find_cases

    request = opt.segment_request(
        model=model,
        preset=preset,
        steps=steps,
        guidance=guidance,
        guidance_noise=guidance_noise,
        sampler=sampler,
        samples=samples,
        seed=seed,
        roi=None,
        device=device,
        precision=precision,
        force=force,
    )
    cases, notes = find_cases(inputs, output)
    cohort = Cohort(cases, request, workers=workers, redo=redo)
    terminal.notes(notes)
    try:
        watch(cohort)
    except KeyboardInterrupt:
        done = sum(status.state == "done" for status in cohort.statuses.values())
        terminal.stderr().print(f"diffatlas: stopped; {done} of {len(cases)} done, run it again to go on", style="red")
        raise typer.Exit(STOPPED) from None
    statuses = list(cohort.statuses.values())
    if as_json:
        terminal.print_json({"folder": output, "cases": [vars(status) for status in statuses]})
    else:
        lines = [(s.name, s.state, "" if s.seconds is None else f"{s.seconds:.1f}", s.reason) for s in statuses]
        terminal.stdout().print(terminal.rows(("case", "state", "seconds", ""), lines, right=("seconds",)))
        done = sum(status.state == "done" for status in statuses)
        terminal.stdout().print(f"{done} of {len(statuses)} done: {output}", soft_wrap=True)
    if any(status.fault for status in statuses):
        raise typer.Exit(OUR_FAULT)
    if any(status.state != "done" for status in statuses):
        raise typer.Exit(BAD_INPUT)


def watch(cohort: Cohort) -> None:
    """Run it; a line on stderr for every case that ends, and on a terminal one that moves for those on their way."""
    from typing import cast

    from rich.text import Text

    from diffatlas.cli import terminal

    console = terminal.stderr()
    count, ended = len(cohort.cases), 0
    with closing(cast("Generator[Status]", cohort.run())) as news, console.status(Text("reading")) as line:
        for status in news:
            if status.state == "running":
                step = f": step {status.step} of {status.total}" if status.step else ""
                line.update(Text(status.name + step))  # as text: a name may look like markup
            else:
                ended += 1
                what = f"{status.state}, {status.reason}" if status.reason else status.state
                color = "red" if status.state == "failed" else None
                console.print(f"[{ended}/{count}] {status.name}: {what}", style=color, soft_wrap=True)
