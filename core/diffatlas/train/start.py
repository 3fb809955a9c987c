"""Starting weights of a run that begins with another model, or a file of weights (``start_from``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffatlas.data import canonical
from diffatlas.errors import BadInput
from diffatlas.models.card import ModelCard
from diffatlas.models.monai_unet import MonaiUNet
from diffatlas.models.store import find_model, load_model, read_card
from diffatlas.train.config import AnyNetwork, TrainConfig


def settled(config: TrainConfig) -> TrainConfig:
    """``config`` with unset network and task options filled in from the ``start_from`` model."""
    known = config.network.kind != "published-unet" or config.task_options.keys() >= {
        "levels",
        "mask_range",
        "orientation",
    }
    if config.start_from is None or _is_file(config.start_from) or ("network" in config.model_fields_set and known):
        return config
    card = read_card(find_model(config.start_from))
    changes: dict[str, Any] = {}
    if "network" not in config.model_fields_set:
        changes["network"] = _network(card)
    if card.architecture["kind"] == "published-unet":
        told = {"levels": card.levels, "mask_range": card.mask_range, "orientation": card.orientation}
        changes["task_options"] = {**told, **config.task_options}
    return config.model_copy(update=changes)


def _network(card: ModelCard) -> AnyNetwork:
    network: AnyNetwork = TypeAdapter(AnyNetwork).validate_python(card.architecture)
    return network


# What belongs to single channels (image, then structures): the tensor of a network, and on which axis they lie.
STEMS = {"stem.weight", "net.conv_in.conv.weight"}
CHANNELS = {
    **dict.fromkeys(STEMS, 1),
    "head.weight": 0,
    "head.bias": 0,
    "net.out.2.conv.weight": 0,
    "net.out.2.conv.bias": 0,
    "init_conv.weight": 1,
    "final_conv.1.weight": 0,
    "final_conv.1.bias": 0,
    # DynUNet: background, then structures, at each resolution that is supervised.
    **{
        f"{'skip_layers.' + 'next_layer.' * n + 'super_head' if n else 'output_block'}.conv.conv.{part}": 0
        for n in range(6)
        for part in ("weight", "bias")
    },
}


def starting_weights(config: TrainConfig, network: nn.Module) -> dict[str, Tensor]:
    """The weights of the model in ``config.start_from`` for ``network``; `BadInput` if they are another network's.

    It may also name a safetensors file of weights alone, whose metadata list its ``structures``: what `diffatlas
    evaluate` keeps of a baseline, which has no card. Where the model knows other structures, or in another order, what
    belongs to a structure (a slice of the first and of the last convolution) goes by its name, and a structure that is
    new keeps the values ``network`` has. A network that is new to evidence (`AtlasUNet`) begins as if there were none:
    its weights are zero.
    """
    now, wanted = _channels(network, config.scheme.names), network.state_dict()
    if _is_file(str(config.start_from)):
        names, given = _read(Path(str(config.start_from)))
        before = _channels(network, names)
    else:
        model = load_model(str(config.start_from))
        before, given = _channels(model.network, model.card.scheme.names), model.network.state_dict()
    try:
        if extra := given.keys() - wanted.keys():
            raise ValueError(f"'{min(extra)}' has no place in it")
        return {key: _fitted(key, given[key], value, before, now) for key, value in wanted.items()}
    except (KeyError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadInput(
            f"{config.start_from}: a model of another architecture; a run cannot start from it ({reason})"
        ) from error


def _is_file(start: str) -> bool:
    return start.endswith(".safetensors")


def _read(path: Path) -> tuple[list[str], dict[str, Tensor]]:
    """The structures and the tensors of a file of weights."""
    try:
        with safe_open(path, "pt") as file:
            names = json.loads((file.metadata() or {})["structures"])
            return [str(n) for n in names], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a file of weights that names its structures ({error})") from error


def _channels(network: nn.Module, names: Sequence[str]) -> list[str]:
    """What the channels of the first convolution are: the image, the structures, `MonaiUNet`'s level, the evidence."""
    more = ["level"] if isinstance(network, MonaiUNet) else []
    more += ["evidence"] if getattr(network, "evidence", False) else []
    return ["", *(canonical(n) for n in names), *more]


def _fitted(key: str, given: Tensor, wanted: Tensor, before: list[str], now: list[str]) -> Tensor:
    axis = CHANNELS.get(key)
    if key in STEMS:
        if "evidence" in now:
            wanted = wanted.clone()
            wanted[:, wanted.shape[1] // len(now) * (len(now) - 1) :] = 0
    else:
        before, now = ([n for n in names if n not in ("level", "evidence")] for names in (before, now))
    there = f"'{key}' is {list(given.shape)} there and {list(wanted.shape)} here"
    if axis is None or before == now:
        if given.shape != wanted.shape:
            raise ValueError(there)
        return given
    old, new = _split(given, axis, len(before)), _split(wanted.clone(), axis, len(now))
    if old.select(axis, 0).shape != new.select(axis, 0).shape:
        raise ValueError(there)
    for place, name in enumerate(now):
        if name in before:
            new.select(axis, place).copy_(old.select(axis, before.index(name)))
    return new.reshape(wanted.shape)


def _split(tensor: Tensor, axis: int, channels: int) -> Tensor:
    """``axis`` as two: ``channels``, and what each of them has."""
    shape = tensor.shape
    return tensor.reshape(*shape[:axis], channels, shape[axis] // channels, *shape[axis + 1 :])
