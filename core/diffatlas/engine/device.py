"""Which processor calculates, and in which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from diffatlas.engine.precision import bf16_is_faster, place_key, processor_name
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.models.store import Model


@dataclass(frozen=True)
class Compute:
    """``device`` and ``dtype`` (float32 or bfloat16) of the network; ``notes``: where a wish was not met."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request, model: Model) -> Compute:
        """What a request asks for; `BadInput` on a device that is not here. ``model``: whose pass "auto" times."""
        device = pick_device(request.device)
        dtype = pick_precision(request.precision, device, lambda: _pass_is_faster(model, device))
        if request.precision == "bf16" and dtype != torch.bfloat16:
            return cls(device, dtype, (f"this {device.type} has no bf16 arithmetic; the network ran in fp32",))
        return cls(device, dtype)

    def provenance(self) -> dict[str, Any]:
        """Plain data for a run record."""
        return {
            "device": str(self.device),
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
            "threads": torch.get_num_threads(),
        }


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one; a device that is named and absent is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: no CUDA device here; choose cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise BadInput("device mps: no Apple GPU here; choose cpu or auto")
    return torch.device(name)


def pick_precision(name: str, device: torch.device, faster: Callable[[], bool]) -> torch.dtype:
    """ "bf16" takes bf16 where the hardware has it; elsewhere it would be emulated. "auto" takes it where it is faster.

    ``faster``: measures that, or remembers; asked for "auto" alone, and only where the hardware has bf16.
    """
    if name not in ("auto", "bf16") or not has_bf16(device):
        return torch.float32
    return torch.bfloat16 if name == "bf16" or faster() else torch.float32


def timed_work(device: torch.device, work: Callable[[], Any]) -> Callable[[bool], None]:
    """``work`` in bf16 or not, that returns when the device has done it."""

    def timed(bf16: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return timed


def work_key(device: torch.device, network: str, work: str) -> tuple[str, ...]:
    """`precision.place_key` of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return place_key(name, torch.get_num_threads(), torch.__version__, network, work)


def _pass_is_faster(model: Model, device: torch.device) -> bool:
    """Whether a pass of the model's network is faster in bf16."""
    card = model.card
    network = model.on(device)

    @torch.no_grad()
    def work() -> None:
        x = torch.zeros(1, 1 + len(card.scheme), *card.space.shape, device=device)
        card.convention.denoiser(network, "ddim")(x, x.new_zeros(1), x.new_ones(1))

    return bf16_is_faster(work_key(device, card.sha256, "a pass"), timed_work(device, work))


def has_bf16(device: torch.device) -> bool:
    """Whether the device calculates in bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False
