"""The authors' checkpoints (.pt) to folders of this program (safetensors and a card), without running what they hold.

The file is read by `diffatlas.published.authors_file`. Then every tensor is checked against the published architecture,
whose sizes follow from the tensors' shapes, before one is used. Names may begin with any run of `WRAPPERS`
("denoise_fn.module." in the authors' files); buffers of the noise schedule stand beside them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import MMWHS, LabelScheme, Structure
from diffatlas.io import atomic_path, sweep, temporary_folder_in
from diffatlas.models.card import MAX_LEVELS, ModelCard
from diffatlas.models.store import WEIGHTS_FILE, file_sha256, write_card
from diffatlas.published.authors_file import Weights, first_line, printable, read_state

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("denoise_fn", "module", "model", "ema_model", "_orig_mod")
BUFFERS = frozenset(
    (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    )
)
DEFAULT_LEVELS = 300
DEFAULT_SPACING_MM = (2.5, 2.5, 2.5)
DEFAULT_SIZE = 64
DEFAULT_WINDOW = "mmwhs-ct"
DEFAULT_ORIENTATION = "RAS"
GROUPS = 8
SDF_RANGE = 0.2
SDF_RANGE_VOXELS = 6.4  # voxel distance / 32, cut at 0.2

# Short names in use for the five hearts' structures, and for what else MM-WHS names.
ABBREVIATIONS = {
    "lv": "left ventricle",
    "rv": "right ventricle",
    "la": "left atrium",
    "ra": "right atrium",
    "myo": "myocardium",
}
COLORS = ((213, 94, 0), (86, 180, 233), (230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (240, 228, 66))


@dataclass(frozen=True)
class Options:
    """What the file does not say and the card must.

    ``labels``: structure names in channel order, each with an id where it is not an MM-WHS one (see `parse_labels`).
    ``window``: "mmwhs-ct", "mmwhs-mr", "totalsegmentator-ct" or "LOW:HIGH". ``spacing_mm`` and ``size``: of the cubes
    the network was trained on. ``orientation``: where its axes D, H, W point, as axis codes. None: the
    assumption is made, and the card says so.
    """

    weights: Weights = "model"
    labels: str | None = None
    window: str | None = None
    name: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    size: int | None = None
    orientation: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a downloaded file came from, for the card."""

    repository: str
    revision: str


def convert(checkpoint: Path, folder: Path, options: Options | None = None, origin: Origin | None = None) -> ModelCard:
    """Write ``folder`` with the weights and a card made of ``checkpoint``; returns the card.

    Raises `BadInput`, with nothing written, for a file that is no such checkpoint and for options that do not fit it.
    """
    options = options or Options()
    name = _model_name(options.name, checkpoint)
    _check_folder(folder)
    state, step = read_state(checkpoint, options.weights)
    levels, network_state = _without_schedule(state, checkpoint.name)
    sizes = sizes_of(network_state, checkpoint.name)
    tensors = _checked(network_state, sizes, checkpoint.name)
    card = _card(name, checkpoint, options, sizes, levels, step, origin)
    _write(tensors, card, folder)
    return card


# -- what the tensors say ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Named:
    """The network's tensors without their prefix; ``prefix`` for messages that name them as the file does."""

    tensors: dict[str, Tensor]
    prefix: str


def _without_schedule(state: dict[str, Tensor], file: str) -> tuple[int | None, _Named]:
    """Split off the schedule's buffers: the number of levels (None where there are none), and the network's tensors."""
    anchor = "init_conv.weight"
    pattern = re.compile(rf"((?:(?:{'|'.join(WRAPPERS)})\.)*){re.escape(anchor)}")
    prefixes = sorted({match[1] for key in state if (match := pattern.fullmatch(key))})
    if not prefixes:
        first = printable(next(iter(state)))
        raise BadInput(f"{file}: tensor '{anchor}' is missing (there is '{first}'): not the published architecture")
    if len(prefixes) > 1:
        raise BadInput(f"{file}: holds more than one network ('{prefixes[0]}{anchor}' and '{prefixes[1]}{anchor}')")
    prefix = prefixes[0]
    buffers: dict[str, Tensor] = {}
    network: dict[str, Tensor] = {}
    for key, value in state.items():
        last = key.rpartition(".")[2]
        if last in BUFFERS and (key == last or not key.startswith(prefix)):
            buffers[last] = value
        elif key.startswith(prefix):
            network[key.removeprefix(prefix)] = value
        else:
            raise BadInput(f"{file}: tensor '{printable(key)}' does not belong to the published architecture")
    return _levels(buffers, file), _Named(network, prefix)


