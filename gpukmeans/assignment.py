"""`assign`: the nearest center of each point, as a torch operation that can be differentiated and compiled."""

from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor

from gpukmeans.arrays import Array, to_tensor
from gpukmeans.compilation import eager
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

    The lowest index wins a tie. Squared distances are sums of squares (see `gpukmeans.distance`), so they are never
    negative. They are float64 if `x` or `centers` is float64, int32 or int64, else float32.

    Squared distances have gradients with respect to `x` and `centers`; docs/guarantees.md has the rules for gradients,
    `torch.vmap` and `torch.compile`.

    Args:
        x: points (..., N, D), N possibly 0, of any real dtype: a tensor, an array of NumPy or of a library with DLPack,
            or a DataFrame. A memory map is read as a whole.
        centers: centers (K, D), or (..., K, D) for each problem of a batch.
        metric: a name of `METRICS` or a `Metric`. "cosine" returns 1 - cos, half the squared distance of unit vectors.
        engine: a name of `ENGINES`, "auto" or an `Engine`. All engines return the same bits.

    Raises:
        TypeError, ValueError: for any other input, with the expected and the received value.

    Example:
        >>> labels, sqdist = assign(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [9.0], [5.0]]))
        >>> labels.tolist(), sqdist.tolist()
        ([0, 2], [1.0, 1.0])
    """
    x, centers = to_tensor(x, "x"), to_tensor(centers, "centers")
    check_points(x, least=0)
    check_centers(x, centers)
    metric = check_metric(metric)
    dtype = compute_dtype(x, centers)
    x, centers = metric.prepare(x, dtype), metric.prepare(centers, dtype)
    # The custom operation is used only in compiled code, because its first call imports the compiler, which takes
    # longer than most clusterings. A custom operation takes no objects as arguments, so only an engine given by name
    # can be compiled.
    nearest = _nearest if torch.compiler.is_compiling() and isinstance(engine, str) else _nearest_eager
    labels, sqdist = nearest(x, centers, metric.normalizes, engine)
    return Assignment(labels, sqdist * metric.factor)


def assign_valid(x: Tensor, centers: Tensor, engine: str | Engine) -> Assignment:
    """`assign` of points (N, D) to centers (K, D) of the same dtype, float32 or float64, without gradients.

    Values are not checked, because a check synchronizes with a GPU. They must be finite, and squared distances must
    neither overflow nor underflow.
    """
    labels, sqdist = choose(engine, x[None]).bind(x[None], None).assign(centers[None], [0])
    return Assignment(labels[0], sqdist[0])


def _nearest_by(x: Tensor, centers: Tensor, normalized: bool, engine: str | Engine) -> tuple[Tensor, Tensor]:
    batch, dtype = x.shape[:-1], compute_dtype(x, centers)
    if batch[-1] == 0:
        return x.new_empty(batch, dtype=torch.int64), x.new_empty(batch, dtype=dtype)
    check_values(x, centers)
    if normalized:
        check_nonzero_rows(x, "x")
        check_nonzero_rows(centers, "centers")
    if centers.ndim == 2:
        x = x.reshape(1, -1, x.shape[-1])
    x, centers = x.reshape(-1, *x.shape[-2:]), centers.reshape(-1, *centers.shape[-2:])
    bound = choose(engine, x).bind(x, None)
    labels, sqdist = bound.assign(centers.to(dtype), range(len(x)))
    return labels.view(batch), sqdist.view(batch)


def _save_for_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, centers, *_ = inputs
    labels, _ = output
    ctx.mark_non_differentiable(labels)
    ctx.save_for_backward(x, centers, labels)


def _gradients(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Gradients with respect to points x, 2g(x - c), and to centers c, the sum of -2g(x - c) over the cluster.

    g (..., N), the second entry of `grads`, is the gradient with respect to the squared distances.
    """
    # Autograd is not used, because torch compiles its gradient of an indexed difference wrongly for some D.
    x, centers, labels = ctx.saved_tensors
    grad: Tensor = grads[1]
    flat_centers, rows = centers.reshape(-1, x.shape[-1]), labels.flatten()
    if centers.ndim > 2:
        first = torch.arange(0, len(flat_centers), centers.shape[-2], device=x.device)
        rows = (labels.reshape(len(first), -1) + first[:, None]).flatten()
    terms = 2 * grad[..., None] * (x.to(grad.dtype) - flat_centers.index_select(0, rows).view(x.shape))
    grad_x = terms.to(x.dtype) if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return grad_x, None, None, None
    sums = torch.zeros_like(flat_centers, dtype=grad.dtype).index_add(0, rows, -terms.flatten(0, -2))
    return grad_x, sums.to(centers.dtype).view(centers.shape), None, None


def _as_batch(info: Any, in_dims: tuple[int | None, ...], x: Tensor, centers: Tensor, *options: Any) -> tuple[Any, ...]:
    """The arguments of the single call that replaces the V calls of `torch.vmap`.

    The returned points are (V, ..., N, D). The returned centers are (K, D), or (V, ..., K, D) if problems have centers
    of their own.
    """
    x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    if in_dims[1] is not None:
        centers = centers.movedim(in_dims[1], 0)
        centers = centers.view(len(centers), *[1] * (x.ndim - centers.ndim), *centers.shape[1:])
    if centers.ndim > 2:
        centers = centers.expand(*x.shape[:-2], *centers.shape[-2:])
    return x, centers, *options


class _Nearest(torch.autograd.Function):
    """`_nearest_by`, with gradients and `torch.vmap`."""

    forward = staticmethod(_nearest_by)
    setup_context = staticmethod(_save_for_gradients)
    backward = staticmethod(_gradients)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return _Nearest.apply(*_as_batch(info, in_dims, *args)), (0, 0)


_nearest_eager = eager(_Nearest.apply)


@torch.library.custom_op("gpukmeans::nearest", mutates_args=())
def _nearest(x: Tensor, centers: Tensor, normalized: bool, engine: str) -> tuple[Tensor, Tensor]:
    return _nearest_by(x, centers, normalized, engine)


@_nearest.register_fake
def _nearest_shapes(x: Tensor, centers: Tensor, normalized: bool, engine: str) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=compute_dtype(x, centers))


_nearest.register_autograd(_gradients, setup_context=_save_for_gradients)
_nearest.register_vmap(lambda *args: (_nearest(*_as_batch(*args)), (0, 0)))
