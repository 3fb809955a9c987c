"""Errors that are written for the person who reads them.

`BadInput` is the user's to mend (a broken file, a wrong option): the command line prints its one line and exits with 2,
the front ends show it in red. Anything else that escapes is our fault and exits with 1.
"""

from __future__ import annotations


class DiffAtlasError(Exception):
    """Base of every error this package raises on purpose."""


class BadInput(DiffAtlasError, ValueError):
    """Something the user gave cannot be used; the message is one line that says what, where, and what to do."""


class SeveralVolumes(BadInput):
    """A file or folder holds several volumes and nobody said which is meant. ``choices``: a line each, by index."""

    def __init__(self, message: str, choices: tuple[str, ...]) -> None:
        super().__init__(message)
        self.choices = choices
