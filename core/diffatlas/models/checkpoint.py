"""A model is a folder: ``model.safetensors`` and ``card.yaml``. Nothing else is ever loaded, and nothing is unpickled.

The card says what the numbers mean (space, scheme, schedule, prediction, architecture), where they come from and what
they are good for; its sha256 must be that of the weights. `ModelCard` is plain data: reading one does not import torch.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelScheme, Structure

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.yaml"
MAX_LEVELS = 10_000
# As `yaml.safe_load`, in C where PyYAML was built with it: forms plan, and so read a card, at every change.
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Architecture kind -> module with ``build(card, **arguments)``; imported on first use, because it imports torch.
NETWORKS = {"atlas-unet": "diffatlas.models.unet", "published-unet": "diffatlas.published.network"}


@dataclass(frozen=True, eq=False)
class ModelCard:
    """What a model is; see ``weights/*/card.yaml`` for the file form.

    ``schedule``: "cosine" (ours) or "published-cosine", which knows ``levels`` discrete noise levels (T).
    ``prediction``: {"image": "x0", "mask": "x0"}; ``architecture``: {"kind": "atlas-unet" or "published-unet",
    ...arguments}; ``mask_range``: the network's value of a distance of ``space.sdf_clip_mm``; ``orientation``: the
    directions in which a published network's axes D, H, W run, as axis codes;
    ``guidance_noise``: the default rho; ``atlas_walk``: how pairs are drawn without an image, "together" (both
    halves at one level, as published) or "mask-first" (`diffatlas.diffusion.sample.mask_first`); ``metrics``: measured
    figures with their number of cases; ``training``: how to train it again, or what it was converted from.
    """

    name: str
    title: str
    summary: str
    scheme: LabelScheme
    modalities: tuple[str, ...]
    space: ModelSpace
    schedule: str
    prediction: dict[str, str]
    architecture: dict[str, Any]
    guidance_noise: float
    atlas_walk: str
    data: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    metrics: dict[str, Any]
    training: dict[str, Any]
    sha256: str
    path: Path = field(default_factory=Path)
    levels: int = 0
    mask_range: float = 1.0
    orientation: str = "RAS"

    @property
    def published(self) -> bool:
        """Whether the network is the published one: a single noise level, out of ``levels`` discrete ones."""
        return self.schedule == "published-cosine"

    @property
    def expected_volumes_ml(self) -> list[float] | None:
        """Mean volumes of the training cases' structures, in the scheme's order; None where the card has none."""
        measured = self.metrics.get("generated volumes", {}).get("structures", {})
        try:
            return [float(measured[name]["training_ml"][0]) for name in self.scheme.names]
        except (KeyError, TypeError, IndexError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Plain data, the content of ``card.yaml`` (without the folder it was read from)."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "scheme": {
                "name": self.scheme.name,
                "structures": [{"name": s.name, "id": s.id, "color": list(s.color)} for s in self.scheme.structures],
            },
            "modalities": list(self.modalities),
            "space": self.space.to_json(),
            "schedule": self.schedule,
            **(
                {"levels": self.levels, "mask_range": self.mask_range, "orientation": self.orientation}
                if self.published
                else {}
            ),
            "prediction": dict(self.prediction),
            "architecture": dict(self.architecture),
            "guidance_noise": self.guidance_noise,
            "atlas_walk": self.atlas_walk,
            "data": self.data,
            "licence": self.licence,
            "intended_use": self.intended_use,
            "limits": list(self.limits),
            "metrics": self.metrics,
            "training": self.training,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], path: Path) -> ModelCard:
        """Inverse of `to_json`; KeyError, TypeError or ValueError where something is missing or of the wrong kind."""
        scheme = LabelScheme(
            str(value["scheme"]["name"]),
            tuple(
                Structure(str(s["name"]), int(s["id"]), (int(s["color"][0]), int(s["color"][1]), int(s["color"][2])))
                for s in value["scheme"]["structures"]
            ),
        )
        if not 1 <= len(scheme) <= 254 or len(set(scheme.ids)) != len(scheme) or min(scheme.ids) < 1:
            raise ValueError("scheme must hold 1 to 254 structures with different, positive ids")
        schedule = str(value["schedule"])
        if schedule not in ("cosine", "published-cosine"):
            raise ValueError(f"schedule {schedule!r} is unknown")
        published = schedule == "published-cosine"
        if published != (value["architecture"].get("kind") == "published-unet"):
            raise ValueError("schedule published-cosine and architecture published-unet belong together")
        levels = int(value["levels"]) if published else 0
        if published and not 1 <= levels <= MAX_LEVELS:
            raise ValueError(f"levels must be between 1 and {MAX_LEVELS}")
        mask_range = float(value["mask_range"]) if published else 1.0
        if not 0 < mask_range <= 1:
            raise ValueError("mask_range must lie in (0, 1]")
        for group in ("image", "mask"):
            if value["prediction"][group] not in ("eps", "v", "x0"):
                raise ValueError(f"prediction.{group} must be eps, v or x0")
        atlas_walk = str(value.get("atlas_walk", "together"))
        if atlas_walk not in ("together", "mask-first"):
            raise ValueError("atlas_walk must be together or mask-first")
        return cls(
            name=str(value["name"]),
            title=str(value["title"]),
            summary=str(value["summary"]),
            scheme=scheme,
            modalities=tuple(str(m) for m in value["modalities"]),
            space=ModelSpace.from_json(value["space"]),
            schedule=schedule,
            prediction={k: str(v) for k, v in value["prediction"].items()},
            architecture=dict(value["architecture"]),
            guidance_noise=float(value["guidance_noise"]),
            atlas_walk=atlas_walk,
            data=str(value["data"]),
            licence=str(value["licence"]),
            intended_use=str(value["intended_use"]),
            limits=tuple(str(v) for v in value["limits"]),
            metrics=dict(value["metrics"]),
            training=dict(value["training"]),
            sha256=str(value["sha256"]),
            path=path,
            levels=levels,
            mask_range=mask_range,
            orientation=str(value.get("orientation", "RAS")),
        )


@dataclass(frozen=True, eq=False)
class Model:
    """A card and its network (raw module, evaluation mode, float32).

    Ours is called ``network(x, t_image, t_mask)`` with levels in [0, 1]; a published one ``network(x, t)`` with x
    float32 [B, C, D, H, W] and integer steps t [B], and it returns eps.
    """

    card: ModelCard
    network: nn.Module


def shipped_folder() -> Path:
    """Where the weights in the box lie."""
    return Path(__file__).resolve().parents[1] / "weights"


_more_models: list[Path] = []


def use_models_folder(folder: Path | None) -> None:
    """Look for models in ``folder``, too, from now on; None looks in none. `BadInput` where it is not a folder."""
    if folder is not None and not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    _more_models[:] = [] if folder is None else [folder]


def model_folders() -> list[Path]:
    """Folders that hold a model: the shipped ones, those under ``DIFFATLAS_WEIGHTS``, then `use_models_folder`'s."""
    roots = [shipped_folder()]
    if os.environ.get("DIFFATLAS_WEIGHTS"):
        roots.append(Path(os.environ["DIFFATLAS_WEIGHTS"]))
    roots += [folder for folder in _more_models if folder not in roots]
    return [f.parent for root in roots if root.is_dir() for f in sorted(root.glob(f"*/{CARD_FILE}"))]


