"""The model card: what a model's numbers mean, where they come from and what they are good for.

Plain data; does not import torch. `diffatlas.models.store` reads and writes the file, ``card.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import LabelScheme, Structure
from diffatlas.models.convention import Convention, convention_of

MAX_LEVELS = 10_000
Prediction = Literal["eps", "v", "x0"]


@dataclass(frozen=True, eq=False, repr=False)
class ModelCard:
    """What a model is; see ``weights/*/card.yaml`` for the file form.

    ``schedule``: "cosine" (ours) or "published-cosine", which knows ``levels`` discrete noise levels (T).
    ``prediction``: {"image": "x0", "mask": "x0"}; ``architecture``: {"kind": "atlas-unet" or "published-unet",
    ...arguments}; ``mask_range``: the network's value of a distance of ``space.sdf_clip_mm``; ``orientation``: the
    directions in which a published network's axes D, H, W run, as axis codes;
    ``guidance_noise``: the default rho; ``atlas_walk``: how pairs are drawn without an image, "together" (both
    halves at one level, as published) or "mask-first" (`diffatlas.diffusion.sample.mask_first`); ``metrics``: measured
    figures with their number of cases; ``training``: how to train it again, or what it was converted from.
    """

    name: str
    title: str
    summary: str
    scheme: LabelScheme
    modalities: tuple[str, ...]
    space: ModelSpace
    schedule: str
    prediction: dict[str, Prediction]
    architecture: dict[str, Any]
    guidance_noise: float
    atlas_walk: str
    data: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    metrics: dict[str, Any]
    training: dict[str, Any]
    sha256: str
    path: Path = field(default_factory=Path)
    levels: int = 0
    mask_range: float = 1.0
    orientation: str = "RAS"

    def __repr__(self) -> str:
        return f"ModelCard({self.name!r}, {'/'.join(self.modalities)}, {', '.join(self.scheme.names)})"

    @cached_property
    def convention(self) -> Convention:
        """How the networks of this card are used."""
        return convention_of(self)

    @property
    def expected_volumes_ml(self) -> list[float] | None:
        """Mean volumes of the training cases' structures, in the scheme's order; None where the card has none."""
        measured = self.metrics.get("generated volumes", {}).get("structures", {})
        try:
            return [float(measured[name]["training_ml"][0]) for name in self.scheme.names]
        except (KeyError, TypeError, IndexError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Plain data, the content of ``card.yaml`` (without the folder it was read from)."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "scheme": {
                "name": self.scheme.name,
                "structures": [{"name": s.name, "id": s.id, "color": list(s.color)} for s in self.scheme.structures],
            },
            "modalities": list(self.modalities),
            "space": self.space.to_json(),
            "schedule": self.schedule,
            **(
                {"levels": self.levels, "mask_range": self.mask_range, "orientation": self.orientation}
                if self.schedule == "published-cosine"
                else {}
            ),
            "prediction": dict(self.prediction),
            "architecture": dict(self.architecture),
            "guidance_noise": self.guidance_noise,
            "atlas_walk": self.atlas_walk,
            "data": self.data,
            "licence": self.licence,
            "intended_use": self.intended_use,
            "limits": list(self.limits),
            "metrics": self.metrics,
            "training": self.training,
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], path: Path) -> ModelCard:
        """Inverse of `to_json`; KeyError, TypeError or ValueError where something is missing or of the wrong kind."""
        scheme = LabelScheme(
            str(value["scheme"]["name"]),
            tuple(
                Structure(str(s["name"]), int(s["id"]), (int(s["color"][0]), int(s["color"][1]), int(s["color"][2])))
                for s in value["scheme"]["structures"]
            ),
        )
        if not 1 <= len(scheme) <= 254 or len(set(scheme.ids)) != len(scheme) or min(scheme.ids) < 1:
            raise ValueError("scheme must hold 1 to 254 structures with different, positive ids")
        schedule = str(value["schedule"])
        if schedule not in ("cosine", "published-cosine"):
            raise ValueError(f"schedule {schedule!r} is unknown")
        published = schedule == "published-cosine"
        if published != (value["architecture"].get("kind") == "published-unet"):
            raise ValueError("schedule published-cosine and architecture published-unet belong together")
        levels = int(value["levels"]) if published else 0
        if published and not 1 <= levels <= MAX_LEVELS:
            raise ValueError(f"levels must be between 1 and {MAX_LEVELS}")
        mask_range = float(value["mask_range"]) if published else 1.0
        if not 0 < mask_range <= 1:
            raise ValueError("mask_range must lie in (0, 1]")
        for group in ("image", "mask"):
            if value["prediction"][group] not in ("eps", "v", "x0"):
                raise ValueError(f"prediction.{group} must be eps, v or x0")
        atlas_walk = str(value.get("atlas_walk", "together"))
        if atlas_walk not in ("together", "mask-first"):
            raise ValueError("atlas_walk must be together or mask-first")
        return cls(
            name=str(value["name"]),
            title=str(value["title"]),
            summary=str(value["summary"]),
            scheme=scheme,
            modalities=tuple(str(m) for m in value["modalities"]),
            space=ModelSpace.from_json(value["space"]),
            schedule=schedule,
            prediction={k: cast("Prediction", str(v)) for k, v in value["prediction"].items()},
            architecture=dict(value["architecture"]),
            guidance_noise=float(value["guidance_noise"]),
            atlas_walk=atlas_walk,
            data=str(value["data"]),
            licence=str(value["licence"]),
            intended_use=str(value["intended_use"]),
            limits=tuple(str(v) for v in value["limits"]),
            metrics=dict(value["metrics"]),
            training=dict(value["training"]),
            sha256=str(value["sha256"]),
            path=path,
            levels=levels,
            mask_range=mask_range,
            orientation=str(value.get("orientation", "RAS")),
        )


def card_page(card: ModelCard) -> str:
    """The model card as a page."""
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
    training = "\n".join(f"- {key}: {value}" for key, value in card.training.items())
    return f"""# {card.title} (`{card.name}`)

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

## Limits

{chr(10).join(f"- {limit}" for limit in card.limits)}

## Data and training

{card.data}

{training}
"""
