"""The list of commands, and the entry point."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from diffatlas.cli import files, launch, models, quick, run, training
from diffatlas.cli.batch import batch, collect
from diffatlas.cli.errors import Commands
from diffatlas.cli.evaluate import evaluate
from diffatlas.cli.prepare import prepare
from diffatlas.cli.review import review
from diffatlas.cli.serve import serve

app = typer.Typer(
    cls=Commands,
    name="diffatlas",
    help="Segment medical volumes by generating the image-mask pair that agrees with them. Not for clinical use.",
    no_args_is_help=True,
    # Plain help: rich's framed help takes longer to import than the rest of this program.
    rich_markup_mode=None,
    add_completion=False,
    # Exceptions become one line in `Commands`; with DIFFATLAS_DEBUG=1 Python's own traceback is wanted.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

app.command("segment")(run.segment)
app.command("generate")(run.generate)
app.command("replay")(run.replay)
app.command("batch")(batch)
app.command("collect")(collect)
app.command("review")(review)
app.command("phantom")(files.phantom)
app.command("compare")(files.compare)
app.command("models")(files.models)
app.command("info")(files.info)
app.command("convert")(models.convert)
app.command("pull")(models.pull)
app.command("prepare")(prepare)
app.command("train")(training.train)
app.command("export")(training.export)
app.command("distill")(training.distill)
app.command("evaluate")(evaluate)
app.command("demo")(launch.demo)
app.command("app")(launch.web)
app.command("serve")(serve)
app.command("learn")(launch.learn)
app.command("mcp")(launch.mcp)
app.command("napari")(launch.napari)


def _version(wanted: bool) -> None:
    if wanted:
        from diffatlas.cli.terminal import say
        from diffatlas.values import program_version

        say(f"diffatlas {program_version()}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""
    if context.obj is _unwind_when_stopped:
        _unwind_when_stopped()
        quick.begin(context.invoked_subcommand)


def main() -> None:
    """Run the command line; SIGTERM ends a run as cleanly as Ctrl-C."""
    app(prog_name="diffatlas", obj=_unwind_when_stopped)


def _unwind_when_stopped() -> None:
    """Called when the command begins: `Commands` could not handle an earlier interrupt."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
