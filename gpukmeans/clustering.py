"""`kmeans`: K-means of points in a tensor, in a stream, or on the ranks of a process group."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, SupportsFloat, SupportsIndex, TypeVar, Unpack, overload

import torch
from jaxtyping import Bool, Float, Int, Num, Shaped
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans.arrays import Array, as_tensor, to_tensor
from gpukmeans.checkpoints import Checkpoint, CheckpointState, check_same_problem
from gpukmeans.compilation import eager
from gpukmeans.engines import Engine, EngineName
from gpukmeans.lloyd import Fit, LoopCallback, lloyd, measure_at
from gpukmeans.metrics import Metric, MetricName, check_metric
from gpukmeans.options import Callback, KMeansKeywords, KMeansOptions, read_options
from gpukmeans.points import (
    Batches,
    CallOptions,
    Communicator,
    KMeansInput,
    Points,
    SingleProcess,
    check_equal_on_ranks,
    communicator_for,
    on_device,
    points_from_input,
    read_input,
    required_spec,
    run_on_all_ranks,
)
from gpukmeans.refinement import refined
from gpukmeans.seeding import SEEDINGS, InitName, Seeding, automatic, draw_seeds, kmeans_parallel, seeded, spawn
from gpukmeans.summaries import summary_of_fields
from gpukmeans.tiling import blocks, tile_size
from gpukmeans.validation import (
    Range,
    check_centers,
    check_magnitude,
    check_n_clusters,
    check_nonzero_rows,
    check_range,
    finite_range,
    squared_diagonal,
    union_range,
)

# Squared distances of points to their nearest centers, of all runs that are seeded side by side on a CPU.
_MAX_DISTANCES = 1 << 20

Labels = TypeVar("Labels", bound=Int[Tensor, "*batch n"] | None, covariant=True)
"""The type of `KMeansResult.labels`: Tensor for points in a tensor, None for a stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansResult(Generic[Labels]):
    """K centers, and the labels, cluster weights and inertia at these centers, with the input's batch dimensions."""

    centers: Float[Tensor, "*batch k d"]
    """The centers, in the dtype of the computation; unit vectors for the cosine metric."""
    labels: Labels
    """The index of the nearest center for each point, int64, the lowest on ties. On ranks, the labels of the rank's own
    points. None for a stream: `assign(batch, result.centers)` gives the labels of a batch."""
    cluster_weights: Float[Tensor, "*batch k"]
    """The weight of each cluster, float64. It can be 0 if fewer than K points are distinct or the run ended early."""
    inertia: Float[Tensor, "*batch"]
    """The sum over the points of weight times squared distance (or 1 - cos) to the nearest center, float64."""
    n_iter: Int[Tensor, "*batch"]
    """The number of iterations of Lloyd's loop."""
    converged: Bool[Tensor, "*batch"]
    """Whether the run converged: neither `max_iter` nor the callback ended it."""

    def __repr__(self) -> str:
        return summary_of_fields("KMeansResult", vars(self))


