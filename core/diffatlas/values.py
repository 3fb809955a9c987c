"""Values that are written to files: frozen pydantic dataclasses, and their JSON and YAML forms.

`value` makes a class one; `load` builds one from plain data and `plain` takes it apart again; `read_yaml` reads a small
YAML file. Whatever does not fit is `BadInput`: one line that names the field.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from diffatlas.errors import BadInput

__all__ = ["Positive", "Real", "Whole", "line_of", "load", "plain", "program_version", "read_yaml", "value"]

T = TypeVar("T")
MAX_LINE = 280
# As `yaml.safe_load`, in C where PyYAML was built with it: forms plan, and so read a card, at every change.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 30
MAX_NODES = 20_000


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ValueError(f"must be a whole number, not {_short(number)}")
    return operator.index(number)


Whole = Annotated[int, BeforeValidator(_whole)]
"""An int, numpy's too; no bool, no text."""

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; no text."""

Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]


_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(**options: bool) -> Callable[[type[T]], type[T]]:
        """`dataclasses.dataclass`, whose fields are checked on construction and by `dataclasses.replace`.

        Raises `BadInput`. To type checkers it is the standard decorator.
        """

        def make(cls: type[T]) -> type[T]:
            made = dataclass(**{"repr": "__repr__" not in vars(cls), **options}, config=_CONFIG)(cls)
            init = made.__init__

            @functools.wraps(init)
            def checked(self: Any, *args: Any, **kwargs: Any) -> None:
                try:
                    init(self, *args, **kwargs)
                except ValidationError as error:
                    raise BadInput(line_of(error)) from error

            made.__init__ = checked
            return made

        return make


def program_version() -> str:
    """Of this program as it is installed; "0" where it runs from a folder without being installed."""
    try:
        return version("napari-diffatlas")
    except PackageNotFoundError:
        return "0"


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def load(kind: type[T], data: Any, what: str) -> T:
    """``data``, as JSON or YAML gives it, as a ``kind``; the `BadInput` line begins with ``what``."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise BadInput(f"{what}: {line_of(error)}") from error


def plain(instance: Any) -> dict[str, Any]:
    """Plain data for JSON or YAML, the inverse of `load`."""
    data: dict[str, Any] = _adapter(type(instance)).dump_python(instance, mode="json")
    return data


def line_of(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    where = "".join(c if c.isprintable() else "?" for c in ".".join(str(part) for part in first["loc"])[:100])
    kind, message = first["type"], first["msg"]
    if kind in ("missing", "missing_argument"):
        return f"'{where}' is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"there is no field '{where}'"
    if kind in ("value_error", "assertion_error"):
        text = " ".join(str(first["ctx"]["error"]).split())
        return (f"{where} {text}" if text.startswith("must ") else text)[:MAX_LINE]
    must = message.replace("Input should", "must", 1)
    return f"{where} {must}, not {_short(first['input'])}".strip()[:MAX_LINE]


def _short(given: Any) -> str:
    text = " ".join(repr(given).split()) if isinstance(given, (str, int, float, type(None))) else type(given).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def read_yaml(text: str) -> Any:
    """Plain YAML as Python data; ValueError (or yaml.YAMLError) where it is deep, long, or refers to its own parts.

    Aliases are refused, because a few lines of them can stand for more than memory holds.
    """
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=LOADER)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"'*{event.anchor}' refers to another part of the file; write it out")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ValueError("is nested too deeply" if depth > MAX_DEPTH else "is too long")
    return yaml.load(text, Loader=LOADER)
