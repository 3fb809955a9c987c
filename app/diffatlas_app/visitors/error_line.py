"""What went wrong, said to the visitor in one line and to the log without anything of theirs."""

from __future__ import annotations

import logging
import traceback

from diffatlas.errors import BadInput

log = logging.getLogger("diffatlas_app")


def told(error: Exception) -> str:
    """One line for the visitor; what is not their doing also goes to the log: the kind of error and where it arose.

    Not its message: a library's message may quote what it was given.
    """
    if isinstance(error, BadInput):
        return str(error)
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("a run failed: %s\n%s", type(error).__name__, where)
    first = (str(error).splitlines() or [""])[0][:200]
    return f"This is our fault, not yours: {type(error).__name__}: {first}"
