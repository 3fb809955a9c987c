"""The prepared file: every case of a run in one safetensors file, which training reads.

``image``: uint8 [N, M, X, Y, Z] and ``sdf``: int8 [N, K, X, Y, Z], see `resample`; X, Y, Z are the model's shape plus
a margin that augmentation can move into view. ``known``: uint8 [N, M, X, Y, Z], 1 where an image was acquired, only
where some was not. The metadata say what the numbers mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.data.resample import Plan, PreparedCase
from diffatlas.io import atomic_path, check_output

SUFFIX = ".safetensors"


def check_cache_path(path: Path) -> Path:
    """The path, if a prepared file can be written there; else `BadInput`."""
    return check_output(path, (SUFFIX,))


def write_cache(
    path: Path, cases: Sequence[PreparedCase], plan: Plan, made_from: Mapping[str, Any] | None = None
) -> None:
    """Write at least one case, whole or not at all. ``made_from``: settings and files that it was made from."""
    from safetensors.numpy import save_file

    meta = {
        "names": json.dumps([case.facts.id for case in cases]),
        "space": json.dumps(plan.space.to_json()),
        "margin": json.dumps(plan.margin),
        "structures": json.dumps([{"name": s.name, "id": s.id} for s in plan.scheme.structures]),
        "cases": json.dumps([asdict(case.facts) for case in cases]),
    }
    if made_from is not None:
        meta["made_from"] = json.dumps(made_from)
    tensors = {"image": np.stack([c.image for c in cases]), "sdf": np.stack([c.sdf for c in cases])}
    if any(c.known is not None for c in cases):
        known = [np.ones(c.image.shape, dtype=bool) if c.known is None else c.known for c in cases]
        tensors["known"] = np.stack(known).view(np.uint8)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, meta)
        temporary.chmod(0o644)  # safetensors writes 0600, which a colleague on the same cluster could not read
