"""Validation of arguments of the public functions. Each error has the expected and the received value."""

import functools
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.transfers import on_host

# Integers with more bits than float32 represents exactly are computed in float64, like float64 itself.
_COMPUTE_DTYPES = {
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

# Weights times squared distances must be between 2**-MAX_EXPONENT and 2**MAX_EXPONENT. Fixed-point scales extend to
# 2**1000; the difference is a margin for centers that move apart.
MAX_EXPONENT = 900


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of a computation with all of these tensors."""
    return functools.reduce(torch.promote_types, [_COMPUTE_DTYPES[tensor.dtype] for tensor in tensors])


def short_name(thing: torch.dtype | torch.layout) -> str:
    """The name of a dtype or a layout in errors, without the prefix "torch."."""
    return str(thing).removeprefix("torch.")


def dtype_and_shape(tensor: Tensor) -> str:
    """Dtype and shape of a tensor, for errors."""
    return f"{short_name(tensor.dtype)} of shape {tuple(tensor.shape)}"


def check_count(name: str, value: Any, least: int | None = 1) -> int:
    """The value as an int.

    TypeError unless it is an integer of Python or NumPy, ValueError unless it is at least `least`.
    """
    try:
        count = None if isinstance(value, (bool, Tensor)) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if least is not None and count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_points(x: Tensor, name: str = "x", least: int = 1) -> None:
    """TypeError or ValueError unless dtype and shape are right for points with at least `least` rows.

    Values are not checked.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(x).__name__}")
    _check_dtype(x, name)
    if x.ndim < 2 or x.shape[-2] < least or 0 in (*x.shape[:-2], x.shape[-1]):
        but = "" if least else " except N"
        expected = f"(N, D) or (..., N, D), with all dimensions{but} at least 1"
        raise ValueError(f"{name} must have shape {expected}, got {tuple(x.shape)}")


def check_weights(weights: Tensor | None, x: Tensor, name: str = "weights") -> None:
    """TypeError or ValueError unless shape, dtype and device are right for weights of the points.

    Values are not checked.
    """
    if weights is None:
        return
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(weights).__name__}")
    _check_dtype(weights, name)
    if weights.shape != x.shape[:-1] or weights.device != x.device:
        raise ValueError(
            f"{name} must have shape {tuple(x.shape[:-1])} on {x.device}, like x,"
            f" got shape {tuple(weights.shape)} on {weights.device}"
        )


def check_centers(x: Tensor, centers: Tensor) -> None:
    """TypeError or ValueError unless these are centers (K, D) or (..., K, D) for points (..., N, D), on one device."""
    check_points(centers, "centers")
    _check_like_points(centers, x, "centers", "K")


def check_width(x: Tensor, centers: Tensor) -> None:
    """ValueError unless points have as many coordinates as centers."""
    if x.shape[-1:] != centers.shape[-1:]:
        raise ValueError(f"x must have {centers.shape[-1]} coordinates, like the centers, got shape {tuple(x.shape)}")


def check_fixed(fixed: Tensor, x: Tensor, n_clusters: int) -> None:
    """TypeError or ValueError unless these are F fixed centers (F, D) or (..., F, D), F at most `n_clusters`."""
    if not isinstance(fixed, Tensor):
        raise TypeError(f"fixed must be a tensor or an array, got {type(fixed).__name__}")
    _check_dtype(fixed, "fixed")
    _check_like_points(fixed, x, "fixed", "F")
    if fixed.shape[-2] > n_clusters:
        raise ValueError(f"fixed must have at most n_clusters = {n_clusters} centers, got {fixed.shape[-2]}")


def check_init(init: Tensor, x: Tensor, n_clusters: int) -> None:
    """TypeError or ValueError unless these are initial centers (K, D) or (..., K, D), with K equal to `n_clusters`."""
    for_all = (n_clusters, x.shape[-1])
    for_each = (*x.shape[:-2], *for_all)
    if init.shape not in (for_all, for_each) or init.device != x.device:
        expected = f"{for_all}" + (f" or {for_each}" if for_each != for_all else "")
        received = f"shape {tuple(init.shape)} on {init.device}"
        raise ValueError(f"init must have shape {expected} on {x.device}, got {received}")
    _check_dtype(init, "init")


def check_n_clusters(n_clusters: int, n_present: Tensor, n_fixed: int = 0) -> None:
    """ValueError if a problem has fewer points with weight, `n_present` (P,), than centers that are not fixed."""
    numbers = n_present.tolist()
    fewest, which = min(numbers), numbers.index(min(numbers))
    if n_clusters - n_fixed > fewest:
        where = f" of problem {which}" if len(n_present) > 1 else ""
        plus = f", plus the number of fixed centers, {n_fixed}" if n_fixed else ""
        raise ValueError(
            f"n_clusters must be at most the number of points with weight, {fewest}{where}{plus}, got {n_clusters}"
        )


class Range(NamedTuple):
    """The lowest and the highest value of each coordinate, float64 on the CPU."""

    lowest: Tensor
    highest: Tensor


