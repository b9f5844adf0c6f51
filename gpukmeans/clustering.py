"""K-means of points in a tensor: `kmeans` finds centers, `assign` finds the nearest of given ones."""

import functools
import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from gpukmeans.engines import Assignment, Engine, choose
from gpukmeans.lloyd import Fit, lloyd
from gpukmeans.moments import from_grid, to_grid
from gpukmeans.points import TensorPoints, survey, weight_scale
from gpukmeans.seeding import SEEDINGS, Seeding

# Integers of more bits than float32 holds exactly are computed in float64, like float64 itself.
_COMPUTED_IN = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.uint8: torch.float32,
    torch.int8: torch.float32,
    torch.int16: torch.float32,
    torch.int32: torch.float64,
    torch.int64: torch.float64,
}


@dataclass(frozen=True, kw_only=True)
class KMeansResult:
    """Centers of K clusters, and what belongs to exactly these centers."""

    centers: Float[Tensor, "k d"]
    labels: Int[Tensor, " n"]
    """Index of the center nearest to each point; the lowest one of equally near ones."""
    totals: Float[Tensor, " k"]
    """Weight of the points of each cluster, float64. 0 where fewer than K points differ or `max_iter` came first."""
    inertia: Float[Tensor, ""]
    """Sum over the points of weight times squared distance to the nearest center, float64."""
    n_iter: Int[Tensor, ""]
    """Rounds of Lloyd's loop."""
    converged: Bool[Tensor, ""]
    """Whether the loop ended by itself before `max_iter`."""


@torch.no_grad()
def kmeans(
    x: Num[Tensor, "n d"],
    n_clusters: int,
    *,
    weights: Num[Tensor, " n"] | None = None,
    init: str | Num[Tensor, "k d"] | Seeding = "k-means++",
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    engine: str | Engine = "auto",
    generator: torch.Generator | None = None,
) -> KMeansResult:
    """Centers that make the sum of weighted squared distances of points to their nearest center small.

    `x` holds N points of D coordinates, on any device, of any real dtype; float64, int32 and int64 are computed in
    float64, everything else in float32, which is also the dtype of the centers. `weights` are finite and not negative;
    a point of weight 0, or of less than 2**-61 of the largest weight times N, gets a label but has no say, as if it
    were absent. K is from 1 to the number of points of positive weight. In a cluster whose weight is less than about
    2**-30 of all, the mean loses digits.

    `init` is a name of `SEEDINGS`, the first centers (K, D) themselves, or a function of (points, K, generator) that
    returns them. Of `n_init` runs, each with draws of its own, the one of the lowest inertia is returned, the first of
    equals. A run ends when the centers stand still, when the inertia falls by no more than `tol` of itself, or after
    `max_iter` rounds; centers, labels, totals and inertia belong together however it ended.

    The lowest index wins a tie between centers. An empty cluster moves to the worst-served point: the one of the
    largest squared distance, then of the lowest row. If fewer than K points differ, there are as many centers with
    points as points that differ, the others have a total of 0, and a warning says so.

    The same input and generator state give the same bits, for every block size and number of threads, because all sums
    are of integers (see `gpukmeans.moments.Grid`). `generator` is a CPU generator; without one, a new one seeded with 0
    is used, never the global one.

    Raises TypeError or ValueError for input that is not as said here, with what was wanted and what came.
    """
    _check_points(x)
    _check_range(x)
    _check_count("n_clusters", n_clusters)
    check_options(init=init, n_init=n_init, max_iter=max_iter, tol=tol, generator=generator)
    weights = _check_weights(weights, x)
    dtype = _COMPUTED_IN[x.dtype]
    seeding = _seeding(init, n_init, (n_clusters, x.shape[1]), x, dtype)
    chosen = choose(engine, x)

    points = _present(x, weights, chosen, dtype)
    if n_clusters > len(points.x):
        raise ValueError(
            f"n_clusters must be at most the number of points of weight, {len(points.x)}, got {n_clusters}"
        )
    fits = (_run(points, seeding, n_clusters, max_iter, tol, own) for own in _spawn(generator, n_init))
    best = min(fits, key=lambda fit: fit.moments.weighted_sqdist())  # the first of equals
    totals = best.moments.weight_of_clusters()
    if best.converged and (n_empty := int((totals == 0).sum())):
        found = f"{n_clusters - n_empty} distinct points, so {n_empty} of {n_clusters} clusters stay empty"
        warnings.warn(f"x has only {found}", stacklevel=3)  # past no_grad, to the caller
    return KMeansResult(
        centers=best.centers,
        labels=chosen.bind(x, None).assign(best.centers).labels,
        totals=totals,
        inertia=from_grid(best.moments.inertia, best.moments.grid.sqdist),
        n_iter=torch.tensor(best.n_iter, device=x.device),
        converged=torch.tensor(best.converged, device=x.device),
    )


@torch.no_grad()
def assign(x: Num[Tensor, "n d"], centers: Num[Tensor, "k d"], *, engine: str | Engine = "auto") -> Assignment:
    """For each point (N, D) the index of its nearest center (K, D), int64, and the squared distance to it.

    The lowest index wins a tie. Computed in float64 if `x` or `centers` is float64, int32 or int64, else in float32;
    the squared distance is a sum of squares in that dtype (see `gpukmeans.score`), so never less than 0.

    Raises TypeError or ValueError for input that is not as said here, with what was wanted and what came.
    """
    _check_points(x)
    _check_points(centers, "centers")
    if centers.shape[1] != x.shape[1] or centers.device != x.device:
        raise ValueError(
            f"centers must be points of {x.shape[1]} coordinates on {x.device}, like x,"
            f" got shape {tuple(centers.shape)} on {centers.device}"
        )
    _check_range(x, centers)
    return choose(engine, x).bind(x, None).assign(centers.to(_computed_in(x, centers)))


