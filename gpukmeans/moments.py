"""Moments: what one pass over weighted points leaves behind. Moments of disjoint points add."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Totals stay below 2**61 before rounding. The rounding of each term adds at most half a step, and the sum of two such
# totals still fits an int64.
_TOTAL_BITS = 61
# 2**1000 is still a finite float64, and so is what is scaled by it.
_MOST_BITS = 1000


def finest_scale(largest_total: float) -> float:
    """Steps in a unit, a power of two, on the finest grid for terms whose magnitudes add up to at most this."""
    if largest_total == 0:
        return 1.0
    _, bits = math.frexp(largest_total)
    return 2.0 ** max(-_MOST_BITS, min(_MOST_BITS, _TOTAL_BITS - bits))


def to_grid(terms: Tensor, scale: float | Tensor) -> Tensor:
    """float64 terms as int64 numbers of steps, each rounded once, ties to even."""
    return (terms * scale).round_().long()


def from_grid(totals: Tensor, scale: float | Tensor) -> Tensor:
    """int64 numbers of steps as float64, rounded once."""
    return totals.double() / scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The steps that terms are rounded to before they are added as integers.

    Integers have no order of summation, so block size, threads and devices cannot change a bit. `weight` is the scale
    of w, `sum` (D,) that of w·(x - lowest) in each coordinate, `sqdist` that of w·d². `lowest` and `highest` (D,) are
    the range of the points, float64: far from the origin it is the spread that counts. For integers, such as 8-bit
    colors with counts, sums are exact as long as the total weight times the spread is below 2**53.
    """

    weight: float
    sum: Tensor
    sqdist: float
    lowest: Tensor
    highest: Tensor

    def equals(self, other: "Grid") -> bool:
        """Whether totals on both grids are of the same steps."""
        same_scales = (self.weight, self.sqdist) == (other.weight, other.sqdist) and torch.equal(self.sum, other.sum)
        return same_scales and torch.equal(self.lowest, other.lowest)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What one pass over weighted points at K centers leaves: all that the next centers and the loop need.

    `sums` (K, D), `totals` (K,) and `inertia` () are int64 numbers of steps of `grid`: per cluster the sum of
    w·(x - lowest) and of w, and over all points the sum of w·d². The worst-served point, the one of the largest squared
    distance and then of the lowest row, is given as `worst_sqdist` (), `worst_row` () and `worst_x` (D,).
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
        if not self.grid.equals(other.grid):
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

    def weight_of_clusters(self) -> Tensor:
        """Sum of w of each cluster (K,), float64."""
        return from_grid(self.totals, self.grid.weight)

    def weighted_sqdist(self) -> float:
        """Sum of w·d² over all points."""
        return from_grid(self.inertia, self.grid.sqdist).item()

    def means(self) -> Tensor:
        """Weighted means (K, D), float64, within the range of the points. A cluster of no weight has none: NaN."""
        means = from_grid(self.sums, self.grid.sum) / self.weight_of_clusters()[:, None] + self.grid.lowest
        # A weight of few steps is a coarse measure of its w·(x - lowest), which could lead out of the range.
        return means.clamp(self.grid.lowest, self.grid.highest)
