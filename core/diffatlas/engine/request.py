"""What is asked of the engine: one value that the command line, napari, the web page and a script all build.

A `Request` is plain data and round-trips through JSON, so that a report written by one door replays in another.
Options left ``None`` take the preset's value, then the model card's.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from diffatlas.errors import BadInput
from diffatlas.models.presets import PRESETS as PRESETS
from diffatlas.models.presets import Preset as Preset
from diffatlas.models.presets import PresetName as PresetName
from diffatlas.models.presets import SamplerName as SamplerName

if TYPE_CHECKING:  # numpy is imported where an edit is packed: the command line reads its options from here
    import numpy as np
    from numpy.typing import NDArray

Task = Literal["segment", "generate", "paint"]
GuidanceName = Literal["image", "gradient", "none"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "fp32", "bf16"]
Roi = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

MAX_STEPS = 1000
MAX_SAMPLES = 64


@dataclass(frozen=True, eq=False, repr=False)
class MaskEdit:
    """A mask the user corrected, from which the walk resumes.

    ``labels``: uint8 [X, Y, Z], indices on the source grid. ``pinned``: bool [X, Y, Z], voxels where the edit binds to
    the end; None takes the whole mask as a starting point only. ``t``: noise level in (0, 1] at which the walk resumes.
    """

    labels: NDArray[np.uint8]
    pinned: NDArray[np.bool_] | None = None
    t: float = 0.5

    def __repr__(self) -> str:
        pinned = "none" if self.pinned is None else int(self.pinned.sum())
        return f"MaskEdit({' x '.join(map(str, self.labels.shape))}, pinned {pinned}, t={self.t:g})"

    def to_json(self) -> dict[str, Any]:
        import numpy as np

        return {
            "shape": list(self.labels.shape),
            "labels": _pack(self.labels),
            "pinned": None if self.pinned is None else _pack(np.packbits(self.pinned)),
            "t": self.t,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MaskEdit:
        import numpy as np

        shape = tuple(int(n) for n in value["shape"])
        if len(shape) != 3 or min(shape) < 1 or np.prod(shape, dtype=np.int64) > 2**31:
            raise ValueError("edit: shape is not that of a volume")
        count = int(np.prod(shape))
        labels = _unpack(value["labels"], count).reshape(shape)
        pinned = None
        if value.get("pinned") is not None:
            bits = _unpack(value["pinned"], (count + 7) // 8)
            pinned = np.unpackbits(bits, count=count).astype(bool).reshape(shape)
        return cls(labels, pinned, float(value["t"]))


def pack_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as JSON data, a bit a voxel."""
    import numpy as np

    return {"shape": list(mask.shape), "voxels": _pack(np.packbits(mask))}


