"""Seedings: initial centers by random sampling, k-means++ or k-means||.

A seeding is a function of points, K and a CPU generator that returns centers (B, K, D) for B runs. All runs use the
same random numbers, so the centers of a run do not depend on the other runs. With `fixed` centers (B, F, D) a seeding
returns K more centers. It chooses points that equal a fixed center only if there are no other points. The seedings of
this module also accept several generators, for equal parts of the runs.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gpukmeans.points import Generators, NearestState, Points, each_generator, extended_by_kernels, first_of_equal_rows

# From these numbers on, `automatic` chooses k-means||.
_MANY_POINTS, _MANY_CLUSTERS, _MANY_COORDINATES = 1 << 14, 256, 9

Seeding = Callable[..., Tensor]
"""A function of `Points`, the number of centers K and a generator that returns centers (K, D) or (P, K, D) for P
problems. Fixed centers, if any, are passed as `fixed=`, (P, F, D)."""


def random(points: Points, n_clusters: int, generator: Generators, *, fixed: Tensor | None = None) -> Tensor:
    """Points (B, K, D) sampled by weight, without repeated values and without values of the `fixed` centers.

    If there are fewer than K distinct points, the last rows repeat the first ones.
    """
    if fixed is None:
        sampled = points.sample(n_clusters, generator)
    else:
        sampled = points.sample_uncovered(n_clusters, generator, points.assign(fixed))
    distinct = [_distinct(rows) for rows in sampled]
    complete = [len(rows) == n_clusters for rows in distinct]
    while not all(complete):
        centers = torch.stack([_repeat_to_length(rows, n_clusters) for rows in distinct])
        # Sampling many points and dropping repeats has the probabilities of sampling one point at a time from the
        # points that are not equal to a chosen point.
        placed = centers if fixed is None else torch.cat([fixed, centers], dim=1)
        more = points.sample_uncovered(n_clusters, generator, points.assign(placed))
        for run in [run for run, done in enumerate(complete) if not done]:
            grown = _distinct(torch.cat([distinct[run], more[run]]))[:n_clusters]
            complete[run] = len(grown) in (n_clusters, len(distinct[run]))
            distinct[run] = grown
    return torch.stack([_repeat_to_length(rows, n_clusters) for rows in distinct])


def kmeans_plus_plus(points: Points, n_clusters: int, generator: Generators, *, fixed: Tensor | None = None) -> Tensor:
    """Points (B, K, D) by k-means++ (Arthur & Vassilvitskii 2007), sampled by weight times *squared* distance.

    The distance is to the nearest center so far. The seeding is greedy, as the authors suggest and as in scikit-learn:
    each step samples 2 + ln K candidates and takes the candidate of the lowest inertia, the first on ties. The first
    center is sampled by weight; with `fixed` centers it is sampled like the others. If there are fewer than K distinct
    points, the last rows repeat points sampled by weight.
    """
    if fixed is not None:
        n_fixed = fixed.shape[1]
        return extended(points, fixed, n_fixed + n_clusters, generator)[:, n_fixed:]
    first = points.sample(1, generator)
    if n_clusters == 1:
        return first
    return extended(points, first, n_clusters, generator)


def extended(points: Points, centers: Tensor, n_clusters: int, generator: Generators) -> Tensor:
    """Centers (B, K, D): the given centers first, then points by k-means++."""
    n_candidates = _n_candidates(n_clusters)
    found = extended_by_kernels(points, centers, n_clusters, n_candidates, generator)
    if found is not None:
        return found
    nearest = points.assign(centers)
    while centers.shape[1] < n_clusters:
        candidates = points.sample_d2(n_candidates, generator, nearest)
        best = points.potentials(nearest, candidates).min(dim=1).indices  # the first on ties
        center = candidates[torch.arange(len(best), device=best.device), best, None]
        nearest = nearest.update(center)
        centers = torch.cat([centers, center], dim=1)
    return centers


def kmeans_parallel(
    points: Points,
    n_clusters: int,
    generator: Generators,
    *,
    oversampling: float = 1.0,
    rounds: int = 5,
    fixed: Tensor | None = None,
) -> Tensor:
    """Points (B, K, D) by k-means|| (Bahmani et al. 2012): few passes over the points, for any K.

    After a first point, each of `rounds` rounds samples `oversampling` times K points at once by weight times *squared*
    distance, with replacement. `kmeans_plus_plus` then chooses K of the sampled points, each weighted by the weight of
    the points nearest to it. If fewer than K sampled points are distinct, there are more rounds until a round finds no
    new point. If there are fewer than K distinct points, the last rows repeat points. `fixed` centers replace the first
    point; points that are nearest to a fixed center add no weight.

    For 200,000 x 32 points and K = 1024, k-means|| and an iteration take 0.32 of the time with k-means++. After 20
    iterations the inertia is 0.6 % higher (two CPU cores, 2026-12-01, `python scripts/bench.py seedings`).

    The options can be set by `init=functools.partial(kmeans_parallel, oversampling=2.0, rounds=8)`. ValueError unless
    `oversampling` is finite and above 0 and `rounds` an int of at least 1.
    """
    if not (0 < oversampling < math.inf and isinstance(rounds, int) and not isinstance(rounds, bool) and rounds >= 1):
        expected = "oversampling must be a number above 0 and rounds an int of at least 1"
        raise ValueError(f"{expected}, got {oversampling} and {rounds}")
    # The last step has its own generator, because the number of rounds may depend on the other runs.
    last = [spawn(one, 1)[0] for one in each_generator(generator)]
    n_samples = math.ceil(oversampling * n_clusters)
    centers = points.sample(1, generator) if fixed is None else fixed
    n_fixed = 0 if fixed is None else fixed.shape[1]
    nearest = points.assign(centers)
    for _ in range(rounds):
        sampled = points.sample_d2(n_samples, generator, nearest)
        centers, nearest = _append(centers, nearest, sampled)
    totals = points.cluster_weights(nearest)[:, n_fixed:]
    n_found = (totals > 0).sum(dim=1)
    enough = n_found >= n_clusters
    while not enough.all():
        sampled = points.sample_d2(n_samples, generator, nearest)
        # A run with enough points gets copies of one of its centers, which have no weight.
        sampled = torch.where(enough[:, None, None], centers[:, :1], sampled)
        centers, nearest = _append(centers, nearest, sampled)
        totals = points.cluster_weights(nearest)[:, n_fixed:]
        before, n_found = n_found, (totals > 0).sum(dim=1)
        enough = enough | (n_found >= n_clusters) | (n_found == before)
    # If all points are at fixed centers, the sampled points have no weight, but a total weight must be above 0.
    totals = torch.where(n_found[:, None] > 0, totals, 1)
    return kmeans_plus_plus(points.centers_as_points(centers[:, n_fixed:], totals), n_clusters, last, fixed=fixed)


def automatic(points: Points, n_clusters: int, generator: Generators, *, fixed: Tensor | None = None) -> Tensor:
    """Points (B, K, D) by k-means|| for many points of many coordinates and many clusters, else by k-means++.

    k-means|| is chosen for K of at least 256, more than 8 coordinates, and at least 16,384 points with weight in the
    problem. There a clustering of 20 iterations takes 0.3 to 0.7 of the time, and its inertia differs by -0.2 to 0.6 %.
    For up to 8 coordinates k-means++ is faster (`python scripts/bench.py seedings`).
    """
    n_present = points.stats.n_present[torch.tensor(points.problems, device="cpu")]
    is_large = (n_present >= _MANY_POINTS) & (n_clusters >= _MANY_CLUSTERS) & (points.width >= _MANY_COORDINATES)
    if not is_large.any():
        return kmeans_plus_plus(points, n_clusters, generator, fixed=fixed)
    if is_large.all():
        return kmeans_parallel(points, n_clusters, generator, fixed=fixed)
    # Each problem of a batch has the centers that it has alone, so both seedings begin with the same generators.
    again = [seeded(0).set_state(one.get_state()) for one in each_generator(generator)]
    centers = kmeans_parallel(points, n_clusters, generator, fixed=fixed)
    others = kmeans_plus_plus(points, n_clusters, again, fixed=fixed)
    return torch.where(is_large.to(centers.device)[:, None, None], centers, others)


InitName = Literal["auto", "k-means++", "k-means||", "random"]
"""A name of `SEEDINGS`, or "auto"."""

SEEDINGS: dict[str, Seeding] = {"k-means++": kmeans_plus_plus, "k-means||": kmeans_parallel, "random": random}


def spawn(generator: torch.Generator, n: int) -> list[torch.Generator]:
    """Independent generators: the random numbers of a generator do not depend on the use of another generator."""
    return [seeded(seed) for seed in draw_seeds(generator, n)]


def draw_seeds(generator: torch.Generator, n: int) -> list[int]:
    """n random seeds, which `spawn` gives to its generators."""
    return torch.randint(1 << 62, (n,), generator=generator, device="cpu").tolist()


def seeded(seed: int) -> torch.Generator:
    """A new CPU generator with this seed."""
    return torch.Generator(device="cpu").manual_seed(seed)


def _n_candidates(n_clusters: int) -> int:
    return 2 + int(math.log(n_clusters))


def _append(centers: Tensor, nearest: NearestState, more: Tensor) -> tuple[Tensor, NearestState]:
    return torch.cat([centers, more], dim=1), nearest.update(more)


def _distinct(rows: Tensor) -> Tensor:
    """The rows (N, D) that are not equal to an earlier row."""
    first = first_of_equal_rows(rows.cpu())  # on the CPU for all devices, because the rows are few
    return rows if len(first) == len(rows) else rows[first.to(rows.device, non_blocking=True)]


def _repeat_to_length(rows: Tensor, n: int) -> Tensor:
    """n rows: the given rows, repeated from the first if there are fewer than n."""
    if len(rows) == n:
        return rows
    return rows[torch.arange(n, device=rows.device) % len(rows)]
