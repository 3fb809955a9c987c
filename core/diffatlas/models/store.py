"""A model is a folder: ``model.safetensors`` and ``card.yaml``. Nothing else is ever loaded, and nothing is unpickled.

The card says what the numbers mean (space, scheme, schedule, prediction, architecture), where they come from and what
they are good for; its sha256 must be that of the weights. `ModelCard` is plain data: reading one does not import torch.
"""

from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from diffatlas.errors import BadInput
from diffatlas.models.card import ModelCard, card_page
from diffatlas.values import load, read_yaml

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.yaml"
MAX_CARD_BYTES = 2**20
# Architecture kind -> module with ``build(card, **arguments)``; imported on first use, because it imports torch.
NETWORKS = {
    "atlas-unet": "diffatlas.models.unet",
    "monai-unet": "diffatlas.models.monai_unet",
    "published-unet": "diffatlas.published.network",
}


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A card and its network (raw module, evaluation mode, float32).

    Ours is called ``network(x, t_image, t_mask)`` with levels in [0, 1]; a published one ``network(x, t)`` with x
    float32 [B, C, D, H, W] and integer steps t [B], and it returns eps.
    """

    card: ModelCard
    network: nn.Module
    _copies: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Model({self.card.name!r})"

    def on(self, device: torch.device) -> nn.Module:
        """The network on ``device``: itself on the CPU, else a copy that is made once; ``network`` never moves."""
        if device.type == "cpu":
            return self.network
        key = str(device)
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self.network).to(device)
        return self._copies[key]


def shipped_folder() -> Path:
    """Where the weights in the box lie."""
    return Path(__file__).resolve().parents[1] / "weights"


_more_models: list[Path] = []


def use_models_folder(folder: Path | None) -> None:
    """Look for models in ``folder``, too, from now on; None looks in none. `BadInput` where it is not a folder."""
    if folder is not None and not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    _more_models[:] = [] if folder is None else [folder]


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: ``DIFFATLAS_CACHE``, or a folder of the user's cache."""
    return Path(os.environ.get("DIFFATLAS_CACHE") or Path.home() / ".cache" / "diffatlas")


def model_folders() -> list[Path]:
    """Folders that hold a model: the shipped ones, those under ``DIFFATLAS_WEIGHTS``, then `use_models_folder`'s."""
    roots = [shipped_folder()]
    if os.environ.get("DIFFATLAS_WEIGHTS"):
        roots.append(Path(os.environ["DIFFATLAS_WEIGHTS"]))
    roots += [folder for folder in _more_models if folder not in roots]
    return [f.parent for root in roots if root.is_dir() for f in sorted(root.glob(f"*/{CARD_FILE}"))]


def find_model(name: str) -> Path:
    """The folder of a model, by the name on its card, by its folder's name, or by path.

    `BadInput` where there is none, and where the name of one model's folder is that of another model's card.
    """
    folder = Path(name)
    if (folder / CARD_FILE).is_file():
        return folder.resolve()
    folders = model_folders()
    # Of several models with one name the last one counts: a user's own replaces the shipped one.
    cards, named = {_name(f): f for f in folders}, {f.name: f for f in folders}
    found = {f for f in (cards.get(name), named.get(name)) if f is not None}
    if len(found) == 2:
        places = " and ".join(sorted(map(str, found)))
        raise BadInput(f"'{name}' is the name of two models, in {places}; give the folder of one")
    if found:
        return found.pop()
    if folder.is_dir():
        raise BadInput(
            f"{name}: no {CARD_FILE} in this folder; a model is a folder with {CARD_FILE} and {WEIGHTS_FILE}"
        )
    if folder.exists():
        raise BadInput(
            f"{name}: a model is a folder with {CARD_FILE} and {WEIGHTS_FILE}; single checkpoint files are not loaded "
            f"(diffatlas convert makes a folder of one of the authors')"
        )
    known = ", ".join(sorted(cards)) or "none"
    if name == "heart-phantom":  # was in the wheel once, and scripts name it
        known += "; its weights are in weights/heart-phantom of the repository, and 'heart' took its place"
    raise BadInput(
        f"no model named '{name}'; there are: {known} "
        f"(put another one's folder under DIFFATLAS_WEIGHTS, or give its path)"
    )


def _name(folder: Path) -> str:
    """The name on the card in ``folder``; the folder's where the card cannot be read."""
    try:
        return read_card(folder).name
    except BadInput:
        return folder.name


def read_card(folder: Path) -> ModelCard:
    """Read and check ``card.yaml``; `BadInput` where it is not a card."""
    path = folder / CARD_FILE
    try:
        status = path.stat()
        return _read_card(folder, (status.st_mtime_ns, status.st_size))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a model card ({' '.join(str(error).split())[:150]})") from error


@lru_cache(maxsize=64)
def _read_card(folder: Path, stamp: tuple[int, int]) -> ModelCard:
    path = folder / CARD_FILE
    if stamp[1] > MAX_CARD_BYTES:
        raise ValueError("too large")
    data = read_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "path" in data:
        raise ValueError("it must be a mapping of a card's fields")
    return load(ModelCard, {**data, "path": folder}, f"{path}: not a model card")


def write_card(card: ModelCard, folder: Path) -> None:
    """Write ``card.yaml`` and, for people, the same as ``README.md``."""
    from diffatlas.io import atomic_path

    text = yaml.safe_dump(card.to_json(), sort_keys=False, allow_unicode=True, width=110)
    for name, content in ((CARD_FILE, text), ("README.md", card_page(card))):
        with atomic_path(folder / name) as part:
            part.write_text(content, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def available_models() -> tuple[ModelCard, ...]:
    """Cards of every model that can be named, each name once."""
    return tuple({card.name: card for card in map(read_card, model_folders())}.values())


def build_network(card: ModelCard) -> nn.Module:
    """An untrained network of the card's architecture; `BadInput` if the card asks for one that does not exist."""
    arguments = dict(card.architecture)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise BadInput(f"{card.path / CARD_FILE}: architecture '{kind}' is unknown")
    try:
        network: nn.Module = import_module(NETWORKS[kind]).build(card, **arguments)
    except ImportError as error:
        needs = str(error).splitlines()[0]
        raise BadInput(f"{card.name}: {needs}; install it with: pip install 'napari-diffatlas[train]'") from error
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
    return Model(card, network)