# The first overload is for tensors, the second for streams. The type of another object, such as a NumPy memory map,
# does not show whether the object is an array or a stream, so the third overload allows labels and None.
@overload
def kmeans(x: Tensor, n_clusters: SupportsIndex, **options: Unpack[KMeansKeywords]) -> KMeansResult[Tensor]: ...
@overload
def kmeans(
    x: Batches | list[Any], n_clusters: SupportsIndex, **options: Unpack[KMeansKeywords]
) -> KMeansResult[None]: ...
@overload
def kmeans(
    x: Array | Iterable[Any], n_clusters: SupportsIndex, **options: Unpack[KMeansKeywords]
) -> KMeansResult[Tensor | None]: ...
@eager
def kmeans(
    x: Num[Tensor, "*batch n d"] | Array | Iterable[Any],
    n_clusters: SupportsIndex,
    *,
    weights: Shaped[Tensor, "*batch n"] | Array | None = None,
    init: InitName | Num[Tensor, "*centers k d"] | Array | Seeding = "auto",
    fixed: Num[Tensor, "*fixed f d"] | Array | None = None,
    n_init: SupportsIndex = 1,
    max_iter: SupportsIndex = 100,
    tol: SupportsFloat = 1e-4,
    metric: MetricName | Metric = "euclidean",
    refine: SupportsIndex = 0,
    callback: Callback | None = None,
    engine: EngineName | Engine = "auto",
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    checkpoint: Checkpoint | None = None,
) -> KMeansResult[Tensor | None]:
    """K centers that minimize the sum of weight times squared distance to the nearest center (Lloyd 1982).

    Equal input and generator state give equal bits. The lowest index wins a tie between centers. Centers of empty
    clusters move to the points with the largest distances to the nearest center. A warning reports clusters that are
    still empty at the end. docs/guarantees.md has the rules for dtypes, ties, streams, ranks and checkpoints.

    Args:
        x: points (N, D), or (..., N, D) for a batch of problems, of any real dtype and on any device: a tensor, an
            array of NumPy or of a library with DLPack, or a DataFrame. `x` may also be a stream (see `Batches`): an
            iterable of batches (N, D) that can be iterated again, or an array on disk.
        n_clusters: the number of centers K, at least 1. K minus the number of fixed centers is at most the number of
            points of weight above 0.
        weights: weights (..., N) of the points, finite and at least 0, or a mask. The batches of a stream contain
            their own weights: `Batches(source, weighted=True)`.
        init: "auto" (k-means++, but k-means|| for streams, and from 16,384 points of more than 8 coordinates and 256
            clusters on), a name of `SEEDINGS`, initial centers (K, D) or (..., K, D), or a function of (`Points`, K,
            generator) that returns centers (see `Seeding`).
        fixed: F centers (F, D) or (..., F, D) that do not move. They come first in the result, and `init` gives the
            other K - F.
        n_init: the number of runs, each with its own initial centers. The result is the run of the lowest inertia, the
            first on ties.
        max_iter: the maximum number of iterations of a run.
        tol: a run ends when the inertia decreases by at most this fraction, or when no center moves.
        metric: "euclidean", "cosine" for spherical K-means (Dhillon & Modha 2001), or a `Metric`.
        refine: the number of cycles that refine the initial centers; docs/benchmarks.md has gains and costs.
        callback: a function that is called after each iteration (see `Callback`). A return value of True ends the
            clustering.
        engine: "auto" for the fastest, a name of `ENGINES`, or an engine. All give the same result.
        generator: a generator on the CPU; by default a new one with seed 0.
        group: a `torch.distributed` process group. Each rank passes its own rows; all ranks get the same centers.
        checkpoint: how to save the state of the loop, and the state to resume from.

    Returns:
        The centers, with the labels, cluster weights and inertia at these centers. The result of a problem does not
        depend on the other problems of its batch.

    Raises:
        TypeError, ValueError: for any other input, with the expected and the received value.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0], [9.0, 9.5]])
        >>> kmeans(x, 2).labels
        tensor([0, 0, 1, 1])
    """
    result, warning_of_empty_clusters = cluster(
        x,
        weights,
        group,
        lambda: read_options(
            n_clusters=n_clusters,
            init=init,
            fixed=fixed,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            metric=metric,
            refine=refine,
            callback=callback,
            engine=engine,
            generator=generator,
            group=group,
            checkpoint=checkpoint,
        ),
    )
    if warning := warning_of_empty_clusters():
        warnings.warn(warning, stacklevel=3)  # 1 is this function, 2 the wrapper of `eager`, 3 the caller
    return result


@torch.no_grad()
def cluster(
    x: Any, weights: Any, group: ProcessGroup | None, make_options: Callable[[], KMeansOptions]
) -> tuple[KMeansResult, Callable[[], str | None]]:
    """The result of `kmeans`, and a function that returns the text of the warning if clusters are empty.

    The function synchronizes with a GPU.
    """
    clustering = open_clustering(x, weights, group, make_options)
    clustering.check_n_clusters()
    start = clustering.resumed_state() if clustering.call.resumes else clustering.first_centers()
    fits = clustering.lloyd(start)
    best = clustering.best_run(fits)
    return clustering.result(best), lambda: clustering.warning_of_empty_clusters(best)


