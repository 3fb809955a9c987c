"""`Request`: what a run is asked to do. The command line, napari, the web page and scripts all build one.

A request round-trips through JSON, so that the report of a run made in one front end replays in another. Options left
``None`` take the preset's value, then the model card's.
"""

from __future__ import annotations

import base64
import json
import math
import operator
import zlib
from dataclasses import fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, model_serializer, model_validator

from diffatlas.engine.choices import MAX_SAMPLES as MAX_SAMPLES
from diffatlas.engine.choices import MAX_STEPS as MAX_STEPS
from diffatlas.engine.choices import DeviceName as DeviceName
from diffatlas.engine.choices import GuidanceName as GuidanceName
from diffatlas.engine.choices import PrecisionName as PrecisionName
from diffatlas.engine.choices import Roi as Roi
from diffatlas.engine.choices import SamplerName as SamplerName
from diffatlas.engine.choices import Task as Task
from diffatlas.errors import BadInput
from diffatlas.models.presets import PRESETS as PRESETS
from diffatlas.models.presets import Preset as Preset
from diffatlas.models.presets import PresetName as PresetName
from diffatlas.values import Real, Whole, load, plain, value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _pack(data: NDArray[Any]) -> str:
    """uint8 as they are, bool a bit a voxel: compressed, as base64."""
    import numpy as np

    raw = np.packbits(data) if data.dtype == np.bool_ else np.ascontiguousarray(data)
    return base64.b64encode(zlib.compress(raw.tobytes(), 6)).decode("ascii")


def _unpack(packed: dict[str, Any], key: str, bits: bool) -> NDArray[Any]:
    """Inverse of `_pack`: uint8, or with ``bits`` bool, of shape ``packed["shape"]``; ValueError on anything else."""
    import numpy as np

    try:
        shape = tuple(int(n) for n in packed["shape"])
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > 2**31:
            raise ValueError("its shape is not that of a volume")
        count = math.prod(shape)
        size = (count + 7) // 8 if bits else count
        raw = zlib.decompressobj().decompress(base64.b64decode(packed[key], validate=True), size + 1)
    except (KeyError, TypeError, OverflowError, zlib.error) as error:
        raise ValueError(f"is not a packed mask ({type(error).__name__} {error})") from error
    if len(raw) != size:
        raise ValueError("its data do not fill its shape")
    data = np.frombuffer(raw, dtype=np.uint8)
    return (np.unpackbits(data, count=count).astype(bool) if bits else data.copy()).reshape(shape)


def _mask(given: Any) -> Any:
    """A mask of three axes, from an array or from its JSON form."""
    if isinstance(given, dict):
        return _unpack(given, "voxels", bits=True)
    if len(getattr(given, "shape", ())) != 3:
        raise ValueError("must be a mask [X, Y, Z]")
    return given


def _mask_json(mask: Any) -> Any:
    return None if mask is None else {"shape": list(mask.shape), "voxels": _pack(mask.astype(bool))}


def _ranges(given: Any) -> Any:
    try:
        x, y, z = ((operator.index(low), operator.index(high)) for low, high in given)
    except (TypeError, ValueError) as error:
        raise ValueError("must be three ranges: X0:X1,Y0:Y1,Z0:Z1 in voxels") from error
    return x, y, z


if TYPE_CHECKING:  # at run time numpy waits for its first use
    Labels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]
    Ranges = Roi
else:
    Labels = Annotated[Any, PlainValidator(_mask)]
    Mask = Annotated[Any, PlainValidator(_mask), PlainSerializer(_mask_json)]
    Ranges = Annotated[Any, PlainValidator(_ranges)]


