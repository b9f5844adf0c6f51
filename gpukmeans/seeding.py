"""First centers: points at random, or far apart by k-means++."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gpukmeans.points import Points

Seeding = Callable[[Points, int, torch.Generator], Tensor]


def random(points: Points, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Points (K, D) drawn by weight, each among those that differ from all before it.

    If fewer than K points differ, the last rows repeat points drawn by weight.
    """
    centers = _without_repeats(points.draw(n_clusters, generator))
    while len(centers) < n_clusters:
        # Drawing many and dropping repeats has the odds of drawing one by one from what is left.
        more = points.draw_new(n_clusters, generator, points.sqdist(centers))
        if len(more) == 0:
            return _filled(centers, points, n_clusters, generator)
        centers = torch.cat([centers, _without_repeats(more)])
    return centers[:n_clusters]


def kmeans_plus_plus(points: Points, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Points (K, D) by k-means++ (Arthur & Vassilvitskii 2007): each drawn by weight times *squared* distance.

    Greedy, as the authors suggest and scikit-learn does: of 2 + ln K candidates the one that leaves the lowest inertia
    is taken, the first drawn of equals. If fewer than K points differ, the last rows repeat points drawn by weight.
    """
    n_candidates = _n_candidates(n_clusters)
    centers = points.draw(1, generator)
    sqdist = points.sqdist(centers)
    while len(centers) < n_clusters:
        candidates = points.draw_far(n_candidates, generator, sqdist)
        if len(candidates) == 0:  # all that is left is nearer than a step of the grid can tell
            candidates = points.draw_new(1, generator, sqdist)
        if len(candidates) == 0:
            return _filled(centers, points, n_clusters, generator)
        center = candidates[points.potentials(sqdist, candidates).min(dim=0).indices]
        centers = torch.cat([centers, center[None]])
        sqdist = points.closer(sqdist, center)
    return centers


SEEDINGS: dict[str, Seeding] = {"k-means++": kmeans_plus_plus, "random": random}


def _n_candidates(n_clusters: int) -> int:
    return 2 + int(math.log(n_clusters))


def _without_repeats(rows: Tensor) -> Tensor:
    """The rows in their order, each value where it comes first."""
    values, which = torch.unique(rows, dim=0, return_inverse=True)
    order = torch.arange(len(rows), device=rows.device)
    first = torch.full((len(values),), len(rows), device=rows.device).scatter_reduce_(0, which, order, "amin")
    return rows[first.sort().values]


def _filled(centers: Tensor, points: Points, n_clusters: int, generator: torch.Generator) -> Tensor:
    return torch.cat([centers, points.draw(n_clusters - len(centers), generator)])
