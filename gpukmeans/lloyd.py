"""Lloyd's loop (Lloyd 1982): points and first centers in, a Fit out. It never learns where the points live."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.moments import Moments
from gpukmeans.points import Points
from gpukmeans.score import squared_distance

# A grid for squared distances this much larger than the largest there is would lose bits that matter.
_LOOSE = 2.0**20

# Rounds without a new low of the inertia after which what is left to gain is rounding.
_PATIENCE = 3


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
    cluster is empty and some point is not at its center, unless only rounding keeps it from there, which shows in an
    inertia that finds no new low. `n_iter` counts the rounds, with the one that moved nothing.
    """
    moments = _measure(points, centers, points.farthest(centers))
    inertia = lowest = moments.weighted_sqdist()
    stalled = 0
    for n_iter in range(1, max_iter + 1):
        moved = next_centers(centers, moments)
        if torch.equal(moved, centers):
            return Fit(centers=centers, moments=moments, n_iter=n_iter, converged=True)
        farthest = _farthest_after(centers, moved, moments)
        centers, moments = moved, _measure(points, moved, farthest)
        before, inertia = inertia, moments.weighted_sqdist()
        stalled = 0 if inertia < lowest else stalled + 1
        lowest = min(inertia, lowest)
        settled = before - inertia <= tol * before
        if stalled >= _PATIENCE or (settled and not _misses_a_cluster(moments)):
            return Fit(centers=centers, moments=moments, n_iter=n_iter, converged=True)
    return Fit(centers=centers, moments=moments, n_iter=max_iter, converged=False)


def next_centers(centers: Tensor, moments: Moments) -> Tensor:
    """The means of the clusters. Of the empty ones the first moves to the worst-served point, the others stay."""
    empty = moments.totals == 0
    moved = torch.where(empty[:, None], centers, moments.means().to(centers.dtype))
    if _misses_a_cluster(moments):
        moved[empty.nonzero()[0]] = moments.worst_x
    return moved


def _measure(points: Points, centers: Tensor, farthest: float) -> Moments:
    """Moments on a grid that suits the squared distances found, not only those that were possible."""
    moments = points.measure(centers, farthest)
    worst = float(moments.worst_sqdist)
    return points.measure(centers, worst) if 0 < worst * _LOOSE < farthest else moments


def _farthest_after(centers: Tensor, moved: Tensor, moments: Moments) -> float:
    """No squared distance to the nearest center is larger after the move: no farther than the old one has gone."""
    shifts = squared_distance(moved.T.double(), centers.T.double())
    shift = float(shifts.where(moments.totals > 0, 0).max())
    return (math.sqrt(float(moments.worst_sqdist)) + math.sqrt(shift)) ** 2


def _misses_a_cluster(moments: Moments) -> bool:
    """Whether a cluster is empty that could serve some point better."""
    return float(moments.worst_sqdist) > 0 and bool((moments.totals == 0).any())
