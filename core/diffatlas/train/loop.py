"""The training loop: resumable, time-boxed, exponential moving average, one generator for every random draw.

The learning rate warms up, stays, and decays over the last part of the run, so that a run can be lengthened or cut
short before the decay without starting over.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffatlas.checkpoint import load_model
from diffatlas.denoise import as_denoiser
from diffatlas.errors import BadInput
from diffatlas.local import pick_precision
from diffatlas.nn.unet import AtlasUNet, channels_last
from diffatlas.schedule import cosine
from diffatlas.train.augment import appearance, geometry
from diffatlas.train.config import TrainConfig
from diffatlas.train.objective import loss
from diffatlas.train.prepared import REACH, Prepared, load_or_prepare


def build_network(config: TrainConfig) -> AtlasUNet:
    return AtlasUNet(len(config.scheme), **config.network.model_dump())


def batch_of(data: Prepared, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """A random augmented batch x0 [B, 1 + K, X, Y, Z]."""
    picks = torch.randint(len(data), (config.batch,), generator=generator)
    shares = torch.tensor(config.data.shares or (1.0,) * data.image.shape[1])
    looks = torch.multinomial(shares, config.batch, replacement=True, generator=generator)
    image = data.image[picks, looks][:, None].float() / 127.5 - 1
    sdf = data.sdf[picks].float() * (REACH / 127)
    space = config.space
    image, sdf = geometry(image, sdf, space.shape, space.spacing_mm, config.augment, generator)
    return torch.cat([appearance(image, config.augment, generator), sdf.clamp(-1, 1)], dim=1)


def rate(step: int, config: TrainConfig) -> float:
    """Learning rate at ``step``: linear warm-up, plateau, then linear to zero over the last ``decay`` of the steps."""
    decay_from = config.steps * (1 - config.decay)
    tail = 1.0 if step < decay_from else max(config.steps - step, 0) / max(config.steps - decay_from, 1)
    return config.learning_rate * min(1.0, (step + 1) / config.warmup) * tail


class Run:
    """Everything that changes during training, and its checkpoint."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.network = channels_last(build_network(config))
        if config.start_from is not None:
            self.network.load_state_dict(_weights_of(config))
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.seconds = 0.0

    @property
    def file(self) -> Path:
        return self.config.run_folder / "last.safetensors"

    def save(self) -> None:
        """Write the checkpoint beside the last one, flush it to disk, then put it in its place."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        tensors |= {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v.contiguous() for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
        self.config.run_folder.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        save_file(tensors, part, {"step": str(self.step), "seconds": str(self.seconds)})
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(self.file)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        if not self.file.is_file():
            return False
        from safetensors import safe_open

        tensors = load_file(self.file)
        with safe_open(self.file, "pt") as handle:
            meta = handle.metadata()
        self.generator.set_state(tensors["generator"])
        self.network.load_state_dict(_part(tensors, "network."))
        self.average = _part(tensors, "average.")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        return True

    def averaged(self) -> AtlasUNet:
        """A network with the moving average of the weights, in evaluation mode."""
        network = build_network(self.config)
        network.load_state_dict(self.average)
        return channels_last(network).eval()


def _weights_of(config: TrainConfig) -> dict[str, Tensor]:
    """The weights of the model in ``config.start_from``; `BadInput` if they are another network's."""
    model = load_model(str(config.start_from))
    wanted = {k: v.shape for k, v in build_network(config).state_dict().items()}
    state = model.network.state_dict()
    if {k: v.shape for k, v in state.items()} != wanted:
        raise BadInput(f"{config.start_from}: a model of another architecture; a run cannot start from it")
    return state


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def train(config: TrainConfig, minutes: float | None = None) -> Path:
    """Run (or resume) a training and export the weights folder; returns it."""
    if config.threads:
        torch.set_num_threads(config.threads)
    data = load_or_prepare(config.data, config.space.build())
    kept = len(data) - config.data.holdout
    if kept < 1:
        raise BadInput(f"data.holdout: keeps {config.data.holdout} of {len(data)} cases from training; none is left")
    data = data.subset(list(range(kept)))
    run = Run(config)
    resumed = run.resume()
    print(
        f"{config.name}: {kept} cases, {config.steps} steps{f', resumed at {run.step}' if resumed else ''}", flush=True
    )
    begin = time.monotonic()
    while run.step < config.steps and not (minutes and time.monotonic() - begin > minutes * 60):
        parts = advance(run, data)
        if run.step % 20 == 0:
            _log(run, parts)
        if run.step % config.save_every == 0:
            run.save()
    run.save()
    from diffatlas.train.export import export

    return export(run)


def advance(run: Run, data: Prepared) -> dict[str, float]:
    """One optimiser step; returns the parts of the loss."""
    config, network = run.config, run.network
    start = time.monotonic()
    lr = rate(run.step, config)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    x0 = batch_of(data, config, run.generator)
    use_bf16 = pick_precision(config.precision, torch.device("cpu")) == torch.bfloat16

    def forward(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            return network(x, t_image, t_mask)  # type: ignore[no-any-return]

    network.train()
    edge = 0.75 * min(config.space.spacing_mm) / config.space.sdf_clip_mm
    total, parts = loss(forward, as_denoiser(forward, cosine, "x0", "x0"), x0, config.objective, run.generator, edge)
    total.backward()  # type: ignore[no-untyped-call]
    parts["norm"] = float(nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm))
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    decay = min(config.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        for key, value in network.state_dict().items():
            run.average[key].lerp_(value, 1 - decay)
    run.seconds += time.monotonic() - start
    return parts


def _log(run: Run, parts: dict[str, Any]) -> None:
    row = {"step": run.step, "seconds": round(run.seconds, 1), "rate": rate(run.step, run.config)}
    row |= {
        k: round(float(parts.get(k, float("nan"))), 5)
        for k in ("loss", "one_step", "recycled", "conditional", "shared", "paint", "norm")
    }
    path = run.config.run_folder / "log.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
