"""Refinement of initial centers, after breathing k-means (Fritzke 2020): cycles that add centers and merge pairs."""

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.fused import merging as cuda_merging
from gpukmeans.engines.native import merging
from gpukmeans.engines.native.tensors import takes
from gpukmeans.lloyd import Fit, lloyd, next_centers
from gpukmeans.metrics import Projection
from gpukmeans.points import Generators, Points
from gpukmeans.tiling import blocks
from gpukmeans.transfers import on_host

# Iterations of Lloyd's loop before the first cycle, with the added centers, and after the merges. More iterations cost
# time and do not lower the inertia.
_INITIAL_ITERATIONS, _EXPANDED_ITERATIONS, _MERGED_ITERATIONS = 2, 2, 3
# The number of added centers decreases by this factor from cycle to cycle, down to a minimum, which K = 4 needs.
_DECAY, _MIN_ADDED = 2**-0.5, 4
# Squared differences of coordinates that are in memory at a time.
_BLOCK = 1 << 18


def refined(
    points: Points,
    centers: Tensor,
    n_cycles: int,
    generator: Generators,
    project: Projection | None = None,
    n_fixed: int = 0,
) -> Tensor:
    """Initial centers (B, K, D) for Lloyd's loop that lead to a lower inertia than the given centers.

    A cycle adds centers, sampled by weight times squared distance, runs a few iterations of Lloyd's loop, and merges
    pairs of centers until K are left. The pairs are those that increase the inertia least (Ward 1963). The increase is
    computed from the moments, without a pass over the points. After a few more iterations the cycle keeps the centers
    of the lowest inertia so far. The first cycle adds K centers, later cycles add fewer. Breathing k-means (Fritzke
    2020) adds and removes few centers at a time, so it needs many more cycles.

    The first `n_fixed` centers, fewer than K, do not move. Other centers may be merged into fixed centers.
    """

    def moved(centers: Tensor, n_iter: int) -> Fit:
        return lloyd(points, centers, max_iter=n_iter, tol=0.0, project=project, n_fixed=n_fixed)

    fit = moved(centers, _INITIAL_ITERATIONS)
    best, lowest = fit.centers, fit.inertia
    for cycle in range(n_cycles):
        n_more = max(_MIN_ADDED, round((centers.shape[1] - n_fixed) * _DECAY**cycle))
        more = points.sample_d2(n_more, generator, points.assign(best))
        expanded = moved(torch.cat([best, more], dim=1), _EXPANDED_ITERATIONS)
        merged = _merged(points, expanded, centers.shape[1], project, n_fixed)
        fit = moved(merged, _MERGED_ITERATIONS)
        best = torch.where((fit.inertia < lowest)[:, None, None], fit.centers, best)
        lowest = torch.minimum(lowest, fit.inertia)
    return best


def _merged(points: Points, expanded: Fit, n_clusters: int, project: Projection | None, n_fixed: int) -> Tensor:
    """The next centers of a fit, merged to (B, K, D)."""
    centers = next_centers(expanded.centers, expanded.moments, project, n_fixed)
    if project is None and cuda_merging.supports(centers, points.stats.total_weight):
        return cuda_merging.merged(centers, expanded.moments, n_clusters, n_fixed)
    # Otherwise on the CPU for all devices, because a merge is a native kernel or thousands of small operations.
    means, weights = on_host(centers.double(), expanded.cluster_weights)
    merged = merge(means, weights, n_clusters, n_fixed).to(centers.device)
    if project is not None:
        merged = project(merged, centers[:, :n_clusters])
    return torch.cat([centers[:, :n_fixed], merged[:, n_fixed:].to(centers.dtype)], dim=1)


