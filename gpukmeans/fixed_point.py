"""Fixed-point sums: terms rounded once to int64, so that no order of summation changes a bit."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

# Totals stay below 2**61 before rounding. The rounding of each term adds at most half a step, and the sum of two such
# totals still fits an int64.
_TOTAL_BITS = 61


# 2**1000 is still a finite float64, and so is what is scaled by it.
_MOST_BITS = 1000


def finest_scale(largest_total: Tensor) -> Tensor:
    """Steps in a unit, a power of two, on the finest grid for terms whose magnitudes add up to at most this.

    float64 of any shape in and out.
    """
    _, bits = torch.frexp(largest_total)
    exponent = (_TOTAL_BITS - bits.long()).clamp(-_MOST_BITS, _MOST_BITS)
    # The bits of the float64 2**exponent: `exp2` and `ldexp` do not promise to be exact on every device.
    scale = ((exponent + 1023) << 52).view(torch.float64)
    return torch.where(largest_total == 0, 1.0, scale)


def to_grid(terms: Tensor, scale: Tensor) -> Tensor:
    """float64 terms as int64 numbers of steps, each rounded once, ties to even."""
    return (terms * scale).round_().long()


def from_grid(totals: Tensor, scale: Tensor) -> Tensor:
    """int64 numbers of steps as float64, rounded once."""
    return totals.double() / scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The steps that terms are rounded to before they are added as integers, for each run.

    Integers have no order of summation, so block size, threads and devices cannot change a bit. `weight` (B,) is the
    scale of w, `sum` (B, D) that of w·(x - lowest) in each coordinate, `sqdist` (B,) that of w·d². `lowest` and
    `highest` (B, D) are the range of the points, float64: far from the origin it is the spread that counts. For
    integers, such as 8-bit colors with counts, sums are exact as long as the total weight times the spread is below
    2**53.
    """

    weight: Tensor
    sum: Tensor
    sqdist: Tensor
    lowest: Tensor
    highest: Tensor

    def equals(self, other: "Grid") -> bool:
        """Whether totals on both grids are of the same steps."""
        return self is other or all(  # most often it is the same one, and to compare waits for a GPU
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("weight", "sum", "sqdist", "lowest")
        )

    def select(self, runs: Tensor | slice) -> "Grid":
        """The grid of some of the runs."""
        return Grid(**{field.name: getattr(self, field.name)[runs] for field in fields(self)})

    def where(self, runs: Tensor, other: "Grid") -> "Grid":
        """This grid for the runs of a mask (B,), another for those left."""
        return Grid(**where_fields(runs, self, other, [field.name for field in fields(self)]))

    @staticmethod
    def joined(parts: "Sequence[Grid]") -> "Grid":
        """The grids of all runs of several parts, one part after the other."""
        return Grid(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Grid)})


def where_fields(runs: Tensor, first: Any, second: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Of each of these tensors the runs of a mask (B,) from the first, and those left from the second."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    return {
        # Most of a grid is the same tensor from round to round.
        name: one if one is other else torch.where(runs.view(-1, *[1] * (one.ndim - 1)), one, other)
        for name, (one, other) in pairs.items()
    }
