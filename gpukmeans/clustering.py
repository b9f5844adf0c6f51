"""`kmeans`: centers of points in a tensor, or of each problem of a batch."""

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans.checkpoints import Checkpoint, State, of_the_same
from gpukmeans.engines.base import Engine
from gpukmeans.lloyd import Fit, Watch, lloyd, measured
from gpukmeans.metrics import Metric, check_metric
from gpukmeans.points.base import Points
from gpukmeans.points.communicator import Alone, Company, company_of, on_device
from gpukmeans.points.inputs import Request, Source, agreed, points_of, source_of
from gpukmeans.refinement import refined
from gpukmeans.seeding import SEEDINGS, Seeding, draw_seeds, seeded, spawn
from gpukmeans.validation import (
    check_centers,
    check_count,
    check_directions,
    check_fixed,
    check_init,
    check_n_clusters,
    check_reach,
    check_spread,
    finite_range,
    joined_range,
)

Callback = Callable[[int, Tensor, Tensor], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansResult:
    """Centers of K clusters, and what belongs to exactly these centers; of a batch, of each of its problems."""

    centers: Float[Tensor, "*batch k d"]
    labels: Int[Tensor, "*batch n"] | None
    """Index of the center nearest to each point; the lowest one of equally near ones. On ranks each has those of its
    own points. None of a stream: `assign(batch, result.centers)` has those of a batch."""
    totals: Float[Tensor, "*batch k"]
    """Weight of the points of each cluster, float64. 0 where fewer than K points differ or `max_iter` came first."""
    inertia: Float[Tensor, "*batch"]
    """Sum over the points of weight times squared distance (or 1 - cos) to the nearest center, float64."""
    n_iter: Int[Tensor, "*batch"]
    """Rounds of Lloyd's loop."""
    converged: Bool[Tensor, "*batch"]
    """Whether the loop ended by itself, before `max_iter` and before the callback ended it."""


@torch.no_grad()
def kmeans(
    x: Num[Tensor, "*batch n d"] | Iterable[Any],
    n_clusters: int,
    *,
    weights: Num[Tensor, "*batch n"] | None = None,
    init: str | Num[Tensor, "*centers k d"] | Seeding = "auto",
    fixed: Num[Tensor, "*fixed f d"] | None = None,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    metric: str | Metric = "euclidean",
    refine: int = 0,
    callback: Callback | None = None,
    engine: str | Engine = "auto",
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    checkpoint: Checkpoint | None = None,
) -> KMeansResult:
    """Centers that make the sum of weighted squared distances of points to their nearest center small.

    `x` holds N points of D coordinates, on any device, of any real dtype; float64, int32 and int64 are computed in
    float64, everything else in float32, which is also the dtype of the centers. `weights` are finite and not negative;
    a point of weight 0 gets a label and is otherwise absent, to the bit. One of less than 2**-61 of the largest weight
    times N has no say either. K is from 1 to the number of points of weight. In a cluster whose weight is less than
    about 2**-30 of all, the mean loses digits.

    `x` may also be a stream: anything that can be iterated again and again and gives batches (N, D), or pairs of these
    and their weights (N,), as tensors or arrays, such as a list or a `DataLoader`; or what has rows side by side, like
    a memory-mapped array or a `torch.utils.data.TensorDataset` (see `gpukmeans.Batches`, which also puts batches on a
    device). Each round reads it once, the next batch while one is computed, and no more than two are held. The bits are
    those of one tensor of its rows, whatever the sizes of the batches; there are no labels. It must give the same rows
    in the same order each time, which is an error where it shows, and leave a batch alone once it is given.

    With a `group` of `torch.distributed`, all of whose ranks must call this, each gives its own rows, a tensor or a
    stream, possibly none, and all get the same result, but for labels: to the bit that of one tensor of all rows in the
    order of the ranks, up to 4 coordinates, and with more wherever no two centers are equally near but for rounding. A
    round costs one sum over the ranks of K·(D + 1) + 2 int64 and one maximum, and while a cluster is empty a look for
    the worst-served point. Options must be the same on all, but for `engine` and `callback`; of generators, functions
    and checkpoints those of rank 0 count. What is wrong on one rank is the same error on all, with the number of the
    rank; a rank that ends or does not come within the timeout of the group is a RuntimeError of the others that says at
    which collective. (NCCL, unless told otherwise, ends the process in its place. It also wants the current device to
    be that of the points.)

    More dimensions before (N, D) are a batch of problems, whose results are those that each would have alone, to the
    bit. Problems of fewer points than others are filled up with rows of weight 0, of zeros say.

    `init` is "auto", a name of `SEEDINGS`, the first centers (K, D) or (..., K, D) themselves, or a function of
    (points, K, generator) that returns them, of a batch for each problem, given a `gpukmeans.points.Points`. "auto" is
    k-means++, and for a stream k-means||, as k-means++ would read it three times for each center; asked for by name, it
    does. Of `n_init` runs, each with draws of its own, the one of the lowest inertia is returned, the first of equals.
    A run ends when the centers stand still, when the inertia falls by no more than `tol` of itself, or after `max_iter`
    rounds; centers, labels, totals and inertia belong together however it ended.

    `fixed` are F <= K centers (F, D), or (..., F, D) for each problem, that stay where they are, as the dtype of the
    centers holds them: the first F of the result, with or without points. Points nearest to one of them are its own.
    The other K - F centers are clustered around these, and it is they that `init` is about; a function is also given
    `fixed=` (P, F, D), for P problems side by side. K - F is at most the number of points of weight.

    The lowest index wins a tie between centers. An empty cluster moves to the worst-served point: the one of the
    largest squared distance, then of the lowest row. If fewer than K points differ, as far as squared
    distances can tell, there are as many centers with points, the others have a total of 0, and a warning says so.

    `metric="cosine"` is spherical K-means (Dhillon & Modha 2001): of each point only its direction counts, centers are
    unit vectors, and the inertia is the sum of w·(1 - cos). It holds a copy of `x`.

    `refine=n` looks for a better optimum in n breaths before the loop (see `gpukmeans.refinement.refined`). With 8 of
    them the inertia was 0.4 % below the best of ten runs at K = 64 and 1.9 % below it at K = 256 (mean over the colors
    of eight photos), 1.0 % at K = 256 of 40,000 x 32 patches of photos, and no more than 0.04 % above it at K = 4 and
    16, for 1.5 to 2.8 times the time of one run, at K = 4 of colors 6.6 times; measured 2026-11-24 on two CPU cores.

    `callback` is called after each round with the number of rounds, the inertia and the farthest distance that a
    center moved, tensors of the shape of the result's; of several runs they are those of the best one so far. It ends
    the clustering by returning True.

    `checkpoint` keeps what the run is in the middle of, and goes on from there (see `gpukmeans.Checkpoint`).

    The same input and generator state give the same bits, for every block size and number of threads, because all sums
    are of integers (see `gpukmeans.moments.Grid`). `generator` is a CPU generator; without one, a new one seeded with 0
    is used, never the global one.

    The loop runs on the host, so `kmeans` is to be called outside of what `torch.compile` compiles.

    Raises TypeError or ValueError for input that is not as said here, with what was wanted and what came.
    """
    company = company_of(group)
    source: Source | None = None

    def look() -> Request:
        nonlocal source
        check_count("n_clusters", n_clusters)
        check_options(
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            metric=metric,
            refine=refine,
            callback=callback,
            generator=generator,
            checkpoint=checkpoint,
        )
        source = source_of(x, weights, engine, least=1 if group is None else 0)
        if source.form is not None:  # else others know it, and check for this rank
            like = source.form.like(source.batch)
            if fixed is not None:
                check_fixed(fixed, like, n_clusters)
            if isinstance(init, Tensor):
                check_init(init, like, n_clusters - (0 if fixed is None else fixed.shape[-2]))
        options = {
            "n_clusters": n_clusters,
            "init": init if isinstance(init, (str, Tensor)) else "a function",
            "fixed": fixed,
            "n_init": n_init,
            "max_iter": max_iter,
            "tol": float(tol),
            "metric": metric if isinstance(metric, str) else "a metric",
            "refine": refine,
            "checkpoint": None if checkpoint is None else checkpoint.every,
        }
        resumes = checkpoint is not None and checkpoint.state is not None
        return Request.of(source, options, listens=callback is not None, resumes=resumes)

    request = agreed(company.gather("the arguments", look))
    assert source is not None
    form, batch = request.form(source.form), request.batch
    if fixed is not None:
        fixed = fixed.detach() if fixed.shape[-2] else None
    n_fixed = 0 if fixed is None else fixed.shape[-2]
    if isinstance(init, str) and init == "auto":
        init = "k-means||" if request.streams else "k-means++"
    metric = check_metric(metric)

    points = points_of(source, form, metric, engine, company)
    check_n_clusters(n_clusters, points.survey.n_present, n_fixed)
    if fixed is not None:
        fixed = _prepared(points, fixed, metric, "fixed")
    parent = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    seeds = company.gather("the seeds", lambda: draw_seeds(parent, n_init))[0]
    known = _known(points, n_clusters, fixed, n_init, tol, metric)
    start: Tensor | State
    if request.resumes:
        start = on_device(company.gather("the checkpoint", lambda: _state(checkpoint, known, company))[0], form.device)
    else:
        run = functools.partial(_start, points, n_clusters, init, fixed, metric, refine, company)
        start = torch.cat([run(seeded(seed)) for seed in seeds])
    fits = lloyd(
        points.select(torch.arange(len(points.problems), device="cpu").repeat(n_init)),
        start,
        max_iter=max_iter,
        tol=tol,
        project=metric.project,
        watch=_watch(callback, n_init, batch, metric, company) if request.listens else None,
        n_fixed=n_fixed,
        keep=None if checkpoint is None else _keep(checkpoint, known, company),
        every=1 if checkpoint is None else checkpoint.every,
    )
    best, _ = _best(fits.inertia, n_init)
    fit = fits.select(best)
    _warn_of_empty_clusters(fit, n_fixed)
    labels = points.labels(fit.centers)
    return KMeansResult(
        centers=fit.centers.view(*batch, *fit.centers.shape[1:]),
        labels=None if labels is None else labels.view(*batch, labels.shape[1]),
        totals=fit.totals.view(*batch, n_clusters),
        inertia=(fit.inertia * metric.factor).view(batch),
        n_iter=fit.n_iter.view(batch),
        converged=fit.converged.view(batch),
    )


@torch.no_grad()
def inertia_at(x: Any, centers: Tensor, weights: Tensor | None, metric: str | Metric, engine: str | Engine) -> Tensor:
    """The inertia (...) of points (..., N, D), or of a stream of them, at centers (K, D) or (..., K, D), as `kmeans`
    would measure it."""
    source = source_of(x, weights, engine)
    form = Request.of(source, {}).form(source.form)
    check_centers(form.like(source.batch), centers)
    metric = check_metric(metric)
    points = points_of(source, form, metric, engine, Alone())
    prepared = _prepared(points, centers, metric, "centers")
    return (measured(points, prepared).weighted_sqdist() * metric.factor).view(source.batch)


def check_options(
    *,
    init: str | Tensor | Seeding,
    n_init: int,
    max_iter: int,
    tol: float,
    metric: str | Metric = "euclidean",
    refine: int = 0,
    callback: Callable[..., object] | None = None,
    generator: torch.Generator | None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """TypeError or ValueError for options of `kmeans` that are wrong whatever the points."""
    check_count("n_init", n_init)
    check_count("max_iter", max_iter)
    if not isinstance(tol, (int, float)):
        raise TypeError(f"tol must be a number, got {type(tol).__name__}")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}")
    if isinstance(init, str) and init not in ("auto", *SEEDINGS):
        names = ", ".join(["auto", *SEEDINGS])
        raise ValueError(f"init must be one of {names}, a tensor of centers or a function, got {init!r}")
    if not isinstance(init, str) and not isinstance(init, Tensor) and not callable(init):
        raise TypeError(f"init must be a name, a tensor of centers or a function, got {type(init).__name__}")
    if isinstance(init, Tensor) and n_init != 1 and not refine:
        raise ValueError(
            f"n_init must be 1 when init gives the first centers, as all runs would be equal, got {n_init}"
        )
    check_metric(metric)
    check_count("refine", refine, least=0)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, got {type(callback).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, so that every device sees equal draws, got {generator.device}")
    if checkpoint is None:
        return
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint must be a Checkpoint, got {type(checkpoint).__name__}")
    if not callable(checkpoint.save):
        raise TypeError(f"checkpoint.save must be a function, got {type(checkpoint.save).__name__}")
    check_count("checkpoint.every", checkpoint.every)


def _known(points: Points, n_clusters: int, fixed: Tensor | None, n_init: int, tol: float, metric: Metric) -> State:
    """What says whether a checkpoint is of these points and options, by what each is."""
    survey = points.survey
    numbers = {"n_clusters": n_clusters, "n_init": n_init, "tol": tol, "metric": metric.factor}
    return {
        "the range of x": torch.stack([survey.lowest, survey.highest]),
        "the number of points": survey.n_present,
        "the total weight": survey.total_weight,
        "the dtype computed in": torch.zeros(0, dtype=points.dtype),
        "fixed": torch.zeros(0, dtype=points.dtype) if fixed is None else fixed,
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()},
    }


def _state(checkpoint: Checkpoint | None, known: State, company: Company) -> State | None:
    """What rank 0 goes on from; None on the others. ValueError if it is of something else."""
    if company.rank or checkpoint is None or checkpoint.state is None:
        return None
    return of_the_same(checkpoint.state, known)


def _keep(checkpoint: Checkpoint, known: State, company: Company) -> Callable[[State], object]:
    def keep(state: State) -> None:
        def save() -> None:
            checkpoint.save({**known, **state})

        company.gather("the checkpoint", save)

    return keep


def _start(
    points: Points,
    n_clusters: int,
    init: str | Tensor | Seeding,
    fixed: Tensor | None,
    metric: Metric,
    refine: int,
    company: Company,
    generator: torch.Generator,
) -> Tensor:
    """Where the loop starts (P, K, D) in one run of each problem, the fixed centers (P, F, D) first."""
    n_fixed = 0 if fixed is None else fixed.shape[1]
    if fixed is not None and n_fixed == n_clusters:
        return fixed
    # Two, since how much a seeding draws may depend on other problems.
    first, later = spawn(generator, 2)
    if isinstance(init, Tensor):
        centers = _prepared(points, init.detach(), metric, "init")
    else:
        n_drawn = n_clusters - n_fixed
        if isinstance(init, str):
            drawn = _drawn(points, n_drawn, SEEDINGS[init], fixed, first)
        else:  # which may find something else on each rank
            drawn = company.gather("the first centers", lambda: _drawn(points, n_drawn, init, fixed, first))[0]
        centers = _prepared(points, drawn, metric, "first centers")
    if fixed is not None:
        centers = torch.cat([fixed, centers], dim=1)
    return refined(points, centers, refine, later, metric.project, n_fixed) if refine else centers


def _drawn(
    points: Points, n_clusters: int, seeding: Seeding, fixed: Tensor | None, generator: torch.Generator
) -> Tensor:
    """What a seeding returns, if these are centers (K, D) or (P, K, D)."""
    options = {} if fixed is None else {"fixed": fixed}
    centers = seeding(points, n_clusters, generator, **options)
    wanted = (n_clusters, points.width)
    shapes = (wanted, (len(points.problems), *wanted))
    if not isinstance(centers, Tensor) or centers.shape not in shapes:
        came = tuple(centers.shape) if isinstance(centers, Tensor) else type(centers).__name__
        raise ValueError(f"init must return a tensor of shape {wanted} or {shapes[1]}, got {came}")
    return centers


def _prepared(points: Points, centers: Tensor, metric: Metric, name: str) -> Tensor:
    """Centers (K, D) or (..., K, D) for each problem (P, K, D), as the metric sees them, if they suit the points."""
    centers = metric.prepare(centers.to(points.device, points.dtype), points.dtype)
    centers = centers.reshape(-1, *centers.shape[-2:])
    check_spread(joined_range(points.survey.values, finite_range(centers, name)), points.dtype, f"x and {name}")
    if metric.directions:
        check_directions(centers, name)
    # A copy, since what is returned may be what was given.
    centers = centers.expand(len(points.problems), -1, -1).clone()
    check_reach(points.survey.total_weight, points.farthest(centers))
    return centers


def _best(inertia: Tensor, n_init: int) -> tuple[Tensor, Tensor]:
    """The best of the runs (n_init, P) of each problem, the first of equals, and its inertia: (P,) each."""
    lowest = inertia.view(n_init, -1).min(dim=0)
    n_problems = len(lowest.indices)
    return lowest.indices * n_problems + torch.arange(n_problems, device=inertia.device), lowest.values


def _watch(callback: Callback | None, n_init: int, batch: tuple[int, ...], metric: Metric, company: Company) -> Watch:
    def watch(n_iter: int, inertia: Tensor, shifts: Tensor) -> bool:
        best, lowest = _best(inertia, n_init)

        def ask() -> bool:
            if callback is None:  # as only others have one
                return False
            return bool(callback(n_iter, (lowest * metric.factor).view(batch), shifts[best].view(batch)))

        return any(company.gather("the callback", ask))

    return watch


def _warn_of_empty_clusters(fit: Fit, n_fixed: int) -> None:
    totals = fit.totals[:, n_fixed:]
    n_empty = (totals == 0).sum(dim=1).where(fit.converged, 0)
    if n_empty.any():
        most, which = int(n_empty.max()), int(n_empty.argmax())
        n_clusters = totals.shape[1]
        which_points = "points that are at no fixed center" if n_fixed else "points"
        found = f"{n_clusters - most} distinct {which_points}, so {most} of {n_clusters} clusters stay empty"
        where = f"problem {which} of x" if len(n_empty) > 1 else "x"
        warnings.warn(f"{where} has only {found}", stacklevel=4)  # past kmeans and no_grad, to the caller
