"""A training configuration on cases of two balls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import balls


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return balls(tmp_path)
