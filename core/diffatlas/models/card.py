"""The model card: what a model's numbers mean, where they come from and what they are good for.

Plain data; does not import torch. `diffatlas.models.store` reads and writes the file, ``card.yaml``.
"""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelScheme
from diffatlas.models.calibration import Calibration
from diffatlas.models.convention import Convention, convention_of
from diffatlas.values import Real, Whole, plain, value

MAX_LEVELS = 10_000
Prediction = Literal["eps", "v", "x0"]


@value(frozen=True, eq=False, kw_only=True)
class ModelCard:
    """What a model is; see ``weights/*/card.yaml`` for the file form.

    ``schedule``: "cosine" (ours) or "published-cosine", which knows ``levels`` discrete noise levels (T).
    ``prediction``: {"image": "x0", "mask": "x0"}; ``architecture``: {"kind": "atlas-unet", "monai-unet" or
    "published-unet", ...arguments}; ``mask_range``: the network's value of a distance of ``space.sdf_clip_mm``;
    ``orientation``: the directions in which a published network's axes D, H, W run, as axis codes;
    ``guidance_noise``: the default rho; ``atlas_walk``: how pairs are drawn without an image, "together" (both
    halves at one level, as published) or "mask-first" (`diffatlas.diffusion.sample.mask_first`); ``datasets``: names
    that data sets described in ``data`` have on the Hugging Face hub; none where they have none; ``metrics``: measured
    figures with their number of cases; ``calibration``: how likely its answers are right, None where that was not
    measured; ``training``: how to train it again, or what it was converted from.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    title: str
    summary: str
    scheme: LabelScheme
    modalities: tuple[str, ...]
    space: ModelSpace
    schedule: Literal["cosine", "published-cosine"]
    levels: Annotated[Whole, Field(ge=0, le=MAX_LEVELS)] = 0
    mask_range: Annotated[Real, Field(gt=0, le=1)] = 1.0
    orientation: str = "RAS"
    prediction: dict[Literal["image", "mask"], Prediction]
    architecture: dict[str, Any]
    guidance_noise: Annotated[Real, Field(ge=0, le=1)]
    atlas_walk: Literal["together", "mask-first"] = "together"
    data: str
    datasets: tuple[str, ...] = ()
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    metrics: dict[str, Any]
    calibration: Calibration | None = None
    training: dict[str, Any]
    sha256: str
    path: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        ids = self.scheme.ids
        if not 1 <= len(ids) <= 254 or len(set(ids)) != len(ids) or min(ids) < 1:
            raise ValueError("scheme must hold 1 to 254 structures with different, positive ids")
        if len(self.prediction) != 2:
            raise ValueError("prediction must say what image and mask are")
        published = self.schedule == "published-cosine"
        if published != (self.architecture.get("kind") == "published-unet"):
            raise ValueError("schedule published-cosine and architecture published-unet belong together")
        if published != (self.levels > 0):
            raise ValueError(f"levels must be {f'1 to {MAX_LEVELS}' if published else '0 with schedule cosine'}")

        if self.calibration is not None and [b.name for b in self.calibration.borders] != list(self.scheme.names):
            raise ValueError("calibration must have the structures of the scheme, in its order")

    def __repr__(self) -> str:
        return f"ModelCard({self.name!r}, {'/'.join(self.modalities)}, {', '.join(self.scheme.names)})"

    @cached_property
    def convention(self) -> Convention:
        """How the networks of this card are used."""
        return convention_of(self)

    @property
    def evidence(self) -> bool:
        """Whether the network is told where the image is not to be believed (`AtlasUNet`)."""
        return bool(self.architecture.get("evidence", False))

    @property
    def expected_volumes_ml(self) -> list[float] | None:
        """Mean volumes of the training cases' structures, in the scheme's order; None where the card has none."""
        generated = self.metrics.get("generated volumes", {}).get("structures", {})
        training = self.metrics.get("training volumes", {})  # of a model whose pairs were not measured
        try:
            measured = {name: row["training_ml"] for name, row in generated.items()} or training
            return [float(measured[name][0]) for name in self.scheme.names]
        except (KeyError, TypeError, IndexError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Plain data, the content of ``card.yaml`` (without the folder it was read from)."""
        # What only the paper's networks have does not stand in the cards of others.
        absent = {"path"} if self.levels else {"path", "levels", "mask_range", "orientation"}
        if self.calibration is None:
            absent = absent | {"calibration"}
        if not self.datasets:
            absent = absent | {"datasets"}
        return {key: item for key, item in plain(self).items() if key not in absent} | {"space": self.space.to_json()}


def _front_matter(card: ModelCard) -> str:
    """What model hubs read at the top of a page: YAML between two lines of dashes."""
    # "CC BY-SA 4.0 (weights, as ...)" is "cc-by-sa-4.0" to a hub.
    licence = card.licence.split("(")[0].strip().lower().replace(" ", "-")
    facts: dict[str, Any] = {
        "license": licence,
        "library_name": "napari-diffatlas",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "segmentation", "atlas", "diffusion", "3d", *card.modalities],
        "metrics": ["dice"],
    }
    if card.datasets:
        facts["datasets"] = list(card.datasets)
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n"


def card_page(card: ModelCard) -> str:
    """The model card as a page, with the metadata that model hubs read."""
    space = card.space
    size = " x ".join(str(n) for n in space.shape)
    spacing = " x ".join(f"{s:g}" for s in space.spacing_mm)
    structures = "\n".join(f"| {s.id} | {s.name} |" for s in card.scheme.structures)
    measured = [
        f"| {title} | {row['n']} | {row['dice']:.3f} | {row['interval'][0]:.3f} to {row['interval'][1]:.3f} |"
        for title, row in card.metrics.items()
        if "dice" in row
    ]
    table = "\n".join(["| cases, preset | n | mean Dice | 95 % interval |", "|---|---|---|---|", *measured])
    volumes = card.metrics.get("generated volumes")
    generated = ""
    if volumes:
        rows = [
            "| {} | {} ± {} | {} ± {} | {} |".format(name, *v["generated_ml"], *v["training_ml"], v["ks"])
            for name, v in volumes["structures"].items()
        ]
        head = ["| structure | generated, ml | training, ml | KS distance |", "|---|---|---|---|"]
        generated = f"\nVolumes in {volumes['n']} generated pairs:\n\n" + "\n".join([*head, *rows]) + "\n"
    sure = ""
    if card.calibration is not None:
        told = f"{card.calibration.cases} {card.calibration.fitted_on}"
        sure = f"\nHow likely a voxel's label is right was fitted on {told}.\n"
    training = "\n".join(f"- {key}: {value}" for key, value in card.training.items())
    return f"""{_front_matter(card)}# {card.title} (`{card.name}`)

{card.summary}

**Use.** {card.intended_use}

**Licence.** {card.licence}

| id | structure |
|---|---|
{structures}

Field of view {size} voxels of {spacing} mm; modalities: {", ".join(card.modalities)}; default guidance noise
{card.guidance_noise:g}; sha256 `{card.sha256}`.

## Measured

{table if measured else "Nothing was measured on these weights yet."}
{generated}
Dice is the mean over structures and cases, on cases that were not trained on; the interval is a bootstrap over cases.
Made with `python benchmarks/bench_accuracy.py` and `python benchmarks/bench_atlas.py`.
{sure}
## Limits

{chr(10).join(f"- {limit}" for limit in card.limits)}

## Data and training

{card.data}

{training}
"""
