"""DiffAtlas: segmentation as the generation of the one image-mask pair that agrees with the patient's image.

    result = diffatlas.segment("mri.nii.gz")
    diffatlas.write_label_map(result.labels, "labels.nii.gz")
    for frame in diffatlas.stream("mri.nii.gz", model="hippocampus-mri", preset="watch"):
        print(frame.index, frame.t, frame.metrics.volumes_ml)

The names below are imported on first use: ``import diffatlas`` takes milliseconds and never imports torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP reads this when torch is loaded: a thread that waits sleeps. By default it spins, and where two threads share a
# processor with anybody else the one that spins takes the time from the one that works.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from diffatlas import plot
    from diffatlas.engine.request import MaskEdit, Request
    from diffatlas.errors import BadInput, DiffAtlasError
    from diffatlas.geometry.grid import Grid
    from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure, Volume
    from diffatlas.io import read_label_map, read_volume, write_label_map, write_volume
    from diffatlas.models.store import load_model
    from diffatlas.session import (
        Frame,
        FrameMetrics,
        Result,
        available_models,
        compare,
        example,
        local_backend,
        segment,
        stream,
    )

__all__ = [
    "HIPPOCAMPUS",
    "MMWHS",
    "BadInput",
    "DiffAtlasError",
    "Frame",
    "FrameMetrics",
    "Grid",
    "LabelMap",
    "LabelScheme",
    "MaskEdit",
    "Request",
    "Result",
    "Structure",
    "Volume",
    "available_models",
    "compare",
    "example",
    "load_model",
    "local_backend",
    "plot",
    "read_label_map",
    "read_volume",
    "segment",
    "stream",
    "write_label_map",
    "write_volume",
]

_HOME = {
    "models.store": ("load_model",),
    "errors": ("BadInput", "DiffAtlasError"),
    "geometry.grid": ("Grid",),
    "io": ("read_label_map", "read_volume", "write_label_map", "write_volume"),
    "engine.request": ("MaskEdit", "Request"),
    "session": (
        "Frame",
        "FrameMetrics",
        "Result",
        "available_models",
        "compare",
        "example",
        "local_backend",
        "segment",
        "stream",
    ),
    "geometry.volume": ("HIPPOCAMPUS", "MMWHS", "LabelMap", "LabelScheme", "Structure", "Volume"),
}
_MODULES = ("plot",)
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from diffatlas.values import program_version

        return program_version()
    if name in _MODULES:
        return import_module(f"diffatlas.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'diffatlas' has no attribute {name!r}")
    value = getattr(import_module(f"diffatlas.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
