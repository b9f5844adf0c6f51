"""Moments: what one pass over weighted points leaves behind. Moments of disjoint points add."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Totals stay below 2**61 before rounding. The rounding of each term adds at most half a step, and a sum of two
# such totals still fits an int64.
_TOTAL_BITS = 61
# 2**1000 is still a finite float64, so scaling by a step never overflows.
_MAX_EXPONENT = 1000


def exponent(largest_total: float) -> int:
    """The finest grid for terms whose magnitudes add up to at most this: e, for steps of 2**-e."""
    if largest_total == 0:
        return 0
    _, bits = math.frexp(largest_total)
    return max(-_MAX_EXPONENT, min(_MAX_EXPONENT, _TOTAL_BITS - bits))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The steps, powers of two, that terms are rounded to before they are added as integers.

    A term t becomes the int64 nearest to t * 2**e (ties to even), where e is `weight` for w, `sum` for w·x and `sqdist`
    for w·d². Integers have no order of summation: block size, threads and devices cannot change a bit. Totals of
    integers are exact as long as e >= 0, which holds for 8-bit colors of up to 2**53 pixels.
    """

    weight: int
    sum: int
    sqdist: int


def to_grid(terms: Tensor, exponent: int) -> Tensor:
    """float64 terms as int64 multiples of 2**-exponent, each rounded once."""
    return (terms * 2.0**exponent).round_().long()


def from_grid(totals: Tensor, exponent: int) -> Tensor:
    """int64 multiples of 2**-exponent as float64, rounded once."""
    return totals.double() * 2.0**-exponent


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What one pass over weighted points at K centers leaves: all that the next centers and the loop need.

    `sums` (K, D), `totals` (K,) and `inertia` () are int64 multiples of the steps of `grid`: per cluster the sum of
    w·x and of w, and over all points the sum of w·d². The worst-served point, the one of the largest squared distance
    and then of the lowest row, is given as `worst_sqdist` (), `worst_row` () and `worst_x` (D,).
    """

    grid: Grid
    sums: Tensor
    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor
    worst_row: Tensor
    worst_x: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of two disjoint sets of points, on the same grid and at the same centers."""
        if self.grid != other.grid:
            raise ValueError(f"moments on different grids do not add: {self.grid} and {other.grid}")
        further = self.worst_sqdist > other.worst_sqdist
        equal = self.worst_sqdist == other.worst_sqdist
        mine = further | (equal & (self.worst_row <= other.worst_row))
        return Moments(
            grid=self.grid,
            sums=self.sums + other.sums,
            totals=self.totals + other.totals,
            inertia=self.inertia + other.inertia,
            worst_sqdist=torch.where(mine, self.worst_sqdist, other.worst_sqdist),
            worst_row=torch.where(mine, self.worst_row, other.worst_row),
            worst_x=torch.where(mine, self.worst_x, other.worst_x),
        )

    def means(self) -> Tensor:
        """Weighted means (K, D), float64. A cluster of no weight has none: its row is NaN."""
        scale = 2.0 ** (self.grid.weight - self.grid.sum)
        return self.sums.double() / self.totals.double()[:, None] * scale
