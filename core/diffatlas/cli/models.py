"""The commands that bring the authors' checkpoints in: convert, pull."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffatlas.cli import options as opt
from diffatlas.errors import BadInput

if TYPE_CHECKING:
    from diffatlas.models.card import ModelCard

Weights = Annotated[Literal["model", "ema"], typer.Option(help="The raw weights (as published), or the averaged ones.")]
Labels = Annotated[
    str | None,
    typer.Option(metavar="A,B=ID,...", help="Structures in channel order.", show_default="the five of MM-WHS"),
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Of the model.", show_default="from the file's name")]
SpacingText = Annotated[
    str | None,
    typer.Option("--spacing", metavar="MM|X,Y,Z", help="Voxel size it was trained on.", show_default="2.5, a guess"),
]
Size = Annotated[int | None, typer.Option(metavar="N", help="Voxels along an edge of its cubes.", show_default="64")]
Orientation = Annotated[
    str | None,
    typer.Option(metavar="CODES", help="Where its axes D, H, W point.", show_default="RAS, a guess"),
]
Folder = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="The model's folder.")]


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT.pt", help="A checkpoint of the authors' code.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The model's folder, made if need be.")],
    weights: Weights = "model",
    labels: Labels = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|LOW:HIGH",
            help="mmwhs-ct, mmwhs-mr, totalsegmentator-ct, or intensities.",
            show_default="mmwhs-ct, a guess",
        ),
    ] = None,
    name: Name = None,
    spacing: SpacingText = None,
    size: Size = None,
    orientation: Orientation = None,
    as_json: opt.Json = False,
) -> None:
    """Make a model of an authors' checkpoint, without running what the file holds."""
    from diffatlas.published.convert import Options
    from diffatlas.published.convert import convert as make

    options = Options(weights, labels, window, name, parse_spacing(spacing), size, orientation)
    card = make(checkpoint, output, options)
    _say(card, output, as_json)


def pull(
    release: Annotated[str, typer.Argument(metavar="NAME", help="MMWHSCT_full, MMWHSMRI_all, ...")],
    output: Folder = None,
    weights: Weights = "model",
    labels: Labels = None,
    name: Name = None,
    spacing: SpacingText = None,
    size: Size = None,
    orientation: Orientation = None,
    as_json: opt.Json = False,
) -> None:
    """Fetch a checkpoint that the authors released, and convert it; continues a broken download."""
    from diffatlas.published import hub
    from diffatlas.published.convert import Options
    from diffatlas.published.convert import convert as make

    known, about = hub.release(release)
    slug = re.sub(r"[^a-z0-9]+", "-", known.lower())
    folder = output or Path(os.environ.get("DIFFATLAS_WEIGHTS") or ".") / slug
    options = Options(weights, labels, about.window, name or slug, parse_spacing(spacing), size, orientation)
    path, origin = hub.download(known)
    _say(make(path, folder, options, origin), folder, as_json)


def parse_spacing(text: str | None) -> tuple[float, float, float] | None:
    """``2.5`` or ``2.5,2.5,3``, mm."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
        x, y, z = values * 3 if len(values) == 1 else values
    except ValueError as error:
        raise BadInput(f"--spacing must be one length or three, mm (2.5 or 2.5,2.5,3), not {text!r}") from error
    return x, y, z


def _say(card: ModelCard, folder: Path, as_json: bool) -> None:
    from diffatlas.cli import terminal

    if as_json:
        terminal.print_json({"folder": folder, "card": card.to_json()})
        return
    console = terminal.stdout()
    console.print(
        f"{card.name}: {len(card.scheme)} structures, {card.levels} noise levels: {folder}",
        soft_wrap=True,
    )
    console.print(f"Use it with --model {folder}", soft_wrap=True)
    terminal.notes(limit for limit in card.limits if "assumption" in limit)
