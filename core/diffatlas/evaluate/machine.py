"""The machine of a result: processor, cores, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from diffatlas.engine.precision import processor_name


def machine() -> dict[str, Any]:
    """Processor (and GPU), cores, Python and the versions that numbers depend on, as plain data."""
    return {
        "cpu": processor_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {n: v for n in ("napari-diffatlas", "torch", "monai", "numpy", "scipy") if (v := _version(n))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
