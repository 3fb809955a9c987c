"""The file that a run leaves for being run again: written by one door, read by any other.

A report holds the request, the hash of the weights, and of the image its voxels' hash, its place in the world and,
where it came from a file, the path. The voxels are those of the file in the file's own order, whatever a viewer shows,
so that the command line, napari and the web page mean the same image by the same hash.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.engine.frame import Result
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import atomic_path, check_output

SUFFIX = ".json"
MAX_BYTES = 256 * 2**20
# NIfTI keeps affines in float32: a volume of half a metre written and read again moves by less than this.
SAME_PLACE_MM = 1e-3
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """What a report says of a segmentation. ``request.model`` is a name or a folder, never "auto".

    ``source_sha256``: of the image's voxels, as `Volume.sha256`. ``source_affine`` [4, 4], mm, and ``source_modality``
    are None in reports that do not say; ``source_path`` is None where the image did not come from a file.
    """

    file: str
    request: Request
    weights_sha256: str
    source_name: str
    source_sha256: str
    source_shape: tuple[int, ...] | None
    source_affine: tuple[tuple[float, ...], ...] | None
    source_modality: str | None
    source_path: Path | None

    def prepared(self, volume: Volume) -> Volume:
        """The same volume, taken for the modality that the run took it for."""
        if self.source_modality not in ("ct", "mr", "unknown"):
            return volume
        return replace(volume, modality=self.source_modality)  # type: ignore[arg-type]

    def other_image(self, volume: Volume, name: str) -> str | None:
        """Why ``volume`` is not the image of this run, in a line that calls it ``name``; None where it is."""
        if volume.sha256() != self.source_sha256:
            return f"{name}: its voxels are not those of {self.file}"
        if self.source_affine is not None:
            corners = np.array([(0, 0, 0), volume.grid.shape], dtype=np.float64)
            then = corners @ np.array(self.source_affine)[:3, :3].T + np.array(self.source_affine)[:3, 3]
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
    if request.model == "auto":
        # What was chosen then is meant, whatever models have come since.
        request = replace(request, model=str(model.get("name")))
    shape, affine, place = source.get("shape"), source.get("affine"), source.get("path")
    try:
        matrix = None if affine is None else np.array(affine, dtype=np.float64)
        if matrix is not None and (matrix.shape != (4, 4) or not np.isfinite(matrix).all()):
            raise ValueError
        return RecordedRun(
            file=path.name,
            request=request,
            weights_sha256=model["sha256"],
            source_name=str(source.get("name") or "the image"),
            source_sha256=source["sha256"],
            source_shape=None if shape is None else tuple(int(n) for n in shape),
            source_affine=None if matrix is None else tuple(tuple(row) for row in matrix.tolist()),
            source_modality=source.get("modality") if isinstance(source.get("modality"), str) else None,
            source_path=Path(place) if isinstance(place, str) else None,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{path.name}: what it says of the image cannot be read; write the report again") from error


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


def to_json(value: Any) -> str:
    """Plain data, paths and numpy scalars as indented JSON text; NaN and infinity, which JSON has not, become null.

    The text can be written as UTF-8: bytes of a file name that are not become JSON's escapes of Python's surrogates.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"{type(value).__name__} has no place in a report")
