"""The worst-served points: the points farthest from their nearest centers, to which empty clusters move."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Coordinates of points that are compared at a time.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class WorstServed:
    """The n points with weight that are farthest from their nearest centers, without equal points, for B runs.

    The points are in descending order of `sqdist` (B, n), the squared distance to the nearest center, on ties in the
    order of rows. `labels` (B, n) int64 are the nearest centers, `x` (B, n, D) the points. If fewer than n different
    points are not at their centers, the remaining entries are 0.
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
    order = sqdist.argsort(descending=True, stable=True)[: int((sqdist > 0).sum())]
    found = order[:0]
    start, size = 0, 2 * n  # enough rows if most points are distinct; else the size doubles
    while len(found) < n and start < len(order):
        found = torch.cat([found, order[start : start + size]])
        # Points are compared in the dtype of distances, so that integers above 2**53 count as equal if they round to
        # equal values.
        first = first_of_equal_rows(x[found].to(sqdist.dtype).cpu())  # on the CPU for all devices, as they are few
        found = found[first.to(found.device, non_blocking=True)][:n]
        start, size = start + size, max(size, min(2 * size, _BLOCK // x.shape[1]))
    return found


def first_of_equal_rows(x: Tensor) -> Tensor:
    """The numbers, ascending, of the rows (N, D) that are not equal to an earlier row."""
    values, inverse = torch.unique(x, dim=0, return_inverse=True)
    order = torch.arange(len(x), device=x.device)
    first = torch.full((len(values),), len(x), device=x.device).scatter_reduce_(0, inverse, order, "amin")
    return first.sort().values
