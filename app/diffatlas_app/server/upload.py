"""Uploads: multipart bodies streamed into the inbox, and their progress.

This replaces gradio's own route, which stores files by their content (two visitors with the same file share one path),
answers with paths of this machine, has no quota, and writes hundreds of files from one request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from diffatlas_app import limits
from diffatlas_app.server.answers import Refused
from diffatlas_app.server.bodies import next_part
from diffatlas_app.visitors.inbox import Inbox, Receiving, TooMuch
from diffatlas_app.visitors.uploads import display_name

MAX_HEADERS = 4096
SLACK_BYTES = 64 * 1024
"""Bytes that boundaries and headers of a request may add to its files."""


class _Form:
    """The parts of one request: files go to the inbox as they arrive, other fields are discarded."""

    def __init__(self, boundary: bytes, inbox: Inbox, address: str, files: ExitStack) -> None:
        self.references: list[str] = []
        self.inbox, self.address, self.files = inbox, address, files
        self.name = ""
        self.received = 0
        self._header = self._value = b""
        self._header_bytes = 0
        self._file: Receiving | None = None
        self._filename: str | None = None
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.part_begin,
                "on_header_field": self.header_field,
                "on_header_value": self.header_value,
                "on_header_end": self.header_end,
                "on_headers_finished": self.headers_finished,
                "on_part_data": self.part_data,
                "on_part_end": self.part_end,
            },
        )

    def part_begin(self) -> None:
        self._filename, self._header_bytes = None, 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += self._bounded(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data[start:end])

    def _bounded(self, part: bytes) -> bytes:
        self._header_bytes += len(part)
        if self._header_bytes > MAX_HEADERS:
            raise Refused(400, "a part of the upload has headers that are too long")
        return part

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            name = options.get(b"filename")
            self._filename = None if name is None else name.decode("utf-8", "replace")
        self._header = self._value = b""

    def headers_finished(self) -> None:
        self._file = None
        if self._filename is None:
            return
        if len(self.references) >= limits.FILES_PER_POST:
            raise Refused(413, f"more than {limits.FILES_PER_POST} files in one request: send them one at a time")
        self.name = display_name(self._filename)
        self._file = self.files.enter_context(self.inbox.receive(self.name, self.address))
        self.references.append(self._file.reference)

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            self.received += end - start
        elif end - start > SLACK_BYTES:
            raise Refused(413, "a field of the upload is too long")

    def part_end(self) -> None:
        self._file = None


class Uploads:
    """The two routes: the upload, and the stream of its progress."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._progress: dict[str, tuple[str, int]] = {}

    async def take(self, headers: dict[str, str], receive: Any, address: str, upload_id: str) -> list[str]:
        """Store the files of one request and return their references, in order. After `Refused` no file is kept."""
        kind, options = parse_options_header(headers.get("content-type", ""))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
            raise Refused(400, "send the file as multipart/form-data")
        declared = headers.get("content-length", "")
        most = limits.MAX_UPLOAD_MB * 1024**2
        if declared.isdigit() and int(declared) > limits.FILES_PER_POST * most + SLACK_BYTES:
            raise Refused(413, f"the file is larger than {limits.MAX_UPLOAD_MB} MB, the limit")
        try:
            with ExitStack() as files:
                form = _Form(boundary, self.inbox, address, files)
                more = True
                while more:
                    message = await next_part(receive)
                    form.parser.write(message.get("body", b""))
                    more = message.get("more_body", False)
                    self._note(upload_id, form)
                form.parser.finalize()
                if not form.references:
                    raise Refused(400, "there is no file in this upload")
        except TooMuch as error:
            raise Refused(error.status, str(error)) from None
        except FormParserError:
            raise Refused(400, "the upload is damaged: send it again") from None
        finally:
            self._progress.pop(upload_id, None)
        return form.references

    def _note(self, upload_id: str, form: _Form) -> None:
        if upload_id and (upload_id in self._progress or len(self._progress) < limits.UPLOADS_AT_ONCE):
            self._progress[upload_id] = (form.name, form.received)

    async def progress(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Server-sent events during an upload: the bytes received since the last event, at the end ``done``."""
        sent, idle_s = 0, 0.0
        while upload_id in self._progress or (sent == 0 and idle_s < 3.0):
            name, received = self._progress.get(upload_id, ("", 0))
            if received > sent:
                yield _event({"msg": "update", "orig_name": name, "chunk_size": received - sent})
                sent = received
            await asyncio.sleep(0.2)
            idle_s += 0.2
        yield _event({"msg": "done"})


def _event(message: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()
