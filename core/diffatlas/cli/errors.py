"""From exceptions to exit codes: one line on stderr, never a traceback unless it is asked for."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from diffatlas.cli.streams import tolerant_streams
from diffatlas.errors import BadInput

BAD_INPUT = 2
OUR_FAULT = 1
STOPPED = 130
# Messages are cut here: they may quote a name of thousands of characters.
MAX_LINE = 1000

# What the user or their machine can mend; any other OSError is a bug.
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE,
}  # fmt: skip


class Commands(TyperGroup):
    """The group of commands; whatever one of them raises becomes an exit code here, for every way of calling it."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with tolerant_streams() as out:
            try:
                value = super().main(*args, **kwargs)
                out.flush()
            except SystemExit as end:
                out.flush()
                if end.code in (0, None) and out.failure is not None:
                    _say_lost(out.failure)
                    raise SystemExit(BAD_INPUT) from end
                raise
            return value

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise _exit(in_options(str(error)), BAD_INPUT) from error
        except KeyboardInterrupt as stop:
            raise _exit(str(stop) or "stopped; nothing was written", STOPPED) from stop
        except OSError as error:
            if error.errno not in _MENDABLE:
                raise _our_fault(error) from error
            if error.errno == errno.ENOENT and not _working_folder_exists():
                raise _exit("the working folder does not exist any more; change to another one", BAD_INPUT) from error
            where = f"{error.filename}: " if error.filename else ""
            raise _exit(f"{where}{(error.strerror or str(error)).lower()}", BAD_INPUT) from error
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                raise  # usage errors and exits, which typer prints itself
            raise _our_fault(error) from error


def _working_folder_exists() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  (Path.cwd is the same call)
    except FileNotFoundError:
        return False
    return True


def _say_lost(error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    sys.stderr.write(f"diffatlas: standard output could not be written ({reason}); files that were named are there\n")


def in_options(message: str) -> str:
    """The engine's message, which names settings as Python does, with the names of the command line's options."""
    for python, option in (
        ("force=True", "--force"),
        ("as model,", "with --model,"),
        ("guidance_noise ", "--guidance-noise "),
    ):
        message = message.replace(python, option)
    return message


def _our_fault(error: Exception) -> Exception:
    """The exit for a bug, or the exception itself where the traceback is wanted."""
    if os.environ.get("DIFFATLAS_DEBUG"):
        return error
    text = f"internal error: {type(error).__name__}: {error} (DIFFATLAS_DEBUG=1 shows the traceback; please report it)"
    return _exit(text, OUR_FAULT)


def _exit(message: str, code: int) -> typer.Exit:
    from diffatlas.cli.terminal import stderr

    # One line whatever the message holds, and its brackets are not markup.
    line = " ".join(message.split())
    line = line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
    stderr().print(f"diffatlas: {line}", style="red", soft_wrap=True)
    return typer.Exit(code)
