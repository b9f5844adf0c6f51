"""The one score: how far two points are apart, the same bits on every device and for every block size."""

import torch
from torch import Tensor

# Up to this many channels are added one after the other, as a kernel would keep them in registers.
_SEQUENTIAL = 8


def squared_distance(x: Tensor, y: Tensor, *, out: Tensor | None = None, spare: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances of channel-major points: (D, ...) and (D, ...) broadcast to (...).

    For D <= 8 this is ((x0-y0)² + (x1-y1)²) + (x2-y2)² + ..., from left to right; for larger D the second half of the
    squares is first added to the first half until 8 or fewer are left, which also keeps the rounding error small.
    Each operation is rounded once. A fused multiply-add would round less often and so change bits between devices,
    hence no `addcmul`, no `cdist` and no matrix product here.

    For D <= 8 the result is written to `out`, if given, and what is to be added to it to `spare`, both of its shape.
    """
    if len(x) <= _SEQUENTIAL:
        total = torch.sub(x[0], y[0], out=out).square_()
        for channel in range(1, len(x)):
            total += torch.sub(x[channel], y[channel], out=spare).square_()
        return total
    squares = (x - y).square_()
    while len(squares) > _SEQUENTIAL:
        half = (len(squares) + 1) // 2
        squares[: len(squares) - half] += squares[half:]
        squares = squares[:half]
    total = squares[0]
    for channel in range(1, len(squares)):
        total = total + squares[channel]
    return total
