"""Moments: what one pass over weighted points leaves behind. Moments of disjoint points add.

Every tensor has a leading dimension of runs: B times K centers over the same or over different points, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gpukmeans.fixed_point import Grid, from_grid, where_fields


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
        return Moments(grid=self.grid.where(runs, other.grid), **where_fields(runs, self, other, names))

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
