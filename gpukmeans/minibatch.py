"""Mini-batch K-means: each center is the running mean of its cluster over all batches so far."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans.clustering import Clustering, KMeansResult, best_runs, open_clustering, prepared
from gpukmeans.lloyd import Fit, measure_at
from gpukmeans.metrics import Projection
from gpukmeans.options import read_options
from gpukmeans.points import KMeansInput, Points
from gpukmeans.seeding import random, seeded
from gpukmeans.validation import dtype_and_shape

# A center whose count is below this fraction of the largest count is reassigned, as in scikit-learn.
REASSIGNMENT_RATIO = 0.01

# Points per center between two reassignments, as in scikit-learn.
_ROWS_PER_CENTER = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class MiniBatchState:
    """The state of mini-batch K-means between two batches, of one problem or of a batch of problems (...).

    `centers` (..., K, D) are `running_means` (..., K, D), float64, rounded to the dtype of the computation.
    `running_counts` (..., K) float64 are the weights of these means. `n_steps` () int64 is the number of batches so
    far. `rows_since_reassignment` (...) int64 counts points with weight since the last reassignment. `seed` () int64 is
    a random number of the first batch; the seeds of all reassignments follow from it.
    """

    centers: Tensor
    running_means: Tensor
    running_counts: Tensor
    n_steps: Tensor
    rows_since_reassignment: Tensor
    seed: Tensor

    @staticmethod
    def of_centers(centers: Tensor, counts: Tensor | None = None) -> "MiniBatchState":
        """The state before the first batch, from initial centers (..., K, D).

        Without counts (..., K) the centers have weight 0, so the first batch replaces each center that gets points.
        """
        zeros = torch.zeros(centers.shape[:-1], dtype=torch.float64, device=centers.device)
        return MiniBatchState(
            centers=centers,
            running_means=centers.to(torch.float64, copy=True),
            running_counts=zeros if counts is None else counts.to(zeros),
            n_steps=zeros.new_zeros((), dtype=torch.int64),
            rows_since_reassignment=zeros.new_zeros(centers.shape[:-2], dtype=torch.int64),
            seed=zeros.new_zeros((), dtype=torch.int64),
        )


RUNNING_FIELDS = [field.name for field in fields(MiniBatchState) if field.name != "centers"]


def errors_of_running_state(centers: Tensor, running: Mapping[str, Tensor]) -> list[str]:
    """A sentence for each of the `RUNNING_FIELDS` that is missing, or whose dtype, shape or values are wrong.

    An empty mapping is correct: centers need no running state.
    """
    if not running:
        return []
    like = MiniBatchState.of_centers(centers)
    wanted = {name: dtype_and_shape(getattr(like, name)) for name in RUNNING_FIELDS}
    got = {name: dtype_and_shape(running[name]) if name in running else "none" for name in RUNNING_FIELDS}
    errors = [f"{name} must be {wanted[name]}, got {got[name]}" for name in RUNNING_FIELDS if got[name] != wanted[name]]
    return errors or [
        f"{name} must be finite" + (" and at least 0" if name != "running_means" else "")
        for name in RUNNING_FIELDS
        if not (running[name].isfinite().all() and (name == "running_means" or (running[name] >= 0).all()))
    ]


@torch.no_grad()
def partial_fit(
    state: MiniBatchState | None, x: Any, weights: Any, *, group: ProcessGroup | None, **options: Any
) -> tuple[MiniBatchState, KMeansResult]:
    """The state after one more batch (Sculley 2010), and the result of this batch at the new centers.

    Each center is the mean of all points that were nearest to it in their batch, as in the `MiniBatchKMeans` of
    scikit-learn. In the result, `n_iter` is the number of batches so far.

    Args:
        state: the previous state; None for the first batch, from which `init` takes the initial centers.
        x: points (N, D), or (..., N, D) for a batch of problems: a tensor or an array, also a memory map. On ranks, the
            rank's own points, possibly none.
        weights: weights (..., N) of the points.
        group: a process group whose ranks add their points to one batch.
        options: all other options of `kmeans`. Options of Lloyd's loop have no effect.

    Raises:
        TypeError, ValueError: for input that `kmeans` does not accept, for a stream, for a first batch with fewer
            points of weight above 0 than centers that are not fixed, and for points whose shape or device does not fit
            the centers.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [8.0], [9.0]])
        >>> options = vars(KMeansOptions(n_clusters=2))
        >>> state, _ = partial_fit(None, x, None, **options)
        >>> state, result = partial_fit(state, x + 2, None, **options)
        >>> result.centers.sort(dim=0).values.tolist(), result.inertia.item()
        ([[1.5], [9.5]], 5.0)
    """

    def values_of_state(given: KMeansInput) -> dict[str, Any]:
        _check_input(given, state)
        return dict.fromkeys(field.name for field in fields(MiniBatchState)) if state is None else vars(state)

    clustering = open_clustering(
        x, weights, group, lambda: read_options(group=group, **options), values_of_state, mapped=True
    )
    before = _before_first_batch(clustering) if state is None else _of_problems(state, clustering)
    if not before.n_steps:
        before = replace(before, seed=torch.tensor(clustering.seeds(1)[0], device=before.seed.device))
    after = _step(clustering, before)
    return _in_shape_of_input(after, clustering), clustering.result(_fit_of_batch(clustering.points, after))


def reassigned(points: Points, state: MiniBatchState, due: Tensor, n_fixed: int = 0) -> MiniBatchState:
    """The state after centers of low count moved to distinct points sampled by weight, in the runs of mask `due` (B,).

    A count is low if it is below `REASSIGNMENT_RATIO` times the largest count. At most half as many centers move as
    there are points with weight; the centers of the lowest counts move first. A moved center gets the lowest count of
    the centers that stay, so that it does not move again at once. The first `n_fixed` centers never move.
    """
    means, centers, counts = state.running_means[:, n_fixed:], state.centers[:, n_fixed:], state.running_counts
    fixed_counts, counts = counts[:, :n_fixed], counts[:, n_fixed:]
    low = due[:, None] & (counts < REASSIGNMENT_RATIO * counts.amax(dim=1, keepdim=True))
    order = counts.argsort(dim=1, stable=True).argsort(dim=1)
    low &= order < (points.stats.n_present.to(order.device) // 2)[:, None]
    if not low.any():
        return state
    # Each step has a new generator, so that a saved state needs no generator state. A point is sampled for every
    # center, also for centers that stay, so that the points of a run do not depend on the other runs.
    generator = seeded(int(state.seed) + int(state.n_steps))
    sampled = random(points, counts.shape[1], generator, fixed=state.centers)
    nth = (low.cumsum(dim=1) - 1).clamp(min=0)
    sampled = sampled.gather(1, nth[..., None].expand_as(sampled))
    moved = low[..., None]
    counts = torch.where(low, counts.masked_fill(low, torch.inf).amin(dim=1, keepdim=True), counts)
    return replace(
        state,
        centers=torch.cat([state.centers[:, :n_fixed], torch.where(moved, sampled, centers)], dim=1),
        running_means=torch.cat([state.running_means[:, :n_fixed], torch.where(moved, sampled.double(), means)], dim=1),
        running_counts=torch.cat([fixed_counts, counts], dim=1),
    )


def _check_input(given: KMeansInput, state: MiniBatchState | None) -> None:
    """TypeError or ValueError unless this is a batch of points that fit the centers of the state."""
    if given.is_stream:
        raise TypeError("partial_fit takes one batch, a tensor or an array, got a stream: call it once for each batch")
    if state is None or given.spec is None:
        return
    *batch, _, width = state.centers.shape
    if (*given.batch, given.spec.width) != (*batch, width) or given.spec.device != state.centers.device:
        expected = f"({''.join(f'{n}, ' for n in batch)}N, {width}) on {state.centers.device}, like the centers"
        received = f"({''.join(f'{n}, ' for n in given.batch)}N, {given.spec.width}) on {given.spec.device}"
        raise ValueError(f"x must have shape {expected}, got {received}")


def _before_first_batch(clustering: Clustering) -> MiniBatchState:
    """The state of P problems at their initial centers, the centers of the lowest inertia of `n_init` seedings."""
    clustering.check_n_clusters()
    starts, n_init = clustering.first_centers(), clustering.options.n_init
    if n_init > 1:
        runs = clustering.points.select(torch.arange(len(clustering.points.problems), device="cpu").repeat(n_init))
        starts = starts[best_runs(measure_at(runs, starts).weighted_sqdist(), n_init)[0]]
    return MiniBatchState.of_centers(starts)


def _of_problems(state: MiniBatchState, clustering: Clustering) -> MiniBatchState:
    """The state with the batch dimensions as one dimension P, and with centers in the dtype of the new points."""
    *_, n_clusters, width = state.centers.shape
    if clustering.options.n_clusters != n_clusters:
        raise ValueError(f"n_clusters must stay {n_clusters} until the next fit, got {clustering.options.n_clusters}")
    saved, means = (rows.reshape(-1, n_clusters, width) for rows in (state.centers, state.running_means))
    points, project = clustering.points, clustering.metric.project
    # A center that was changed since the last batch, by the user or by a cast, replaces its running mean.
    same = (_centers_of(means, saved, project) == saved).all(dim=-1, keepdim=True)
    centers = saved.to(points.dtype)
    centers = torch.where(same, _centers_of(means, centers, project), centers)
    if clustering.fixed is not None:
        n_fixed = clustering.options.n_fixed
        centers = torch.cat([clustering.fixed, centers[:, n_fixed:]], dim=1)
        same[:, :n_fixed] = False
    centers = prepared(points, centers, clustering.metric, "centers")
    return replace(
        state,
        centers=centers,
        running_means=torch.where(same, means, centers.double()),
        running_counts=state.running_counts.reshape(-1, n_clusters),
        rows_since_reassignment=state.rows_since_reassignment.reshape(-1),
    )


def _step(clustering: Clustering, before: MiniBatchState) -> MiniBatchState:
    """The state of P problems after the batch."""
    points, options = clustering.points, clustering.options
    moments = measure_at(points, before.centers)
    counts = before.running_counts + moments.cluster_weights()
    means = moments.means()
    # This form of the weighted mean has no rounding error for centers of count 0, which may be far from the points.
    means += (before.running_means - means) * (before.running_counts / counts)[..., None]
    moves = (moments.totals > 0)[..., None]
    moves[:, : options.n_fixed] = False
    n_rows = before.rows_since_reassignment + points.stats.n_present.to(moments.totals.device)
    lacks_points = (before.running_counts[:, options.n_fixed :] == 0).any(dim=1)
    due = lacks_points | (n_rows >= _ROWS_PER_CENTER * options.n_clusters)
    state = replace(
        before,
        centers=torch.where(moves, _centers_of(means, before.centers, clustering.metric.project), before.centers),
        running_means=torch.where(moves, means, before.running_means),
        running_counts=counts,
        n_steps=before.n_steps + 1,
        rows_since_reassignment=n_rows.where(~due, 0),
    )
    return reassigned(points, state, due, options.n_fixed) if options.n_free else state


def _centers_of(means: Tensor, previous: Tensor, project: Projection | None) -> Tensor:
    """The centers (B, K, D) of running means, in the dtype of the previous centers, as new tensors."""
    return (means if project is None else project(means, previous)).to(previous.dtype, copy=True)


def _fit_of_batch(points: Points, state: MiniBatchState) -> Fit:
    """The moments of the batch at the new centers, as the fit of P problems."""
    n_problems, moments = len(state.centers), measure_at(points, state.centers)
    return Fit(
        centers=state.centers.clone(),  # because the user may change the centers of the state or the result in place
        moments=moments,
        inertia=moments.weighted_sqdist(),
        n_iter=state.n_steps.expand(n_problems),
        converged=torch.zeros(n_problems, dtype=torch.bool, device=state.centers.device),
    )


def _in_shape_of_input(state: MiniBatchState, clustering: Clustering) -> MiniBatchState:
    """The state with the batch dimensions of the input in place of the P problems."""
    batch = clustering.call.batch
    shaped = {
        name: getattr(state, name).reshape((*batch, *getattr(state, name).shape[1:]))
        for name in ("centers", "running_means", "running_counts", "rows_since_reassignment")
    }
    return replace(state, **shaped)
