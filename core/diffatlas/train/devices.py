"""Devices of a training run: one, or several processes that share each batch.

Processes come from ``torchrun`` or SLURM's ``srun``, whose environment says how many there are, or, for
several devices of one machine, are started here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffatlas.engine.device import has_bf16, pick_device, pick_precision, timed_work, work_key
from diffatlas.engine.precision import bf16_is_faster
from diffatlas.errors import BadInput
from diffatlas.train.draws import Draws
from diffatlas.train.task import task_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from diffatlas.train.config import TrainConfig


def launched(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Devices a node and nodes, as ``torchrun`` or ``srun`` set them; None where neither started this process."""
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    # Only a step of srun has these: in the batch script itself SLURM_NTASKS is set too, but there is one process.
    if "SLURM_STEP_NUM_TASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
        return int(environment["SLURM_STEP_NUM_TASKS"]) // nodes, nodes
    return None


def start(config: TrainConfig) -> Fabric:
    """The devices of ``config``, with their processes running; `BadInput` where this machine does not have them."""
    if find_spec("lightning_fabric") is None:
        raise BadInput("training needs lightning-fabric: pip install 'napari-diffatlas[train]'")
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    from diffatlas.train.precision import AgreedPrecision

    device = pick_device(config.accelerator)
    there = launched(os.environ)
    devices, nodes = there or (config.devices, config.nodes)
    several = devices == "auto" or nodes > 1 or int(devices) > 1
    # Samples are drawn per process: a forward pass that only some need (recycled masks) must not wait for the others.
    strategy = DDPStrategy(**_no_buffer_exchange()) if several else "auto"
    # What a batch script inherits from SLURM does not make it one of several tasks.
    plugins: list[Any] = [] if there else [LightningEnvironment()]
    precision, agreed = None, None
    if several and config.precision == "auto" and has_bf16(device):
        agreed = AgreedPrecision(device.type)
        plugins.append(agreed)
    else:
        dtype = pick_precision(config.precision, device, lambda: _update_is_faster(config, device))
        precision = "bf16-mixed" if dtype == torch.bfloat16 else "32-true"
    try:
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            plugins=plugins or None,
        )
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"devices: {' '.join(str(error).split())}") from error
    # Its banner; and a remark on 1 x 1 x 1 convolutions, whose strides say nothing.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    fabric.launch()
    if config.batch < fabric.world_size * config.accumulate:
        raise BadInput(
            f"batch: {config.batch} samples cannot be shared by {fabric.world_size} processes in {config.accumulate} "
            f"parts each; raise batch or lower accumulate"
        )
    if agreed is not None:
        faster = fabric.is_global_zero and _update_is_faster(config, fabric.device, fabric.world_size)
        agreed.bf16 = bool(fabric.broadcast(faster))
    return fabric


def summed(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; all of them must ask together."""
    if fabric.world_size == 1:
        return tensor
    total = fabric.all_reduce(tensor, reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return total


def _no_buffer_exchange() -> dict[str, Any]:
    from torch.nn.parallel import DistributedDataParallel

    # PyTorch 2.13 renamed it.
    known = signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def share(batch: int, rank: int, world: int, part: int, parts: int) -> tuple[int, ...]:
    """Places in a global batch that process ``rank`` of ``world`` takes in ``part`` of ``parts``; sizes differ by 1.

    Strided, because the ways of noising run in order through the batch and do not all cost the same.
    """
    return tuple(range(batch))[rank + world * part :: world * parts]


def _update_is_faster(config: TrainConfig, device: torch.device, world: int = 1) -> bool:
    """Whether losses and gradients of one of ``world`` processes' share of a batch take less time in bf16."""
    network_of = config.network.model_dump(mode="json")
    told = {"network": network_of, "task": config.task, "shape": config.space.shape, "structures": len(config.scheme)}
    name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    samples = max(1, config.batch // (config.accumulate * world))

    def faster() -> bool:
        task = task_of(config)
        network = task.build(config).to(device).train()
        channels = 1 + len(config.scheme) + bool(network_of.get("evidence"))
        x0 = torch.zeros(samples, channels, *config.space.shape, device=device)

        def work() -> None:
            draws = Draws(config.seed, 0, samples, tuple(range(samples)), device)
            loss, _ = task.losses(network, x0, draws)
            loss.sum().backward()  # type: ignore[no-untyped-call]

        return bf16_is_faster(work_key(device, name, f"an update of {samples}"), timed_work(device, work))

    with torch.random.fork_rng(devices=[]):  # the network that is trained draws the same weights as without
        return faster()
