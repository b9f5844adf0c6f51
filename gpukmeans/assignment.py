"""`assign`: the nearest center of each point, as a torch operation that can be differentiated and compiled."""

import torch
from jaxtyping import Num
from torch import Tensor

from gpukmeans.arrays import Array, to_tensor
from gpukmeans.distance import squared_distance
from gpukmeans.engines import Assignment, Engine, EngineName, choose
from gpukmeans.metrics import Metric, MetricName, check_metric
from gpukmeans.validation import check_centers, check_nonzero_rows, check_points, check_values, compute_dtype


def assign(
    x: Num[Tensor, "*batch n d"] | Array,
    centers: Num[Tensor, "*centers k d"] | Array,
    *,
    metric: MetricName | Metric = "euclidean",
    engine: EngineName | Engine = "auto",
) -> Assignment:
    """Index of the nearest center of each point, int64, and the squared distance to it, both (..., N).

    The lowest index wins a tie. Computed in float64 if `x` or `centers` is float64, int32 or int64, else in float32.
    The squared distance is a sum of squares in that dtype (see `gpukmeans.distance`), so never negative.

    Squared distances have gradients of any order with respect to `x` and `centers`, in reverse mode; labels have none.
    `torch.compile(fullgraph=True)` can compile the operation inside a model if `engine` is a name.

    Raises TypeError or ValueError for other input.

    Args:
        x: points (..., N, D), of any real dtype: a tensor, an array of NumPy or one that supports DLPack, or a
            DataFrame. A memory map is read as a whole.
        centers: (K, D), or (..., K, D) with centers of each problem of a batch.
        metric: a name of `METRICS` or a `Metric`. "cosine" returns 1 - cos, half the squared distance of unit vectors.
        engine: a name of `ENGINES`, "auto" or an `Engine`. All engines return the same bits.

    Example:
        >>> labels, sqdist = assign(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [9.0], [5.0]]))
        >>> labels.tolist(), sqdist.tolist()
        ([0, 2], [1.0, 1.0])
    """
    x, centers = to_tensor(x, "x"), to_tensor(centers, "centers")
    check_points(x)
    check_centers(x, centers)
    metric = check_metric(metric)
    dtype = compute_dtype(x, centers)
    x, centers = metric.prepare(x, dtype), metric.prepare(centers, dtype)
    # The custom operation is used only while compiling, as its first call imports the compiler, which takes longer than
    # most clusterings. Its arguments cannot be objects, so an engine must be given by name to be compiled.
    nearest = _nearest if torch.compiler.is_compiling() and isinstance(engine, str) else _nearest_by
    labels, sqdist = nearest(x.detach(), centers.detach(), metric.normalizes, engine)
    if torch.is_grad_enabled() and (x.requires_grad or centers.requires_grad):
        sqdist = _differentiable(x.to(dtype), centers.to(dtype), labels)
    return Assignment(labels, sqdist * metric.factor)


def _nearest_by(x: Tensor, centers: Tensor, normalized: bool, engine: str | Engine) -> tuple[Tensor, Tensor]:
    check_values(x, centers)
    if normalized:
        check_nonzero_rows(x, "x")
        check_nonzero_rows(centers, "centers")
    batch = x.shape[:-1]
    if centers.ndim == 2:
        x = x.reshape(1, -1, x.shape[-1])
    x, centers = x.reshape(-1, *x.shape[-2:]), centers.reshape(-1, *centers.shape[-2:])
    bound = choose(engine, x).bind(x, None)
    labels, sqdist = bound.assign(centers.to(compute_dtype(x, centers)), range(len(x)))
    return labels.view(batch), sqdist.view(batch)


@torch.library.custom_op("gpukmeans::nearest", mutates_args=())
def _nearest(x: Tensor, centers: Tensor, normalized: bool, engine: str) -> tuple[Tensor, Tensor]:
    return _nearest_by(x, centers, normalized, engine)


@_nearest.register_fake
def _nearest_shapes(x: Tensor, centers: Tensor, normalized: bool, engine: str) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=compute_dtype(x, centers))


def _differentiable(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Squared distances (..., N) to the labeled centers, with gradients. The bits are those of the engine."""
    if centers.ndim == 2:
        chosen = centers[labels]
    else:
        chosen = centers.gather(-2, labels[..., None].expand(*labels.shape, centers.shape[-1]))
    return squared_distance(x.movedim(-1, 0), chosen.movedim(-1, 0))
