"""Points in an order that puts near ones side by side, cut into cells: small boxes of equally many."""

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

# Bits of a place on the curve: a table of so many places is made once, in a few milliseconds.
_CURVE_BITS = 15
# Points of each problem whose quantiles part every coordinate.
_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Boxes around points of P problems, `count` to a problem."""

    middle: Tensor
    """(D, P·count)"""
    half: Tensor
    """(D, P·count) No point of a box is farther from its middle than this in each coordinate."""
    count: int
    size: int
    """Parts of a box: points, or smaller boxes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The points of P problems along a curve, every few of them in a small box, every `fan` of those in a large one.

    The last small box of a problem is filled up with its last point.
    """

    x: Tensor
    """(D, P·small.count, small.size), channel-major."""
    rows: Tensor
    """Where each point of `x` came from, (P, small.count·small.size); only the first N of a problem count.

    int32, or int64 where that is too small.
    """
    small: Boxes
    large: Boxes
    fan: int

    @cached_property
    def reach(self) -> Tensor:
        """The half diagonal of a small box (P,), the mean of a problem."""
        return self.small.half.square().sum(dim=0).sqrt().view(-1, self.small.count).mean(dim=1)


def cells(x: Tensor, dtype: torch.dtype, size: int, fan: int) -> Cells:
    """The points (P, N, D) in small boxes of so many points and large ones of so many small ones, of this dtype."""
    n_problems, n, width = x.shape
    rows = order(x)
    if short := -n % size:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, short)], dim=1)
    rows = rows.to(torch.int32 if n <= torch.iinfo(torch.int32).max else torch.int64)
    sorted_x = torch.empty(width, n_problems, rows.shape[1], dtype=dtype, device=x.device)
    for channel in range(width):
        for problem in range(n_problems):
            sorted_x[channel, problem] = x[problem, :, channel].contiguous().index_select(0, rows[problem])
    sorted_x = sorted_x.view(width, -1, size)
    lowest, highest = sorted_x.amin(dim=2), sorted_x.amax(dim=2)
    count = rows.shape[1] // size
    n_large = -(-count // fan)
    members = torch.arange(n_large * fan, device=x.device).clamp(max=count - 1)
    inside = (count * torch.arange(n_problems, device=x.device)[:, None] + members).flatten()
    return Cells(
        x=sorted_x,
        rows=rows,
        small=_boxes(lowest, highest, count, size),
        large=_boxes(
            lowest.index_select(1, inside).view(width, -1, fan).amin(dim=2),
            highest.index_select(1, inside).view(width, -1, fan).amax(dim=2),
            n_large,
            fan,
        ),
        fan=fan,
    )


def _boxes(lowest: Tensor, highest: Tensor, count: int, size: int) -> Boxes:
    """Boxes from the lowest to the highest values (D, P·count)."""
    middle = lowest / 2 + highest / 2
    # A little wider, since the differences are rounded.
    half = torch.maximum(highest - middle, middle - lowest) * (1 + 4 * torch.finfo(middle.dtype).eps)
    return Boxes(middle=middle, half=half, count=count, size=size)


def order(x: Tensor) -> Tensor:
    """For points (P, N, D) the rows (P, N), int64, in the order of a Hilbert curve through them.

    Each coordinate is parted at quantiles of a sample, so that an outlier does not push all others into one place.
    """
    n_problems, n, width = x.shape
    bits = max(1, _CURVE_BITS // width)
    places = torch.zeros(n_problems, n, dtype=torch.int32, device=x.device)
    sample = x[:, :: max(1, n // _SAMPLE)].mT.sort(dim=2).values
    quantiles = torch.arange(1, 1 << bits, device=x.device) * sample.shape[2] >> bits
    for channel in range(width):
        bounds = sample[:, channel, quantiles].contiguous()
        places = places << bits | torch.searchsorted(bounds, x[..., channel].contiguous(), right=True, out_int32=True)
    numbers = _curve(width, bits).to(x.device).index_select(0, places.flatten()).view(n_problems, n)
    # Sorted as one row of numbers, which a CPU does ten times faster than a batch of rows.
    problem = torch.arange(n_problems, device=x.device)[:, None]
    if n_problems > 1:
        numbers = numbers + (problem << bits * width)
    return numbers.flatten().sort(stable=True).indices.view(n_problems, n) - n * problem


@cache
def _curve(width: int, bits: int) -> Tensor:
    """For each place of a grid of 2**bits steps in each coordinate its number along a Hilbert curve, int32.

    A place is the number whose digits are its coordinates, the first one highest. The steps from coordinates to the
    number are those of Skilling (2004), "Programming the Hilbert curve".
    """
    places = torch.arange(1 << bits * width, device="cpu")
    mask = (1 << bits) - 1
    coordinates = [places >> bits * (width - 1 - channel) & mask for channel in range(width)]
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
    flips = torch.zeros_like(places)
    for bit in range(bits - 1, 0, -1):
        flips = torch.where(coordinates[-1] >> bit & 1 == 1, flips ^ ((1 << bit) - 1), flips)
    numbers = torch.zeros_like(places)
    for bit in range(bits - 1, -1, -1):
        for coordinate in coordinates:
            numbers = numbers << 1 | ((coordinate ^ flips) >> bit & 1)
    return numbers.int()