def merge(centers: Tensor, totals: Tensor, n_clusters: int, n_fixed: int = 0) -> Tensor:
    """Centers (B, M, D) of clusters of weight `totals` (B, M), both float64, merged to (B, K, D).

    A merge replaces two clusters, of weights a and b at x and y, by their weighted mean. Its cost is the increase of
    the inertia, a·b/(a+b)·|x - y|². The cheapest pairs are merged (Ward 1963). Two clusters that are each other's
    cheapest partner keep this partner until they are merged (Murtagh 1983), so several pairs are merged at a time, up
    to a quarter of the remaining merges. The result is almost always the same as with one merge of the cheapest pair at
    a time.

    The first `n_fixed` centers, fewer than K, keep their indices and positions. A merge of a cluster of weight b into a
    fixed cluster costs b·|x - y|², the limit for infinite a. Two fixed centers are never merged.
    """
    if takes(centers, totals, dtype=torch.float64):
        merged = merging.merged(centers, totals, n_clusters, n_fixed)
        if merged is not None:
            return merged
    centers, totals = centers.clone(), totals.clone()
    totals[:, :n_fixed] = torch.inf
    n_runs, n_all = centers.shape[:2]
    alive = torch.ones(n_runs, n_all, dtype=torch.bool, device=centers.device)
    index = torch.arange(n_all, device=centers.device)
    cost, partner = (
        values.view(n_runs, n_all)
        for values in _cheapest(centers, totals, alive, *alive.nonzero().unbind(1), n_fixed=n_fixed)
    )
    needed = torch.full((n_runs,), n_all - n_clusters, device=centers.device)
    while needed.any():
        mutual = (partner.gather(1, partner) == index) & (index < partner) & alive
        # With ties a run may have no mutual pair; its cheapest pair is merged then.
        mutual |= ~mutual.any(dim=1, keepdim=True) & (index == cost.argmin(dim=1, keepdim=True))
        n = mutual.sum(dim=1).minimum((needed + 3) // 4)
        ranked = cost.masked_fill(~mutual, torch.inf).sort(dim=1, stable=True).indices
        run, rank = (index < n[:, None]).nonzero(as_tuple=True)
        first = ranked[run, rank]
        second = partner[run, first]
        first_total, second_total = totals[run, first], totals[run, second]
        total = first_total + second_total
        # A fixed center is the first of its pair. Its total is infinite, so the fraction is 0 and it does not move.
        fraction = torch.where(total > 0, second_total / total, 0.0)[:, None]
        centers[run, first] += fraction * (centers[run, second] - centers[run, first])
        totals[run, first] += second_total
        alive[run, second] = False
        cost[run, second] = torch.inf
        needed -= n
        # A merged cluster is never a cheaper partner than the cheaper of its two parts, so other partners stay valid.
        changed = torch.zeros_like(alive)
        changed[run, first] = changed[run, second] = True
        stale = (changed | changed.gather(1, partner)) & alive
        run, row = stale.nonzero(as_tuple=True)
        cost[run, row], partner[run, row] = _cheapest(centers, totals, alive, run, row, n_fixed)
    return centers[alive].view(n_runs, n_clusters, -1)


def _cheapest(
    centers: Tensor, totals: Tensor, alive: Tensor, runs: Tensor, rows: Tensor, n_fixed: int
) -> tuple[Tensor, Tensor]:
    """The lowest cost (R,) of a merge of the clusters `rows` (R,) in `runs` (R,), and the partners (R,)."""
    cost = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    partner = torch.empty_like(rows)
    for block in blocks(len(rows), _BLOCK // (centers.shape[1] * centers.shape[2])):
        run, row = runs[block], rows[block]
        sqdist = squared_distance(centers[run, row].T[:, :, None], centers[run].permute(2, 0, 1))
        own, other = totals[run, row, None], totals[run]
        total = own + other
        costs = torch.where(total > 0, own * other / total * sqdist, 0.0)
        if n_fixed:
            lighter = torch.minimum(own, other)
            costs = torch.where(total < torch.inf, costs, lighter * sqdist)
            costs.masked_fill_(lighter == torch.inf, torch.inf)
        costs.masked_fill_(~alive[run], torch.inf).scatter_(1, row[:, None], torch.inf)
        cost[block], partner[block] = costs.min(dim=1)
    return cost, partner
