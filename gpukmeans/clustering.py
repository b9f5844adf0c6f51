"""`kmeans`: the centers of points in a tensor, in a stream, or on the ranks of a process group."""

import warnings
from collections.abc import Callable, Iterable, Mapping
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
from gpukmeans.seeding import SEEDINGS, InitName, Seeding, draw_seeds, seeded, spawn
from gpukmeans.summaries import summary_of_fields
from gpukmeans.validation import (
    check_centers,
    check_magnitude,
    check_n_clusters,
    check_nonzero_rows,
    check_range,
    finite_range,
    union_range,
)

Labels = TypeVar("Labels", bound=Int[Tensor, "*batch n"] | None, covariant=True)
"""The type of `KMeansResult.labels`: Tensor for points in a tensor, None for a stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansResult(Generic[Labels]):
    """K centers, with the labels, weights and inertia measured at exactly these; for a batch, of each problem."""

    centers: Float[Tensor, "*batch k d"]
    labels: Labels
    """The index of the nearest center for each point, the lowest on ties. On ranks, of the rank's own points. None for
    a stream: `assign(batch, result.centers)` gives the labels of a batch."""
    cluster_weights: Float[Tensor, "*batch k"]
    """The weight of each cluster, float64. It can be 0 if fewer than K points differ or the run was ended early."""
    inertia: Float[Tensor, "*batch"]
    """The sum over the points of weight times squared distance (or 1 - cos) to the nearest center, float64."""
    n_iter: Int[Tensor, "*batch"]
    """The number of iterations of Lloyd's loop."""
    converged: Bool[Tensor, "*batch"]
    """Whether the loop ended by itself, before `max_iter` and without the callback."""

    def __repr__(self) -> str:
        return summary_of_fields("KMeansResult", vars(self))


