"""What many tests share: the folder of real data, and a small model with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import HIPPOCAMPUS, LabelScheme
from diffatlas.models.card import ModelCard
from diffatlas.models.store import WEIGHTS_FILE, build_network, file_sha256, write_card

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and recorded outputs beside the project; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared (real data, recorded outputs) is not here")
    return SHARED


def make_model(folder: Path, scheme: LabelScheme = HIPPOCAMPUS, seed: int = 0, evidence: bool = False) -> Path:
    """A folder with a tiny random network that every part of the program takes for a model."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    card = ModelCard(
        name="tiny",
        title="Tiny",
        summary="random weights, for tests",
        scheme=scheme,
        modalities=("mr",),
        space=ModelSpace((16, 16, 16), (2.0, 2.0, 2.0), 6.0, {"mr": Window("percentile", 0.5, 99.5)}),
        schedule="cosine",
        prediction={"image": "v", "mask": "x0"},
        architecture={"kind": "atlas-unet", "widths": [8, 16], "blocks": 1, "embedding": 16, "attention": True}
        | ({"evidence": True} if evidence else {}),
        guidance_noise=0.5,
        atlas_walk="together",
        data="none",
        licence="none",
        intended_use="tests",
        limits=("random",),
        metrics={},
        training={},
        sha256="",
    )
    torch.manual_seed(seed)
    network = build_network(card)
    with torch.no_grad():
        for parameter in network.parameters():  # zero-initialised layers would make every answer the same
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / WEIGHTS_FILE)
    from dataclasses import replace

    write_card(replace(card, sha256=file_sha256(folder / WEIGHTS_FILE)), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
