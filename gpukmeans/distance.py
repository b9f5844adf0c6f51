"""The reference distance, which defines all results: the same bits on every device and for every block size."""

import torch
from torch import Tensor

# The squares of up to this many channels are added from left to right, as in the compiled kernels.
_SEQUENTIAL = 8


def squared_distance(x: Tensor, y: Tensor, *, out: Tensor | None = None, workspace: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances of points stored channel by channel: (D, ...) and (D, ...) broadcast to (...).

    For D <= 8 this is ((x0-y0)² + (x1-y1)²) + (x2-y2)² + ..., from left to right. For larger D the second half of the
    squares is added to the first half until 8 or fewer remain, which also reduces the rounding error. Each operation is
    rounded once. A fused multiply-add rounds less often and would change bits between devices, so this uses no
    `addcmul`, no `cdist` and no matrix product.

    Args:
        x: points (D, ...).
        y: points (D, ...).
        out: memory (...) for the result, used for D <= 8.
        workspace: memory (...) for the squares of one channel, used for D <= 8.
    """
    if len(x) <= _SEQUENTIAL:
        total = torch.sub(x[0], y[0], out=out).pow_(2)
        for channel in range(1, len(x)):
            total += torch.sub(x[channel], y[channel], out=workspace).pow_(2)
        return total
    squares = (x - y).pow_(2)
    while len(squares) > _SEQUENTIAL:
        half = (len(squares) + 1) // 2
        squares[: len(squares) - half] += squares[half:]
        squares = squares[:half]
    total = squares[0]
    for channel in range(1, len(squares)):
        total = total + squares[channel]
    return total
