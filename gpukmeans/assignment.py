"""`assign`: the nearest of given centers, as an operation that torch can differentiate and compile."""

import torch
from jaxtyping import Num
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment, Engine
from gpukmeans.engines.selection import choose
from gpukmeans.metrics import Metric, check_metric
from gpukmeans.validation import check_centers, check_directions, check_points, check_values, computed_in


def assign(
    x: Num[Tensor, "*batch n d"],
    centers: Num[Tensor, "*centers k d"],
    *,
    metric: str | Metric = "euclidean",
    engine: str | Engine = "auto",
) -> Assignment:
    """For each point (..., N, D) the index of its nearest center, int64, and the squared distance to it, both (..., N).

    Centers are (K, D), or (..., K, D) for each problem of a batch. The lowest index wins a tie. Computed in float64 if
    `x` or `centers` is float64, int32 or int64, else in float32; the squared distance is a sum of squares in that dtype
    (see `gpukmeans.distance`), so never less than 0. With `metric="cosine"` it is 1 - cos, half the squared distance of
    the rows made unit vectors.

    Squared distances have gradients of any order, to `x` and to `centers`, in reverse mode; labels have none. The
    operation also runs inside a model that `torch.compile(fullgraph=True)` compiles, if `engine` is a name.

    Raises TypeError or ValueError for input that is not as said here, with what was wanted and what came.
    """
    check_points(x)
    check_centers(x, centers)
    metric = check_metric(metric)
    dtype = computed_in(x, centers)
    x, centers = metric.prepare(x, dtype), metric.prepare(centers, dtype)
    # The operation is for the compiler: its first call loads that, which takes longer than most clusterings. It takes
    # no objects, so an engine that has no name cannot be compiled.
    nearest = _nearest if torch.compiler.is_compiling() and isinstance(engine, str) else _nearest_by
    labels, sqdist = nearest(x.detach(), centers.detach(), metric.directions, engine)
    if torch.is_grad_enabled() and (x.requires_grad or centers.requires_grad):
        sqdist = _differentiable(x.to(dtype), centers.to(dtype), labels)
    return Assignment(labels, sqdist * metric.factor)


def _nearest_by(x: Tensor, centers: Tensor, directions: bool, engine: str | Engine) -> tuple[Tensor, Tensor]:
    check_values(x, centers)
    if directions:
        check_directions(x, "x")
        check_directions(centers, "centers")
    batch = x.shape[:-1]
    if centers.ndim == 2:
        x = x.reshape(1, -1, x.shape[-1])
    x, centers = x.reshape(-1, *x.shape[-2:]), centers.reshape(-1, *centers.shape[-2:])
    bound = choose(engine, x).bind(x, None)
    labels, sqdist = bound.assign(centers.to(computed_in(x, centers)), range(len(x)))
    return labels.view(batch), sqdist.view(batch)


@torch.library.custom_op("gpukmeans::nearest", mutates_args=())
def _nearest(x: Tensor, centers: Tensor, directions: bool, engine: str) -> tuple[Tensor, Tensor]:
    return _nearest_by(x, centers, directions, engine)


@_nearest.register_fake
def _nearest_shapes(x: Tensor, centers: Tensor, directions: bool, engine: str) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=computed_in(x, centers))


def _differentiable(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """The squared distances (..., N) to the centers of these labels: the same bits as those of the engine."""
    if centers.ndim == 2:
        chosen = centers[labels]
    else:
        chosen = centers.gather(-2, labels[..., None].expand(*labels.shape, centers.shape[-1]))
    return squared_distance(x.movedim(-1, 0), chosen.movedim(-1, 0))
