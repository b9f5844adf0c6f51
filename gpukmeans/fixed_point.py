"""Fixed-point sums: each term is rounded once to an int64, so the order of summation changes no bit.

A scale is the number of fixed-point units per 1: a total of n units is the number n / scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

# Totals are below 2**61 before rounding. Rounding adds at most half a unit per term, and the sum of two totals still
# fits an int64.
_TOTAL_BITS = 61
# Scales are at most 2**1000, so that a scale, and its product with a term, are finite float64 numbers.
_MAX_EXPONENT = 1000


def finest_scale(largest_total: Tensor) -> Tensor:
    """The finest scale (fixed-point units per 1) at which a sum of magnitudes up to `largest_total` fits int64.

    The scale is a power of two. Argument and result are float64, of any shape.
    """
    # By the bits of float64, because `exp2` and `ldexp` need not be exact on every device. A biased exponent of e
    # means a total below 2**(e - 1022); for subnormal totals, where e is 0, the result is the largest scale anyway.
    biased = largest_total.view(torch.int64) >> 52
    exponent = (_TOTAL_BITS + 1022 - biased).clamp_(-_MAX_EXPONENT, _MAX_EXPONENT).add_(1023)
    return (exponent << 52).view(torch.float64).masked_fill_(largest_total == 0, 1.0)


def to_fixed(terms: Tensor, scale: Tensor) -> Tensor:
    """float64 terms in fixed-point units, int64. Each term is rounded once, ties to even."""
    return (terms * scale).round_().long()


def from_fixed(totals: Tensor, scale: Tensor) -> Tensor:
    """float64 values of totals in fixed-point units (int64). Each value is rounded once."""
    return totals.double() / scale


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedPoint:
    """Fixed-point scales of the moments of B runs: powers of two by which terms are multiplied before they are rounded.

    For a point x of weight w at distance d from its nearest center, `weight` (B,) is the scale of w, `sum` (B, D) the
    scale of w·(x - lowest) in each coordinate, and `sqdist` (B,) the scale of w·d². `lowest` and `highest` (B, D) are
    the range of the points, float64. Coordinates are summed relative to `lowest`, so the extent of the points limits
    the precision, and not their distance from the origin. For integers, such as 8-bit colors with counts, sums are
    exact as long as the total weight times the extent is below 2**53.
    """

    weight: Tensor
    sum: Tensor
    sqdist: Tensor
    lowest: Tensor
    highest: Tensor

    def equals(self, other: "FixedPoint") -> bool:
        """Whether totals at both scales have equal fixed-point units and the same origin `lowest`."""
        return self is other or all(  # usually true; comparing values synchronizes with a GPU
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("weight", "sum", "sqdist", "lowest")
        )

    def with_sqdist(self, sqdist: Tensor) -> "FixedPoint":
        """These scales with another scale of w·d². (`dataclasses.replace` would take three times as long.)"""
        return FixedPoint(weight=self.weight, sum=self.sum, sqdist=sqdist, lowest=self.lowest, highest=self.highest)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, runs: Tensor | slice) -> "FixedPoint":
        """The scales of some of the runs: a mask (B,), indices or a slice."""
        return FixedPoint(**{name: tensor[runs] for name, tensor in self.tensors().items()})

    def where(self, runs: Tensor, other: "FixedPoint") -> "FixedPoint":
        """These scales for the runs of a mask (B,), the scales of `other` for the remaining runs."""
        return FixedPoint(**where_fields(runs, self, other, [field.name for field in fields(self)]))

    @staticmethod
    def concatenated(parts: "Sequence[FixedPoint]") -> "FixedPoint":
        """The scales of the runs of all parts, in the order of the parts."""
        return FixedPoint(
            **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(FixedPoint)}
        )


def where_fields(runs: Tensor, first: Any, second: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these fields, by name: from `first` for the runs of a mask (B,), from `second` for the others."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    return {
        # Most scales are the same tensor in all iterations, so `where` is not needed.
        name: one if one is other else torch.where(runs.view(-1, *[1] * (one.ndim - 1)), one, other)
        for name, (one, other) in pairs.items()
    }
