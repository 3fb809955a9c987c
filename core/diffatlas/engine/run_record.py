"""Run reports: JSON written after a run, and read by ``replay`` on the command line, in napari and on the web page.

A report holds the request, the hash of the weights, and of the image the hash of its voxels, its affine and, where it
came from a file, the path. Voxels are hashed in the file's own order, so that all front ends get the same hash.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.engine.frame import Result
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality, Volume
from diffatlas.io import atomic_path, check_output
from diffatlas.values import Real, Whole, load, value

SUFFIX = ".json"
MAX_BYTES = 256 * 2**20
# NIfTI keeps affines in float32: a volume of half a metre written and read again moves by less than this.
SAME_PLACE_MM = 1e-3
_SURROGATE = re.compile("[\ud800-\udfff]")


Row = tuple[Real, Real, Real, Real]


@value(frozen=True, eq=False)
class RecordedImage:
    """The image of a run. ``sha256``: of its voxels, as `Volume.sha256`. ``path``: None where it came from no file.

    ``shape`` [3], ``affine`` [4, 4] (mm) and ``modality`` are None in reports of older versions.
    """

    sha256: str
    name: str = "the image"
    shape: tuple[Whole, ...] | None = None
    affine: tuple[Row, Row, Row, Row] | None = None
    modality: Modality | None = None
    path: Path | None = None

    @classmethod
    def of(cls, volume: Volume, hashed: Callable[[], str] | None = None) -> RecordedImage:
        """The record of ``volume``, without a file; ``hashed`` gives its sha256 where that is known already."""
        affine: Any = volume.grid.affine.tolist()
        return cls((hashed or volume.sha256)(), volume.name, volume.grid.shape, affine, volume.modality)


@value(frozen=True, eq=False)
class RecordedRun:
    """The report of a segmentation: ``file``, its name; what was asked; of which image; sha256 of the model's weights.

    ``request.model`` is a name or a folder, never "auto".
    """

    file: str
    request: Request
    weights_sha256: str
    source: RecordedImage

    def prepared(self, volume: Volume) -> Volume:
        """The same volume, taken for the modality that the run took it for."""
        return volume if self.source.modality is None else replace(volume, modality=self.source.modality)

    def other_image(self, volume: Volume, name: str) -> str | None:
        """Why ``volume`` is not the image of this run, in a line that calls it ``name``; None where it is."""
        if volume.sha256() != self.source.sha256:
            return f"{name}: its voxels are not those of {self.file}"
        if self.source.affine is not None:
            corners, affine = np.array([(0, 0, 0), volume.grid.shape], dtype=np.float64), np.array(self.source.affine)
            then = corners @ affine[:3, :3].T + affine[:3, 3]
            if np.abs(then - volume.grid.to_world(corners)).max() > SAME_PLACE_MM:
                return f"{name}: its voxels are those of {self.file}, but they lie elsewhere in the world"
        return None

    def other_weights(self, model: str, sha256: str) -> str | None:
        """Why these weights are not those of this run; None where they are."""
        return None if sha256 == self.weights_sha256 else f"the weights of {model} are not those of {self.file}"


def report_of(result: Result, source_path: Path | None) -> dict[str, Any]:
    """The result's report, with the file that its image was read from."""
    report = result.report()
    provenance = dict(report["provenance"])
    path = None if source_path is None else str(source_path.absolute())
    provenance["source"] = {**(provenance.get("source") or {}), "path": path}
    return {**report, "provenance": provenance}


def write_report(result: Result, path: Path, source_path: Path | None) -> None:
    """Write the report to a ``.json`` file, whole or not at all; `BadInput` where that cannot be."""
    check_output(path, (SUFFIX,))
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(report_of(result, source_path)) + "\n", encoding="utf-8")


def read_run(path: Path) -> RecordedRun:
    """The run that a report records; `BadInput` on anything else than the report of a segmentation."""
    provenance = read_report(path)["provenance"]
    request = Request.from_json(provenance["request"])
    source, model = provenance.get("source"), provenance["model"]
    if request.task != "segment" or not isinstance(source, dict) or not isinstance(source.get("sha256"), str):
        raise BadInput(f"{path.name}: is not the report of a segmentation; there is no image to replay it on")
    if request.model == "auto":  # the model that was chosen, whichever are there today
        request = replace(request, model=str(model.get("name")))
    known = {f.name: source[f.name] for f in fields(RecordedImage) if source.get(f.name) is not None}
    image = load(RecordedImage, known, f"{path.name}: what it says of the image cannot be read")
    return RecordedRun(path.name, request, model["sha256"], image)


def read_report(path: Path) -> dict[str, Any]:
    """A report as plain data; `BadInput` on anything else."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        provenance = record["provenance"]
        if not isinstance(provenance["request"], dict) or not isinstance(provenance["model"]["sha256"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{path.name}: is not a report of this program; write one with segment --report") from error
    assert isinstance(record, dict)
    return record


def to_json(data: Any) -> str:
    """Plain data, paths and numpy scalars as indented JSON text; NaN and infinity, which JSON has not, become null.

    The text can be written as UTF-8: bytes of a file name that are not become JSON's escapes of Python's surrogates.
    """
    text = json.dumps(_plain(data), indent=2, allow_nan=False, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    if isinstance(data, Path):
        return str(data)
    if data is None or isinstance(data, (str, bool, int)):
        return data
    if hasattr(data, "item"):
        return _plain(data.item())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    raise TypeError(f"{type(data).__name__} has no place in a report")
