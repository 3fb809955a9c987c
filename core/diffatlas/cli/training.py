"""The commands that make a model: train and export, of prepared cases; distill, of another model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from diffatlas.cli import options as opt
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

        from diffatlas.cli.terminal import say

        say((files("diffatlas") / "train" / "example.yaml").read_text(encoding="utf-8").rstrip("\n"))
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
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CONFIG|MODEL", help="The folder of a run, or its YAML file; or, for a bundle, a model."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The model's folder.", show_default="export of CONFIG"),
    ] = None,
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="The moving average, or the weights of the last update.")
    ] = "ema",
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Make a MONAI bundle of a model, in a new folder.", show_default=False),
    ] = None,
) -> None:
    """Make a model of the last checkpoint of a training run, also while it goes on; or a MONAI bundle of a model."""
    if bundle is not None:
        if output is not None:
            raise BadInput("--bundle names the folder to write; leave out --output")
        from diffatlas.bundle import export_bundle
        from diffatlas.cli.terminal import say as tell

        tell(f"bundle: {export_bundle(source, bundle)}")
        return
    _export_run(Path(source), output, weights)


def _export_run(source: Path, output: Path | None, weights: Literal["ema", "raw"]) -> None:
    if not source.exists():
        raise BadInput(f"{source}: no such file or folder; give a run's folder or its YAML file")
    if output is not None and output.exists() and not output.is_dir():
        raise BadInput(f"{output}: is a file; give the name of a folder")
    from diffatlas.cli.terminal import say
    from diffatlas.evaluate import baselines  # noqa: F401  (runs of theirs, too)
    from diffatlas.train.export import export_run

    say(f"model: {export_run(source, output, weights)}")


def distill(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="A name from `diffatlas models`, or a folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The student's folder; DIR-run keeps the run.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Volumes, DICOM folders, folders of these; labels are not needed."),
    ] = None,
    phantom: Annotated[
        int | None, typer.Option(metavar="N", help="N digital hearts in place of images.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Any part of a training configuration: network, steps, batch, augment, ...",
            show_default="half the teacher's widths",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Train this long, minutes.", show_default="until all steps are done")
    ] = None,
    preset: opt.Preset = "fast",
    steps: opt.Steps = None,
    guidance_noise: opt.GuidanceNoise = None,
    sampler: opt.Sampler = None,
    samples: opt.Samples = 1,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Teach a small, fast atlas what another model answers; continues where it was stopped.

    The teacher is asked once about each image, with the sampling options given here.
    """
    if (phantom is None) == (not inputs):
        raise BadInput("give images for the teacher to answer, or --phantom N")
    if phantom is not None and phantom < 2:
        raise BadInput(f"--phantom {phantom}: give at least 2 hearts")
    if minutes is not None and not minutes > 0:
        raise BadInput(f"--minutes {minutes:g}: give a time of more than 0")
    if output.exists() and not output.is_dir():
        raise BadInput(f"{output}: is a file; give the name of a folder")
    opt.check_model(teacher)
    request = opt.segment_request(
        model=teacher,
        preset=preset,
        steps=steps,
        guidance="image",
        guidance_noise=guidance_noise,
        sampler=sampler,
        samples=samples,
        seed=0,
        roi=None,
        device="auto",
        precision="auto",
        force=force,
    )
    from diffatlas import distill as distilling
    from diffatlas.cli import terminal

    card = opt.card_of(teacher)
    images, notes = (
        (distilling.hearts(phantom, card.modalities), [])
        if phantom is not None
        else distilling.images_in(inputs or [], output)
    )
    terminal.notes(notes)
    settings = distilling.settings(card, len(images), output, request, config, overrides or ())
    student = distilling.distill(teacher, images, settings, request, minutes)
    found = student.metrics[distilling.AGREEMENT]
    if as_json:
        terminal.print_json({"model": output, "card": student.to_json()})
    else:
        low, high = found["interval"]
        terminal.say(
            f"model: {output}; Dice {found['dice']:.3f} ({low:.3f} to {high:.3f}) with {card.name} on {found['n']} "
            f"images kept from training"
        )