def check_options(
    *,
    init: str | Tensor | Seeding,
    n_init: int,
    max_iter: int,
    tol: float,
    generator: torch.Generator | None,
) -> None:
    """TypeError or ValueError for options of `kmeans` that are wrong whatever the points."""
    _check_count("n_init", n_init)
    _check_count("max_iter", max_iter)
    if not isinstance(tol, (int, float)):
        raise TypeError(f"tol must be a number, got {type(tol).__name__}")
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}")
    if isinstance(init, str) and init not in SEEDINGS:
        names = ", ".join(SEEDINGS)
        raise ValueError(f"init must be one of {names}, a tensor of centers or a function, got {init!r}")
    if not isinstance(init, str) and not isinstance(init, Tensor) and not callable(init):
        raise TypeError(f"init must be a name, a tensor of centers or a function, got {type(init).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, so that every device sees equal draws, got {generator.device}")


def _run(
    points: TensorPoints, seeding: Seeding, n_clusters: int, max_iter: int, tol: float, generator: torch.Generator
) -> Fit:
    centers = seeding(points, n_clusters, generator)
    wanted = (n_clusters, points.x.shape[1])
    if not isinstance(centers, Tensor) or centers.shape != wanted:
        came = tuple(centers.shape) if isinstance(centers, Tensor) else type(centers).__name__
        raise ValueError(f"init must return a tensor of shape {wanted}, got {came}")
    centers = centers.to(points.x.device, points.dtype)
    _check_points(centers, "first centers")
    _check_range(points.x, centers)
    return lloyd(points, centers, max_iter=max_iter, tol=tol)


def _present(x: Tensor, weights: Tensor | None, engine: Engine, dtype: torch.dtype) -> TensorPoints:
    """The points of positive weight, bound to the engine."""
    if weights is not None:
        scale = weight_scale(weights)
        if weights.is_floating_point():
            # Rounded once for all: a point that weighs less than a step weighs nothing.
            weights = from_grid(to_grid(weights.double(), scale), scale)
        present = weights > 0
        if not present.all():
            x, weights = x[present], weights[present]
    return TensorPoints(x, weights, engine.bind(x, weights), dtype, survey(x, weights))


def _spawn(generator: torch.Generator | None, n: int) -> list[torch.Generator]:
    """A generator for each run, so that what a run draws does not depend on the runs before it."""
    parent = torch.Generator(device="cpu").manual_seed(0) if generator is None else generator
    seeds = torch.randint(1 << 62, (n,), generator=parent, device="cpu").tolist()
    return [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]


def _seeding(
    init: str | Tensor | Seeding, n_init: int, shape: tuple[int, int], x: Tensor, dtype: torch.dtype
) -> Seeding:
    """The function that gives the first centers, whatever `init` is."""
    if isinstance(init, str):
        return SEEDINGS[init]
    if not isinstance(init, Tensor):
        return init
    if init.shape != shape or init.device != x.device:
        came = f"shape {tuple(init.shape)} on {init.device}"
        raise ValueError(f"init must have shape {shape} on {x.device}, got {came}")
    if n_init != 1:
        raise ValueError(
            f"n_init must be 1 when init gives the first centers, as all runs would be equal, got {n_init}"
        )
    _check_points(init, "init")
    centers = init.detach().to(dtype, copy=True)
    return lambda points, n_clusters, generator: centers


def _check_points(x: Tensor, name: str = "x") -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    _check_dtype(x, name)
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"{name} must have shape (N, D), N and D at least 1, got {tuple(x.shape)}")
    if not all(math.isfinite(bound) for bound in _bounds(x)):
        raise ValueError(f"{name} must be finite, got NaN or infinity among its {x.shape[0]} x {x.shape[1]} values")


def _check_range(x: Tensor, centers: Tensor | None = None) -> None:
    """ValueError if squared distances within the range of points and centers would overflow, or vanish."""
    sets = [x] if centers is None else [x, centers]
    low, high = min(_bounds(s)[0] for s in sets), max(_bounds(s)[1] for s in sets)
    info = torch.finfo(_computed_in(*sets))
    spread = high - low
    values = f"the values of x{'' if centers is None else ' and centers'} go from {low:.3g} to {high:.3g}"
    if not x.shape[1] * spread * spread < info.max:
        raise ValueError(f"squared distances must stay below {info.max:.3g}, but {values}: scale them down")
    if spread > 0 and spread * spread < info.tiny:
        raise ValueError(f"squared distances must not vanish below {info.tiny:.3g}, but {values}: scale them up")


def _bounds(x: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(x)
    return float(low), float(high)


def _computed_in(*tensors: Tensor) -> torch.dtype:
    """The dtype that these are computed in together."""
    return functools.reduce(torch.promote_types, [_COMPUTED_IN[tensor.dtype] for tensor in tensors])


def _check_weights(weights: Tensor | None, x: Tensor) -> Tensor | None:
    if weights is None:
        return None
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    _check_dtype(weights, "weights")
    if weights.shape != x.shape[:1] or weights.device != x.device:
        raise ValueError(
            f"weights must have shape ({len(x)},) on {x.device}, like x,"
            f" got shape {tuple(weights.shape)} on {weights.device}"
        )
    low, high = _bounds(weights)
    if not (low >= 0 and 0 < high < math.inf):
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got values from {low} to {high}")
    return weights.detach()


def _check_dtype(x: Tensor, name: str) -> None:
    if x.dtype not in _COMPUTED_IN:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _COMPUTED_IN)
        raise TypeError(f"{name} must be of dtype {names}, got {str(x.dtype).removeprefix('torch.')}")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
