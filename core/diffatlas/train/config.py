"""The configuration of a training run: a validated YAML file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from diffatlas.data import SCHEMES, Centre, Layout, named_scheme
from diffatlas.data.schemes import COLORS
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelScheme, Structure
from diffatlas.values import load


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _coloured(rows: Any) -> Any:
    """Structures without a colour get one by their place in the list."""
    if not isinstance(rows, (list, tuple)):
        return rows
    return [
        {**row, "color": row.get("color") or COLORS[place % len(COLORS)]} if isinstance(row, dict) else row
        for place, row in enumerate(rows)
    ]


class DataConfig(_Strict):
    """The source of the cases, and which structures are learnt.

    ``source``: "folder" (images/NAME.nii.gz and labels/NAME.nii.gz under ``path``, or ``path`` is a CSV table),
    "mmwhs", "totalsegmentator", "diffatlas" (the authors' preprocessed data), "decathlon": `diffatlas.data` says what
    each looks like; "anatomies": ``cases`` hearts drawn from the label maps under ``path``, each in ``looks`` pictures
    (`diffatlas.anatomies`), and before them ``digital`` digital hearts, each as CT and MR (so ``looks`` is 2);
    "phantom": ``cases`` digital hearts from ``seed`` on, each in every one of ``modalities``. ``renew``: how many drawn
    cases an update are new, in the place of the oldest.

    ``scheme`` (a name) or ``structures`` (one's own): what is learnt, matched by name with what the source has.
    ``labels``: structure to id in the files, for sources that do not name their ids (else the ids of ``structures``).
    ``splits``: which of the source's splits; ``split``: the JSON file that lists them in a folder. ``modalities``:
    which ones to take (None: all; in a folder, the one that all images have). ``channel``: which volume of 4-D
    images. ``centre``: where the field of view is put, at the volume's middle, at that of the structures, or ("auto")
    there only where the volume is larger or the view would miss some. ``complete``: only cases with every structure.

    ``only``: the names of the cases to take of those prepared (None: all), in this order.

    ``shares``: how often each appearance of a digital heart is drawn (all alike where absent). ``margin``: extra
    voxels a side that augmentation may move into view. ``holdout``: the last training cases, kept from training to
    choose settings by.
    """

    source: Layout
    path: Path | None = None
    split: str = "split.json"
    splits: tuple[str, ...] = Field(("train",), min_length=1)
    cases: int = 0
    seed: int = 0
    looks: int = Field(1, ge=1)
    renew: float = Field(0, ge=0)
    digital: int = Field(0, ge=0)
    modalities: tuple[Literal["ct", "mr", "random"], ...] | None = None
    shares: tuple[float, ...] | None = None
    scheme: Literal["mmwhs", "hippocampus"] | None = None
    structures: Annotated[tuple[Structure, ...], BeforeValidator(_coloured)] | None = None
    labels: dict[str, int] | None = None
    channel: int | None = Field(None, ge=0)
    centre: Centre = "auto"
    complete: bool = False
    only: tuple[str, ...] | None = Field(None, min_length=1)
    margin: int = Field(4, ge=0)
    holdout: int = 16
    cache: Path

    def build_scheme(self) -> LabelScheme | None:
        """The structures that the configuration names, or None where it leaves them to the source."""
        if self.structures is not None:
            return named_scheme("own", [(s.name, s.id, s.color) for s in self.structures])
        return None if self.scheme is None else SCHEMES[self.scheme]


class AugmentConfig(_Strict):
    rotate_degrees: float = 12.0
    scale: float = 0.12
    shift_mm: float = 4.0
    elastic_mm: float = 2.0
    flip: bool = False
    gamma: float = 0.25
    brightness: float = 0.15
    bias: float = 0.2
    noise: float = 0.06
    blur: float = 0.2


class NetworkConfig(_Strict):
    """Ours (`diffatlas.models.unet.AtlasUNet`)."""

    kind: Literal["atlas-unet"] = "atlas-unet"
    widths: tuple[int, ...] = (64, 128, 160)
    blocks: int = 1
    patch: int = 2
    embedding: int = 256
    attention: bool = True
    dropout: float = 0.0
    evidence: bool = False


class MonaiNetworkConfig(_Strict):
    """MONAI's (`diffatlas.models.monai_unet.MonaiUNet`)."""

    kind: Literal["monai-unet"]
    widths: tuple[int, ...] = Field((32, 64, 128), min_length=1)
    blocks: int = Field(1, ge=1)
    patch: int = Field(2, ge=1)
    attention: tuple[bool, ...] = (False, False, True)
    groups: int = Field(8, ge=1)
    evidence: bool = False


class PublishedNetworkConfig(_Strict):
    """The published one (`diffatlas.published.network.PublishedUNet`); 36 million parameters as it stands here."""

    kind: Literal["published-unet"]
    dim: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    heads: int = 8
    head_size: int = 32
    groups: int = 8
    condition: int = 16
    stem: int = 7
    buckets: int = 32


def _kind(value: Any) -> str:
    return str(value.get("kind", "atlas-unet") if isinstance(value, dict) else value.kind)


AnyNetwork = Annotated[
    Annotated[NetworkConfig, Tag("atlas-unet")]
    | Annotated[MonaiNetworkConfig, Tag("monai-unet")]
    | Annotated[PublishedNetworkConfig, Tag("published-unet")],
    Discriminator(_kind),
]


Share = Annotated[float, Field(ge=0, le=1)]


class ObjectiveConfig(_Strict):
    """Shares of a batch given to each way of noising (they are normalised to 1), and the weights of the loss.

    ``one_step``: clean image, pure-noise mask. ``recycled``: image noise rho * t, and a mask that is the network's
    *own* earlier answer, noised again. ``conditional``: the same with the true mask. ``shared``: image and mask both
    noised, the image more (the atlas). ``paint``: true mask, noised image.

    For a network with ``evidence``: ``hidden``, the share of samples of the first three ways of which a part of the
    image is hidden; ``misplaced``, the share of recycled answers that are moved, by up to ``misplaced_mm`` along each
    axis; ``unseen_weight``, of a voxel of the mask where nothing was acquired.
    """

    one_step: float = 0.32
    recycled: float = 0.25
    conditional: float = 0.05
    shared: float = 0.26
    paint: float = 0.12
    hidden: Share = 0.4
    misplaced: Share = 0.5
    misplaced_mm: Annotated[float, Field(ge=0)] = 25.0
    unseen_weight: Share = 0.25
    image_weight: float = 0.25
    mask_l1: float = 0.1
    dice_weight: float = 1.0


class TrainConfig(_Strict):
    """Task, data, network, duration and devices. Times are in updates, each over a global batch of ``batch``.

    ``task``: what is learnt (`diffatlas.train.task`), with ``task_options`` of its own. ``start_from``: a model
    whose weights a new run begins with, by name as ``--model`` takes it, or its folder.

    ``batch``: samples of an update, over all processes; each takes its share in ``accumulate`` parts. The learning
    rate warms up over ``warmup`` updates, stays, and falls to zero over the last ``decay`` of ``steps`` in the shape
    ``decay_shape``. ``ema``: of the moving average that is exported. ``clip_norm``: of the gradient, 0 for none.

    ``accelerator``, ``devices`` (of a node, a number or "auto") and ``nodes``: where, unless ``torchrun`` or ``srun``
    say how many. ``precision``: "auto" takes bf16 where the hardware has it and an update was found to be faster with
    it. ``threads``: of the CPU.
    """

    task: str = "atlas"
    task_options: dict[str, Any] = {}
    name: str
    title: str
    summary: str
    licence: str
    intended_use: str
    data_note: str
    datasets: tuple[str, ...] = ()
    limits: tuple[str, ...]
    space: ModelSpace
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    network: AnyNetwork = NetworkConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    start_from: str | None = None
    seed: int = 0
    steps: int = Field(4000, ge=1)
    batch: int = Field(8, ge=1)
    learning_rate: float = Field(8e-4, gt=0)
    warmup: int = Field(100, ge=0)
    decay: float = Field(0.4, ge=0, le=1)
    decay_shape: Literal["linear", "cosine"] = "linear"
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, ge=0)
    ema: float = Field(0.998, ge=0, lt=1)
    guidance_noise: float = Field(0.0, ge=0, le=1)
    threads: int | None = Field(None, ge=1)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    nodes: int = Field(1, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    accumulate: int = Field(1, ge=1)
    log_every: int = Field(20, ge=1)
    save_every: int = Field(200, ge=1)
    validate_every: int = Field(200, ge=0)
    pictures: bool = True
    run_folder: Path
    export: Path
    _command: str = PrivateAttr("diffatlas train")

    @property
    def command(self) -> str:
        """The command line that trains this configuration, as it was given."""
        return self._command

    @model_validator(mode="after")
    def _names_its_structures(self) -> Self:
        if (self.data.scheme is None) == (self.data.structures is None):
            raise ValueError("data: give either scheme or structures")
        self.data.build_scheme()  # clashing names and ids show here
        return self

    @property
    def scheme(self) -> LabelScheme:
        """The structures that are learnt."""
        scheme = self.data.build_scheme()
        assert scheme is not None  # validated above
        return LabelScheme(self.name, scheme.structures) if self.data.structures else scheme


def told_evidence(config: TrainConfig) -> bool:
    """Whether the network is told where the image was acquired: then a batch says so in one more channel."""
    return bool(getattr(config.network, "evidence", False))


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds settings by name; `BadInput`, speaking of ``what`` it should be, where it does not."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path}: {what} is a mapping of names to values")
    return data


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, apply ``key.sub=value`` overrides; relative paths are taken from the file's own folder."""
    path = Path(path)
    data = read_mapping(path, "a training configuration")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise BadInput(f"--set {override}: write it as key=value")
        node = data
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise BadInput(f"--set {override}: {parent} holds no settings")
        node[leaf] = yaml.safe_load(value)
    config = _rebase(load(TrainConfig, data, str(path)), path.resolve().parent)
    words = ["diffatlas", "train", str(path), *(word for override in overrides for word in ("--set", override))]
    config._command = shlex.join(words)
    return config


def _rebase(config: TrainConfig, folder: Path) -> TrainConfig:
    def at(p: Path) -> Path:
        return p if p.is_absolute() else (folder / p).resolve()

    data = config.data.model_copy(
        update={"cache": at(config.data.cache), "path": None if config.data.path is None else at(config.data.path)}
    )
    changes = {
        "data": data,
        "run_folder": at(config.run_folder),
        "export": at(config.export),
        "start_from": None if config.start_from is None else _model(config.start_from, folder),
    }
    return config.model_copy(update=changes)


def _model(name: str, folder: Path) -> str:
    """The model's folder where ``name`` is one, seen from the configuration's; else the name."""
    path = folder / name
    return str(path.resolve()) if path.exists() else name
