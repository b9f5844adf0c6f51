"""Relocation of empty clusters to the worst-served points (farthest from their centers), as in scikit-learn."""

from dataclasses import replace

import torch
from torch import Tensor

from gpukmeans.moments import Moments
from gpukmeans.points import Points


def relocated(points: Points, centers: Tensor, moments: Moments, n_fixed: int) -> tuple[Tensor, Moments]:
    """Centers (B, K, D) after empty clusters moved to the worst-served points, and moments without these points.

    Points are taken in descending order of their squared distance to the nearest center, on ties in the order of rows.
    Equal points move together: their terms are subtracted from the sum and the weight of their cluster. A point does
    not move if its cluster would be empty without it. The first `n_fixed` clusters may become empty, and their centers
    never move.

    The totals of a relocated cluster remain 0. Each run must have a point with weight that is not at its center.
    """
    n_free = centers.shape[1] - n_fixed
    # These candidates are enough, because each cluster that is not empty keeps at most one of them, its last point.
    worst = points.worst_served(centers, n_free)
    # Entries without a point, which are zeros, could equal another point, so they repeat the first point.
    values = worst.x.where(worst.sqdist[..., None] > 0, worst.x[:, :1])
    removed = points.totals_of_equal(values)
    centers, sums, totals = centers.clone(), moments.sums.clone(), moments.totals.clone()
    for run in range(len(centers)):
        empty = n_fixed + (totals[run, n_fixed:] == 0).nonzero().squeeze(1)
        moving = _moving(worst.labels[run], removed[run, :, -1], totals[run], len(empty), n_fixed)
        centers[run, empty[: len(moving)]] = values[run, moving]
        label = worst.labels[run, moving]
        sums[run].index_add_(0, label, removed[run, moving, :-1], alpha=-1)
        totals[run].index_add_(0, label, removed[run, moving, -1], alpha=-1)
    return centers, replace(moments, sums=sums, totals=totals)


def _moving(labels: Tensor, weights: Tensor, totals: Tensor, n: int, n_fixed: int) -> Tensor:
    """Indices of the first n candidates that may move: their clusters keep some weight, or are fixed.

    Candidates have labels (M,) and weights (M,), and clusters have weights `totals` (K,), in fixed-point units.
    """
    left, moving = totals.tolist(), []
    for candidate, (label, weight) in enumerate(zip(labels.tolist(), weights.tolist(), strict=True)):
        if weight and (label < n_fixed or left[label] > weight) and len(moving) < n:
            left[label] -= weight
            moving.append(candidate)
    return torch.tensor(moving, dtype=torch.int64, device=labels.device)
