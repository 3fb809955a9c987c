"""JSON bodies: bounded, read whole, and free of any path of this machine before gradio sees them.

gradio accepts a path in any ``FileData`` of any call and hands it to the handler if its own checks pass. These checks
accept every file that the page serves as static. Here every object with a ``path`` is replaced by one that names a
file of the inbox, or the request is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from diffatlas.errors import BadInput
from diffatlas_app import limits
from diffatlas_app.server.answers import Refused
from diffatlas_app.visitors.inbox import Inbox

MAX_DEPTH = 40


async def whole(receive: Any, declared: str) -> bytes:
    """The body of a request, at most `limits.MAX_JSON_KB`."""
    most = limits.MAX_JSON_KB * 1024
    too_large = Refused(413, f"the request is larger than {limits.MAX_JSON_KB} KB, the limit for anything but files")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    more = True
    while more:
        message = await next_part(receive)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise too_large
    return bytes(body)


async def next_part(receive: Any) -> dict[str, Any]:
    """The next part of a body; `Refused` where it does not come in time or the sender left."""
    try:
        message: dict[str, Any] = await asyncio.wait_for(receive(), limits.CHUNK_WAIT_S)
    except TimeoutError:
        raise Refused(408, "the request did not arrive in time") from None
    if message["type"] != "http.request":
        raise Refused(400, "the request was cut off")
    return message


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the request must be a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def with_own_files(value: Any, inbox: Inbox, depth: int = 0) -> Any:
    """``value`` with every file in it replaced by one of the inbox. `Refused` where it names anything else."""
    if depth > MAX_DEPTH:
        raise Refused(400, f"the request is nested more than {MAX_DEPTH} deep")
    if isinstance(value, list):
        return [with_own_files(item, inbox, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" in value or _is_file(value):
        try:
            path = inbox.find(value.get("path"))
        except BadInput as error:
            raise Refused(400, str(error)) from None
        # No other field of the file is passed on, such as its url or that it is a stream.
        return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
    return {key: with_own_files(item, inbox, depth + 1) for key, item in value.items()}


def _is_file(value: Mapping[str, Any]) -> bool:
    meta = value.get("meta")
    return isinstance(meta, dict) and "_type" in meta


def in_order(arguments: Mapping[str, Any], names: Sequence[str], call: str) -> list[Any]:
    """Arguments by name as the list that gradio takes; None where one is not given."""
    unknown = [name for name in arguments if name not in names]
    if unknown:
        raise Refused(422, f"{call} has no argument {unknown[0][:60]!r}; it takes {', '.join(names)}")
    return [arguments.get(name) for name in names]


def completed(data: Any, names: Sequence[str], call: str) -> list[Any]:
    """Arguments by position, those that are not given as None."""
    if not isinstance(data, list):
        raise Refused(422, f"{call} takes its arguments as a list: {{'data': [{', '.join(names)}]}}")
    if len(data) > len(names):
        raise Refused(422, f"{call} takes {len(names)} arguments ({', '.join(names)}), not {len(data)}")
    for name, value in zip(names, data, strict=False):
        if name == "volume" and value is not None and not isinstance(value, dict):
            raise Refused(422, "give a volume as the reference that its upload answered: {'path': REFERENCE}")
    return [*data, *[None] * (len(names) - len(data))]
