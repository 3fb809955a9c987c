"""The commands that read and write files but run no model: phantom, compare, models, info."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffatlas.cli import options as opt
from diffatlas.errors import BadInput, SeveralVolumes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffatlas.geometry.volume import LabelScheme, Modality

MAX_COUNT = 10_000
# Index 255 is the last that a label map of bytes can hold.
MAX_STRUCTURES = 255


def phantom(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="case-000_image.nii.gz, ...")],
    count: Annotated[int, typer.Option(metavar="N", help="How many cases.")] = 1,
    modality: Annotated[Literal["ct", "mr", "random"], typer.Option(help="How the heart is imaged.")] = "ct",
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Write digital hearts with their true labels; case i belongs to seed S + i."""
    from diffatlas import io
    from diffatlas.cli import terminal
    from diffatlas.cli.outputs import check_folder, publish, staging

    if not 1 <= count <= MAX_COUNT:
        raise BadInput(f"--count must be between 1 and {MAX_COUNT}, not {count}")
    if seed < 0:
        raise BadInput(f"--seed must be 0 or more, not {seed}")
    check_folder(output)

    from diffatlas.phantom import phantom as make

    cases: list[dict[str, Any]] = []
    with staging(output) as folder:
        for index in range(count):
            image, labels = make(seed + index, modality)
            case = f"case-{index:03d}"
            io.write_volume(image, folder / f"{case}_image.nii.gz")
            io.write_label_map(labels, folder / f"{case}_label.nii.gz")
            cases.append({"case": case, "seed": seed + index, "volumes_ml": labels.volumes_ml()})
        publish(folder, output)
    if as_json:
        terminal.print_json({"modality": modality, "folder": output, "cases": cases})
    else:
        terminal.stdout().print(f"{count} phantom hearts ({modality}): {output}", soft_wrap=True)


def compare(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="A label map.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The label map it should agree with.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|DIR", help="Whose structure names to use.", show_default="label 1, label 2, ..."
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Of the surface Dice, mm.")] = 2.0,
    as_json: opt.Json = False,
) -> None:
    """Compare two label maps: Dice, surface Dice, HD95 and volumes of every structure."""
    from diffatlas import io, metrics
    from diffatlas.cli import terminal
    from diffatlas.geometry.volume import LabelMap, LabelScheme

    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise BadInput(f"--tolerance must be a length of 0 mm or more, not {tolerance}")
    scheme = None if model is None else opt.card_of(model).scheme
    if scheme is None and io.is_dicom_labels(prediction) and io.is_dicom_labels(reference):
        # Both files name their structures: they are matched by name, because each file has its own numbers.
        scheme = LabelScheme("names", io.read_structures(reference))
    if scheme is None:
        (ours, our_grid), (theirs, their_grid) = io.read_label_ids(prediction), io.read_label_ids(reference)
        scheme = scheme_of_ids(ids_in(ours) | ids_in(theirs))
        pair = LabelMap.from_ids(ours, our_grid, scheme), LabelMap.from_ids(theirs, their_grid, scheme)
    else:
        pair = io.read_label_map(prediction, scheme), io.read_label_map(reference, scheme)
    comparison = metrics.compare(*pair, tolerance)
    if as_json:
        terminal.print_json({"scheme": scheme.name, **comparison.to_json()})
        return
    lines = [
        (
            row.name,
            number(row.dice, ".3f"),
            number(row.surface_dice, ".3f"),
            number(row.hd95_mm, ".2f"),
            number(row.volume_prediction_ml, ".2f"),
            number(row.volume_reference_ml, ".2f"),
        )
        for row in comparison.rows
    ]
    mean = comparison.mean
    lines.append(
        (
            "mean",
            number(mean["dice"], ".3f"),
            number(mean["surface_dice"], ".3f"),
            number(mean["hd95_mm"], ".2f"),
            "",
            "",
        )
    )
    numbers = ("Dice", "surface Dice", "HD95 mm", "prediction ml", "reference ml")
    terminal.stdout().print(terminal.rows(("structure", *numbers), lines, right=numbers))
    terminal.stdout().print(f"structures: {scheme.name}; surface Dice at {tolerance:g} mm; - where undefined")


def models(as_json: opt.Json = False) -> None:
    """List the models at hand."""
    from diffatlas import session
    from diffatlas.cli import terminal

    cards = session.available_models()
    if as_json:
        terminal.print_json([card.to_json() for card in cards])
        return
    lines = [
        (card.name, card.title, ", ".join(card.scheme.names), ", ".join(card.modalities), card.licence)
        for card in cards
    ]
    terminal.stdout().print(terminal.rows(("model", "title", "structures", "modalities", "licence"), lines))


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A volume, a report, or the folder of a model.")],
    volume: opt.VolumeIndex = None,
    modality: opt.KnownModality = None,
    as_json: opt.Json = False,
) -> None:
    """Say what a file holds, as this program reads it."""
    from diffatlas.cli import terminal

    what = described(file, volume, modality)
    if as_json:
        terminal.print_json(what)
        return
    terminal.stdout().print(terminal.rows(("", ""), flat(what)))


def described(file: Path, volume: int | None = None, modality: Modality | None = None) -> dict[str, Any]:
    """Plain data about a volume, a report (.json) or a model folder."""
    from diffatlas import io

    model = file.is_dir() and (file / "card.yaml").is_file()
    if (model or file.suffix.lower() == ".json") and (volume, modality) != (None, None):
        raise BadInput(f"{file.name}: is no volume: --volume and --modality say nothing of it")
    if model:
        return opt.card_of(str(file)).to_json()
    if file.suffix.lower() == ".json":
        from diffatlas.engine.run_record import read_report

        record = read_report(file)
        return {**record, "frames": len(record.get("frames") or [])}
    try:
        return io.describe(file, volume_index=volume, modality=modality)
    except SeveralVolumes as error:
        raise BadInput(f"{error} (--volume N)") from error


def flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as (dotted name, text) lines; what is empty is left out."""
    lines: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += flat(item, f"{prefix}{key}.")
        elif isinstance(item, (list, tuple)) and any(isinstance(part, (dict, list, tuple)) for part in item):
            lines += flat({str(index): part for index, part in enumerate(item)}, f"{prefix}{key}.")
        elif isinstance(item, (list, tuple)):
            lines += [(f"{prefix}{key}", ", ".join(shown(part) for part in item))] if item else []
        elif item is not None:
            lines.append((f"{prefix}{key}", shown(item)))
    return lines


def shown(value: Any) -> str:
    """A scalar as people read it."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def number(value: float, form: str) -> str:
    """A number, or a dash where it is undefined."""
    return "-" if math.isnan(value) else format(value, form)


def scheme_of_ids(ids: set[int]) -> LabelScheme:
    """A scheme that names structures by their number: what an id means is for the user to say (``--model``)."""
    from diffatlas.geometry.volume import LabelScheme, Structure

    if not ids:
        raise BadInput("both label maps are empty; there is nothing to compare")
    if len(ids) > MAX_STRUCTURES:
        raise BadInput(
            f"the files hold {len(ids)} different labels, {MAX_STRUCTURES} can be compared; are they label maps?"
        )
    return LabelScheme("ids", tuple(Structure(f"label {id_}", id_, (160, 160, 160)) for id_ in sorted(ids)))


def ids_in(labels: Iterable[Any]) -> set[int]:
    """The structure ids that occur in an array."""
    import numpy as np

    return {int(value) for value in np.unique(np.asarray(labels)) if value != 0}
