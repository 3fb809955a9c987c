"""The commands for many volumes: batch runs a model on them, collect makes one table of the results."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffatlas.cli import options as opt
from diffatlas.cli.errors import BAD_INPUT, OUR_FAULT, STOPPED
from diffatlas.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from diffatlas.cohort import Case, Cohort, Scheduled, Status
    from diffatlas.engine.request import Request
    from diffatlas.geometry.volume import Modality
    from diffatlas.io import LabelFormat
    from diffatlas.session import Backend

SCRIPT = "batch.slurm"
# At most this many cases are listed in a terminal; --json and collect list all.
LISTED = 200


def batch(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Volumes, DICOM folders, folders of these, patterns, a .csv, .jsonl."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="NAME_labels.nii.gz (or .dcm) and NAME.json of each.")
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
    modality: opt.KnownModality = None,
    format_: opt.Format = None,
    bids: Annotated[
        bool, typer.Option("--bids", help="INPUT is a BIDS data set; results become a derivative data set.")
    ] = False,
    participant: Annotated[
        list[str] | None,
        typer.Option("--participant-label", metavar="LABEL", help="BIDS: only these; may be repeated."),
    ] = None,
    suffix: Annotated[
        list[str] | None, typer.Option("--suffix", metavar="T1w", help="BIDS: only these images; may be repeated.")
    ] = None,
    dicom: Annotated[bool, typer.Option("--dicom", help="INPUT is a tree of DICOM files; a case a series.")] = False,
    series_modality: Annotated[
        list[str] | None, typer.Option("--series-modality", metavar="CT|MR", help="DICOM: only these series.")
    ] = None,
    series_description: Annotated[
        str | None, typer.Option("--series-description", metavar="REGEX", help="DICOM: only series described so.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Every N-th case.", show_default="of a SLURM array, its task's"),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Volumes on their way at a time.")] = 1,
    limit: Annotated[
        float | None, typer.Option("--limit", metavar="SECONDS", help="Longest time for a case.", show_default="none")
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="MB", help="Most memory for a case.", show_default="none")
    ] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Try a case again after a fault of the machine.")] = 0,
    redo: Annotated[bool, typer.Option("--redo", help="Run also what is done already.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Start an array job for what is not done; return.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="With --slurm: write the script, start nothing.")] = False,
    per_task: Annotated[
        int, typer.Option("--cases-per-task", metavar="N", help="With --slurm or --scheduler: cases of a task.")
    ] = 50,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Of dask.distributed: its workers do the cases."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Segment many volumes; run it again to go on where it stopped and to try again what failed.

    Any number of these may work on one output folder at a time, also on several machines: no case is done twice.
    """
    from diffatlas.cli import terminal
    from diffatlas.cohort import Cohort, Scheduled
    from diffatlas.cohort.bids import write_description
    from diffatlas.cohort.parts import parse_part

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
    source = Source(inputs, bids, tuple(participant or ()), tuple(suffix or ()), dicom, tuple(series_modality or ()),
                    series_description)  # fmt: skip
    cases, notes = source.cases(output)
    if per_task < 1:
        raise BadInput(f"--cases-per-task must be 1 or more, not {per_task}")
    cases = asked_for(cases, modality, opt.label_format(format_) or "nifti", bids)
    if dry and not slurm:
        raise BadInput("--dry belongs to --slurm")
    if slurm:
        if part is not None:
            raise BadInput("--slurm and --part do not go together: every task of the array has a part of its own")
        if scheduler is not None:
            raise BadInput("--slurm and --scheduler do not go together: give the engine that you have")
        terminal.notes(notes)
        more = [*_kind(modality, format_), *_more(workers, limit, memory, retries, redo)]
        words = [*source.words(), *_options(request, device), *more]
        submit(cases, request, words, output, per_task, workers, redo, dry)
        return
    mine = parse_part(part)
    elsewhere = opt.backend_for(device) if request.device != device else None
    options: dict[str, Any] = {
        # Pickled for other processes, so these must be functions of a module.
        "backend": None if elsewhere is None else partial(opt.backend_for, device),
        "weights_of": None if elsewhere is None else partial(weights_there, elsewhere),
        "workers": workers,
        "redo": redo,
        "limit_s": limit,
        "memory_mb": memory,
        "retries": retries,
    }
    mine_of = cases if mine is None else mine.of(cases)
    cohort: Cohort | Scheduled
    if scheduler is None:
        cohort = Cohort(mine_of, request, **options)
    else:
        cohort = Scheduled(scheduler, mine_of, request, per_task, **options)
    terminal.notes(notes)
    if bids:
        known = model != "auto" and elsewhere is None
        write_description(output, inputs[0], opt.card_of(model).scheme if known else None)
    try:
        watch(cohort)
    except KeyboardInterrupt:
        done = sum(status.state == "done" for status in cohort.statuses.values())
        count = len(cohort.cases)
        terminal.stderr().print(f"diffatlas: stopped; {done} of {count} done, run it again to go on", style="red")
        raise typer.Exit(STOPPED) from None
    statuses = list(cohort.statuses.values())
    if as_json:
        terminal.print_json({"folder": output, "cases": [as_plain(status) for status in statuses]})
    else:
        show(statuses, output)
    if any(status.fault for status in statuses):
        raise typer.Exit(OUR_FAULT)
    if any(status.state != "done" for status in statuses):
        raise typer.Exit(BAD_INPUT)


