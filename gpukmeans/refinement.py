"""Better optima: more centers than wanted, then the cheapest merges, again and again."""

import torch
from torch import Tensor

from gpukmeans.blocks import blocks
from gpukmeans.lloyd import Fit, Projection, lloyd, next_centers
from gpukmeans.points import Points
from gpukmeans.score import squared_distance

# Moves before the first breath, with the centers added, and after the merges. More cost more and gain nothing.
_FIRST, _IN, _OUT = 2, 2, 3
# Each breath adds this much less than the one before, but never fewer centers than the floor, which K = 4 needs.
_DECAY, _FLOOR = 2**-0.5, 4
# Squared differences of coordinates that are held at a time.
_BLOCK = 1 << 18


def refined(
    points: Points, centers: Tensor, n_breaths: int, generator: torch.Generator, project: Projection | None = None
) -> Tensor:
    """First centers (B, K, D) for Lloyd's loop that lead to a lower optimum than those given.

    A breath adds centers, drawn by weight times squared distance, runs a few rounds of Lloyd's loop, and merges pairs
    until K are left: each time the two whose merge adds least to the inertia (Ward 1963), which the moments tell
    without a look at the points. A few rounds later the state of the lowest inertia so far is kept. The first breath
    adds K centers, later ones fewer. After breathing k-means (Fritzke 2020), which adds and removes few centers at a
    time and so needs many more rounds.
    """
    best = lloyd(points, centers, max_iter=_FIRST, tol=0.0, project=project)
    for breath in range(n_breaths):
        n_more = max(_FLOOR, round(centers.shape[1] * _DECAY**breath))
        more = points.draw_far(n_more, generator, points.assign(best.centers))
        full = lloyd(points, torch.cat([best.centers, more], dim=1), max_iter=_IN, tol=0.0, project=project)
        merged = _merged(full, centers.shape[1], project)
        fit = lloyd(points, merged, max_iter=_OUT, tol=0.0, project=project)
        best = _better(best, fit)
    return best.centers


def _better(first: Fit, second: Fit) -> Fit:
    """Of each run the fit of lower inertia, the first of equals."""
    n_runs = len(first.centers)
    runs = torch.arange(n_runs, device=first.centers.device)
    return Fit.joined([first, second]).select(torch.where(second.inertia < first.inertia, runs + n_runs, runs))


def _merged(full: Fit, n_clusters: int, project: Projection | None) -> Tensor:
    """The next centers of a fit, merged to so many, (B, K, D)."""
    centers = next_centers(full.centers, full.moments, project)
    # Thousands of small steps: a CPU takes them faster than any other device, and with the same bits.
    merged = merge(centers.double().cpu(), full.totals.cpu(), n_clusters).to(centers.device)
    if project is not None:
        merged = project(merged, centers[:, :n_clusters])
    return merged.to(centers.dtype)


def merge(centers: Tensor, totals: Tensor, n_clusters: int) -> Tensor:
    """Centers (B, M, D) of these totals (B, M), both float64, merged to (B, K, D).

    Always the pair whose merge adds least to the inertia, a·b/(a+b)·|x - y|² of totals a and b (Ward 1963), becomes its
    weighted mean.
    """
    centers, totals = centers.clone(), totals.clone()
    n_runs, n_left = centers.shape[:2]
    alive = torch.ones(n_runs, n_left, dtype=torch.bool, device=centers.device)
    runs, rows = alive.nonzero(as_tuple=True)
    cost, partner = (part.view(n_runs, n_left) for part in _cheapest(centers, totals, alive, runs, rows))
    every = torch.arange(n_runs, device=centers.device)
    for _ in range(n_left - n_clusters):
        first = cost.min(dim=1).indices
        second = partner[every, first]
        one, other = totals[every, first], totals[every, second]
        share = torch.where(one + other > 0, other / (one + other), 0.0)[:, None]
        centers[every, first] += share * (centers[every, second] - centers[every, first])
        totals[every, first] += other
        alive[every, second] = False
        cost[every, second] = torch.inf
        # Merging never makes a merge cheaper than it was with one of the two, so all other partners are still right.
        stale = ((partner == first[:, None]) | (partner == second[:, None])) & alive
        stale[every, first] = True
        runs, rows = stale.nonzero(as_tuple=True)
        cost[runs, rows], partner[runs, rows] = _cheapest(centers, totals, alive, runs, rows)
    return centers[alive].view(n_runs, n_clusters, -1)


def _cheapest(centers: Tensor, totals: Tensor, alive: Tensor, runs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For these rows of these runs, (R,) each, the least cost of a merge with another, and with which."""
    cost = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    partner = torch.empty_like(rows)
    for part in blocks(len(rows), _BLOCK // (centers.shape[1] * centers.shape[2])):
        run, row = runs[part], rows[part]
        sqdist = squared_distance(centers[run, row].T[:, :, None], centers[run].permute(2, 0, 1))
        one, other = totals[run, row, None], totals[run]
        costs = torch.where(one + other > 0, one * other / (one + other) * sqdist, 0.0)
        costs.masked_fill_(~alive[run], torch.inf).scatter_(1, row[:, None], torch.inf)
        cost[part], partner[part] = costs.min(dim=1)
    return cost, partner
