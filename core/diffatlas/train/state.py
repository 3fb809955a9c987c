"""The state of a training run, and its checkpoint.

A checkpoint holds network, moving average, optimiser, the number of updates and the sums behind the next row of the
log. There is no generator in it: every random number is a function of the update (`diffatlas.train.draws`).
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffatlas.errors import BadInput
from diffatlas.io import atomic_path, sweep
from diffatlas.train.config import TrainConfig, read_mapping
from diffatlas.train.devices import start, summed
from diffatlas.train.record import first_difference, record_of
from diffatlas.train.start import settled, starting_weights
from diffatlas.train.task import task_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAST = "last.safetensors"
CONFIG = "train.yaml"


class Run:
    """The state of a training run on the devices of ``fabric`` (None: this process alone, as the configuration says).

    ``network``: the module itself; ``forward``: the same as it is trained, in the run's precision and over all
    processes; ``averaged``: a copy that holds the moving average, in evaluation mode; ``step``: updates done;
    ``command``: what was typed to train it; ``cases``: how many are trained on and how many held out, once known.
    """

    def __init__(self, config: TrainConfig, fabric: Fabric | None = None) -> None:
        config = settled(config)
        self.config = config
        self.fabric = fabric = fabric or start(config)
        self.task = task_of(config)
        torch.manual_seed(config.seed)
        self.network = self.task.build(config)
        if config.start_from is not None and not self.file.is_file():
            self.network.load_state_dict(starting_weights(config, self.network))
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False).to(fabric.device)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.forward, self.stepper = fabric.setup(self.network, self.optimizer)
        self.meter = Meter(fabric)
        self.command = config.command
        self.made_by: str | None = None  # the command of the run that a checkpoint is from
        self.cases: tuple[int, int] | None = None
        self.step = 0
        self.seconds = 0.0

    @property
    def file(self) -> Path:
        return self.config.run_folder / LAST

    @torch.no_grad()
    def average(self) -> None:
        """Update the moving average with the current weights."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        now, held = self.network.state_dict(), self.averaged.state_dict()
        floating = [k for k, v in held.items() if v.is_floating_point()]
        torch._foreach_lerp_([held[k] for k in floating], [now[k] for k in floating], 1 - decay)
        for key in held.keys() - set(floating):
            held[key].copy_(now[key])

    def save(self) -> None:
        """Write the checkpoint in the place of the last one, on the disk before it takes its name; on one process only.

        Raises `BadInput` where the numbers are no longer finite, or cannot be written; the last checkpoint is then
        as it was.
        """
        self.meter.gather()
        if not self.meter.finite:
            raise BadInput(
                f"loss or gradient is not a finite number at update {self.step}; lower learning_rate"
                + (f" (the last checkpoint is kept: {self.file})" if self.file.is_file() else "")
            )
        if not self.fabric.is_global_zero:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.averaged.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        meta = {
            "step": str(self.step),
            "seconds": str(self.seconds),
            "meter": json.dumps(self.meter.to_json()),
            "settings": json.dumps(record_of(self.config)),
            "command": self.command,
            "cases": json.dumps(self.cases),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.file) as part:
            save_file({k: v.contiguous() for k, v in tensors.items()}, part, meta)
            part.chmod(0o644)

    def open_folder(self) -> None:
        """Make the run folder, write down what it holds, and clear what a killed process left half-written."""
        folder = self.config.run_folder
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with atomic_path(folder / CONFIG) as part:
            part.write_text(yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; `BadInput` if other settings made it, naming the first."""
        if not self.file.is_file():
            return False
        try:
            with safe_open(self.file, "pt") as handle:
                meta = handle.metadata() or {}
                self._check_settings(meta)
                tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            self.network.load_state_dict(_part(tensors, "network."))
            self.averaged.load_state_dict(_part(tensors, "average."))
            self._load_optimizer(_part(tensors, "optimizer."))
            self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
            self.meter.load(json.loads(meta.get("meter", "{}")))
            counts = json.loads(meta.get("cases", "null"))
            self.cases = None if counts is None else (int(counts[0]), int(counts[1]))
            self.made_by = meta.get("command")
        except BadInput:
            raise
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInput(
                f"{self.file}: not a checkpoint of this configuration ({reason}); give run_folder another name"
            ) from error
        return True

    def _check_settings(self, meta: dict[str, str]) -> None:
        """`BadInput` where the checkpoint learnt from other settings: the card would state some it never had."""
        if "settings" in meta:
            then = json.loads(meta["settings"])
        else:  # written by an earlier version, which left the configuration beside it
            record = self.config.run_folder / CONFIG
            then = read_mapping(record, "a training configuration") if record.is_file() else {}
        if found := first_difference(then, record_of(self.config)):
            raise BadInput(
                f"{self.file}: was trained with other settings ({found}); give run_folder another name, or set it back"
            )

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            if value.shape == like.shape:  # in the parameter's own memory order, as if it had never been away
                value = torch.empty_like(like, device="cpu", requires_grad=False).copy_(value)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class Meter:
    """Means over the samples since the last row of the log, of all processes."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.names: tuple[str, ...] = ()
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64)
        self.fresh: list[Tensor] = []

    def add(self, values: dict[str, Tensor]) -> None:
        """Add values [B] by name, NaN where a sample has none; the same names each time."""
        if tuple(values) != self.names:
            self.names = tuple(values)
            self.reset()
        stacked = [torch.stack([(~v.isnan()).sum(), v.nansum()]) for v in values.values()]
        self.fresh.append(torch.stack(stacked, dim=1).detach())

    def gather(self) -> None:
        """Sum the values of all processes on the first one; all must call this together."""
        if not self.fresh:
            return
        total = torch.stack(self.fresh).cpu().double().sum(0)
        self.fresh = []
        if self.fabric.world_size > 1:
            total = summed(self.fabric, total.to(self.fabric.device)).cpu()
        self.sums = self.sums + total

    def means(self) -> dict[str, float]:
        """Mean of each name, NaN where no sample had it; after `gather`."""
        counts, totals = self.sums
        return {name: float(t / n) if n else math.nan for name, n, t in zip(self.names, counts, totals, strict=True)}

    @property
    def finite(self) -> bool:
        """Whether all added values were finite; after `gather`."""
        return bool(self.sums.isfinite().all())

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "sums": self.sums.tolist()}

    def load(self, value: dict[str, Any]) -> None:
        self.names = tuple(value.get("names", ()))
        self.reset()
        # Sums are those of all processes; the others begin at nothing, or they would be counted once for each.
        if self.names and self.fabric.is_global_zero:
            self.sums = torch.tensor(value["sums"], dtype=torch.float64)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
