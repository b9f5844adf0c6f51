"""The public door: what is wrong with an argument, said once, with what was wanted and what came."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from gpukmeans.checkpoints import Checkpoint
from gpukmeans.metrics import METRICS, Metric
from gpukmeans.seeding import SEEDINGS, Seeding
from gpukmeans.values import check_spread, finite_range, joined_range

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


def computed_in(*tensors: Tensor) -> torch.dtype:
    """The dtype that these are computed in together."""
    return functools.reduce(torch.promote_types, [_COMPUTED_IN[tensor.dtype] for tensor in tensors])


def short_name(thing: torch.dtype | torch.layout) -> str:
    """Its name as errors tell it, without that of torch."""
    return str(thing).removeprefix("torch.")


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


def check_metric(metric: str | Metric) -> Metric:
    """The metric of that name, or the metric itself."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)} or a metric, got {metric!r}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        raise TypeError(f"metric must be a name or a metric, got {type(metric).__name__}")
    return metric


def check_points(x: Tensor, name: str = "x", least: int = 1) -> None:
    """Whether this is a tensor of points at all, of at least so many rows: its dtype and shape, not its values."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    _check_dtype(x, name)
    if x.ndim < 2 or x.shape[-2] < least or 0 in (*x.shape[:-2], x.shape[-1]):
        but = "" if least else " but N"
        wanted = f"(N, D) or (..., N, D), with all of them{but} at least 1"
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")


def check_values(x: Tensor, centers: Tensor) -> None:
    """ValueError for values that are not finite, and for squared distances that would overflow, or vanish.

    Points (..., N, D) and centers (K, D) or (..., K, D), as far as they are apart in each problem.
    """
    both = joined_range(finite_range(x, "x"), finite_range(centers, "centers"))
    check_spread(both, computed_in(x, centers), "x and centers")


def check_centers(x: Tensor, centers: Tensor) -> None:
    """Whether these are centers for these points: on their device, of their width, for each batch or for all."""
    check_points(centers, "centers")
    same_batch = centers.ndim == 2 or centers.shape[:-2] == x.shape[:-2]
    if not same_batch or centers.shape[-1] != x.shape[-1] or centers.device != x.device:
        width, batch = x.shape[-1], "".join(f"{n}, " for n in x.shape[:-2])
        wanted = f"(K, {width})" + (f" or ({batch}K, {width})" if batch else "")
        raise ValueError(
            f"centers must have shape {wanted} on {x.device}, like x,"
            f" got shape {tuple(centers.shape)} on {centers.device}"
        )


def check_fixed(fixed: Tensor, x: Tensor, n_clusters: int) -> None:
    """Whether these are centers that may stay where they are, (F, D) or (..., F, D), F at most `n_clusters`."""
    if not isinstance(fixed, Tensor):
        raise TypeError(f"fixed must be a tensor, got {type(fixed).__name__}")
    _check_dtype(fixed, "fixed")
    same_batch = fixed.ndim == 2 or (fixed.ndim > 2 and fixed.shape[:-2] == x.shape[:-2])
    if not same_batch or fixed.shape[-1] != x.shape[-1] or fixed.device != x.device:
        width, batch = x.shape[-1], "".join(f"{n}, " for n in x.shape[:-2])
        wanted = f"(F, {width})" + (f" or ({batch}F, {width})" if batch else "")
        came = f"shape {tuple(fixed.shape)} on {fixed.device}"
        raise ValueError(f"fixed must have shape {wanted} on {x.device}, like x, got {came}")
    if fixed.shape[-2] > n_clusters:
        raise ValueError(f"fixed must have at most n_clusters = {n_clusters} centers, got {fixed.shape[-2]}")


def check_init(init: Tensor, x: Tensor, n_clusters: int) -> None:
    """Whether these are first centers for these points: all that are not fixed."""
    alone = (n_clusters, x.shape[-1])
    batched = (*x.shape[:-2], *alone)
    if init.shape not in (alone, batched) or init.device != x.device:
        wanted = f"{alone}" + (f" or {batched}" if batched != alone else "")
        came = f"shape {tuple(init.shape)} on {init.device}"
        raise ValueError(f"init must have shape {wanted} on {x.device}, got {came}")
    _check_dtype(init, "init")


def check_weights(weights: Tensor | None, x: Tensor, name: str = "weights") -> None:
    """Whether these may be weights of these points: their shape, dtype and device, not their values."""
    if weights is None:
        return
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(weights).__name__}")
    _check_dtype(weights, name)
    if weights.shape != x.shape[:-1] or weights.device != x.device:
        raise ValueError(
            f"{name} must have shape {tuple(x.shape[:-1])} on {x.device}, like x,"
            f" got shape {tuple(weights.shape)} on {weights.device}"
        )


def check_n_clusters(n_clusters: int, n_present: Tensor, n_fixed: int = 0) -> None:
    """Whether each problem has as many points of weight for those that are not fixed; there are `n_present` (P,)."""
    fewest, which = int(n_present.min()), int(n_present.argmin())
    if n_clusters - n_fixed > fewest:
        where = f" of problem {which}" if len(n_present) > 1 else ""
        besides = f", and of fixed centers, {n_fixed}" if n_fixed else ""
        raise ValueError(
            f"n_clusters must be at most the number of points of weight, {fewest}{where}{besides}, got {n_clusters}"
        )


def check_count(name: str, value: int, least: int = 1) -> None:
    """Whether this is a number of something."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_dtype(x: Tensor, name: str) -> None:
    if x.layout is not torch.strided or x.is_nested or x.is_meta:
        came = "a meta tensor" if x.is_meta else f"layout {short_name(x.layout)}"
        raise TypeError(f"{name} must be a dense tensor with values, got {came}")
    if x.dtype not in _COMPUTED_IN:
        names = ", ".join(map(short_name, _COMPUTED_IN))
        raise TypeError(f"{name} must be of dtype {names}, got {short_name(x.dtype)}")
