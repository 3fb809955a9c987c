"""Settings kept in a checkpoint or a prepared file, and the first one that differs from today's.

Files of earlier versions lack some settings; missing ones are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from diffatlas.data import Collection, Drawn
from diffatlas.data.case import DrawnAnatomy
from diffatlas.geometry.space import ModelSpace
from diffatlas.train.config import DataConfig, TrainConfig

# Words on the card; where a run takes place; what it keeps on the way. None of them changes what the weights learnt.
NOT_LEARNT = {
    "name", "title", "summary", "licence", "intended_use", "data_note", "datasets", "limits",
    "accelerator", "devices", "nodes", "accumulate", "threads", "precision",
    "log_every", "save_every", "validate_every", "pictures", "run_folder", "export",
}  # fmt: skip
# A folder that has moved is the same; one of another name is not.
PLACES = {"start_from", "path", "cache"}
# How far the run goes may change: a longer run goes on from the same weights.
MAY_GROW = {"steps"}


def record_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that shaped the weights, as plain data."""
    plain: dict[str, Any] = json.loads(json.dumps(config.model_dump(mode="json", exclude=NOT_LEARNT)))
    plain["data"].pop("cache")
    return plain


def first_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """ "batch: 4 then, 8 now" of the first setting in ``now`` that ``then`` has otherwise; None where there is none."""
    return next(_differences(then, now), None)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in now.items():
        if key not in then or key in MAY_GROW or key in NOT_LEARNT:
            continue
        before = then[key]
        if isinstance(before, dict) and isinstance(value, dict):
            if not prefix and key == "data":
                before, value = ({k: v for k, v in half.items() if k != "cache"} for half in (before, value))
            yield from _differences(before, value, f"{prefix}{key}.")
            gone = [k for k in before if k not in value]
            if prefix or key in ("task_options", "network"):
                yield from (f"{prefix}{key}.{k}: {_shown(before[k])} then, not set now" for k in gone)
        elif _same(key, before, value):
            continue
        else:
            yield f"{prefix}{key}: {_shown(before)} then, {_shown(value)} now"


def _same(key: str, before: Any, now: Any) -> bool:
    if key in PLACES and isinstance(before, str) and isinstance(now, str):
        return PurePath(before).name == PurePath(now).name
    return bool(before == now)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# -- prepared files ---------------------------------------------------------------------------------------------------

# Of a configuration's ``data``; None in these means that it does not say.
_CHOICES = ("source", "splits", "cases", "seed", "centre", "complete")
_WHERE_SAID = ("modalities", "channel")


def data_record(config: DataConfig, space: ModelSpace, collection: Collection | None) -> dict[str, Any]:
    """What a prepared file is made from: settings, space, and the files of every case (how many, bytes, newest time).

    ``collection`` None: the source is not at hand, and nothing is said of its files.
    """
    labels = config.labels
    if labels is None and config.structures is not None and config.source == "folder":
        labels = {s.name: s.id for s in config.structures}  # what the files mean where nothing else is said
    drawn = config.source in ("phantom", "anatomies")
    record: dict[str, Any] = {
        "space": space.to_json(),
        "margin": config.margin,
        **{key: getattr(config, key) for key in _CHOICES if key not in ("cases", "seed") or drawn},
        **{key: value for key in _WHERE_SAID if (value := getattr(config, key)) is not None},
    }
    if config.digital:
        record["digital"] = config.digital
    if labels is not None:
        record["labels"] = {name.lower(): id_ for name, id_ in labels.items()}
    if config.source == "folder":
        record["split"] = config.split
    if collection is not None:
        record["files"] = {
            case.id: _files(case.image, [label.path for label in case.labels]) for case in collection.cases
        }
    return json.loads(json.dumps(record))  # type: ignore[no-any-return]


def _files(image: Path | Drawn | DrawnAnatomy, labels: list[Path]) -> list[int]:
    if not isinstance(image, Path):
        return []
    # A DICOM folder stands for its files.
    paths = [image, *labels] if not image.is_dir() else [*sorted(p for p in image.iterdir() if p.is_file()), *labels]
    stats = [path.stat() for path in paths if path.exists()]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def data_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting or case in which a prepared file differs from what ``now`` asks for; None where none does."""
    settings = {key: value for key, value in now.items() if key != "files"}
    if found := first_difference({k: v for k, v in then.items() if k != "files"}, settings):
        return found
    before, after = then.get("files"), now.get("files")
    if before is None or after is None:
        return None
    for case in (*after, *before):
        if case not in before:
            return f"data: the case {case} was not there then"
        if case not in after:
            return f"data: the case {case} is not there now"
        if before[case] != after[case]:
            return f"data: the files of case {case} have changed since"
    return None