def find_model(name: str) -> Path:
    """The folder of a model given by name or path."""
    folder = Path(name)
    if (folder / CARD_FILE).is_file():
        return folder.resolve()
    known = {f.name: f for f in model_folders()}
    if name in known:
        return known[name]
    if folder.is_dir():
        raise BadInput(
            f"{name}: no {CARD_FILE} in this folder; a model is a folder with {CARD_FILE} and {WEIGHTS_FILE}"
        )
    if folder.exists():
        raise BadInput(
            f"{name}: a model is a folder with {CARD_FILE} and {WEIGHTS_FILE}; single checkpoint files are not loaded "
            f"(diffatlas convert makes a folder of one of the authors')"
        )
    raise BadInput(
        f"no model named '{name}'; there are: {', '.join(sorted(known)) or 'none'} "
        f"(put another one's folder under DIFFATLAS_WEIGHTS, or give its path)"
    )


def read_card(folder: Path) -> ModelCard:
    """Read and check ``card.yaml``; `BadInput` where it is not a card."""
    path = folder / CARD_FILE
    try:
        return ModelCard.from_json(yaml.load(path.read_text(encoding="utf-8"), Loader=SAFE_LOADER), folder)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: missing") from error
    except KeyError as error:
        raise BadInput(f"{path}: '{error.args[0]}' is missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadInput(f"{path}: not a model card ({str(error).splitlines()[0]})") from error


def write_card(card: ModelCard, folder: Path) -> None:
    """Write ``card.yaml`` and, for people, the same as ``README.md``."""
    from diffatlas.io import atomic_path

    text = yaml.safe_dump(card.to_json(), sort_keys=False, allow_unicode=True, width=110)
    for name, content in ((CARD_FILE, text), ("README.md", card_page(card))):
        with atomic_path(folder / name) as part:
            part.write_text(content, encoding="utf-8")


def card_page(card: ModelCard) -> str:
    """The model card as a page."""
    space = card.space
    size = " x ".join(str(n) for n in space.shape)
    spacing = " x ".join(f"{s:g}" for s in space.spacing_mm)
    structures = "\n".join(f"| {s.id} | {s.name} |" for s in card.scheme.structures)
    measured = [
        f"| {title} | {row['n']} | {row['dice']:.3f} | {row['interval'][0]:.3f} to {row['interval'][1]:.3f} |"
        for title, row in card.metrics.items()
        if "dice" in row
    ]
    table = "\n".join(["| cases, preset | n | mean Dice | 95 % interval |", "|---|---|---|---|", *measured])
    volumes = card.metrics.get("generated volumes")
    generated = ""
    if volumes:
        rows = [
            "| {} | {} ± {} | {} ± {} | {} |".format(name, *v["generated_ml"], *v["training_ml"], v["ks"])
            for name, v in volumes["structures"].items()
        ]
        head = ["| structure | generated, ml | training, ml | KS distance |", "|---|---|---|---|"]
        generated = f"\nVolumes in {volumes['n']} generated pairs:\n\n" + "\n".join([*head, *rows]) + "\n"
    training = "\n".join(f"- {key}: {value}" for key, value in card.training.items())
    return f"""# {card.title} (`{card.name}`)

{card.summary}

**Use.** {card.intended_use}

**Licence.** {card.licence}

| id | structure |
|---|---|
{structures}

Field of view {size} voxels of {spacing} mm; modalities: {", ".join(card.modalities)}; default guidance noise
{card.guidance_noise:g}; sha256 `{card.sha256}`.

## Measured

{table if measured else "Nothing was measured on these weights yet."}
{generated}
Dice is the mean over structures and cases, on cases that were not trained on; the interval is a bootstrap over cases.
Made with `python benchmarks/bench_accuracy.py` and `python benchmarks/bench_atlas.py`.

## Limits

{chr(10).join(f"- {limit}" for limit in card.limits)}

## Data and training

{card.data}

{training}
"""


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def available_models() -> tuple[ModelCard, ...]:
    """Cards of every model that can be named."""
    return tuple(read_card(folder) for folder in model_folders())


def build_network(card: ModelCard) -> nn.Module:
    """An untrained network of the card's architecture; `BadInput` if the card asks for one that does not exist."""
    arguments = dict(card.architecture)
    kind = arguments.pop("kind", None)
    if kind not in NETWORKS:
        raise BadInput(f"{card.path / CARD_FILE}: architecture '{kind}' is unknown")
    try:
        network: nn.Module = import_module(NETWORKS[kind]).build(card, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{card.path / CARD_FILE}: architecture does not fit ({str(error).splitlines()[0]})") from error
    return network


def load_model(name: str | Path) -> Model:
    """A model by name or folder, checked: hash, tensor names, shapes. The last few stay in memory.

    Raises `BadInput` for anything that is not a model of this program, before a byte of it is used.
    """
    folder = find_model(str(name))
    stamp = tuple((folder / f).stat().st_mtime_ns if (folder / f).is_file() else 0 for f in (CARD_FILE, WEIGHTS_FILE))
    return _load(folder, stamp)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[int, ...]) -> Model:
    import torch
    from safetensors import SafetensorError, safe_open

    from diffatlas.models.unet import channels_last

    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise BadInput(f"{path}: missing; it belongs beside {CARD_FILE}")
    if file_sha256(path) != card.sha256:
        raise BadInput(f"{path}: sha256 is not the one in {CARD_FILE}; the file is damaged or belongs to another card")
    network = build_network(card)
    wanted = network.state_dict()
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if missing := sorted(set(wanted) - names):
                raise BadInput(f"{path}: tensor '{missing[0]}' is missing")
            if extra := sorted(names - set(wanted)):
                raise BadInput(f"{path}: tensor '{extra[0]}' does not belong to the card's architecture")
            state = {}
            for key, like in wanted.items():
                shape = list(file.get_slice(key).get_shape())
                if shape != list(like.shape):
                    raise BadInput(
                        f"{path}: tensor '{key}' has shape {shape}, the card's architecture wants {list(like.shape)}"
                    )
                state[key] = file.get_tensor(key).to(torch.float32)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file ({error})") from error
    if any(not torch.isfinite(tensor).all() for tensor in state.values()):
        raise BadInput(f"{path}: holds values that are not finite")
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return Model(card, network if card.published else channels_last(network))