def collect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What diffatlas batch wrote to.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TABLE.csv", help="One row a case.")],
    as_json: opt.Json = False,
) -> None:
    """Make one table of a cohort: volumes, time, failures, and volumes that stand out (robust z above 3.5)."""
    from diffatlas import io
    from diffatlas.cli import terminal
    from diffatlas.cohort.collect import collect as rows_in
    from diffatlas.cohort.collect import table_of, write_table

    io.check_output(output, (".csv",))
    rows = rows_in(folder)
    write_table(rows, output)
    columns, lines = table_of(rows)
    failed, outliers = sum(row.state == "failed" for row in rows), sum(bool(line[2]) for line in lines)
    if as_json:
        terminal.print_json(
            {"table": output, "columns": columns, "cases": len(rows), "failed": failed, "outliers": outliers}
        )
    else:
        terminal.say(f"{len(rows)} cases, {failed} failed, {outliers} with a volume that stands out: {output}")


@dataclass(frozen=True)
class Source:
    """Where the cases come from, as the options say."""

    inputs: Sequence[Path]
    bids: bool
    participants: tuple[str, ...]
    suffixes: tuple[str, ...]
    dicom: bool
    modalities: tuple[str, ...]
    description: str | None

    def cases(self, output: Path) -> tuple[list[Case], list[str]]:
        """The cases and notes; `BadInput` where the options contradict each other."""
        from diffatlas.cohort import find_bids, find_cases, find_dicom, is_manifest, read_manifest

        if self.bids and self.dicom:
            raise BadInput("--bids and --dicom both say what INPUT is; give one of them")
        if (self.participants or self.suffixes) and not self.bids:
            raise BadInput("--participant-label and --suffix belong to --bids")
        if (self.modalities or self.description) and not self.dicom:
            raise BadInput("--series-modality and --series-description belong to --dicom")
        if self.bids:
            if len(self.inputs) > 1:
                raise BadInput("--bids takes one data set")
            return find_bids(self.inputs[0], output, self.participants, self.suffixes)
        if self.dicom:
            return find_dicom(self.inputs, output, self.modalities, self.description)
        if any(is_manifest(path) for path in self.inputs):
            if len(self.inputs) > 1:
                raise BadInput("a table of cases is given alone, without other inputs")
            return read_manifest(self.inputs[0], output)
        return find_cases(self.inputs, output)

    def words(self) -> list[str]:
        """The same options as arguments of a command line."""
        words = ["--bids"] * self.bids + ["--dicom"] * self.dicom
        for option, values in (
            ("--participant-label", self.participants),
            ("--suffix", self.suffixes),
            ("--series-modality", self.modalities),
            ("--series-description", () if self.description is None else (self.description,)),
        ):
            words += [word for value in values for word in (option, value)]
        return [*words, *(os.path.abspath(path) for path in self.inputs)]  # noqa: PTH100  (links stay links)


