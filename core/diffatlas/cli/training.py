"""The commands that make a model of prepared cases: train, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffatlas.errors import BadInput


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A YAML file; those of the shipped models are in weights/."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Be done, model and all, after this long, minutes.", show_default="when all steps are done"),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a commented CONFIG with every option.")] = False,
) -> None:
    """Train an atlas; continues where an interrupted run of the same configuration stopped.

    One process, or one of several that torchrun or srun started.
    """
    if example:
        from importlib.resources import files

        typer.echo((files("diffatlas") / "train" / "example.yaml").read_text(encoding="utf-8"), nl=False)
        return
    if config is None:
        raise BadInput("give the YAML file of a training run (diffatlas train --example prints one)")
    if not config.is_file():
        raise BadInput(f"{config}: no such file; give the YAML file of a training run")
    if minutes is not None and not minutes > 0:
        raise BadInput(f"--minutes {minutes:g}: give a time of more than 0")
    from diffatlas import train as training
    from diffatlas.evaluate import baselines  # noqa: F401  (their tasks can be trained by name, too)

    training.run(config, overrides or (), minutes)


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|CONFIG", help="The folder of a run, or its YAML file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The model's folder.", show_default="export of CONFIG"),
    ] = None,
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="The moving average, or the weights of the last update.")
    ] = "ema",
) -> None:
    """Make a model of the last checkpoint of a training run, also while the run goes on."""
    if not source.exists():
        raise BadInput(f"{source}: no such file or folder; give a run's folder or its YAML file")
    if output is not None and output.exists() and not output.is_dir():
        raise BadInput(f"{output}: is a file; give the name of a folder")
    from diffatlas.evaluate import baselines  # noqa: F401  (runs of theirs, too)
    from diffatlas.train.export import export_run

    typer.echo(f"model: {export_run(source, output, weights)}")
