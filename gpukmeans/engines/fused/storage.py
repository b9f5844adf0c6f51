"""Storage of points for the kernels of the fused engine: a view of the tensor, or a copy in spatial order."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.engines.spatial_order import order

# The length of a sorted copy is a multiple of this, so that kernels can read each channel in units of 16 bytes.
_ALIGNED = 64


class KernelInput(NamedTuple):
    """N points of P problems, channel-major (P, D, M), with any strides, in any order. Positions from N on are padding.

    `weights` (P, M) are None for weights of 1. `rows` (P, M) are the rows in the original points, None if row and
    position are equal.
    """

    x: Tensor
    weights: Tensor | None
    rows: Tensor | None
    n: int


def unsorted(x: Tensor, weights: Tensor | None) -> KernelInput:
    """A view of points (P, N, D) with weights (P, N)."""
    return KernelInput(x.mT, weights, None, x.shape[1])


def sorted_copy(x: Tensor, weights: Tensor | None) -> KernelInput:
    """A copy of points (P, N, D) with weights (P, N) in spatial order, so that blocks of points are close together."""
    n_problems, n, width = x.shape
    rows = order(x)
    # The padding repeats the last point.
    rows = torch.cat([rows, rows[:, -1:].expand(-1, -n % _ALIGNED)], dim=1)
    sorted_x = torch.empty(n_problems, width, rows.shape[1], dtype=x.dtype, device=x.device)
    for channel in range(width):  # one channel at a time, because one `gather` would need an index (P, D, M)
        sorted_x[:, channel] = x[..., channel].gather(1, rows)
    if weights is not None:
        weights = weights.gather(1, rows)
    return KernelInput(sorted_x, weights, rows.int() if n <= torch.iinfo(torch.int32).max else rows, n)
