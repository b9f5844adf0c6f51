"""Lloyd's loop (Lloyd 1982): points and first centers in, a Fit out. It never learns where the points live."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.moments import Moments
from gpukmeans.points import Points


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Centers (K, D) and the moments measured at exactly these, however the loop ended."""

    centers: Tensor
    moments: Moments
    n_iter: int
    converged: bool


def lloyd(points: Points, centers: Tensor, *, max_iter: int, tol: float) -> Fit:
    """Centers moved to the means of their points, again and again.

    Converged when the centers stand still or the inertia falls by no more than `tol` of itself, but never while a
    cluster is empty and some point is not at its center. `n_iter` counts the rounds, with the one that moved nothing.
    """
    moments = points.measure(centers)
    for n_iter in range(1, max_iter + 1):
        moved = next_centers(centers, moments)
        if torch.equal(moved, centers):
            return Fit(centers=centers, moments=moments, n_iter=n_iter, converged=True)
        before, centers, moments = moments, moved, points.measure(moved)
        fall = int(before.inertia) - int(moments.inertia)
        if fall <= tol * int(before.inertia) and not _misses_a_cluster(moments):
            return Fit(centers=centers, moments=moments, n_iter=n_iter, converged=True)
    return Fit(centers=centers, moments=moments, n_iter=max_iter, converged=False)


def next_centers(centers: Tensor, moments: Moments) -> Tensor:
    """The means of the clusters. Of the empty ones the first moves to the worst-served point, the others stay."""
    empty = moments.totals == 0
    moved = torch.where(empty[:, None], centers, moments.means().to(centers.dtype))
    if _misses_a_cluster(moments):
        moved[empty.nonzero()[0]] = moments.worst_x
    return moved


def _misses_a_cluster(moments: Moments) -> bool:
    """Whether a cluster is empty that could serve some point better."""
    return int(moments.inertia) > 0 and bool((moments.totals == 0).any())
