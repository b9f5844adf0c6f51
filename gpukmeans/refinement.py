"""Better optima: more centers than wanted, then the cheapest merges, again and again."""

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.lloyd import Fit, lloyd, next_centers
from gpukmeans.metrics import Projection
from gpukmeans.points.base import Points
from gpukmeans.tiling import blocks

# Moves before the first breath, with the centers added, and after the merges. More cost more and gain nothing.
_FIRST, _IN, _OUT = 2, 2, 3
# Each breath adds this much less than the one before, but never fewer centers than the floor, which K = 4 needs.
_DECAY, _FLOOR = 2**-0.5, 4
# Squared differences of coordinates that are held at a time.
_BLOCK = 1 << 18


def refined(
    points: Points,
    centers: Tensor,
    n_breaths: int,
    generator: torch.Generator,
    project: Projection | None = None,
    n_fixed: int = 0,
) -> Tensor:
    """First centers (B, K, D) for Lloyd's loop that lead to a lower optimum than those given.

    A breath adds centers, drawn by weight times squared distance, runs a few rounds of Lloyd's loop, and merges pairs
    until K are left: those whose merge adds least to the inertia (Ward 1963), which the moments tell without a look at
    the points. A few rounds later the state of the lowest inertia so far is kept. The first breath adds K centers, the
    later ones fewer. After breathing k-means (Fritzke 2020), which adds and removes few centers at a time and so needs
    many more rounds.

    The first `n_fixed` centers, fewer than K, stay: others may be merged with them, and are gone.
    """
    best = lloyd(points, centers, max_iter=_FIRST, tol=0.0, project=project, n_fixed=n_fixed)
    for breath in range(n_breaths):
        n_more = max(_FLOOR, round((centers.shape[1] - n_fixed) * _DECAY**breath))
        more = points.draw_far(n_more, generator, points.assign(best.centers))
        more = torch.cat([best.centers, more], dim=1)
        full = lloyd(points, more, max_iter=_IN, tol=0.0, project=project, n_fixed=n_fixed)
        merged = _merged(full, centers.shape[1], project, n_fixed)
        fit = lloyd(points, merged, max_iter=_OUT, tol=0.0, project=project, n_fixed=n_fixed)
        best = _better(best, fit)
    return best.centers


def _better(first: Fit, second: Fit) -> Fit:
    """Of each run the fit of lower inertia, the first of equals."""
    n_runs = len(first.centers)
    runs = torch.arange(n_runs, device=first.centers.device)
    return Fit.joined([first, second]).select(torch.where(second.inertia < first.inertia, runs + n_runs, runs))


def _merged(full: Fit, n_clusters: int, project: Projection | None, n_fixed: int) -> Tensor:
    """The next centers of a fit, merged to so many, (B, K, D)."""
    centers = next_centers(full.centers, full.moments, project, n_fixed)
    # Thousands of small steps: a CPU takes them faster than any other device, and with the same bits.
    merged = merge(centers.double().cpu(), full.totals.cpu(), n_clusters, n_fixed).to(centers.device)
    if project is not None:
        merged = project(merged, centers[:, :n_clusters])
    return torch.cat([centers[:, :n_fixed], merged[:, n_fixed:].to(centers.dtype)], dim=1)


def merge(centers: Tensor, totals: Tensor, n_clusters: int, n_fixed: int = 0) -> Tensor:
    """Centers (B, M, D) of these totals (B, M), both float64, merged to (B, K, D).

    Pairs whose merge adds least to the inertia, a·b/(a+b)·|x - y|² of totals a and b, become their weighted means (Ward
    1963). A pair that is cheapest for both is merged at that cost in whatever order (Murtagh 1983), so a quarter of
    those needed are merged at a time. Almost always that leaves what the cheapest one at a time would.

    The first `n_fixed` centers, fewer than K, stay the first and where they are, at the cost b·|x - y|² of giving them
    the total b: that of a pair whose a is without end. No two of them are a pair.
    """
    centers, totals = centers.clone(), totals.clone()
    totals[:, :n_fixed] = torch.inf
    n_runs, n_left = centers.shape[:2]
    alive = torch.ones(n_runs, n_left, dtype=torch.bool, device=centers.device)
    index = torch.arange(n_left, device=centers.device)
    cost, partner = (
        part.view(n_runs, n_left)
        for part in _cheapest(centers, totals, alive, *alive.nonzero().unbind(1), n_fixed=n_fixed)
    )
    needed = torch.full((n_runs,), n_left - n_clusters, device=centers.device)
    while needed.any():
        mutual = (partner.gather(1, partner) == index) & (index < partner) & alive
        # Where a tie hides all of them, the cheapest one.
        mutual |= ~mutual.any(dim=1, keepdim=True) & (index == cost.argmin(dim=1, keepdim=True))
        n = mutual.sum(dim=1).minimum((needed + 3) // 4)
        ranked = cost.masked_fill(~mutual, torch.inf).sort(dim=1, stable=True).indices
        run, rank = (index < n[:, None]).nonzero(as_tuple=True)
        first = ranked[run, rank]
        second = partner[run, first]
        one, other = totals[run, first], totals[run, second]
        # A fixed one is first of its pair, and its share is 0.
        share = torch.where(one + other > 0, other / (one + other), 0.0)[:, None]
        centers[run, first] += share * (centers[run, second] - centers[run, first])
        totals[run, first] += other
        alive[run, second] = False
        cost[run, second] = torch.inf
        needed -= n
        # Merging never makes a merge cheaper than it was with one of the two, so all other partners are still right.
        touched = torch.zeros_like(alive)
        touched[run, first] = touched[run, second] = True
        stale = (touched | touched.gather(1, partner)) & alive
        run, row = stale.nonzero(as_tuple=True)
        cost[run, row], partner[run, row] = _cheapest(centers, totals, alive, run, row, n_fixed)
    return centers[alive].view(n_runs, n_clusters, -1)


def _cheapest(
    centers: Tensor, totals: Tensor, alive: Tensor, runs: Tensor, rows: Tensor, n_fixed: int
) -> tuple[Tensor, Tensor]:
    """For these rows of these runs, (R,) each, the least cost of a merge with another, and with which."""
    cost = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    partner = torch.empty_like(rows)
    for part in blocks(len(rows), _BLOCK // (centers.shape[1] * centers.shape[2])):
        run, row = runs[part], rows[part]
        sqdist = squared_distance(centers[run, row].T[:, :, None], centers[run].permute(2, 0, 1))
        one, other = totals[run, row, None], totals[run]
        costs = torch.where(one + other > 0, one * other / (one + other) * sqdist, 0.0)
        if n_fixed:
            lighter = torch.minimum(one, other)
            costs = torch.where(one + other < torch.inf, costs, lighter * sqdist)
            costs.masked_fill_(lighter == torch.inf, torch.inf)
        costs.masked_fill_(~alive[run], torch.inf).scatter_(1, row[:, None], torch.inf)
        cost[part], partner[part] = costs.min(dim=1)
    return cost, partner
