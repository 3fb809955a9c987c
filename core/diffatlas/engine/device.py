"""Which processor calculates, and in which numbers."""

from __future__ import annotations

import torch

from diffatlas.errors import BadInput


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA where there is one; a device that is named and absent is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: no CUDA device here; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise BadInput("device mps: no Apple GPU here; use --device cpu or auto")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" and "bf16" take bf16 where the hardware has it; elsewhere it would be emulated, and slower than fp32."""
    return torch.bfloat16 if name in ("auto", "bf16") and has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether the device calculates in bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False
