"""Hides parts of training images: boxes, slabs, missing slices, blobs.

A network with ``evidence`` (`AtlasUNet`) is told which voxels are not to be believed: excluded by the user, spoiled by
metal or motion, or not acquired. Training hides parts of the image in the same way and asks for the whole mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffatlas.train.draws import Draws


def hidden(draws: Draws, shape: tuple[int, int, int], share: float) -> Tensor:
    """Which voxels are hidden, bool [B, 1, X, Y, Z]; a ``share`` of the samples has some."""
    kind = torch.floor(draws.at_hand.uniform("hide", ()) / max(share, 1e-6) * 4).tolist()  # 4 and more: nothing
    number = draws.at_hand.uniform("hidden", (12,))
    smooth = F.interpolate(draws.normal("hidden blob", (1, 5, 5, 5)), size=shape, mode="trilinear", align_corners=True)
    device = draws.device
    axes = [torch.linspace(0, 1, n, device=device) for n in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # [3, X, Y, Z]
    out = torch.zeros(len(draws), 1, *shape, dtype=torch.bool, device=device)
    for row in range(len(draws)):
        u = number[row]
        middle, size = (v[:, None, None, None].to(device) for v in (u[:3], 0.1 + 0.4 * u[3:6]))
        axis = int(u[6] * 3)
        if kind[row] == 0:  # a box
            out[row, 0] = ((place - middle).abs() < size).all(0)
        elif kind[row] == 1:  # a slab, from thin to most of the view
            out[row, 0] = (place[axis] - float(u[0])).abs() < 0.05 + 0.3 * float(u[7])
        elif kind[row] == 2:  # every so many slices missing
            period = 0.05 + 0.1 * float(u[8])
            out[row, 0] = ((place[axis] + float(u[9])) / period) % 1 < 0.25 + 0.5 * float(u[10])
        elif kind[row] == 3:  # blobs
            out[row, 0] = smooth[row, 0] > 0.2 + float(u[11])
    return out