def finite_range(x: Tensor, name: str) -> Range:
    """The range (..., D) of each coordinate over the N points of each problem, for points (..., N, D).

    ValueError unless all values are finite.
    """
    return checked_range(on_host(bounds_of(x))[0], x, name)


def bounds_of(x: Tensor) -> Tensor:
    """The lowest and the highest values (2, ..., D) of points (..., N, D), float64, on their device."""
    return torch.stack(torch.aminmax(x, dim=-2)).double()


def checked_range(bounds: Tensor, x: Tensor, name: str) -> Range:
    """The range of points, from `bounds_of` on the CPU. ValueError unless all values are finite."""
    if x.is_floating_point() and not bounds.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity among its {tuple(x.shape)} values")
    return Range(bounds[0], bounds[1])


def union_range(one: Range, other: Range) -> Range:
    """The smallest range that contains both ranges."""
    return Range(torch.minimum(one.lowest, other.lowest), torch.maximum(one.highest, other.highest))


def squared_diagonal(lowest: Tensor, highest: Tensor) -> Tensor:
    """The squared diagonal (B,) of boxes (B, D), float64, with equal bits on all devices."""
    return squared_distance(highest.mT, lowest.mT)


def check_range(values: Range, dtype: torch.dtype, what: str) -> None:
    """ValueError if squared distances within the range would overflow or underflow in this dtype."""
    extents = (values.highest - values.lowest).amax(dim=-1)
    positive = extents.where(extents > 0, torch.inf)
    widest, narrowest = torch.stack([extents.max(), positive.min()]).tolist()
    info = torch.finfo(dtype)
    if not values.lowest.shape[-1] * widest * widest < info.max:
        received = f"the values of a coordinate of {what} span up to {widest:.3g}"
        raise ValueError(f"squared distances must stay below {info.max:.3g}, but {received}: scale them down")
    if narrowest * narrowest < info.tiny:
        received = f"the values of the coordinates of {what} span no more than {narrowest:.3g}"
        raise ValueError(f"squared distances must not underflow below {info.tiny:.3g}, but {received}: scale them up")


def check_values(x: Tensor, centers: Tensor) -> None:
    """ValueError unless values are finite, and squared distances neither overflow nor underflow.

    Points are (..., N, D), centers (K, D) or (..., K, D).
    """
    bounds = on_host(bounds_of(x), bounds_of(centers))
    both = union_range(checked_range(bounds[0], x, "x"), checked_range(bounds[1], centers, "centers"))
    check_range(both, compute_dtype(x, centers), "x and centers")


def check_magnitude(total_weight: Tensor, sqdist: Tensor) -> None:
    """ValueError if fixed point cannot represent weights (P,) times squared distances (P,), float64."""
    product = total_weight * sqdist
    wrong = (sqdist > 0) & ~((product >= 2.0**-MAX_EXPONENT) & (product < 2.0**MAX_EXPONENT))
    if wrong.any():
        received = (
            f"a weight of {float(total_weight[wrong][0]):.3g} and a squared distance of {float(sqdist[wrong][0]):.3g}"
        )
        expected = f"from {2.0**-MAX_EXPONENT:.0e} to {2.0**MAX_EXPONENT:.0e}"
        raise ValueError(f"weights times squared distances must be {expected}, got {received}: scale them")


def check_nonzero_rows(x: Tensor, name: str, present: Tensor | None = None) -> None:
    """ValueError if a row of (..., N, D) is zero. With a mask `present` (..., N), only rows in the mask are checked."""
    zero = (x == 0).all(dim=-1)
    if present is not None:
        zero = zero & present
    if zero.any():
        row = zero.nonzero()[0].tolist()
        where = f"row {row[-1]}" + (f" of problem {', '.join(map(str, row[:-1]))}" if len(row) > 1 else "")
        raise ValueError(f"{name} must have no zero row for the cosine metric, as zero has no direction, got {where}")


def _check_dtype(x: Tensor, name: str) -> None:
    if x.layout is not torch.strided or x.is_nested or x.is_meta:
        received = "a meta tensor" if x.is_meta else f"layout {short_name(x.layout)}"
        raise TypeError(f"{name} must be a dense tensor with values, got {received}")
    if x.dtype not in _COMPUTE_DTYPES:
        names = ", ".join(map(short_name, _COMPUTE_DTYPES))
        raise TypeError(f"{name} must be of dtype {names}, got {short_name(x.dtype)}")


def _check_like_points(centers: Tensor, x: Tensor, name: str, number: str) -> None:
    """ValueError unless the shape of centers is (number, D), or (..., number, D) with the batch dimensions of x."""
    same_batch = centers.ndim == 2 or (centers.ndim > 2 and centers.shape[:-2] == x.shape[:-2])
    if not same_batch or centers.shape[-1] != x.shape[-1] or centers.device != x.device:
        width, batch = x.shape[-1], "".join(f"{n}, " for n in x.shape[:-2])
        expected = f"({number}, {width})" + (f" or ({batch}{number}, {width})" if batch else "")
        received = f"shape {tuple(centers.shape)} on {centers.device}"
        raise ValueError(f"{name} must have shape {expected} on {x.device}, like x, got {received}")
