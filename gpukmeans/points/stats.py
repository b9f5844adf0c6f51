"""What two looks at all points tell, before anything is measured. What they tell of disjoint points adds."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gpukmeans.fixed_point import Grid, finest_scale, from_grid
from gpukmeans.validation import REACH, Range, check_reach, diagonal, joined_range


@dataclass(frozen=True, kw_only=True, eq=False)
class Census:
    """The first look, for each of P problems: it decides the steps of the weights.

    `values` are the lowest and highest coordinates (P, D) of all rows, float64, also of those of weight 0. Of the
    weights, as they are given, `lightest` and `heaviest` (P,) float64 are the extremes, `n_weighted` (P,) int64 is how
    many are above 0, and `total` (P,) float64 their sum, rounded. Without weights all are 1.
    """

    values: Range
    lightest: Tensor
    heaviest: Tensor
    n_weighted: Tensor
    total: Tensor

    @staticmethod
    def nothing(shape: tuple[int, int], device: torch.device) -> "Census":
        """That of no points, of P problems and D coordinates."""
        some = torch.full(shape, math.inf, dtype=torch.float64, device=device)
        none = torch.zeros(shape[0], dtype=torch.float64, device=device)
        return Census(
            values=Range(some, -some), lightest=none + math.inf, heaviest=none, n_weighted=none.long(), total=none
        )

    def __add__(self, other: "Census") -> "Census":
        return Census(
            values=joined_range(self.values, other.values),
            lightest=torch.minimum(self.lightest, other.lightest),
            heaviest=torch.maximum(self.heaviest, other.heaviest),
            n_weighted=self.n_weighted + other.n_weighted,
            total=self.total + other.total,
        )

    def spread(self) -> "Spread":
        """What the second look would tell of points without weights, which this one has told."""
        lowest, highest = self.values
        return Spread(lowest=lowest, highest=highest, total=self.n_weighted, n_present=self.n_weighted)

    def weight_scale(self, weights: torch.dtype | None) -> Tensor:
        """Steps in a unit of weight (P,) of that dtype: 1 for integers, or None for none, else the finest that cannot
        overflow.

        ValueError unless there are points, and weights are finite, at least 0, not all 0 and of a total that fits.
        """
        if (self.values.lowest > self.values.highest).any():
            raise ValueError("x must have at least one row, got none")
        ones = torch.ones_like(self.total)
        if weights is None:
            return ones
        low, high = float(self.lightest.min()), float(self.heaviest.max())
        if not (low >= 0 and high < torch.inf) or (self.heaviest == 0).any():
            where = " in any problem" if len(self.heaviest) > 1 else ""
            raise ValueError(
                f"weights must be finite, at least 0 and not all 0{where}, got values from {low} to {high}"
            )
        if not weights.is_floating_point:
            total = float(self.total.max())
            if total >= 2**61:
                raise ValueError(f"integer weights must add up to less than 2**61, got {total:.3g}")
            return ones
        if not (self.heaviest >= 2.0**-REACH).all():
            came = float(self.heaviest.min())
            raise ValueError(f"weights must not vanish below {2.0**-REACH:.0e}, got {came:.3g}")
        # As many as there are, since a point of weight 0 must not change a bit.
        largest = self.heaviest * self.n_weighted
        if not largest.isfinite().all():
            n = int(self.n_weighted.max())
            raise ValueError(f"weights must add up to a finite float64, got {n} of up to {high:.3g}")
        return finest_scale(largest)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """The second look, with weights on their grid, at the points of weight: their range (P, D), float64, infinite the
    other way round where there are none, their `total` (P,) weight in steps and how many they are (P,), both int64."""

    lowest: Tensor
    highest: Tensor
    total: Tensor
    n_present: Tensor

    @staticmethod
    def nothing(shape: tuple[int, int], device: torch.device) -> "Spread":
        """That of no points, of P problems and D coordinates."""
        some = torch.full(shape, math.inf, dtype=torch.float64, device=device)
        none = torch.zeros(shape[0], dtype=torch.int64, device=device)
        return Spread(lowest=some, highest=-some, total=none, n_present=none)

    def __add__(self, other: "Spread") -> "Spread":
        return Spread(
            lowest=torch.minimum(self.lowest, other.lowest),
            highest=torch.maximum(self.highest, other.highest),
            total=self.total + other.total,
            n_present=self.n_present + other.n_present,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What is known of all points, for each problem; it decides the grid.

    `values` are the lowest and highest coordinates (P, D) of all rows, `lowest` and `highest` those of the points of
    weight, `weight_scale` (P,) the steps in a unit of weight and `total_weight` (P,) how heavy they are, all float64;
    `n_present` (P,) is how many have a weight.
    """

    values: Range
    lowest: Tensor
    highest: Tensor
    weight_scale: Tensor
    total_weight: Tensor
    n_present: Tensor

    @staticmethod
    def of(census: Census, spread: Spread, weight_scale: Tensor) -> "Survey":
        """What both looks found, at weights on a grid of this scale. ValueError if no grid could hold what is measured
        of them."""
        # From the grid, so that it has the same bits in whatever order it is summed.
        total = from_grid(spread.total, weight_scale)
        check_reach(total, diagonal(spread.lowest, spread.highest))
        return Survey(
            values=census.values,
            lowest=spread.lowest,
            highest=spread.highest,
            weight_scale=weight_scale,
            total_weight=total,
            n_present=spread.n_present,
        )

    @cached_property
    def grid(self) -> Grid:
        """The finest steps at which no total can overflow. Its `sqdist` is for centers within the range."""
        return Grid(
            weight=self.weight_scale,
            sum=finest_scale(self.total_weight[:, None] * (self.highest - self.lowest)),
            sqdist=finest_scale(self.total_weight * diagonal(self.lowest, self.highest)),
            lowest=self.lowest,
            highest=self.highest,
        )
