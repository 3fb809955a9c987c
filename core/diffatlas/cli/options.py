"""The options that several commands share, and the checks that need no file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from diffatlas.engine.choices import DeviceName, GuidanceName, PrecisionName, PresetName, Roi, SamplerName
from diffatlas.errors import BadInput, SeveralVolumes

if TYPE_CHECKING:
    from diffatlas.engine.request import Request
    from diffatlas.geometry.volume import Modality, Volume
    from diffatlas.io import LabelFormat
    from diffatlas.models.card import ModelCard
    from diffatlas.session import Backend

Model = Annotated[str, typer.Option("--model", metavar="NAME|DIR", help="A name from `diffatlas models`, or a folder.")]
AtlasModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="The atlas to draw from.",
        show_default="heart-phantom, else the first",
    ),
]
Preset = Annotated[PresetName, typer.Option(help="A named set of sampling options; single options override it.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps, 1 to 1000.", show_default="the preset's")]
Guidance = Annotated[GuidanceName, typer.Option(help="How the patient's image steers the run.")]
GuidanceNoise = Annotated[
    float | None,
    typer.Option(metavar="RHO", help="0: the clean image; 1: the published guidance.", show_default="the preset's"),
]
Sampler = Annotated[SamplerName | None, typer.Option(help="How a step is taken.", show_default="the preset's")]
Samples = Annotated[int, typer.Option(metavar="K", help="Seeds to run and average, 1 to 1024.")]
Seed = Annotated[int, typer.Option(metavar="S", help="The same seed gives the same result.")]
RoiText = Annotated[
    str | None,
    typer.Option("--roi", metavar="X0:X1,Y0:Y1,Z0:Z1", help="Voxel ranges to look at.", show_default="automatic"),
]
Device = Annotated[
    str,
    typer.Option(metavar="auto|cpu|cuda|mps|URL", help="Where the network runs; http://HOST:PORT: by `serve` there."),
]
Precision = Annotated[PrecisionName, typer.Option(help="Arithmetic of the network.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout, and nothing else there.")]

VolumeIndex = Annotated[
    int | None, typer.Option("--volume", metavar="N", help="Of a 4-D series, from 0.", show_default="the only one")
]
KnownModality = Annotated[
    Literal["ct", "mr"] | None, typer.Option("--modality", help="What the volume is.", show_default="as it looks")
]

Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="nifti, or seg or rtstruct (.dcm).", show_default="by the extension"),
]

_ROI = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")


def parse_roi(text: str | None) -> Roi | None:
    """``X0:X1,Y0:Y1,Z0:Z1``, half-open voxel ranges; `BadInput` on anything else."""
    if text is None:
        return None
    match = _ROI.fullmatch(re.sub(r"\s", "", text))
    if match is None:
        raise BadInput(f"--roi must look like X0:X1,Y0:Y1,Z0:Z1 in voxels (10:60,0:48,5:40), not {text!r}")
    x0, x1, y0, y1, z0, z1 = (int(number) for number in match.groups())
    if x0 >= x1 or y0 >= y1 or z0 >= z1:
        raise BadInput(f"--roi {text}: every range must end beyond its start")
    return (x0, x1), (y0, y1), (z0, z1)


def read_input(path: Path, index: int | None = None, modality: Modality | None = None) -> Volume:
    """The volume that a command is given; ``modality`` named by the user stands above what the file says."""
    from diffatlas import io

    try:
        volume = io.read_volume(path, volume_index=index)
    except SeveralVolumes as error:
        raise BadInput(f"{error} (--volume N)") from error
    return volume if modality is None else volume.named(modality)


def label_format(name: str | None) -> LabelFormat | None:
    """The format of labels by its name."""
    formats: dict[str | None, LabelFormat | None] = {None: None, "nifti": "nifti", "seg": "seg", "rtstruct": "rtstruct"}
    if name in formats:
        return formats[name]
    raise BadInput(f"--format must be nifti, seg or rtstruct, not {name}")


Force = Annotated[bool, typer.Option("--force", help="Run although the model was trained on another modality.")]


def check_model(name: str) -> None:
    """`BadInput` where no model has this name or lies in this folder; its card is read, its weights are not."""
    if name != "auto":
        card_of(name)


def card_of(name: str) -> ModelCard:
    """The card of a model by name or folder."""
    from diffatlas.models import store

    return store.read_card(store.find_model(name))


def model_for_report(name: str) -> str:
    """``name`` as a report can say it: a folder's absolute path, so that a replay from another folder finds it."""
    from diffatlas.models.store import CARD_FILE

    if name != "auto" and (Path(name) / CARD_FILE).is_file():
        return str(Path(name).resolve())
    return name


def device_name(text: str) -> DeviceName:
    """What a request says of ``--device``; another machine chooses its own."""
    for name in get_args(DeviceName):
        if text == name:
            return name  # type: ignore[no-any-return]
    if _is_address(text):
        return "auto"
    raise BadInput(f"--device must be {', '.join(get_args(DeviceName))} or http://HOST:PORT, not {text!r}")


def backend_for(device: str) -> Backend:
    """The engine that ``--device`` names: this machine's, or another one's over HTTP."""
    if _is_address(device):
        from diffatlas.remote import RemoteBackend

        return RemoteBackend(device)
    from diffatlas import session

    return session.local_backend()


def _is_address(device: str) -> bool:
    return device.startswith(("http://", "https://"))


def segment_request(
    *,
    model: str,
    preset: PresetName,
    steps: int | None,
    guidance: GuidanceName,
    guidance_noise: float | None,
    sampler: SamplerName | None,
    samples: int,
    seed: int,
    roi: str | None,
    device: str,
    precision: PrecisionName,
    force: bool,
) -> Request:
    """The request the options describe; `BadInput` before any file is touched."""
    from diffatlas.engine.request import Request  # pydantic waits for it

    request = Request(
        model=model if _is_address(device) else model_for_report(model),
        preset=preset,
        steps=steps,
        guidance=guidance,
        guidance_noise=guidance_noise,
        sampler=sampler,
        samples=samples,
        seed=seed,
        roi=parse_roi(roi),
        device=device_name(device),
        precision=precision,
        force=force,
    )
    if not _is_address(device):  # another machine has models of its own
        check_model(model)
    return request
