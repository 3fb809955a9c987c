"""Reads the prepared data set of a run into memory; prepares it first where it is missing (`diffatlas.data`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffatlas.data import (
    REACH,
    SCHEMES,
    PreparedCase,
    canonical,
    check_cache_path,
    phantom_case,
    prepare_all,
    with_margin,
    write_cache,
)
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.train.config import DataConfig
from diffatlas.train.record import data_difference, data_record, first_difference
from diffatlas.train.sources import collection_of

__all__ = ["REACH", "SCHEMES", "Prepared", "load_or_prepare", "phantom_case", "with_margin"]


@dataclass(frozen=True)
class Prepared:
    """``image``: uint8 [N, M, X, Y, Z], [-1, 1] over 0 to 255; ``sdf``: int8 [N, K, X, Y, Z], distance / (1.3 clip)
    over -127 to 127; the names of the N cases; ``known``: uint8 [N, M, X, Y, Z], 1 where an image was acquired, None
    where all was."""

    image: Tensor
    sdf: Tensor
    names: tuple[str, ...]
    known: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def subset(self, indices: list[int]) -> Prepared:
        known = None if self.known is None else self.known[indices]
        return Prepared(self.image[indices], self.sdf[indices], tuple(self.names[i] for i in indices), known)

    def near(self, device: torch.device) -> Prepared:
        """The cases in the memory of a GPU where they take less than a third of what is free; else as they are."""
        tensors = [t for t in (self.image, self.sdf, self.known) if t is not None]
        size = sum(t.numel() for t in tensors)
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 3:
            return self
        known = None if self.known is None else self.known.to(device)
        return Prepared(self.image.to(device), self.sdf.to(device), self.names, known)


def load_or_prepare(config: DataConfig, space: ModelSpace) -> Prepared:
    """The prepared file at ``config.cache``; made first where it is missing.

    Cases that cannot be used are named and left out; `BadInput` where none can, or where the file was made from or for
    something else: the first difference is named.
    """
    if not config.cache.is_file():
        _prepare(config, space)
    try:
        with safe_open(config.cache, "pt") as file:
            meta = file.metadata() or {}
            _check(config, space, meta)
            known = file.get_tensor("known") if "known" in file.keys() else None  # noqa: SIM118
            names = tuple(json.loads(meta["names"]))
            found = Prepared(file.get_tensor("image"), file.get_tensor("sdf"), names, known)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise BadInput(f"{config.cache}: not a prepared file ({error}); delete it to prepare again") from error
    return found if config.only is None else _only(found, config.only, config.cache)


def _only(data: Prepared, names: tuple[str, ...], cache: Path) -> Prepared:
    place = {name: i for i, name in enumerate(data.names)}
    if missing := [name for name in names if name not in place]:
        raise BadInput(f"data.only: {cache} holds no case {', '.join(missing[:3])}")
    return data.subset([place[name] for name in names])


def _prepare(config: DataConfig, space: ModelSpace) -> None:
    collection, plan = collection_of(config, space)
    config.cache.parent.mkdir(parents=True, exist_ok=True)
    check_cache_path(config.cache)
    cases: list[PreparedCase] = []
    refused = list(collection.refused)
    for note in collection.notes:
        print(f"note: {note}", flush=True)
    for outcome in prepare_all(collection.cases, plan):
        if isinstance(outcome, PreparedCase):
            cases.append(outcome)
            if len(cases) % 50 == 0:
                print(f"prepared {len(cases)} cases", flush=True)
        else:
            refused.append(outcome)
    for case in refused:
        print(f"left out {case.id}: {case.reason}", flush=True)
    if not cases:
        raise BadInput(f"{collection.root}: none of {len(refused)} cases can be used; the first: {refused[0].reason}")
    write_cache(config.cache, cases, plan, data_record(config, space, collection))


def _check(config: DataConfig, space: ModelSpace, meta: dict[str, str]) -> None:
    """Older prepared files lack some of these keys; missing keys are not checked."""
    again = "delete it to prepare again"
    if "space" not in meta:
        raise BadInput(f"{config.cache}: does not say for which model space it was prepared; {again}")
    if found := first_difference({"space": json.loads(meta["space"])}, {"space": space.to_json()}):
        raise BadInput(f"{config.cache}: prepared for another model space ({found}); {again}")
    if "margin" in meta and json.loads(meta["margin"]) != config.margin:
        raise BadInput(f"{config.cache}: prepared with a margin of {meta['margin']}, not {config.margin}; {again}")
    scheme = config.build_scheme()
    if "structures" in meta and scheme is not None:
        names = [s["name"] for s in json.loads(meta["structures"])]
        if [canonical(n) for n in names] != [canonical(n) for n in scheme.names]:
            raise BadInput(f"{config.cache}: prepared for other structures ({', '.join(names)}); {again}")
    if "made_from" in meta:
        at_hand = config.source == "phantom" or (config.path is not None and config.path.exists())
        if not at_hand:
            print(f"note: {config.path} is not there; {config.cache} is taken as it is", flush=True)
        collection = collection_of(config, space)[0] if at_hand else None
        if found := data_difference(json.loads(meta["made_from"]), data_record(config, space, collection)):
            raise BadInput(f"{config.cache}: was prepared from something else ({found}); {again}")