# The type of other objects, such as memory maps, does not determine whether they are a stream.
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

    Equal input and generator state give equal bits, for every block size, number of threads, batch size and number of
    ranks: all sums are of integers (`gpukmeans.fixed_point`). float64, int32 and int64 are computed in float64, all
    other dtypes in float32, which is the dtype of the centers. The lowest index wins a tie between centers. In each
    iteration all empty clusters move to the worst-served points: those of the largest squared distance, then of the
    lowest row. If clusters are empty at the end, there is a warning. docs/guarantees.md describes streams, ranks,
    checkpoints and limits in full.

    Args:
        x: N points of D coordinates, (N, D), of any real dtype, on any device: a tensor, an array of NumPy or one that
            supports DLPack, or a DataFrame. More dimensions in front are a batch of problems, each with the result it
            has alone. A stream is an iterable of batches (N, D) that can be iterated again, or an array on disk (see
            `Batches`); each iteration reads it once. Of a batch that is a pair, such as points and classes, the first
            entry is used.
        n_clusters: K, from 1 to the number of points with weight.
        weights: of the points, finite and at least 0, or a mask. A point of weight 0 has a label, and no other effect.
            Those of a stream are in its batches: `Batches(source, weighted=True)`.
        init: "auto" (k-means++, for streams k-means||), a name of `SEEDINGS`, initial centers (K, D) or (..., K, D), or
            a function of (`Points`, K, generator) that returns them.
        fixed: F centers (F, D) or (..., F, D) that do not move, the first of the result. `init` gives the other K - F;
            a function receives the fixed ones as `fixed=` (P, F, D), for P problems.
        n_init: runs with different initial centers. The run of the lowest inertia is kept, the first on ties.
        max_iter: the maximum number of iterations of a run.
        tol: a run ends when the inertia falls by at most this fraction of itself, or the centers do not move.
        metric: "euclidean", or "cosine" for spherical K-means (Dhillon & Modha 2001): unit vectors as centers, and an
            inertia of w·(1 - cos).
        refine: cycles of a search for a better optimum before the loop; see docs/benchmarks.md for gains and costs.
        callback: called after each iteration with its number, the inertia and the largest distance that a center moved,
            of the best run so far, in the shape of the result. True ends the clustering.
        engine: "auto" for the fastest, a name of `ENGINES`, or an engine. All give the same result.
        generator: on the CPU; by default a new one with seed 0. The global generator is never used.
        group: a `torch.distributed` group. Each of its ranks gives its own rows, and all get the same centers. Options
            must be equal, except for engine and callback; an error on one rank is raised on all.
        checkpoint: how to save the state of the loop, and the state to resume from.

    Raises:
        TypeError, ValueError: for any other input, with the expected and the received value.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0], [9.0, 9.5]])
        >>> kmeans(x, 2).labels
        tensor([0, 0, 1, 1])
    """
    result, warning = cluster(
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
    if warning:
        warnings.warn(warning, stacklevel=3)  # past eager, to the caller
    return result


@torch.no_grad()
def cluster(
    x: Any, weights: Any, group: ProcessGroup | None, make_options: Callable[[], KMeansOptions]
) -> tuple[KMeansResult, str | None]:
    """The result of `kmeans`, and the text of the warning if clusters are empty."""
    clustering = open_clustering(x, weights, group, make_options)
    clustering.check_n_clusters()
    start = clustering.resumed_state() if clustering.call.resumes else clustering.first_centers()
    fits = clustering.lloyd(start)
    best = clustering.best_run(fits)
    return clustering.result(best), clustering.warning_of_empty_clusters(best)


@torch.no_grad()
def inertia_at(x: Any, centers: Any, weights: Any, metric: str | Metric, engine: str | Engine) -> Tensor:
    """The inertia (...) of points (..., N, D), or of a stream, at centers (K, D) or (..., K, D)."""
    given, centers = read_input(x, weights, engine), to_tensor(centers, "centers")
    spec = required_spec(given.spec)
    check_centers(spec.empty_points(given.batch), centers)
    metric = check_metric(metric)
    points = points_from_input(given, spec, metric, engine, SingleProcess())
    centers = prepared(points, centers, metric, "centers")
    return (measure_at(points, centers).weighted_sqdist() * metric.factor).view(given.batch)


@dataclass(frozen=True, eq=False)
class Clustering:
    """One call of `kmeans` or `partial_fit`: its options, its points, and the other ranks. `fixed` (P, F, D) are
    prepared."""

    options: KMeansOptions
    call: CallOptions
    points: Points
    fixed: Tensor | None
    metric: Metric
    communicator: Communicator

    @cached_property
    def identity(self) -> CheckpointState:
        return self.options.identity(self.points, self.fixed)

    def check_n_clusters(self) -> None:
        """ValueError if there are fewer points than centers to find."""
        check_n_clusters(self.options.n_clusters, self.points.stats.n_present, self.options.n_fixed)

    def resumed_state(self) -> CheckpointState:
        """The state to resume from, that of rank 0. ValueError if it is of another problem."""

        def checked() -> CheckpointState | None:
            checkpoint = self.options.checkpoint
            if self.communicator.rank or checkpoint is None or checkpoint.state is None:
                return None
            return check_same_problem(checkpoint.state, self.identity)

        state = self.communicator.all_gather("the checkpoint", checked)[0]
        assert state is not None  # the call resumes if rank 0 has a state
        self.seeds(self.options.n_init)  # the generator advances as in a new run
        return on_device(state, self.points.device)

    def first_centers(self) -> Tensor:
        """Initial centers of all runs (n_init · P, K, D), the fixed ones first."""
        return torch.cat([self._start(seeded(seed)) for seed in self.seeds(self.options.n_init)])

    def lloyd(self, start: Tensor | CheckpointState) -> Fit:
        """The fits of all runs."""
        options, checkpoint = self.options, self.options.checkpoint
        return lloyd(
            self.points.select(torch.arange(len(self.points.problems), device="cpu").repeat(options.n_init)),
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
        return fits.select(best_runs(fits.inertia, self.options.n_init)[0])

    def result(self, fit: Fit) -> KMeansResult[Tensor | None]:
        """The fit, with labels, in the shape of the input."""
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
        """The text for the problem with the most empty clusters, except fixed ones; None if there are none."""
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

    def _start(self, generator: torch.Generator) -> Tensor:
        """Initial centers (P, K, D) of one run of each problem, the fixed ones first."""
        options, points = self.options, self.points
        if self.fixed is not None and options.n_free == 0:
            return self.fixed
        # Two generators, because the number of draws of a seeding may depend on other problems.
        first, later = spawn(generator, 2)
        if isinstance(options.init, Tensor):
            centers = prepared(points, options.init.detach(), self.metric, "init")
        else:
            centers = prepared(points, self._seeded_centers(options.init, first), self.metric, "initial centers")
        if self.fixed is not None:
            centers = torch.cat([self.fixed, centers], dim=1)
        if not options.refine:
            return centers
        return refined(points, centers, options.refine, later, self.metric.project, options.n_fixed)

    def _seeded_centers(self, init: str | Seeding, generator: torch.Generator) -> Tensor:
        """The centers (K - F, D) or (P, K - F, D) of a seeding."""
        if isinstance(init, str):
            name = ("k-means||" if self.call.is_stream else "k-means++") if init == "auto" else init
            return self._run_seeding(SEEDINGS[name], generator)
        # A user's function may return different centers on each rank.
        return self.communicator.all_gather("the initial centers", lambda: self._run_seeding(init, generator))[0]

    def _run_seeding(self, seeding: Seeding, generator: torch.Generator) -> Tensor:
        """The centers of a seeding. ValueError unless they are (K - F, D) or (P, K - F, D)."""
        points, fixed = self.points, {} if self.fixed is None else {"fixed": self.fixed}
        centers = as_tensor(seeding(points, self.options.n_free, generator, **fixed), "initial centers", mapped=True)
        expected = (self.options.n_free, points.width)
        shapes = (expected, (len(points.problems), *expected))
        if not isinstance(centers, Tensor) or centers.shape not in shapes:
            received = tuple(centers.shape) if isinstance(centers, Tensor) else type(centers).__name__
            raise ValueError(f"init must return a tensor of shape {expected} or {shapes[1]}, got {received}")
        return centers

    def _loop_callback(self) -> LoopCallback:
        """The callback of the loop. It calls the user's, if this rank has one, with the best run of each problem."""
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
    """The call with its points. TypeError or ValueError, the same on all ranks, if these cannot be clustered.

    Options are created inside the first collective, so that an error of one rank reaches all. So is the state from
    which a call continues: its values, by name, must be equal on all ranks. A memory map is a stream unless `mapped`.
    """
    communicator = communicator_for(group)
    arguments: list[tuple[KMeansOptions, KMeansInput]] = []  # kept here, so that one collective reads and compares

    def read_arguments() -> CallOptions:
        options = read_options()
        given = read_input(as_tensor(x, "x", mapped=mapped), weights, options.engine, least=1 if group is None else 0)
        if given.spec is not None:  # other ranks check this for a rank without batches
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
    """The properties that the ranks compare, for these options, this input and this state."""
    return CallOptions(
        spec=given.spec,
        batch=given.batch,
        is_stream=given.is_stream,
        has_callback=options.callback is not None,
        resumes=options.checkpoint is not None and options.checkpoint.state is not None,
        options={**options.comparable(), **state},
    )


def prepared(points: Points, centers: Tensor, metric: Metric, name: str) -> Tensor:
    """Centers (K, D) or (..., K, D) for each problem, prepared for the metric (P, K, D). ValueError for values too far
    from the points."""
    centers = metric.prepare(centers.to(points.device, points.dtype), points.dtype)
    centers = centers.reshape(-1, *centers.shape[-2:])
    check_range(union_range(points.stats.values, finite_range(centers, name)), points.dtype, f"x and {name}")
    if metric.normalizes:
        check_nonzero_rows(centers, name)
    # A copy, because the result must not share memory with the input.
    centers = centers.expand(len(points.problems), -1, -1).clone()
    check_magnitude(points.stats.total_weight, points.sqdist_bound(centers))
    return centers


def best_runs(inertia: Tensor, n_init: int) -> tuple[Tensor, Tensor]:
    """The number of the best run (P,) of each problem, the first on ties, and its inertia (P,)."""
    lowest = inertia.view(n_init, -1).min(dim=0)
    n_problems = len(lowest.indices)
    return lowest.indices * n_problems + torch.arange(n_problems, device=inertia.device), lowest.values
