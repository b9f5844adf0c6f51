"""Totals of clusters that follow the labels: what has not moved is not added up again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.engines.spatial_order import Cells
from gpukmeans.fixed_point import Grid, to_grid
from gpukmeans.tiling import blocks, tiles

# Points that are looked at, and of which terms are held, at a time.
_POINTS = 1 << 17


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Totals in steps of a grid for B runs by the labels of their points: exact, so it does not matter how they came.

    `totals` (D + 1, B, K) int64 are those of w·(x - lowest) in each coordinate and, last, of w. `labels` (B, N) are in
    the order of the cells, as are the `weights` (P, N) of all problems.
    """

    cells: Cells
    weights: Tensor | None
    problems: Sequence[int]
    grid: Grid
    labels: Tensor
    totals: Tensor

    @staticmethod
    def of(
        cells: Cells, weights: Tensor | None, problems: Sequence[int], grid: Grid, labels: Tensor, n_clusters: int
    ) -> "Tally":
        """The totals of all points."""
        n_runs, n = labels.shape
        n_totals = len(cells.x) + 1
        totals = torch.zeros(n_totals, n_runs, n_clusters, dtype=torch.int64, device=labels.device)
        tally = Tally(cells=cells, weights=weights, problems=problems, grid=grid, labels=labels, totals=totals)
        for runs, rows in tiles(n_runs, n, _POINTS):
            run, place = torch.meshgrid(
                torch.arange(runs.start, runs.stop, device=labels.device),
                torch.arange(rows.start, rows.stop, device=labels.device),
                indexing="ij",
            )
            terms = tally._terms(run.flatten(), place.flatten()).view(n_totals, *run.shape)
            totals[:, runs].scatter_add_(2, labels[runs, rows].long().expand_as(terms), terms)
        return tally

    def fits(self, cells: Cells, problems: Sequence[int], grid: Grid, n_clusters: int) -> bool:
        """Whether it is of these cells and problems, in these steps."""
        same = self.cells is cells and self.problems == problems and self.totals.shape[2] == n_clusters
        return same and all(
            torch.equal(getattr(self.grid, name), getattr(grid, name)) for name in ("weight", "sum", "lowest")
        )

    def moved_to(self, labels: Tensor) -> "Tally":
        """The totals by other labels (B, N)."""
        n_clusters = self.totals.shape[2]
        changed = (labels != self.labels).flatten()
        if 2 * changed.count_nonzero() > len(changed):  # each is added and taken away
            return Tally.of(self.cells, self.weights, self.problems, self.grid, labels, n_clusters)
        totals = self.totals.flatten(1).clone()
        for part in blocks(len(changed), _POINTS):
            moved = changed[part].nonzero().squeeze(1) + part.start
            run, place = moved // labels.shape[1], moved % labels.shape[1]
            terms = self._terms(run, place)
            for cluster, moving in ((self.labels[run, place], -terms), (labels[run, place], terms)):
                totals.scatter_add_(1, (cluster + run * n_clusters).expand_as(moving), moving)
        return replace(self, labels=labels, totals=totals.view_as(self.totals))

    def _terms(self, run: Tensor, place: Tensor) -> Tensor:
        """In steps w·(x - lowest) of each coordinate, and w, of the points at these places of runs: (D + 1, n)."""
        problem = torch.tensor(self.problems, device=run.device)[run]
        flat = problem * self.cells.rows.shape[1] + place
        above = self.cells.x.flatten(1).index_select(1, flat).double() - self.grid.lowest[run].T
        w = torch.ones((), dtype=torch.float64, device=run.device).expand(len(run))
        if self.weights is not None:
            w = self.weights[problem, place].double()
        return torch.cat([to_grid(above * w, self.grid.sum[run].T), to_grid(w, self.grid.weight[run])[None]])
