"""Which processor calculates, and in which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from diffatlas.engine.request import Request
from diffatlas.errors import BadInput


@dataclass(frozen=True)
class Compute:
    """``device`` and ``dtype`` (float32 or bfloat16) of the network; ``notes``: where a wish was not met."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request) -> Compute:
        """What a request asks for; `BadInput` on a device that is not here."""
        device = pick_device(request.device)
        dtype = pick_precision(request.precision, device)
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


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """ "bf16" takes bf16 where the hardware has it; elsewhere it would be emulated. "auto" takes it where it is faster.

    On a CPU that is where there are matrix units (AMX): with AVX-512 instructions alone fp32 is faster.
    """
    if name == "auto" and device.type == "cpu":
        return torch.bfloat16 if has_bf16(device) and _has_amx() else torch.float32
    return torch.bfloat16 if name in ("auto", "bf16") and has_bf16(device) else torch.float32


def _has_amx() -> bool:
    """Whether the CPU multiplies bf16 matrices in tiles."""
    return bool(torch.cpu._is_amx_tile_supported())


def has_bf16(device: torch.device) -> bool:
    """Whether the device calculates in bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False
