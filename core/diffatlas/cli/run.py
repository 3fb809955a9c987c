"""The commands that run a model: segment, generate, replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffatlas.cli import options as opt
from diffatlas.cli import quick
from diffatlas.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffatlas.cli.outputs import Outputs
    from diffatlas.engine.request import Request
    from diffatlas.geometry.volume import Volume
    from diffatlas.session import Backend, Frame, Result

MAX_COUNT = 10_000

ConfidenceFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Agreement of the samples, 0 to 1.")]
IgnoreFile = Annotated[
    Path | None,
    typer.Option("--ignore", metavar="MASK", help="A mask on the image's voxels: do not believe these."),
]
ReportFile = Annotated[Path | None, typer.Option(metavar="FILE.json", help="What was run, and how it went.")]
GifFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The run as an animation.")]
FramesFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder for a picture of every step.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="OUTPUT", help=".nii.gz, .nii, .nrrd, .mha or .dcm")]


def segment(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="NIfTI, NRRD, MetaImage, or a DICOM series.")],
    output: Output,
    model: opt.Model = "auto",
    preset: opt.Preset = "fast",
    steps: opt.Steps = None,
    guidance: opt.Guidance = "image",
    guidance_noise: opt.GuidanceNoise = None,
    sampler: opt.Sampler = None,
    samples: opt.Samples = 1,
    seed: opt.Seed = 0,
    roi: opt.RoiText = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    force: opt.Force = False,
    volume: opt.VolumeIndex = None,
    modality: opt.KnownModality = None,
    ignore: IgnoreFile = None,
    confidence: ConfidenceFile = None,
    report: ReportFile = None,
    gif: GifFile = None,
    frames: FramesFolder = None,
    format_: opt.Format = None,
    as_json: opt.Json = False,
) -> None:
    """Segment a volume: labels on its own voxels, with the structure ids of the model."""
    from diffatlas.cli.outputs import Outputs

    request = opt.segment_request(
        model=model,
        preset=preset,
        steps=steps,
        guidance=guidance,
        guidance_noise=guidance_noise,
        sampler=sampler,
        samples=samples,
        seed=seed,
        roi=roi,
        device=device,
        precision=precision,
        force=force,
    )
    outputs = Outputs(output, confidence, report, gif, frames, opt.label_format(format_))
    outputs.check(input_)

    backend = opt.backend_for(device)
    if request.device == device:  # else the network runs on another machine
        quick.torch_beside(input_)
    image = opt.read_input(input_, volume, modality)
    if ignore is not None:
        request = replace(request, ignore=ignored_voxels(ignore, image))
    if confidence is not None and request.samples < 2 and backend.plan(image, request).card.calibration is None:
        raise BadInput("--confidence needs more than one sample to compare, or a calibrated model: add --samples 4")
    run_and_write(image, request, outputs, source_path=input_, as_json=as_json, backend=backend)


def ignored_voxels(path: Path, volume: Volume) -> NDArray[np.bool_]:
    """The voxels that a mask file on the grid of ``volume`` marks, any number but 0; `BadInput` on another grid."""
    from diffatlas.io import read_label_ids

    marks, grid = read_label_ids(path)
    if not grid.matches(volume.grid):
        raise BadInput(f"{path}: its grid is not that of the image; draw the mask on the image's own voxels")
    marked: NDArray[np.bool_] = marks != 0
    return marked


def run_and_write(
    volume: Volume,
    request: Request,
    outputs: Outputs,
    *,
    source_path: Path,
    as_json: bool = False,
    quiet: bool = False,
    backend: Backend | None = None,
) -> Result:
    """Run the request, write its outputs, and print a summary on stdout (unless ``quiet``)."""
    from diffatlas.cli import terminal
    from diffatlas.cli.outputs import Recorder, staging, write_run
    from diffatlas.engine.run_record import report_of
    from diffatlas.io import UNREFERENCED

    result: Result | None = None
    with ExitStack() as stack:
        folder = None if outputs.frames is None else stack.enter_context(staging(outputs.frames))
        recorder = Recorder(outputs, volume, folder)
        frames = stack.enter_context(closing(terminal.watched(stream(volume, request, backend), volume.name)))
        for frame in frames:
            recorder.add(frame)
            result = frame.result
        result = finished(result)
        report = report_of(result, source_path)
        write_run(outputs, result, volume, recorder, report)
    notes = [*volume.notes, *result.notes]
    if outputs.labels.suffix.lower() == ".dcm" and volume.series is None:
        notes.append(UNREFERENCED)
    terminal.notes(notes)
    if as_json:
        terminal.print_json({**report, "outputs": outputs.files()})
    elif not quiet:
        terminal.summary(result, outputs.files())
    return result


def stream(volume: Volume | None, request: Request, backend: Backend | None) -> Iterator[Frame]:
    """The run, on this machine where no other backend is given."""
    from diffatlas import session

    return (backend or session.local_backend()).stream(volume, request)


def finished(result: Result | None) -> Result:
    """The result of the last frame; a stream without one is a bug of the backend."""
    if result is None:
        raise RuntimeError("the run ended without a result")
    return result


def generate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="case-000_image.nii.gz, ...")],
    model: opt.AtlasModel = None,
    count: Annotated[int, typer.Option(metavar="N", help="How many pairs.")] = 1,
    seed: opt.Seed = 0,
    preset: opt.Preset = "watch",
    steps: opt.Steps = None,
    sampler: opt.Sampler = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    as_json: opt.Json = False,
) -> None:
    """Draw image-mask pairs from the atlas of a model; pair i belongs to seed S + i."""
    from diffatlas import session
    from diffatlas.cli.outputs import check_folder, publish, staging
    from diffatlas.engine.request import Request

    if not 1 <= count <= MAX_COUNT:
        raise BadInput(f"--count must be between 1 and {MAX_COUNT}, not {count}")
    if model == "auto":
        raise BadInput("--model auto needs an image to choose by: name the atlas to draw from (diffatlas models)")
    model = model or session.choose_model(None)
    request = Request(
        model=model,
        preset=preset,
        steps=steps,
        sampler=sampler,
        seed=seed,
        device=opt.device_name(device),
        precision=precision,
    )
    backend = opt.backend_for(device)
    if request.device == device:  # another machine has models of its own
        opt.check_model(model)
    check_folder(output)

    from diffatlas.cli import terminal
    from diffatlas.session import pairs, write_pair

    cases: list[dict[str, Any]] = []
    with staging(output) as folder:
        for index in range(count):
            pair = replace(request, seed=seed + index)
            last: Result | None = None
            with closing(terminal.watched(pairs(pair, 1, backend), f"pair {index + 1} of {count}")) as frames:
                for frame in frames:
                    last = frame.result
            result = finished(last)
            terminal.notes(result.notes)
            mask = result.masks[0]
            case = write_pair(folder, index, result.images[0], mask)
            cases.append({"case": case, "seed": pair.seed, "volumes_ml": mask.volumes_ml()})
        publish(folder, output)
    if as_json:
        terminal.print_json({"model": model, "folder": output, "cases": cases})
    else:
        terminal.stdout().print(f"{count} image-mask pairs of {model}: {output}", soft_wrap=True)


def replay(
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="Written by segment --report.")],
    output: Output,
    input_: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="The image, where it has moved.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|DIR", help="The model, where it has moved.", show_default=False),
    ] = None,
    format_: opt.Format = None,
    force: Annotated[bool, typer.Option("--force", help="Run although the image or the weights differ.")] = False,
    index: opt.VolumeIndex = None,
    as_json: opt.Json = False,
) -> None:
    """Run again what a report records: the same image, the same weights, the same labels.

    An image that is not where it was is looked for beside the report.
    """
    from diffatlas.cli.outputs import Outputs
    from diffatlas.engine.run_record import read_run

    run = read_run(report)
    if model is not None:
        run = replace(run, request=replace(run.request, model=opt.model_for_report(model)))
    card = opt.card_of(run.request.model)
    path = input_ or run.source.path
    if path is not None and not path.exists() and (beside := report.absolute().parent / path.name).exists():
        path = beside
    if path is None:
        raise BadInput(f"{report.name}: does not name the image; give it with --input FILE")
    outputs = Outputs(output, format=opt.label_format(format_))
    outputs.check(path, report)
    if not path.exists():
        raise BadInput(f"{path}: is not there any more; give the image with --input FILE")
    if not force and (reason := run.other_weights(card.name, card.sha256)):
        raise BadInput(f"{reason}; add --force to run the ones at hand")
    volume = run.prepared(opt.read_input(path, index))
    if not force and (reason := run.other_image(volume, str(path))):
        raise BadInput(f"{reason}; give the image with --input, or add --force")
    run_and_write(volume, run.request, outputs, source_path=path, as_json=as_json)