@value(frozen=True, eq=False)
class MaskEdit:
    """A mask that the user corrected, from which the walk resumes.

    ``labels``: uint8 [X, Y, Z], indices on the source grid. ``pinned``: bool [X, Y, Z], voxels where the edit binds to
    the end; None takes the whole mask as a starting point only. ``t``: noise level in (0, 1] at which the walk resumes.
    """

    labels: Labels
    pinned: Mask | None = None
    t: Annotated[Real, Field(ge=1e-3, le=1)] = 0.5

    def __repr__(self) -> str:
        pinned = "none" if self.pinned is None else int(self.pinned.sum())
        return f"MaskEdit({' x '.join(map(str, self.labels.shape))}, pinned {pinned}, t={self.t:g})"

    @model_serializer
    def _packed(self) -> dict[str, Any]:
        pinned = None if self.pinned is None else _pack(self.pinned.astype(bool))
        labels = self.labels.astype("uint8", copy=False)
        return {"shape": list(labels.shape), "labels": _pack(labels), "pinned": pinned, "t": self.t}

    @model_validator(mode="before")
    @classmethod
    def _unpacked(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "shape" not in data:
            return data
        pinned = None if data.get("pinned") is None else _unpack(data, "pinned", bits=True)
        rest = {key: item for key, item in data.items() if key != "shape"}
        return {**rest, "labels": _unpack(data, "labels", bits=False), "pinned": pinned}


@value(frozen=True, eq=False)
class Request:
    """One run.

    ``task``: "segment" an image, "generate" pairs from the atlas, or "paint" an image onto the mask in ``edit``.
    ``model``: a name from ``diffatlas models``, a folder, or "auto" (the shipped model that fits the volume best).
    ``samples``: how many seeds are run and averaged (1 to 1,024); sample i uses ``seed + i``.
    ``guidance_noise``: rho in [0, 1]; 0 gives the network the clean image, 1 is the published guidance.
    ``roi``: half-open voxel ranges ((x0, x1), (y0, y1), (z0, z1)) of the source array, or None for an automatic field
    of view. ``ignore``: bool [X, Y, Z] on the source grid, voxels of the image that are not to be believed (metal,
    motion, a missing slab), or None. ``force``: run even where the volume's modality is not one the model was trained
    on.
    """

    task: Task = "segment"
    model: Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, PurePath) else name)] = "auto"
    preset: PresetName = "fast"
    sampler: SamplerName | None = None
    steps: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: GuidanceName = "image"
    guidance_noise: Annotated[Real, Field(ge=0, le=1)] | None = None
    samples: Annotated[Whole, Field(ge=1, le=MAX_SAMPLES)] = 1
    seed: Annotated[Whole, Field(ge=0, le=2**63 - 1 - MAX_SAMPLES)] = 0
    roi: Ranges | None = None
    edit: MaskEdit | None = None
    ignore: Mask | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    force: bool = False

    def __post_init__(self) -> None:
        if self.task == "paint" and self.edit is None:
            raise ValueError("painting an image onto a mask needs a mask: give Request.edit")

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.ignore is not None:
            shown["ignore"] = f"{int(self.ignore.sum())} voxels"
        return (
            f"Request({', '.join(f'{f.name}={shown[f.name]!r}' for f in fields(self) if shown[f.name] != f.default)})"
        )

    def __eq__(self, other: object) -> bool:
        """Equal options, and masks with equal voxels."""
        return self.to_json() == other.to_json() if isinstance(other, Request) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json()))

    def resolved(self, preset: Preset, card_guidance_noise: float) -> Request:
        """The request with what it leaves open taken from ``preset`` and the card; what a run record holds."""
        noise = self.guidance_noise
        if noise is None:
            noise = card_guidance_noise if preset.guidance_noise is None else preset.guidance_noise
        return replace(
            self, sampler=self.sampler or preset.sampler, steps=self.steps or preset.steps, guidance_noise=noise
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return plain(self)

    @classmethod
    def from_json(cls, data: dict[str, Any] | str) -> Request:
        """Inverse of `to_json`; `BadInput` on anything that is not a request."""
        what = "not a request of this program"
        try:
            return load(cls, json.loads(data) if isinstance(data, str) else data, what)
        except BadInput:
            raise
        except (ValueError, RecursionError) as error:  # of the JSON text
            raise BadInput(f"{what}: {str(error)[:100]!a}") from error
