"""The command line: typer commands over the seam, rich on a terminal, plain text and JSON elsewhere.

Exit codes: 0; 2 for bad input or use; 1 when the fault is ours; 130 when stopped. Nothing heavier than typer and numpy
is imported before a command runs, so that ``diffatlas --help`` answers at once.
"""

from diffatlas.cli.commands import app, main

__all__ = ["app", "main"]
