"""3 x 3 convolutions with a quarter of the products (Lavin and Gray 2016, arXiv 1509.09308), for answers on a CPU.

Output tiles of 4 x 4 from input tiles of 6 x 6: with w, x and y a kernel, an input tile and an output tile as vectors,

    y = A (sum over input channels of (G w) * (B x))        A [16, 36], G [36, 9], B [36, 36]

is 36 products a tile and pair of channels in place of 144. A, B and G belong to the polynomials that agree at the
points 0, 1, -1, 1/2, -2 and infinity, twice (rows and columns); these points leave about twice the rounding error of a
plain convolution in float32. The transforms are matrix products too; they pay from about 128 channels on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
TILE = 4
PAYS_FROM = 128


def applies(weight: Tensor, height: int, width: int) -> bool:
    """Whether a convolution by ``weight`` [O, C, n, n] of such slices can be, and is better, done this way."""
    return (
        weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= PAYS_FROM and height % TILE == 0 and width % TILE == 0
    )


@lru_cache(maxsize=1)
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """A [16, 36], B [36, 36] and G [36, 9], float32 (Toom and Cook's construction)."""
    others = [[b for b in POINTS if b != a] for a in POINTS]
    scale = [float(torch.tensor([a - b for b in rest]).prod()) for a, rest in zip(POINTS, others, strict=True)]
    kernel = torch.tensor([[a**k / s for k in range(3)] for a, s in zip(POINTS, scale, strict=True)] + [[0.0, 0, 1]])
    data = torch.tensor([[*_product(rest), 0.0] for rest in others] + [_product(POINTS)])
    result = torch.tensor([[a**k for a in POINTS] + [float(k == TILE - 1)] for k in range(TILE)])
    return torch.kron(result, result), torch.kron(data, data), torch.kron(kernel, kernel)


def _product(roots: Sequence[float]) -> list[float]:
    """Coefficients, lowest first, of the product of (x - root)."""
    out = [1.0]
    for root in roots:
        out = [low - root * high for low, high in zip([0.0, *out], [*out, 0.0], strict=True)]
    return out


def room_for(weights: Iterable[Tensor]) -> Tensor:
    """Memory for any of ``weights`` [O, C, 1, n, n], transformed: asking the system for it takes longer than filling
    it."""
    sizes = [
        36 * w.shape[0] * w.shape[1] for w in weights if w.shape[2:] == (1, 3, 3) and min(w.shape[:2]) >= PAYS_FROM
    ]
    return torch.empty(max(sizes, default=0))


def transformed(weight: Tensor, room: Tensor) -> Tensor:
    """``weight`` [O, C, 3, 3] as `convolve` wants it, [36, C, O]; it lies in ``room``."""
    kernels = weight.reshape(-1, 9).T
    out = torch.mm(_matrices()[2], kernels, out=room[: 36 * kernels.shape[1]].view(36, -1))
    return out.view(36, *weight.shape[:2]).transpose(1, 2)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Slices ``x`` [d, H, W, C] to [d, H, W, O], zeros around them."""
    back, there, _ = _matrices()
    d, h, w, c = x.shape
    tiles = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE)  # [d, h, w, C, 6, 6]
    seen = (there @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)).view(36, -1, c)
    products = torch.bmm(seen, kernel).view(36, -1)
    out = (back @ products).view(TILE, TILE, d, h // TILE, w // TILE, -1).permute(2, 3, 0, 4, 1, 5).reshape(d, h, w, -1)
    return out if bias is None else out.add_(bias)