def _options(request: Request, device: str) -> list[str]:
    """The options that differ from the defaults of `Request`, as arguments of a command line."""
    from diffatlas.engine.request import Request

    usual, words = Request(), []
    for name in (
        "model", "preset", "steps", "guidance", "guidance_noise", "sampler", "samples", "seed", "precision",
    ):  # fmt: skip
        if (value := getattr(request, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--device", device] if device != usual.device else []
    return words + ["--force"] * request.force


def asked_for(cases: Sequence[Case], modality: Modality | None, format_: LabelFormat, bids: bool) -> list[Case]:
    """The cases with ``modality`` where they name none, and with the format of their labels."""
    from diffatlas.cohort.find import check_results

    if bids and format_ != "nifti":
        raise BadInput(f"a BIDS data set holds NIfTI labels: leave out --format {format_}")
    made = [replace(case, modality=case.modality or modality, format=format_) for case in cases]
    check_results(made)
    return made


def _kind(modality: Modality | None, format_: str | None) -> list[str]:
    words = [] if modality is None else ["--modality", modality]
    return words + ([] if format_ is None else ["--format", format_])


def _more(workers: int, limit: float | None, memory: float | None, retries: int, redo: bool) -> list[str]:
    words = ["--workers", str(workers)] if workers != 1 else []
    words += [] if limit is None else ["--limit", f"{limit:g}"]
    words += [] if memory is None else ["--memory", f"{memory:g}"]
    words += ["--retries", str(retries)] if retries else []
    return words + ["--redo"] * redo


def submit(
    cases: Sequence[Case],
    request: Request,
    words: Sequence[str],
    output: Path,
    per_task: int,
    workers: int,
    redo: bool,
    dry: bool,
) -> None:
    """Write the script of an array job for the parts that are not done, and hand it to sbatch unless ``dry``."""
    from diffatlas import io
    from diffatlas.cli import terminal
    from diffatlas.cohort.attempts import FOLDER
    from diffatlas.cohort.done import Results
    from diffatlas.cohort.parts import parts_left, slurm_script
    from diffatlas.cohort.run import make_folder, request_of

    results = Results()
    done = [not redo and results.are_there(case, request_of(case, request)) for case in cases]
    count = -(-len(cases) // per_task)
    left = parts_left(done, count)
    if not left:
        terminal.say(f"all {len(cases)} cases are done: {output}")
        return
    make_folder(output)
    make_folder(output / FOLDER)
    path = output / SCRIPT
    command = ["diffatlas", "batch", *words, "-o", os.path.abspath(output)]  # noqa: PTH100
    with io.atomic_path(path) as part:
        part.write_text(slurm_script(command, output, left, count, workers=workers), encoding="utf-8")
    terminal.say(f"{len(cases) - sum(done)} of {len(cases)} cases to do in {len(left)} of {count} tasks: {path}")
    if dry:
        return
    program = shutil.which("sbatch")
    if program is None:
        raise BadInput(f"sbatch is not on this machine's path; the script is there, start it where it is: {path}")
    started = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    if started.returncode:
        raise BadInput(f"sbatch refused {path}: {' '.join((started.stderr or started.stdout).split())}")
    terminal.say(started.stdout.strip())


def weights_there(backend: Backend, name: str) -> str:
    """The hash of a model's weights on another machine."""
    from diffatlas.engine.request import Request

    return backend.plan(None, Request(model=name, force=True)).card.sha256


def as_plain(status: Status) -> dict[str, object]:
    """A status for JSON."""
    from dataclasses import asdict

    return asdict(status)


def show(statuses: Sequence[Status], output: Path) -> None:
    """A table of the cases; where there are many, only of those that are not done."""
    from diffatlas.cli import terminal

    done = sum(status.state == "done" for status in statuses)
    shown = [s for s in statuses if s.state != "done"] if len(statuses) > LISTED else list(statuses)
    lines = [(s.name, s.state, "" if s.seconds is None else f"{s.seconds:.1f}", s.reason) for s in shown[:LISTED]]
    if lines:
        terminal.stdout().print(terminal.rows(("case", "state", "seconds", ""), lines, right=("seconds",)))
    if len(shown) > LISTED:
        terminal.say(f"and {len(shown) - LISTED} more; diffatlas collect {output} -o TABLE.csv lists all")
    terminal.say(f"{done} of {len(statuses)} done: {output}")


def watch(cohort: Cohort | Scheduled) -> None:
    """Run the cohort: a line on stderr for every case that ends; on a terminal also a live line of running cases."""
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
