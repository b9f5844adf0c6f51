"""The worst-served points: those farthest from their centers, to which empty clusters move."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class WorstServed:
    """The n points with weight that are farthest from their nearest centers, without equal points, for B runs.

    They are in descending order of `sqdist` (B, n), the squared distance to the nearest center, on ties in the order of
    rows. `labels` (B, n) int64 are the nearest centers, `x` (B, n, D) the points. Where fewer than n different points
    are off their centers, the remaining entries are 0.
    """

    sqdist: Tensor
    labels: Tensor
    x: Tensor

    @staticmethod
    def none(centers: Tensor, n: int) -> "WorstServed":
        """The result for no points at centers (B, K, D)."""
        n_runs, _, width = centers.shape
        labels = torch.zeros(n_runs, n, dtype=torch.int64, device=centers.device)
        return WorstServed(centers.new_zeros(n_runs, n), labels, centers.new_zeros(n_runs, n, width))

    @staticmethod
    def among(sqdist: Tensor, labels: Tensor, x: Sequence[Tensor], n: int) -> "WorstServed":
        """The result for squared distances and labels (B, N), and for the points (N, D) of each run."""
        n_runs, width = len(sqdist), x[0].shape[1]
        found = WorstServed(
            sqdist.new_zeros(n_runs, n), labels.new_zeros(n_runs, n), sqdist.new_zeros(n_runs, n, width)
        )
        for run, points in enumerate(x):
            rows = _farthest_distinct(sqdist[run], points, n)
            found.sqdist[run, : len(rows)] = sqdist[run, rows]
            found.labels[run, : len(rows)] = labels[run, rows]
            found.x[run, : len(rows)] = points[rows].to(sqdist.dtype)
        return found

    def __add__(self, other: "WorstServed") -> "WorstServed":
        """The n worst-served points of two disjoint sets. The rows of `other` follow those of this set."""
        sqdist, labels, x = (
            torch.cat([getattr(part, name) for part in (self, other)], dim=1) for name in ("sqdist", "labels", "x")
        )
        return WorstServed.among(sqdist, labels, [*x], self.sqdist.shape[1])


def _farthest_distinct(sqdist: Tensor, x: Tensor, n: int) -> Tensor:
    """Rows of up to n points x (N, D), no two equal, in descending order of sqdist (N,) above 0, then of rows."""
    n_sorted = min(2 * n, len(sqdist))
    while True:
        # Only the farthest points are sorted: more of them if too many are equal. The limit includes all of its ties.
        limit = sqdist.topk(n_sorted).values[-1]
        rows = ((sqdist >= limit) & (sqdist > 0)).nonzero().squeeze(1)
        rows = rows[sqdist[rows].argsort(descending=True, stable=True)]
        rows = rows[first_of_equal_rows(x[rows])][:n]
        if len(rows) == n or n_sorted == len(sqdist):
            return rows
        n_sorted = min(4 * n_sorted, len(sqdist))


def first_of_equal_rows(x: Tensor) -> Tensor:
    """The numbers, ascending, of the rows (N, D) that are not equal to an earlier row."""
    values, inverse = torch.unique(x, dim=0, return_inverse=True)
    order = torch.arange(len(x), device=x.device)
    first = torch.full((len(values),), len(x), device=x.device).scatter_reduce_(0, inverse, order, "amin")
    return first.sort().values
