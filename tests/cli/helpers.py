"""What the tests of the command line share: a call's outcome, and model cards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffatlas.geometry.space import ModelSpace, Window
from diffatlas.geometry.volume import LabelScheme
from diffatlas.models import store
from diffatlas.models.card import ModelCard
from tests.fakes import SHA256


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


def card(name: str, scheme: LabelScheme, sha256: str = SHA256) -> ModelCard:
    return ModelCard(
        name=name,
        title="A model",
        summary="For tests.",
        scheme=scheme,
        modalities=("ct", "mr"),
        space=ModelSpace((16, 16, 16), (2.0, 2.0, 2.0), 15.0, {"ct": Window("range", -250.0, 800.0)}),
        schedule="cosine",
        prediction={"image": "v", "mask": "x0"},
        architecture={"kind": "atlas-unet"},
        guidance_noise=0.5,
        atlas_walk="together",
        data="none",
        licence="Apache-2.0",
        intended_use="Tests.",
        limits=("knows nothing",),
        metrics={},
        training={},
        sha256=sha256,
    )


def save_card(weights: Path, value: ModelCard) -> None:
    (weights / value.name).mkdir(parents=True, exist_ok=True)
    store.write_card(value, weights / value.name)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
