"""Which values points and centers may have: finite, with squared distances that are numbers, with a direction."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.score import squared_distance

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