def _levels(buffers: dict[str, Tensor], file: str) -> int | None:
    """The number of noise levels, checked to be those of the published cosine schedule."""
    import torch

    from diffatlas.diffusion.schedule import published_alphas_cumprod

    if "alphas_cumprod" not in buffers:
        if "betas" not in buffers:
            return None
        buffers["alphas_cumprod"] = torch.cumprod(1 - buffers["betas"].double(), dim=0)
    table = buffers["alphas_cumprod"]
    if table.ndim != 1 or not 1 <= len(table) <= MAX_LEVELS or not table.is_floating_point():
        raise BadInput(f"{file}: 'alphas_cumprod' is not the table of a noise schedule")
    if not torch.allclose(table.double(), published_alphas_cumprod(len(table)), rtol=0, atol=1e-4):
        raise BadInput(f"{file}: 'alphas_cumprod' is not that of the published cosine schedule")
    return len(table)


def sizes_of(state: _Named, file: str) -> dict[str, Any]:
    """Arguments of `PublishedUNet` that the shapes imply; `BadInput` names the tensor that does not fit."""

    def shape(key: str, rank: int) -> tuple[int, ...]:
        if key not in state.tensors:
            raise BadInput(f"{file}: tensor '{state.prefix}{key}' is missing: not the published architecture")
        found = tuple(state.tensors[key].shape)
        if len(found) != rank or min(found) < 1:
            raise misfit(key)
        return found

    def misfit(key: str) -> BadInput:
        found = list(state.tensors[key].shape)
        return BadInput(f"{file}: tensor '{state.prefix}{key}' has shape {found}: not the published architecture")

    dim, channels, _, stem, _ = shape("init_conv.weight", 5)
    if dim % GROUPS or not 2 <= channels <= 255 or stem % 2 == 0:
        raise misfit("init_conv.weight")
    multipliers: list[int] = []
    while (key := f"downs.{len(multipliers)}.0.block1.proj.weight") in state.tensors or not multipliers:
        width = shape(key, 5)[0]
        if width % dim:
            raise misfit(key)
        multipliers.append(width // dim)
    buckets, heads = shape(key := "time_rel_pos_bias.relative_attention_bias.weight", 2)
    if buckets % 4:
        raise misfit(key)
    rows = shape(key := "init_temporal_attn.fn.fn.fn.to_qkv.weight", 2)[0]
    if rows % (3 * heads):
        raise misfit(key)
    return {
        "channels": channels,
        "dim": dim,
        "multipliers": multipliers,
        "heads": heads,
        "head_size": rows // (3 * heads),
        "groups": GROUPS,
        "condition": shape("null_cond_emb", 2)[1],
        "stem": stem,
        "buckets": buckets,
    }


def _checked(state: _Named, sizes: dict[str, Any], file: str) -> dict[str, Tensor]:
    """The tensors in float32, each with the name and shape the architecture gives it."""
    import torch

    from diffatlas.published.network import PublishedUNet

    try:
        with torch.device("meta"):  # shapes only: a file cannot make us allocate what it claims
            wanted = PublishedUNet(**sizes).state_dict()
    except (ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"{file}: not the published architecture ({first_line(error)})") from error
    if missing := [key for key in wanted if key not in state.tensors]:
        raise BadInput(f"{file}: tensor '{state.prefix}{missing[0]}' is missing: not the published architecture")
    if extra := [key for key in state.tensors if key not in wanted]:
        raise BadInput(
            f"{file}: tensor '{state.prefix}{printable(extra[0])}' does not belong to the published architecture"
        )
    out = {}
    for key, like in wanted.items():
        tensor, shown = state.tensors[key], f"{file}: tensor '{state.prefix}{key}'"
        if tensor.shape != like.shape:
            raise BadInput(f"{shown} has shape {list(tensor.shape)}, the architecture wants {list(like.shape)}")
        if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.device.type != "cpu":
            raise BadInput(f"{shown} is {tensor.dtype} ({tensor.layout}), not plain floating-point numbers")
        # A few bytes can pose as a huge tensor by repeating themselves.
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise BadInput(f"{shown} is larger than what the file holds of it")
        out[key] = tensor.to(torch.float32).contiguous().clone()
        if not torch.isfinite(out[key]).all():
            raise BadInput(f"{shown} holds values that are not finite")
    return out


# -- the card ------------------------------------------------------------------------------------------------------


def parse_labels(text: str, count: int) -> LabelScheme:
    """``name`` or ``name=id`` or ``id``, comma-separated, one a mask channel in channel order; `BadInput` otherwise.

    The five MM-WHS hearts' structures are known by name, abbreviation (LV, RV, LA, RA, Myo) and id; a name that is not
    known and comes without an id gets its channel's number.
    """
    known = {s.name: s for s in MMWHS.structures}
    by_id = {s.id: s for s in MMWHS.structures}
    structures: list[Structure] = []
    parts = [part.strip() for part in text.split(",")]
    for number, part in enumerate(parts, start=1):
        title, _, id_text = (piece.strip() for piece in part.partition("="))
        if title.isdigit() and not id_text:
            title, id_text = "", title
        if not (title or id_text) or (id_text and not (id_text.isdigit() and 1 <= int(id_text) <= 65535)):
            raise BadInput(f"--labels {text!r}: '{part}' is not a name, an id (1 to 65535), or name=id")
        title = ABBREVIATIONS.get(title.lower(), title)
        same = known.get(title.lower()) or (by_id.get(int(id_text)) if id_text and not title else None)
        id_ = int(id_text) if id_text else same.id if same else number
        name = same.name if same else title or f"structure {id_}"
        structures.append(Structure(name, id_, same.color if same else COLORS[(number - 1) % len(COLORS)]))
    if len(structures) != count:
        raise BadInput(f"--labels names {len(structures)} structures, the network has {count} mask channels")
    given: tuple[tuple[str, list[Any]], ...] = (
        ("name", [s.name for s in structures]),
        ("id", [s.id for s in structures]),
    )
    for what, values in given:
        if twice := [v for v in values if values.count(v) > 1]:
            raise BadInput(f"--labels {text!r}: the {what} {twice[0]} occurs twice")
    return LabelScheme("mmwhs" if {s.id for s in structures} <= by_id.keys() else "custom", tuple(structures))


def parse_window(text: str) -> tuple[tuple[str, ...], dict[str, Window]]:
    """A name of `published.WINDOWS`, or LOW:HIGH in the image's own intensities: modalities, and a window for each."""
    from diffatlas.published.paper import WINDOWS

    limits = WINDOWS.get(text)
    modalities: tuple[str, ...] = ("mr",) if text.endswith("-mr") else ("ct",)
    if limits is None:
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*:\s*(-?\d+(?:\.\d+)?)\s*", text)
        if match is None or float(match[1]) >= float(match[2]):
            raise BadInput(
                f"--window must be one of {', '.join(WINDOWS)}, or LOW:HIGH with LOW below HIGH, not {text!r}"
            )
        limits, modalities = (float(match[1]), float(match[2])), ("ct", "mr")
    window = Window("range", *limits)
    return modalities, {**dict.fromkeys(modalities, window), "unknown": window}


def _card(
    name: str,
    checkpoint: Path,
    options: Options,
    sizes: dict[str, Any],
    levels: int | None,
    step: int | None,
    origin: Origin | None,
) -> ModelCard:
    from diffatlas.published.paper import check_orientation

    count = sizes["channels"] - 1
    size = options.size or DEFAULT_SIZE
    divisor = 2 ** (len(sizes["multipliers"]) - 1)
    if size < divisor or size % divisor:
        raise BadInput(f"--size must be a multiple of {divisor} for this network, not {size}")
    spacing = options.spacing_mm or DEFAULT_SPACING_MM
    if any(not 0 < s < 1000 for s in spacing):
        raise BadInput(f"--spacing must be one or three lengths above 0 mm, not {spacing}")
    try:
        orientation = check_orientation(options.orientation or DEFAULT_ORIENTATION)
    except ValueError as error:
        raise BadInput(f"--{error}") from error
    modalities, windows = parse_window(options.window or DEFAULT_WINDOW)
    if options.labels is not None:
        scheme = parse_labels(options.labels, count)
    elif count == len(MMWHS):
        scheme = MMWHS
    else:
        scheme = parse_labels(",".join(f"structure {k + 1}" for k in range(count)), count)
    limits = [
        "one noise level for image and mask: guidance noise below 1, and few steps, are outside what it was trained on",
        "the published walk takes 300 passes of a large network; on two CPU cores that is hours for a volume",
    ]
    if options.labels is None:
        limits.append(
            "the order of the mask channels is documented nowhere: names and ids are an assumption "
            "(diffatlas convert --labels sets them)"
        )
    assumed = {
        "--window": None if options.window else f"the intensity window ({DEFAULT_WINDOW})",
        "--spacing": None if options.spacing_mm else f"the voxel size ({DEFAULT_SPACING_MM[0]} mm)",
        "--orientation": None if options.orientation else f"the direction of its axes ({DEFAULT_ORIENTATION})",
    }
    limits += [
        f"{what} is an assumption (diffatlas convert {option} sets it)" for option, what in assumed.items() if what
    ]
    if levels is None:
        limits.append(f"the file does not say how many noise levels there are: {DEFAULT_LEVELS} is an assumption")
    training: dict[str, Any] = {
        "converted from": checkpoint.name,
        "sha256 of that file": file_sha256(checkpoint),
        "weights": "exponential moving average" if options.weights == "ema" else "raw, as the authors' inference uses",
        **({} if step is None else {"steps": step}),
        **({} if origin is None else {"repository": origin.repository, "revision": origin.revision}),
    }
    # Distances are in voxels; on voxels that are no cubes, millimetres are those of a cube of the same volume.
    edge_mm = (spacing[0] * spacing[1] * spacing[2]) ** (1 / 3)
    return ModelCard(
        name=name,
        title=f"DiffAtlas, published network ({checkpoint.stem.strip()})",
        summary=f"Converted from {checkpoint.name}; {count} structures, {size}^3 voxels.",
        scheme=scheme,
        modalities=modalities,
        space=ModelSpace((size, size, size), spacing, SDF_RANGE_VOXELS * edge_mm, windows, fill=0.0),
        schedule="published-cosine",
        levels=levels or DEFAULT_LEVELS,
        mask_range=SDF_RANGE,
        orientation=orientation,
        prediction={"image": "eps", "mask": "eps"},
        architecture={"kind": "published-unet", **{k: v for k, v in sizes.items() if k != "channels"}},
        guidance_noise=1.0,
        atlas_walk="together",
        data="See the source of the checkpoint; this program did not train it.",
        licence="That of the checkpoint; ask its source.",
        intended_use="Research with the published model. Not for clinical use.",
        limits=tuple(limits),
        metrics={},
        training=training,
        sha256="",
    )


def _model_name(name: str | None, checkpoint: Path) -> str:
    if name is None:
        return re.sub(r"[^a-z0-9]+", "-", checkpoint.stem.lower()).strip("-") or "published"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadInput(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    return name


# -- writing -------------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file; give the name of a folder")
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise BadInput(f"{folder}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK):
        raise BadInput(f"{folder}: no permission to write in {place}; choose another folder")


def _write(tensors: dict[str, Tensor], card: ModelCard, folder: Path) -> None:
    """All files under a temporary name beside ``folder`` first, then into it, the card last."""
    from safetensors.torch import save_file

    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.absolute().parent)
    staged = temporary_folder_in(folder.absolute().parent)
    try:
        with atomic_path(staged / WEIGHTS_FILE) as part:
            save_file(tensors, part)
        (staged / WEIGHTS_FILE).chmod(0o644)  # safetensors writes 0600, which other users could not read
        write_card(replace(card, sha256=file_sha256(staged / WEIGHTS_FILE)), staged)
        folder.mkdir(exist_ok=True)
        for name in _weights_first(sorted(path.name for path in staged.iterdir())):
            (staged / name).replace(folder / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _weights_first(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != WEIGHTS_FILE, name == "card.yaml"))
