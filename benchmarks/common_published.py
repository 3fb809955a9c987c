"""The authors' network from a checkout of their code, and ours with the same weights; nothing of theirs is copied.

git clone https://github.com/M3DV/DiffAtlas PATH
pip install einops einops-exts rotary-embedding-torch
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffatlas.published.network import PublishedUNet

NEEDS = "pip install einops einops-exts rotary-embedding-torch"
CHANNELS, EDGE, CONDITION = 6, 64, 16


def authors_network(checkout: Path, dim: int = 64) -> nn.Module:
    """Their network of ``dim`` with random weights, in evaluation mode; SystemExit with one line where it is not there.

    It puts ``checkout`` on ``sys.path``.
    """
    if not (checkout / "ddpm" / "diffusion.py").is_file():
        raise SystemExit(f"{checkout}: no ddpm/diffusion.py; give --checkout a clone of github.com/M3DV/DiffAtlas")
    sys.path.insert(0, str(checkout.resolve()))
    try:
        from ddpm.diffusion import Unet3D  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise SystemExit(f"{checkout}: needs the package {error.name} ({NEEDS})") from error
    network: nn.Module = Unet3D(dim=dim, cond_dim=CONDITION, channels=CHANNELS)
    return network.eval().requires_grad_(False)


def twin(network: nn.Module, dim: int = 64) -> PublishedUNet:
    """Ours with the weights of theirs."""
    ours = PublishedUNet(CHANNELS, dim, condition=CONDITION)
    ours.load_state_dict(network.state_dict())
    return ours.eval().requires_grad_(False)


def inputs(edge: int = EDGE) -> tuple[Tensor, Tensor]:
    """Noise [1, C, edge, edge, edge] and a step [1], always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, CHANNELS, edge, edge, edge, generator=generator), torch.tensor([150])


def pass_flop(dim: int = 64, edge: int = EDGE) -> int:
    """Floating-point operations of one pass as the layers say (two a multiplication), counted without computing."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = PublishedUNet(CHANNELS, dim).requires_grad_(False)
        network(torch.randn(1, CHANNELS, edge, edge, edge), torch.zeros(1, dtype=torch.int64))
    return int(counter.get_total_flops())
