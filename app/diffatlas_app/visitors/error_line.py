"""Errors: one line for the visitor, and a log entry without data of the visitor."""

from __future__ import annotations

import logging
import traceback

from diffatlas.errors import BadInput

log = logging.getLogger("diffatlas_app")


def told(error: Exception) -> str:
    """One line for the visitor. A fault of ours is also logged: the type of the error and where it arose.

    The log gets no message, because a library's message may quote data.
    """
    if isinstance(error, BadInput):
        return str(error)
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("a run failed: %s\n%s", type(error).__name__, where)
    first = (str(error).splitlines() or [""])[0][:200]
    return f"This is our fault, not yours: {type(error).__name__}: {first}"
