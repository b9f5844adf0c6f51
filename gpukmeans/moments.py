"""Moments: what one pass over weighted points leaves behind. Moments of disjoint points add.

Every tensor has a leading dimension of runs: B times K centers over the same or over different points, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Totals stay below 2**61 before rounding. The rounding of each term adds at most half a step, and the sum of two such
# totals still fits an int64.
_TOTAL_BITS = 61
# 2**1000 is still a finite float64, and so is what is scaled by it.
_MOST_BITS = 1000


def finest_scale(largest_total: Tensor) -> Tensor:
    """Steps in a unit, a power of two, on the finest grid for terms whose magnitudes add up to at most this.

    float64 of any shape in and out.
    """
    _, bits = torch.frexp(largest_total)
    exponent = (_TOTAL_BITS - bits.long()).clamp(-_MOST_BITS, _MOST_BITS)
    # The bits of the float64 2**exponent: `exp2` and `ldexp` do not promise to be exact on every device.
    scale = ((exponent + 1023) << 52).view(torch.float64)
    return torch.where(largest_total == 0, 1.0, scale)


def to_grid(terms: Tensor, scale: Tensor) -> Tensor:
    """float64 terms as int64 numbers of steps, each rounded once, ties to even."""
    return (terms * scale).round_().long()


def from_grid(totals: Tensor, scale: Tensor) -> Tensor:
    """int64 numbers of steps as float64, rounded once."""
    return totals.double() / scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The steps that terms are rounded to before they are added as integers, for each run.

    Integers have no order of summation, so block size, threads and devices cannot change a bit. `weight` (B,) is the
    scale of w, `sum` (B, D) that of w·(x - lowest) in each coordinate, `sqdist` (B,) that of w·d². `lowest` and
    `highest` (B, D) are the range of the points, float64: far from the origin it is the spread that counts. For
    integers, such as 8-bit colors with counts, sums are exact as long as the total weight times the spread is below
    2**53.
    """

    weight: Tensor
    sum: Tensor
    sqdist: Tensor
    lowest: Tensor
    highest: Tensor

    def equals(self, other: "Grid") -> bool:
        """Whether totals on both grids are of the same steps."""
        return self is other or all(  # most often it is the same one, and to compare waits for a GPU
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("weight", "sum", "sqdist", "lowest")
        )

    def select(self, runs: Tensor | slice) -> "Grid":
        """The grid of some of the runs."""
        return Grid(**{field.name: getattr(self, field.name)[runs] for field in fields(self)})

    def where(self, runs: Tensor, other: "Grid") -> "Grid":
        """This grid for the runs of a mask (B,), another for those left."""
        return Grid(**_where(runs, self, other, [field.name for field in fields(self)]))

    @staticmethod
    def joined(parts: "Sequence[Grid]") -> "Grid":
        """The grids of all runs of several parts, one part after the other."""
        return Grid(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Grid)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What one pass over weighted points at K centers leaves: all that the next centers and the loop need.

    `sums` (B, K, D), `totals` (B, K) and `inertia` (B,) are int64 numbers of steps of `grid`: per cluster the sum of
    w·(x - lowest) and of w, and over all points the sum of w·d². The worst-served point, the one of the largest squared
    distance and then of the lowest row, is given as `worst_sqdist` (B,), `worst_row` (B,) and `worst_x` (B, D).
    """

    grid: Grid
    sums: Tensor
    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor
    worst_row: Tensor
    worst_x: Tensor

    @staticmethod
    def nothing(centers: Tensor, grid: Grid) -> "Moments":
        """Those of no points at centers (B, K, D). The worst-served point is nearer than any."""
        n_runs, n_clusters, width = centers.shape
        none = torch.zeros(n_runs, dtype=torch.int64, device=centers.device)
        return Moments(
            grid=grid,
            sums=none.new_zeros(centers.shape),
            totals=none.new_zeros(n_runs, n_clusters),
            inertia=none,
            worst_sqdist=centers.new_full((n_runs,), -1.0),
            worst_row=none,
            worst_x=centers.new_zeros(n_runs, width),
        )

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
            worst_x=torch.where(mine[:, None], self.worst_x, other.worst_x),
        )

    def select(self, runs: Tensor | slice) -> "Moments":
        """The moments of some of the runs."""
        tensors = {field.name: getattr(self, field.name)[runs] for field in fields(self) if field.name != "grid"}
        return Moments(grid=self.grid.select(runs), **tensors)

    def where(self, runs: Tensor, other: "Moments") -> "Moments":
        """These moments for the runs of a mask (B,), others for those left."""
        names = [field.name for field in fields(self) if field.name != "grid"]
        return Moments(grid=self.grid.where(runs, other.grid), **_where(runs, self, other, names))

    @staticmethod
    def joined(parts: "Sequence[Moments]") -> "Moments":
        """The moments of all runs of several parts, one part after the other."""
        names = [field.name for field in fields(Moments) if field.name != "grid"]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return Moments(grid=Grid.joined([part.grid for part in parts]), **tensors)

    def weight_of_clusters(self) -> Tensor:
        """Sum of w of each cluster (B, K), float64."""
        return from_grid(self.totals, self.grid.weight[:, None])

    def weighted_sqdist(self) -> Tensor:
        """Sum of w·d² over all points (B,), float64."""
        return from_grid(self.inertia, self.grid.sqdist)

    def means(self) -> Tensor:
        """Weighted means (B, K, D), float64, in the range of the points. A cluster of no weight has none: NaN."""
        lowest, highest = self.grid.lowest[:, None], self.grid.highest[:, None]
        means = from_grid(self.sums, self.grid.sum[:, None]) / self.weight_of_clusters()[:, :, None] + lowest
        # A weight of few steps is a coarse measure of its w·(x - lowest), which could lead out of the range.
        return means.clamp(lowest, highest)


def _where(runs: Tensor, first: Grid | Moments, second: Grid | Moments, names: Sequence[str]) -> dict[str, Tensor]:
    """Of each of these tensors the runs of a mask (B,) from the first, and those left from the second."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    return {
        # Most of a grid is the same tensor from round to round.
        name: one if one is other else torch.where(runs.view(-1, *[1] * (one.ndim - 1)), one, other)
        for name, (one, other) in pairs.items()
    }
