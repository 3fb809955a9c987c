"""Messages between client and server: JSON for what is small, the bytes of arrays behind it.

    message = 8 bytes: length of the rest | 8 bytes: length of the JSON | JSON | array 0 | array 1 | ...

An array stands in the JSON as ``{"$array": i, "dtype": "<f4", "shape": [...]}``, a value of the engine as ``{"$type":
"Grid", ...its fields}``. Only the types named here are made, from fields of their own; lengths, dtypes and shapes are
checked before anything is allocated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.engine.frame import Frame, FrameMetrics, Result
from diffatlas.engine.locate import Look, Proposal
from diffatlas.engine.plan import Plan
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, NiftiHeader, Structure, Volume
from diffatlas.models.calibration import Border, Calibration
from diffatlas.models.card import ModelCard
from diffatlas.session import Preset
from diffatlas.values import load

HEAD = struct.Struct("<QQ")
MAX_JSON = 64 * 2**20
DTYPES = frozenset(("|u1", "|i1", "<i2", "<u2", "<i4", "<i8", "<f4", "<f8", "|b1"))
# How float32 volumes of whole numbers travel; every other array as it is.
SMALLER = ("<i2", "<f4")
_VALUES: tuple[type, ...] = (
    Grid, Structure, LabelScheme, LabelMap, Volume, NiftiHeader, FrameMetrics, Frame, Result, Look, Proposal, Plan,
    Preset, Calibration, Border,
)  # fmt: skip
TYPES: dict[str, type] = {kind.__name__: kind for kind in _VALUES}


def pack(value: dict[str, Any]) -> bytes:
    """A message as bytes, its length first."""
    arrays: list[NDArray[Any]] = []
    text = json.dumps(_plain(value, arrays), separators=(",", ":")).encode()
    size = sum(array.nbytes for array in arrays)
    return b"".join([HEAD.pack(8 + len(text) + size, len(text)), text, *(array.tobytes() for array in arrays)])


def read(receive: Callable[[int], bytes], limit: int) -> dict[str, Any]:
    """The next message; ``receive(n)`` gives n bytes, or fewer at the end.

    Raises `EOFError` where there is none, `BadInput` where it is none of ours or longer than ``limit`` bytes.
    """
    head = _exactly(receive, HEAD.size, allow_end=True)
    length, text_length = HEAD.unpack(head)
    if length > limit:
        raise BadInput(f"a message of {length:.3g} bytes, the limit is {limit:.3g}")
    if not 0 < text_length <= min(length - 8, MAX_JSON):
        raise BadInput("not a message of this program")
    text = _exactly(receive, text_length)
    data = memoryview(_exactly(receive, length - 8 - text_length))
    try:
        value = _value(json.loads(text), _Arrays(data))
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"not a message of this program ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise BadInput("not a message of this program")
    return value


def _exactly(receive: Callable[[int], bytes], count: int, *, allow_end: bool = False) -> bytes:
    parts, left = [], count
    while left:
        part = receive(min(left, 1 << 20))
        if not part:
            if allow_end and left == count:
                raise EOFError
            raise BadInput("the connection ended amid a message")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _plain(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(_smaller(value))
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        arrays.append(array)
        wanted = value.dtype.newbyteorder("<").str
        return {"$array": len(arrays) - 1, "dtype": array.dtype.str, "shape": list(value.shape), "as": wanted}
    if isinstance(value, np.generic):
        return _plain(value.item(), arrays)
    if isinstance(value, Request):
        return {"$type": "Request", "value": value.to_json()}
    if isinstance(value, ModelCard):
        return {"$type": "ModelCard", "value": value.to_json()}
    if type(value) in _VALUES:
        return {
            "$type": type(value).__name__,
            **{f.name: _plain(getattr(value, f.name), arrays) for f in fields(value)},
        }
    if isinstance(value, dict):
        return {"$dict": [[str(key), _plain(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_plain(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _smaller(array: NDArray[Any]) -> NDArray[Any]:
    """A volume of whole numbers (CT) in half the bytes; every value is the same."""
    if array.dtype == np.float32 and array.size > 4096:
        with np.errstate(invalid="ignore"):
            small = array.astype(np.int16)
        if np.array_equal(small, array) and not np.signbit(array[array == 0]).any():
            return small
    return array


class _Arrays:
    """The arrays behind a message, in their order."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at, self._next = data, 0, 0

    def take(self, value: dict[str, Any]) -> NDArray[Any]:
        dtype, wanted = value["dtype"], value["as"]
        known = dtype in DTYPES and wanted in DTYPES and (dtype == wanted or (dtype, wanted) == SMALLER)
        if not known or value["$array"] != self._next:
            raise ValueError("arrays")
        shape = tuple(int(n) for n in value["shape"])
        if len(shape) > 6 or any(n < 0 for n in shape):
            raise ValueError("shape")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(self._data) - self._at:
            raise ValueError("length")
        flat = np.frombuffer(self._data[self._at : self._at + size], dtype=np.dtype(dtype))
        self._at, self._next = self._at + size, self._next + 1
        return flat.reshape(shape).astype(np.dtype(wanted).newbyteorder("="))


def _value(plain: Any, arrays: _Arrays) -> Any:
    if isinstance(plain, list):
        return [_value(item, arrays) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "$array" in plain:
        return arrays.take(plain)
    if "$tuple" in plain:
        return tuple(_value(item, arrays) for item in plain["$tuple"])
    if "$dict" in plain:
        return {str(key): _value(item, arrays) for key, item in plain["$dict"]}
    if "$float" in plain:
        return float(plain["$float"])
    kind = plain["$type"]
    if kind == "Request":
        return Request.from_json(plain["value"])
    if kind == "ModelCard":
        return load(ModelCard, {**plain["value"], "path": Path()}, "the model card of the server")
    made = TYPES[kind]
    return made(**{f.name: _value(plain[f.name], arrays) for f in fields(made) if f.name in plain})
