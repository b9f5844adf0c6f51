"""The public door: what is wrong with an argument, said once, with what was wanted and what came."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance

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


# Binary exponent of what weights times squared distances may be: less than a grid has, as centers move apart.
REACH = 900


class Range(NamedTuple):
    """Lowest and highest values."""

    lowest: Tensor
    highest: Tensor


def finite_range(x: Tensor, name: str) -> Range:
    """Lowest and highest value of each coordinate of each problem, (..., D) of (..., N, D), float64.

    ValueError if they are not finite.
    """
    lowest, highest = torch.aminmax(x, dim=-2)
    if x.is_floating_point() and not (lowest.isfinite().all() and highest.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity among its {tuple(x.shape)} values")
    return Range(lowest.double(), highest.double())


def joined_range(one: Range, other: Range) -> Range:
    """The range of both."""
    return Range(torch.minimum(one.lowest, other.lowest), torch.maximum(one.highest, other.highest))


def diagonal(lowest: Tensor, highest: Tensor) -> Tensor:
    """The squared diagonal (B,) of boxes (B, D), float64. Added in one order, so that every device agrees."""
    return squared_distance(highest.mT, lowest.mT)


def check_spread(values: Range, dtype: torch.dtype, what: str) -> None:
    """ValueError if squared distances within this range would overflow, or vanish, in that dtype."""
    spread = (values.highest - values.lowest).amax(dim=-1)
    widest, narrowest = float(spread.max()), float(spread.where(spread > 0, torch.inf).min())
    info = torch.finfo(dtype)
    if not values.lowest.shape[-1] * widest * widest < info.max:
        came = f"the values of a coordinate of {what} spread over up to {widest:.3g}"
        raise ValueError(f"squared distances must stay below {info.max:.3g}, but {came}: scale them down")
    if narrowest * narrowest < info.tiny:
        came = f"the values of the coordinates of {what} spread over no more than {narrowest:.3g}"
        raise ValueError(f"squared distances must not vanish below {info.tiny:.3g}, but {came}: scale them up")


def check_reach(total_weight: Tensor, farthest: Tensor) -> None:
    """ValueError if weights (P,) times squared distances (P,) leave what a grid of float64 can hold, with room."""
    reach = total_weight * farthest
    wrong = (farthest > 0) & ~((reach >= 2.0**-REACH) & (reach < 2.0**REACH))
    if wrong.any():
        came = f"{float(total_weight[wrong][0]):.3g} of weight and {float(farthest[wrong][0]):.3g} of squared distance"
        wanted = f"from {2.0**-REACH:.0e} to {2.0**REACH:.0e}"
        raise ValueError(f"weights times squared distances must be {wanted}, got {came}: scale them")


def check_directions(x: Tensor, name: str, present: Tensor | None = None) -> None:
    """ValueError for rows (..., N, D) that are zero and so have no direction, unless they are not present (..., N)."""
    zero = (x == 0).all(dim=-1)
    if present is not None:
        zero = zero & present
    if zero.any():
        row = zero.nonzero()[0].tolist()
        where = f"row {row[-1]}" + (f" of problem {', '.join(map(str, row[:-1]))}" if len(row) > 1 else "")
        raise ValueError(f"{name} must have no zero row for the cosine metric, as zero has no direction, got {where}")
