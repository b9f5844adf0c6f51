"""Spatial order of points along a Hilbert curve, and cells: groups of consecutive points with bounding boxes."""

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

# Bits of an index on the curve. The table of 2**15 indices is computed once, in a few milliseconds.
_CURVE_BITS = 15
# Points of each problem whose quantiles are the grid lines of each coordinate.
_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Bounding boxes of points of P problems, `count` boxes for each."""

    midpoint: Tensor
    """(D, P·count)"""
    half_width: Tensor
    """(D, P·count): the largest distance of a point of the box from the midpoint, in each coordinate."""
    count: int
    size: int
    """Members of a box: points, or smaller boxes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The points of P problems in spatial order, in small boxes; `fanout` consecutive small boxes make a large one.

    The last small box of a problem is padded with its last point.
    """

    x: Tensor
    """(D, P·small.count, small.size), channel-major."""
    rows: Tensor
    """(P, small.count·small.size): the row of each point of `x`. The first N of a problem are its points.

    int32, or int64 if N is too large.
    """
    small: Boxes
    large: Boxes
    fanout: int

    @cached_property
    def half_diagonal(self) -> Tensor:
        """The mean half diagonal of the small boxes of each problem (P,)."""
        return self.small.half_width.square().sum(dim=0).sqrt().view(-1, self.small.count).mean(dim=1)


def cells(x: Tensor, dtype: torch.dtype, size: int, fanout: int) -> Cells:
    """The points (P, N, D) as `dtype`, in small boxes of `size` points and large boxes of `fanout` small ones."""
    n_problems, n, width = x.shape
    rows = order(x)
    if padding := -n % size:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, padding)], dim=1)
    rows = rows.to(torch.int32 if n <= torch.iinfo(torch.int32).max else torch.int64)
    sorted_x = torch.empty(width, n_problems, rows.shape[1], dtype=dtype, device=x.device)
    for channel in range(width):
        for problem in range(n_problems):
            sorted_x[channel, problem] = x[problem, :, channel].contiguous().index_select(0, rows[problem])
    sorted_x = sorted_x.view(width, -1, size)
    lowest, highest = sorted_x.amin(dim=2), sorted_x.amax(dim=2)
    count = rows.shape[1] // size
    n_large = -(-count // fanout)
    index = torch.arange(n_large * fanout, device=x.device).clamp(max=count - 1)
    members = (count * torch.arange(n_problems, device=x.device)[:, None] + index).flatten()
    return Cells(
        x=sorted_x,
        rows=rows,
        small=_boxes(lowest, highest, count, size),
        large=_boxes(
            lowest.index_select(1, members).view(width, -1, fanout).amin(dim=2),
            highest.index_select(1, members).view(width, -1, fanout).amax(dim=2),
            n_large,
            fanout,
        ),
        fanout=fanout,
    )


def _boxes(lowest: Tensor, highest: Tensor, count: int, size: int) -> Boxes:
    """Boxes from the lowest to the highest values (D, P·count)."""
    midpoint = lowest / 2 + highest / 2
    # A little wider, since the differences are rounded.
    half_width = torch.maximum(highest - midpoint, midpoint - lowest) * (1 + 4 * torch.finfo(midpoint.dtype).eps)
    return Boxes(midpoint=midpoint, half_width=half_width, count=count, size=size)


def order(x: Tensor) -> Tensor:
    """The rows (P, N), int64, of points (P, N, D) in the order of a Hilbert curve through them.

    Each coordinate is quantized at quantiles of a sample, so an outlier does not move all others into one grid cell.
    """
    n_problems, n, width = x.shape
    bits = max(1, _CURVE_BITS // width)
    codes = torch.zeros(n_problems, n, dtype=torch.int32, device=x.device)
    sample = x[:, :: max(1, n // _SAMPLE)].mT.sort(dim=2).values
    quantiles = torch.arange(1, 1 << bits, device=x.device) * sample.shape[2] >> bits
    for channel in range(width):
        bounds = sample[:, channel, quantiles].contiguous()
        codes = codes << bits | torch.searchsorted(bounds, x[..., channel].contiguous(), right=True, out_int32=True)
    keys = _curve(width, bits).to(x.device).index_select(0, codes.flatten()).view(n_problems, n)
    # One sort of all keys: on a CPU ten times faster than a sort of each row of a batch.
    problem = torch.arange(n_problems, device=x.device)[:, None]
    if n_problems > 1:
        keys = keys + (problem << bits * width)
    return keys.flatten().sort(stable=True).indices.view(n_problems, n) - n * problem


@cache
def _curve(width: int, bits: int) -> Tensor:
    """The index on a Hilbert curve of each grid cell, for a grid of 2**bits cells along each coordinate: int32.

    Grid cells are numbered by codes: their coordinates as digits, the first one highest. The algorithm is that of
    Skilling (2004), "Programming the Hilbert curve".
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
