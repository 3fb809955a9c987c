"""The command line: typer commands that call the engine. Output is drawn with rich on a terminal, else plain or JSON.

Exit codes: 0; 2 for bad input or use; 1 for a fault of this program; 130 when stopped. Nothing heavier than typer and
numpy is imported before a command runs, so that ``diffatlas --help`` answers at once.
"""

from diffatlas.cli.commands import app, main

__all__ = ["app", "main"]
