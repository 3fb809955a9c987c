"""Stored pixels of the frames of one file, decoded by pydicom and its plugins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.io.atomic import shown
from diffatlas.io.dicom.header import DEFLATED, Header, InDecoder, damaged
from diffatlas.io.source import Limits

# Implicit and explicit little endian, explicit big endian, deflated: no decoder but Python's own.
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)


def decoded(header: Header, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Stored pixels of the frames of one file; whatever the decoder says is the file's fault."""
    from pydicom.pixels.utils import iter_pixels
    from pydicom.uid import UID

    count = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # pydicom would clear unused bits as if they always lay at the upper end.
            for pixels in iter_pixels(_readable(header), indices=list(indices), raw=True, correct_unused_bits=False):
                if pixels.shape != header.shape:
                    raise ValueError(f"a frame decodes to {pixels.shape}, not {header.shape}")
                count += 1
                yield _significant(pixels, header)
    except BadInput:
        raise
    except Exception as error:  # decoders raise all kinds
        reason = str(error)
        if header.transfer_syntax not in NATIVE and not UID(header.transfer_syntax).is_transfer_syntax:
            raise BadInput(
                f"{shown(header.path)}: its transfer syntax {header.transfer_syntax[:64]} is a private one, which only "
                "its maker's programs read; export it uncompressed"
            ) from error
        if "missing required dependencies" in reason or "plugins are missing" in reason:
            what = UID(header.transfer_syntax).name
            raise BadInput(
                f"{shown(header.path)}: its compression ({what}) is not read; export it uncompressed"
            ) from error
        raise damaged(header.path, error) from error
    if count != len(indices):
        raise damaged(header.path, f"it holds {count} of {len(indices)} frames")


def check_place(headers: Iterable[Header], limits: Limits) -> None:
    """Raise `InDecoder` where these files need native decoders, which this process must not run."""
    if not limits.compressed and any(header.transfer_syntax not in NATIVE for header in headers):
        raise InDecoder


def _readable(header: Header) -> Any:
    """What pydicom decodes frames of: the file, or its dataset where the pixels cannot be found by seeking."""
    from pydicom import dcmread
    from pydicom.uid import UID

    syntax = UID(header.transfer_syntax)
    if syntax.is_deflated or not _has_preamble(header.path):
        dataset = dcmread(header.path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = syntax
        return dataset
    return header.path


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _significant(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    """The stored bits of each pixel alone, with their sign: others may hold an overlay (PS3.5 8.1)."""
    from pydicom.uid import UID

    allocated, stored, highest = header.bits
    if header.dtype.kind == "f" or stored == allocated:
        return pixels.astype(header.dtype)
    native = not UID(header.transfer_syntax).is_encapsulated
    # Shift left until the sign bit is the highest bit, then right again, which keeps the sign. Decoders put the stored
    # bits at the low end.
    up = allocated - 1 - highest if native else allocated - stored
    return (pixels.astype(header.dtype) << up) >> (allocated - stored)
