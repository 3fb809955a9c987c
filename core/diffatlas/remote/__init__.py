"""The `Backend` seam over HTTP: one machine with a GPU runs what others in the laboratory ask for.

`serve` answers on one machine (``diffatlas serve``), `RemoteBackend` asks on the others (``--device http://HOST:PORT``).
The messages hold plain data and arrays of numbers (`diffatlas.remote.wire`); nothing is ever unpickled.
"""

from diffatlas.remote.client import RemoteBackend

__all__ = ["RemoteBackend"]
