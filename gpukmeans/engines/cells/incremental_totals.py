"""Totals of clusters that are updated by the points whose labels changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.engines.spatial_order import Cells
from gpukmeans.fixed_point import FixedPoint, to_fixed
from gpukmeans.tiling import blocks, tiles

# Points whose labels are compared, and whose terms are held, at a time.
_POINTS = 1 << 17


@dataclass(frozen=True, kw_only=True, eq=False)
class IncrementalTotals:
    """Totals of B runs for the labels of their points. They are exact, so updates do not accumulate errors.

    `totals` (D + 1, B, K) are int64, in fixed-point units: of w·(x - lowest) in each coordinate and, last, of w.
    `labels` (B, N) and the `weights` (P, N) of all problems are in the order of the cells.
    """

    cells: Cells
    weights: Tensor | None
    problems: Sequence[int]
    fixed_point: FixedPoint
    labels: Tensor
    totals: Tensor

    @staticmethod
    def of(
        cells: Cells,
        weights: Tensor | None,
        problems: Sequence[int],
        fixed_point: FixedPoint,
        labels: Tensor,
        n_clusters: int,
    ) -> "IncrementalTotals":
        """The totals for these labels (B, N), from all points."""
        n_runs, n = labels.shape
        n_totals = len(cells.x) + 1
        totals = torch.zeros(n_totals, n_runs, n_clusters, dtype=torch.int64, device=labels.device)
        incremental = IncrementalTotals(
            cells=cells, weights=weights, problems=problems, fixed_point=fixed_point, labels=labels, totals=totals
        )
        for runs, rows in tiles(n_runs, n, _POINTS):
            run, position = torch.meshgrid(
                torch.arange(runs.start, runs.stop, device=labels.device),
                torch.arange(rows.start, rows.stop, device=labels.device),
                indexing="ij",
            )
            terms = incremental._terms(run.flatten(), position.flatten()).view(n_totals, *run.shape)
            totals[:, runs].scatter_add_(2, labels[runs, rows].long().expand_as(terms), terms)
        return incremental

    def fits(self, cells: Cells, problems: Sequence[int], fixed_point: FixedPoint, n_clusters: int) -> bool:
        """Whether the totals are of these cells and problems, in these fixed-point units."""
        same = self.cells is cells and self.problems == problems and self.totals.shape[2] == n_clusters
        return same and all(
            torch.equal(getattr(self.fixed_point, name), getattr(fixed_point, name))
            for name in ("weight", "sum", "lowest")
        )

    def update(self, labels: Tensor) -> "IncrementalTotals":
        """The totals for other labels (B, N), from the points whose labels differ."""
        n_clusters = self.totals.shape[2]
        changed = (labels != self.labels).flatten()
        if 2 * changed.count_nonzero() > len(changed):  # each changed point is added and subtracted
            return IncrementalTotals.of(self.cells, self.weights, self.problems, self.fixed_point, labels, n_clusters)
        totals = self.totals.flatten(1).clone()
        for block in blocks(len(changed), _POINTS):
            moved = changed[block].nonzero().squeeze(1) + block.start
            run, position = moved // labels.shape[1], moved % labels.shape[1]
            terms = self._terms(run, position)
            for cluster, change in ((self.labels[run, position], -terms), (labels[run, position], terms)):
                totals.scatter_add_(1, (cluster + run * n_clusters).expand_as(change), change)
        return replace(self, labels=labels, totals=totals.view_as(self.totals))

    def _terms(self, run: Tensor, position: Tensor) -> Tensor:
        """w·(x - lowest) of each coordinate, and w, in fixed-point units, of these points of these runs: (D + 1, n)."""
        problem = torch.tensor(self.problems, device=run.device)[run]
        flat_index = problem * self.cells.rows.shape[1] + position
        offset = self.cells.x.flatten(1).index_select(1, flat_index).double() - self.fixed_point.lowest[run].T
        w = torch.ones((), dtype=torch.float64, device=run.device).expand(len(run))
        if self.weights is not None:
            w = self.weights[problem, position].double()
        return torch.cat(
            [to_fixed(offset * w, self.fixed_point.sum[run].T), to_fixed(w, self.fixed_point.weight[run])[None]]
        )
