"""Statistics of all points, from two passes before the first iteration. Statistics of disjoint sets can be added.

They are on the CPU for all devices. Many small operations follow, and each would be a launch on a GPU.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gpukmeans.fixed_point import FixedPoint, finest_scale, from_fixed
from gpukmeans.validation import MAX_EXPONENT, Range, check_magnitude, squared_diagonal, union_range


@dataclass(frozen=True, kw_only=True, eq=False)
class InputStats:
    """Statistics of the input of P problems, from the first pass. They determine the scale of the weights.

    `values` are the lowest and highest coordinates (P, D) of all rows, float64, including rows of weight 0. `lightest`
    and `heaviest` (P,) float64 are the extremes of the weights as given, `n_weighted` (P,) int64 is the number of
    weights above 0, and `total` (P,) float64 is the rounded sum of the weights. `units` (P,) int64 is the exact sum of
    integer weights, and undefined for other weights. Points without weights have weight 1.
    """

    values: Range
    lightest: Tensor
    heaviest: Tensor
    n_weighted: Tensor
    total: Tensor
    units: Tensor

    @staticmethod
    def empty(n_problems: int, width: int) -> "InputStats":
        """The statistics of no points, for P problems and D coordinates."""
        infinity = torch.full((n_problems, width), math.inf, dtype=torch.float64, device="cpu")
        zero = torch.zeros(n_problems, dtype=torch.float64, device="cpu")
        return InputStats(
            values=Range(infinity, -infinity),
            lightest=zero + math.inf,
            heaviest=zero,
            n_weighted=zero.long(),
            total=zero,
            units=zero.long(),
        )

    def __add__(self, other: "InputStats") -> "InputStats":
        return InputStats(
            values=union_range(self.values, other.values),
            lightest=torch.minimum(self.lightest, other.lightest),
            heaviest=torch.maximum(self.heaviest, other.heaviest),
            n_weighted=self.n_weighted + other.n_weighted,
            total=self.total + other.total,
            units=self.units + other.units,
        )

    def of_integer_weights(self) -> "WeightedStats":
        """The statistics of the second pass, computed without this pass because all weights are integers above 0."""
        lowest, highest = self.values
        return WeightedStats(lowest=lowest, highest=highest, total=self.units, n_present=self.n_weighted)

    def weight_scale(self, weights_dtype: torch.dtype | None) -> Tensor:
        """The number of fixed-point units (P,) in a weight of 1.

        The scale is 1 for integer weights and without weights (None), else the finest scale at which the total cannot
        overflow. ValueError without points, and unless weights are finite, at least 0 and not all zero, and their total
        is within the range of fixed point.
        """
        if (self.values.lowest > self.values.highest).any():
            raise ValueError("x must have at least one row, got none")
        ones = torch.ones_like(self.total)
        if weights_dtype is None:
            return ones
        low, high = float(self.lightest.min()), float(self.heaviest.max())
        if not (low >= 0 and high < torch.inf) or (self.heaviest == 0).any():
            where = " in any problem" if len(self.heaviest) > 1 else ""
            raise ValueError(
                f"weights must be finite, at least 0 and not all zero{where}, got values from {low} to {high}"
            )
        if not weights_dtype.is_floating_point:
            total = float(self.total.max())
            if total >= 2**61:
                raise ValueError(f"integer weights must add up to less than 2**61, got {total:.3g}")
            return ones
        if not (self.heaviest >= 2.0**-MAX_EXPONENT).all():
            received = float(self.heaviest.min())
            raise ValueError(f"weights must not vanish below {2.0**-MAX_EXPONENT:.0e}, got {received:.3g}")
        # `n_weighted` leaves out points of weight 0, because they must not change any bit.
        largest = self.heaviest * self.n_weighted
        if not largest.isfinite().all():
            n = int(self.n_weighted.max())
            raise ValueError(f"weights must add up to a finite float64, got {n} of up to {high:.3g}")
        return finest_scale(largest)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedStats:
    """Statistics of the points with weight (above 0), from the second pass, with weights in fixed point.

    `lowest` and `highest` (P, D) float64 are the range of the points, inf and -inf without points. `total` (P,) int64
    is the weight in fixed-point units, and `n_present` (P,) int64 the number of points.
    """

    lowest: Tensor
    highest: Tensor
    total: Tensor
    n_present: Tensor

    @staticmethod
    def empty(n_problems: int, width: int) -> "WeightedStats":
        """The statistics of no points, for P problems and D coordinates."""
        infinity = torch.full((n_problems, width), math.inf, dtype=torch.float64, device="cpu")
        zero = torch.zeros(n_problems, dtype=torch.int64, device="cpu")
        return WeightedStats(lowest=infinity, highest=-infinity, total=zero, n_present=zero)

    def __add__(self, other: "WeightedStats") -> "WeightedStats":
        return WeightedStats(
            lowest=torch.minimum(self.lowest, other.lowest),
            highest=torch.maximum(self.highest, other.highest),
            total=self.total + other.total,
            n_present=self.n_present + other.n_present,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PointStats:
    """Statistics of all points of P problems. They determine the fixed-point scales.

    `values` is the range (P, D) of all rows, `lowest` and `highest` (P, D) are the range of the points with weight,
    `weight_scale` (P,) is the number of fixed-point units in a weight of 1, and `total_weight` (P,) is the weight of
    all points, all float64. `total_units` (P,) int64 is this weight in fixed-point units, and `n_present` (P,) int64 is
    the number of points with weight.
    """

    values: Range
    lowest: Tensor
    highest: Tensor
    weight_scale: Tensor
    total_weight: Tensor
    total_units: Tensor
    n_present: Tensor

    @staticmethod
    def of(input_stats: InputStats, weighted_stats: WeightedStats, weight_scale: Tensor) -> "PointStats":
        """The statistics of both passes. ValueError if fixed point cannot represent the moments of these points."""
        # The integer total is used, because the rounded sum of the first pass depends on the order of the points.
        total = from_fixed(weighted_stats.total, weight_scale)
        check_magnitude(total, squared_diagonal(weighted_stats.lowest, weighted_stats.highest))
        return PointStats(
            values=input_stats.values,
            lowest=weighted_stats.lowest,
            highest=weighted_stats.highest,
            weight_scale=weight_scale,
            total_weight=total,
            total_units=weighted_stats.total,
            n_present=weighted_stats.n_present,
        )

    @cached_property
    def fixed_point(self) -> FixedPoint:
        """The finest scales at which no total can overflow, if centers are within the range of the points."""
        return FixedPoint(
            weight=self.weight_scale,
            sum=finest_scale(self.total_weight[:, None] * (self.highest - self.lowest)),
            sqdist=finest_scale(self.total_weight * squared_diagonal(self.lowest, self.highest)),
            lowest=self.lowest,
            highest=self.highest,
        )