def unpack_mask(value: dict[str, Any]) -> NDArray[np.bool_]:
    """Inverse of `pack_mask`; ValueError or KeyError on anything else."""
    import numpy as np

    shape = tuple(int(n) for n in value["shape"])
    if len(shape) != 3 or min(shape) < 1 or np.prod(shape, dtype=np.int64) > 2**31:
        raise ValueError("ignore: shape is not that of a volume")
    count = int(np.prod(shape))
    return np.unpackbits(_unpack(value["voxels"], (count + 7) // 8), count=count).astype(bool).reshape(shape)


def _pack(data: NDArray[np.uint8]) -> str:
    import numpy as np

    return base64.b64encode(zlib.compress(np.ascontiguousarray(data).tobytes(), 6)).decode("ascii")


def _unpack(text: str, count: int) -> NDArray[np.uint8]:
    import numpy as np

    inflater = zlib.decompressobj()
    raw = inflater.decompress(base64.b64decode(text, validate=True), count + 1)
    if len(raw) != count:
        raise ValueError("edit: data does not fill its shape")
    return np.frombuffer(raw, dtype=np.uint8).copy()


@dataclass(frozen=True, eq=False, repr=False)
class Request:
    """One run.

    ``task``: "segment" an image, "generate" pairs from the atlas, or "paint" an image onto the mask in ``edit``.
    ``model``: a name from ``diffatlas models``, a folder, or "auto" (the shipped model that fits the volume best).
    ``samples``: how many seeds are run and averaged (1 to 64); sample i uses ``seed + i``.
    ``guidance_noise``: rho in [0, 1]; 0 hands over the clean image, 1 is the published guidance.
    ``roi``: half-open voxel ranges ((x0, x1), (y0, y1), (z0, z1)) of the source array, or None for an automatic field
    of view. ``ignore``: bool [X, Y, Z] on the source grid, voxels of the image that are not to be believed (metal,
    motion, a missing slab), or None. ``force``: run even where the volume's modality is not one the model was trained
    on.
    """

    task: Task = "segment"
    model: str = "auto"
    preset: PresetName = "fast"
    sampler: SamplerName | None = None
    steps: int | None = None
    guidance: GuidanceName = "image"
    guidance_noise: float | None = None
    samples: int = 1
    seed: int = 0
    roi: Roi | None = None
    edit: MaskEdit | None = None
    ignore: NDArray[np.bool_] | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    force: bool = False

    def __post_init__(self) -> None:
        _one_of("task", self.task, get_args(Task))
        _one_of("preset", self.preset, get_args(PresetName))
        _one_of("guidance", self.guidance, get_args(GuidanceName))
        _one_of("device", self.device, get_args(DeviceName))
        _one_of("precision", self.precision, get_args(PrecisionName))
        if self.sampler is not None:
            _one_of("sampler", self.sampler, get_args(SamplerName))
        if self.steps is not None:
            _within("steps", self.steps, 1, MAX_STEPS)
        if self.guidance_noise is not None:
            _within("guidance noise", self.guidance_noise, 0.0, 1.0)
        _within("samples", self.samples, 1, MAX_SAMPLES)
        _within("seed", self.seed, 0, 2**63 - 1 - MAX_SAMPLES)
        if self.edit is not None:
            _within("edit noise level", self.edit.t, 1e-3, 1.0)
        if self.task == "paint" and self.edit is None:
            raise BadInput("painting an image onto a mask needs a mask: give Request.edit")
        if self.roi is not None:
            if len(self.roi) != 3 or any(len(r) != 2 for r in self.roi):
                raise BadInput("roi must be three ranges: X0:X1,Y0:Y1,Z0:Z1 in voxels")
            object.__setattr__(self, "roi", tuple((int(a), int(b)) for a, b in self.roi))

    def __repr__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Request({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def resolved(self, preset: Preset, card_guidance_noise: float) -> Request:
        """The request with what it leaves open taken from ``preset`` and the card; what a run record holds."""
        noise = self.guidance_noise
        if noise is None:
            noise = card_guidance_noise if preset.guidance_noise is None else preset.guidance_noise
        return replace(
            self,
            sampler=self.sampler or preset.sampler,
            steps=self.steps or preset.steps,
            guidance_noise=float(noise),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["roi"] = None if self.roi is None else [list(r) for r in self.roi]
        out["edit"] = None if self.edit is None else self.edit.to_json()
        out["ignore"] = None if self.ignore is None else pack_mask(self.ignore)
        return out

    @classmethod
    def from_json(cls, value: dict[str, Any] | str) -> Request:
        """Inverse of `to_json`; `BadInput` on anything that is not a request."""
        try:
            data = json.loads(value) if isinstance(value, str) else value
            if not isinstance(data, dict):
                raise ValueError("a request is a mapping of names to values")
            data = dict(data)
            unknown = set(data) - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            if data.get("roi") is not None:
                data["roi"] = tuple((int(a), int(b)) for a, b in data["roi"])
            if data.get("edit") is not None:
                data["edit"] = MaskEdit.from_json(data["edit"])
            if data.get("ignore") is not None:
                data["ignore"] = unpack_mask(data["ignore"])
            return cls(**data)
        except BadInput:
            raise
        except (TypeError, ValueError, KeyError, OverflowError, RecursionError, zlib.error) as error:
            raise BadInput(f"not a request of this program: {str(error)[:200]!a}") from error


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"{name} must be one of {', '.join(allowed)}, not {_short(value)}")


def _within(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise BadInput(f"{name} must be between {low} and {high}, not {_short(value)}")


def _short(value: object) -> str:
    """A value as a message shows it: at most some forty characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
