"""Spatial order of points along a Hilbert curve."""

from functools import cache

import torch
from torch import Tensor

# Bits of an index on the curve. The table of 2**15 indices is computed once, in a few milliseconds.
_CURVE_BITS = 15
# The sample of a problem has at least this many points, or all points of a smaller problem. The quantiles of its
# coordinates are the grid lines.
_SAMPLE = 4096


def order(x: Tensor) -> Tensor:
    """Row numbers (P, N), int64, of points (P, N, D) in the order of a Hilbert curve.

    Each coordinate is quantized at quantiles of a sample. With equal steps, one outlier would leave all other points in
    one grid cell.
    """
    n_problems, n, width = x.shape
    bits = max(1, _CURVE_BITS // width)
    codes = torch.zeros(n_problems, n, dtype=torch.int32, device=x.device)
    sample = x[:, :: max(1, n // _SAMPLE)].permute(2, 0, 1).sort(dim=2).values
    quantiles = torch.arange(1, 1 << bits, device=x.device) * sample.shape[2] >> bits
    all_bounds = sample[:, :, quantiles].contiguous()
    for bounds, values in zip(all_bounds, x.unbind(2), strict=True):
        codes = codes << bits | torch.searchsorted(bounds, values.contiguous(), right=True, out_int32=True)
    curve = _curve(width, bits).to(x.device, non_blocking=True)
    keys = curve.index_select(0, codes.flatten()).view(n_problems, n)
    # The problem number is the highest part of a key. One sort of all keys is ten times faster on a CPU than a sort for
    # each problem.
    if n_problems == 1:
        return keys.sort(stable=True).indices
    problem = torch.arange(n_problems, device=x.device)[:, None]
    keys = keys + (problem << bits * width)
    return keys.flatten().sort(stable=True).indices.view(n_problems, n) - n * problem


@cache
def _curve(width: int, bits: int) -> Tensor:
    """The index of each grid cell on a Hilbert curve, int32, for a grid of 2**bits cells along each of D coordinates.

    The entry of a cell is at the number whose D digits in base 2**bits are the coordinates of the cell, the first
    coordinate in the highest digit. The algorithm is by Skilling (2004), "Programming the Hilbert curve".
    """
    codes = torch.arange(1 << bits * width, device="cpu")
    mask = (1 << bits) - 1
    coordinates = [codes >> bits * (width - 1 - channel) & mask for channel in range(width)]
    for bit in range(bits - 1, 0, -1):
        lower = (1 << bit) - 1
        for channel in range(width):
            is_set = coordinates[channel] >> bit & 1 == 1
            swapped = (coordinates[0] ^ coordinates[channel]) & lower
            first = torch.where(is_set, coordinates[0] ^ lower, coordinates[0] ^ swapped)
            if channel > 0:
                coordinates[channel] = torch.where(is_set, coordinates[channel], coordinates[channel] ^ swapped)
            coordinates[0] = first
    for channel in range(1, width):
        coordinates[channel] = coordinates[channel] ^ coordinates[channel - 1]
    flips = torch.zeros_like(codes)
    for bit in range(bits - 1, 0, -1):
        flips = torch.where(coordinates[-1] >> bit & 1 == 1, flips ^ ((1 << bit) - 1), flips)
    indices = torch.zeros_like(codes)
    for bit in range(bits - 1, -1, -1):
        for coordinate in coordinates:
            indices = indices << 1 | ((coordinate ^ flips) >> bit & 1)
    return indices.int()