@torch.no_grad()
def inertia_at(x: Any, centers: Any, weights: Any, metric: str | Metric, engine: str | Engine) -> Tensor:
    """The inertia, of shape (...), of points (..., N, D) or of a stream at centers (K, D) or (..., K, D)."""
    given, centers = read_input(x, weights, engine), to_tensor(centers, "centers")
    spec = required_spec(given.spec)
    check_centers(spec.empty_points(given.batch), centers)
    metric = check_metric(metric)
    points = points_from_input(given, spec, metric, engine, SingleProcess())
    centers = prepared(points, centers, metric, "centers")
    return (measure_at(points, centers).weighted_sqdist() * metric.factor).view(given.batch)


@dataclass(frozen=True, eq=False)
class Clustering:
    """One call of `kmeans` or `partial_fit` for P problems: its options, points and communicator.

    `fixed` (P, F, D) are the fixed centers after `Metric.prepare`.
    """

    options: KMeansOptions
    call: CallOptions
    points: Points
    fixed: Tensor | None
    metric: Metric
    communicator: Communicator

    @cached_property
    def identity(self) -> CheckpointState:
        """Tensors, by name, that identify the points and options of a checkpoint."""
        return self.options.identity(self.points, self.fixed)

    def check_n_clusters(self) -> None:
        """ValueError if a problem has fewer points with weight than centers that are not fixed."""
        check_n_clusters(self.options.n_clusters, self.points.stats.n_present, self.options.n_fixed)

    def resumed_state(self) -> CheckpointState:
        """The state to resume from, which rank 0 provides. ValueError if the state belongs to another problem."""

        def checked() -> CheckpointState | None:
            checkpoint = self.options.checkpoint
            if self.communicator.rank or checkpoint is None or checkpoint.state is None:
                return None
            return check_same_problem(checkpoint.state, self.identity)

        state = self.communicator.all_gather("the checkpoint", checked)[0]
        assert state is not None  # `call.resumes` is true only if rank 0 has a state
        self.seeds(self.options.n_init)  # advances the generator as far as a new run does
        return on_device(state, self.points.device)

    def first_centers(self) -> Tensor:
        """Initial centers (n_init · P, K, D) of all runs. In each run the fixed centers come first."""
        generators, points = [seeded(seed) for seed in self.seeds(self.options.n_init)], self.points
        n_distances = len(points.problems) * int(points.stats.n_present.max())
        groups = blocks(len(generators), tile_size(points.device, _MAX_DISTANCES) // n_distances)
        return torch.cat([self._start(generators[group]) for group in groups])

    def lloyd(self, start: Tensor | CheckpointState) -> Fit:
        """The fits of all runs after Lloyd's loop, from initial centers or from a saved state."""
        options, checkpoint = self.options, self.options.checkpoint
        return lloyd(
            self._points_of_runs(options.n_init),
            start,
            max_iter=options.max_iter,
            tol=options.tol,
            project=self.metric.project,
            callback=self._loop_callback() if self.call.has_callback else None,
            n_fixed=options.n_fixed,
            save=None if checkpoint is None else self._save_state(checkpoint),
            every=1 if checkpoint is None else checkpoint.every,
        )

    def best_run(self, fits: Fit) -> Fit:
        """The fit of the lowest inertia for each problem, the first on ties."""
        return fits if self.options.n_init == 1 else fits.select(best_runs(fits.inertia, self.options.n_init)[0])

    def result(self, fit: Fit) -> KMeansResult[Tensor | None]:
        """The result for a fit of P runs, with labels, in the batch dimensions of the input."""
        batch, labels = self.call.batch, self.points.labels(fit.centers)
        return KMeansResult(
            centers=fit.centers.view(*batch, *fit.centers.shape[1:]),
            labels=None if labels is None else labels.view(*batch, labels.shape[1]),
            cluster_weights=fit.cluster_weights.view(*batch, self.options.n_clusters),
            inertia=(fit.inertia * self.metric.factor).view(batch),
            n_iter=fit.n_iter.view(batch),
            converged=fit.converged.view(batch),
        )

    def warning_of_empty_clusters(self, fit: Fit) -> str | None:
        """The warning about the problem with the most empty clusters, or None. Fixed centers do not count.

        In the message, a point with weight is a point of weight above 0. Points are distinct "up to rounding" if the
        run converged although some points are not exactly at their centers.
        """
        n_clusters, weights = self.options.n_free, fit.cluster_weights[:, self.options.n_fixed :]
        n_empty = (weights == 0).sum(dim=1)
        if not n_empty.any():
            return None
        most, which = int(n_empty.max()), int(n_empty.argmax())
        where = f"problem {which} of x" if len(n_empty) > 1 else "x"
        empty = f"{most} of {n_clusters} clusters"
        at_centers = bool(fit.moments.worst_sqdist[which] == 0)
        if not (at_centers or fit.converged[which]):
            n_iter = int(fit.n_iter[which])
            return f"{empty} of {where} are empty after {n_iter} iterations: more iterations may fill them"
        kind = "directions" if self.metric.normalizes else "points"
        weighted = "" if self.points.source.weights_dtype is None else " with weight"
        elsewhere = " that are at no fixed center" if self.options.n_fixed else ""
        rounding = "" if at_centers else ", up to rounding"
        counts = f"{n_clusters - most} distinct {kind}{weighted}{elsewhere}{rounding}"
        return f"{where} has only {counts}, so {empty} stay empty"

    def seeds(self, n: int) -> list[int]:
        """n seeds, from the generator of rank 0."""
        generator = self.options.generator
        parent = seeded(0) if generator is None else generator
        return self.communicator.all_gather("the seeds", lambda: draw_seeds(parent, n))[0]

    def _points_of_runs(self, n: int) -> Points:
        """The points for n runs of each of P problems: first a run of each problem, then another run of each."""
        return self.points.select(torch.arange(len(self.points.problems), device="cpu").repeat(n))

    def _start(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Initial centers (R · P, K, D) of R runs of each of P problems, the fixed ones first."""
        options, n = self.options, len(generators)
        fixed = None if self.fixed is None else self.fixed.repeat(n, 1, 1)
        if fixed is not None and options.n_free == 0:
            return fixed
        # Refinement has its own generators, because the number of random numbers that a seeding uses may depend on the
        # other runs.
        first, later = zip(*(spawn(generator, 2) for generator in generators), strict=True)
        if isinstance(options.init, Tensor):
            centers = prepared(self.points, options.init.detach(), self.metric, "init").repeat(n, 1, 1)
        elif isinstance(options.init, str):
            centers = self._seeded_centers(options.init, first, fixed)
        else:
            centers = torch.cat([self._centers_of_function(options.init, generator) for generator in first])
        if fixed is not None:
            centers = torch.cat([fixed, centers], dim=1)
        if not options.refine:
            return centers
        points = self._points_of_runs(n)
        return refined(points, centers, options.refine, later, self.metric.project, options.n_fixed)

    def _seeded_centers(self, init: str, generators: Sequence[torch.Generator], fixed: Tensor | None) -> Tensor:
        """The centers (R · P, K - F, D) of a seeding of the library for R runs of each problem."""
        default = kmeans_parallel if self.call.is_stream else automatic
        seeding = default if init == "auto" else SEEDINGS[init]
        centers = seeding(self._points_of_runs(len(generators)), self.options.n_free, generators, fixed=fixed)
        if not self.metric.normalizes:
            return centers  # these are points, whose values have been checked
        parts = centers.split(len(self.points.problems))
        return torch.cat([prepared(self.points, part, self.metric, "initial centers") for part in parts])

    def _centers_of_function(self, seeding: Seeding, generator: torch.Generator) -> Tensor:
        """The centers (P, K - F, D) of a user's function, equal on all ranks.

        ValueError unless they are (K - F, D) or (P, K - F, D).
        """
        points, fixed = self.points, {} if self.fixed is None else {"fixed": self.fixed}
        expected = (self.options.n_free, points.width)
        shapes = (expected, (len(points.problems), *expected))

        def call_user() -> Tensor:
            centers = seeding(points, self.options.n_free, generator, **fixed)
            centers = as_tensor(centers, "initial centers", mapped=True)
            if not isinstance(centers, Tensor) or centers.shape not in shapes:
                received = tuple(centers.shape) if isinstance(centers, Tensor) else type(centers).__name__
                raise ValueError(f"init must return a tensor of shape {expected} or {shapes[1]}, got {received}")
            return centers

        # The function may return different centers on each rank; all ranks use those of rank 0.
        centers = self.communicator.all_gather("the initial centers", call_user)[0]
        return prepared(points, centers, self.metric, "initial centers")

    def _loop_callback(self) -> LoopCallback:
        """The callback of the loop, which calls the user's callback, if any, with the best run of each problem."""
        user, batch = self.options.callback, self.call.batch

        def callback(n_iter: int, inertia: Tensor, shifts: Tensor) -> bool:
            best, lowest = best_runs(inertia, self.options.n_init)

            def call_user() -> bool:
                if user is None:
                    return False
                return bool(user(n_iter, (lowest * self.metric.factor).view(batch), shifts[best].view(batch)))

            return any(self.communicator.all_gather("the callback", call_user))

        return callback

    def _save_state(self, checkpoint: Checkpoint) -> Callable[[CheckpointState], object]:
        def save(state: CheckpointState) -> None:
            run_on_all_ranks(self.communicator, "the checkpoint", lambda: checkpoint.save({**self.identity, **state}))

        return save


def open_clustering(
    x: Any,
    weights: Any,
    group: ProcessGroup | None,
    read_options: Callable[[], KMeansOptions],
    read_state: Callable[[KMeansInput], Mapping[str, Any]] = lambda given: {},
    *,
    mapped: bool = False,
) -> Clustering:
    """The `Clustering` of one call. TypeError or ValueError, the same on all ranks, for wrong options or points.

    `read_options` and `read_state` are called inside the first collective, so that an error on one rank is raised on
    all ranks. `read_state` returns further values, by name, that must be equal on all ranks. A memory map is a stream
    unless `mapped` is true.
    """
    communicator = communicator_for(group)
    arguments: list[tuple[KMeansOptions, KMeansInput]] = []  # set inside the collective

    def read_arguments() -> CallOptions:
        options = read_options()
        given = read_input(as_tensor(x, "x", mapped=mapped), weights, options.engine, least=1 if group is None else 0)
        if given.spec is not None:  # a rank without batches has no shape to check; the other ranks check theirs
            options.check_shapes(given.spec.empty_points(given.batch))
        arguments.append((options, given))
        return _call_options(options, given, read_state(given))

    call = check_equal_on_ranks(communicator.all_gather("the arguments", read_arguments))
    options, given = arguments[0]
    metric = check_metric(options.metric)
    points = points_from_input(given, call.spec_on(given.spec), metric, options.engine, communicator)
    fixed = options.fixed if options.n_fixed else None
    if fixed is not None:
        fixed = prepared(points, fixed.detach(), metric, "fixed")
    return Clustering(options, call, points, fixed, metric, communicator)


def _call_options(options: KMeansOptions, given: KMeansInput, state: Mapping[str, Any]) -> CallOptions:
    """The properties of the call that all ranks compare."""
    return CallOptions(
        spec=given.spec,
        batch=given.batch,
        is_stream=given.is_stream,
        has_callback=options.callback is not None,
        resumes=options.checkpoint is not None and options.checkpoint.state is not None,
        options={**options.comparable(), **state},
    )


def prepared(points: Points, centers: Tensor, metric: Metric, name: str) -> Tensor:
    """Centers (P, K, D) prepared for the metric, from centers (K, D) or (..., K, D).

    ValueError for values that are not finite or too far from the points, and for zero rows if the metric normalizes.
    """
    centers = metric.prepare(centers.to(points.device, points.dtype), points.dtype)
    centers = centers.reshape(-1, *centers.shape[-2:])
    within = finite_range(centers, name)
    check_range(union_range(points.stats.values, within), points.dtype, f"x and {name}")
    if metric.normalizes:
        check_nonzero_rows(centers, name)
    # A copy, because the result must not share memory with the input.
    centers = centers.expand(len(points.problems), -1, -1).clone()
    box = union_range(within, Range(points.stats.lowest, points.stats.highest))
    check_magnitude(points.stats.total_weight, squared_diagonal(*box))
    return centers


def best_runs(inertia: Tensor, n_init: int) -> tuple[Tensor, Tensor]:
    """The number of the best run (P,) of each problem, the first on ties, and its inertia (P,)."""
    lowest = inertia.view(n_init, -1).min(dim=0)
    n_problems = len(lowest.indices)
    return lowest.indices * n_problems + torch.arange(n_problems, device=inertia.device), lowest.values
