"""What every refusal of a file must look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import HIPPOCAMPUS


def refused(path: Path, match: str = ".") -> str:
    """Read ``path``; the message of the refusal, checked to be one line that names the file."""
    with pytest.raises(BadInput, match=match) as caught:
        io.read_volume(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 400
    with pytest.raises(BadInput):
        io.describe(path)
    with pytest.raises(BadInput):
        io.read_label_map(path, HIPPOCAMPUS)
    return message
