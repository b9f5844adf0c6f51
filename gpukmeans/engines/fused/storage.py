"""Points as the kernels of the fused engine read them: where they are, or sorted in a copy."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.engines.spatial_order import order

# A sorted copy is a multiple of so many points long, so that each channel is read in 16 bytes at a time.
_ALIGNED = 64


class Stored(NamedTuple):
    """N points of P problems, channel-major (P, D, M), in any order and with any strides, with weights (P, M) or none.

    `rows` (P, M) says which row each of them is; None that all are in place. What follows the first N of M counts for
    nothing.
    """

    x: Tensor
    weights: Tensor | None
    rows: Tensor | None
    n: int


def in_place(x: Tensor, weights: Tensor | None) -> Stored:
    """Points (P, N, D) with weights (P, N), as they are."""
    return Stored(x.mT, weights, None, x.shape[1])


def sorted_copy(x: Tensor, weights: Tensor | None) -> Stored:
    """A copy of points (P, N, D) with weights (P, N) in which those that lie together come together."""
    n_problems, n, width = x.shape
    rows = order(x)
    # The end is filled up with the last point.
    rows = torch.cat([rows, rows[:, -1:].expand(-1, -n % _ALIGNED)], dim=1)
    moved = torch.empty(n_problems, width, rows.shape[1], dtype=x.dtype, device=x.device)
    for channel in range(width):  # one at a time, so that no index (P, D, M) is held
        moved[:, channel] = x[..., channel].gather(1, rows)
    if weights is not None:
        weights = weights.gather(1, rows)
    return Stored(moved, weights, rows.int() if n <= torch.iinfo(torch.int32).max else rows, n)
