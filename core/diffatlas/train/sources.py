"""The cases that a configuration selects."""

from __future__ import annotations

from dataclasses import replace

from diffatlas.data import Collection, Plan, check_annotated, scan, scan_anatomies, scan_phantom, scheme_of
from diffatlas.errors import BadInput
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import Modality
from diffatlas.train.config import DataConfig


def collection_of(config: DataConfig, space: ModelSpace) -> tuple[Collection, Plan]:
    """The cases that ``config`` selects, and what is to be done with each; nothing but listings is read.

    Raises `BadInput` where there is no such source, no case of the wanted split or modality, or a structure that the
    source does not annotate.
    """
    if config.source == "phantom":
        collection = scan_phantom(config.cases, config.seed, config.modalities or ("mr",))
    elif config.path is None:
        raise BadInput(f"data.path: the source '{config.source}' needs the folder of its files")
    elif not config.path.exists():
        raise BadInput(f"{config.path}: no such folder; see the model card for where its data can be had")
    elif config.source == "anatomies":
        shapes = config.cache.with_name(f"{config.cache.stem}-shapes.safetensors")
        collection = scan_anatomies(config.path, config.cases, config.seed, config.looks, config.holdout, shapes)
        if config.digital:
            if config.looks != 2:
                raise BadInput(f"data.looks: digital hearts beside anatomies come in 2 pictures, not {config.looks}")
            hearts = scan_phantom(config.digital, config.seed, ("ct", "mr"))
            collection = replace(collection, cases=(*hearts.cases, *collection.cases))
    else:
        if config.modalities and "random" in config.modalities:
            raise BadInput("data.modalities: only digital hearts have random contrast; name ct or mr")
        collection = scan(
            config.path,
            config.source,
            labels=config.labels,
            modality=_modality(config, space) if config.source == "folder" else "unknown",
            channel=config.channel,
            split=config.split,
        ).select(config.splits, None if config.source == "folder" else config.modalities)
    scheme = config.build_scheme() or scheme_of(collection)
    check_annotated(collection, scheme)
    return collection, Plan(space, scheme, config.margin, config.centre, config.complete)


def _modality(config: DataConfig, space: ModelSpace) -> Modality:
    """Modality from the configuration, else the space's only window, else unknown."""
    told: tuple[str, ...] = config.modalities or tuple(m for m in space.windows if m != "unknown")
    if len(told) != 1:
        return "unknown"
    return "ct" if told[0] == "ct" else "mr"
