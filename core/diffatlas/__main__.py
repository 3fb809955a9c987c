"""The program's entry point, also for ``python -m diffatlas``.

Importing the commands takes a few tenths of a second. A Ctrl-C in that time ends the program with one line and the exit
code of a stopped run, as it does later.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop_now)
    signal.signal(signal.SIGTERM, _stop_now)
    from diffatlas.cli import main as run

    run()


def _stop_now(number: int, frame: FrameType | None) -> None:
    """Nothing is open yet, so the process may end on the spot; a half-imported module could not be unwound."""
    os.write(2, b"diffatlas: stopped; nothing was written\n")
    os._exit(130)


if __name__ == "__main__":
    main()
