"""What can hold points: the few questions that seeding and the loop ask, and their answer for a tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpukmeans.engines import Assignment, BoundEngine
from gpukmeans.moments import Grid, Moments, exponent, from_grid, to_grid
from gpukmeans.score import squared_distance

# Squared differences of coordinates that are held at a time while candidates are weighed.
_BLOCK = 1 << 18


@runtime_checkable
class Points(Protocol):
    """Weighted points, wherever they live. Squared distances that a method returns are for its own methods only."""

    def measure(self, centers: Tensor) -> Moments:
        """Moments at centers (K, D)."""
        ...

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points (n, D), with replacement, by weight."""
        ...

    def draw_new(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        """The same among the points of positive squared distance; (0, D) if there are none."""
        ...

    def draw_far(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        """n points (n, D), with replacement, by weight times squared distance; (0, D) if that is 0 for all."""
        ...

    def sqdist(self, centers: Tensor) -> Tensor:
        """Squared distance of each point to the nearest of centers (K, D)."""
        ...

    def closer(self, sqdist: Tensor, center: Tensor) -> Tensor:
        """The squared distances after one more center (D,)."""
        ...

    def potentials(self, sqdist: Tensor, candidates: Tensor) -> Tensor:
        """For each candidate (L, D): the inertia, in steps of the grid, if it were one more center: (L,) int64."""
        ...


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one look at all points tells: how many they are, in which range, how heavy. Decides the grid."""

    rows: int
    width: int
    lowest: float
    highest: float
    weight_exponent: int
    total_weight: float

    def check(self, dtype: torch.dtype) -> None:
        """ValueError if squared distances would overflow the dtype, or totals a float64."""
        spread = self.highest - self.lowest
        most = torch.finfo(dtype).max
        if not self.width * spread * spread < most:
            raise ValueError(
                f"squared distances must stay below {most:.3g} in {dtype}: "
                f"scale x down, whose values go from {self.lowest:.3g} to {self.highest:.3g}"
            )
        if not self.total_weight * self.width * spread * spread < torch.finfo(torch.float64).max:
            raise ValueError(f"weights are too large: scale them down, their sum is {self.total_weight:.3g}")

    def grid(self) -> Grid:
        """The finest steps at which no total can overflow, for points and centers within the range."""
        largest = max(abs(self.lowest), abs(self.highest))
        spread = self.highest - self.lowest
        return Grid(
            weight=self.weight_exponent,
            sum=exponent(self.total_weight * largest),
            sqdist=exponent(self.total_weight * self.width * spread * spread),
        )


@dataclass(frozen=True)
class TensorPoints:
    """Points (N, D) in one tensor, none of them of weight 0, with weights (N,) or all of weight 1.

    `dtype` is the one computed in, and that of centers and squared distances.
    """

    x: Tensor
    weights: Tensor | None
    engine: BoundEngine
    dtype: torch.dtype
    survey: Survey

    @cached_property
    def grid(self) -> Grid:
        return self.survey.grid()

    def reaching(self, centers: Tensor) -> "TensorPoints":
        """The same points on a grid that also holds for these centers, which may lie outside the points' range."""
        low, high = (float(bound) for bound in torch.aminmax(centers))
        survey = self.survey
        survey = replace(survey, lowest=min(survey.lowest, low), highest=max(survey.highest, high))
        survey.check(self.dtype)
        return replace(self, survey=survey)

    def measure(self, centers: Tensor) -> Moments:
        return self.engine.measure(centers, self.grid)

    def assign(self, centers: Tensor) -> Assignment:
        return self.engine.assign(centers)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self._draw(n, generator, self._weighted(torch.ones(len(self.x), device=self.x.device)), self.grid.weight)

    def draw_new(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        return self._draw(n, generator, self._weighted(sqdist > 0), self.grid.weight)

    def draw_far(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        return self._draw(n, generator, self._weighted(sqdist), self.grid.sqdist)

    def sqdist(self, centers: Tensor) -> Tensor:
        return self.assign(centers).sqdist

    def closer(self, sqdist: Tensor, center: Tensor) -> Tensor:
        return torch.cat([part.squeeze(0) for _, part in self._candidate_sqdist(sqdist, center[None])])

    def potentials(self, sqdist: Tensor, candidates: Tensor) -> Tensor:
        totals = torch.zeros(len(candidates), dtype=torch.int64, device=self.x.device)
        for rows, part in self._candidate_sqdist(sqdist, candidates):
            totals += to_grid(self._weighted(part, rows), self.grid.sqdist).sum(dim=1)
        return totals

    def _candidate_sqdist(self, sqdist: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """By blocks of rows: squared distances (L, rows) if each of the candidates were one more center."""
        step = max(1, _BLOCK // candidates.numel())
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            x = self.x[rows].to(self.dtype).T.contiguous()
            yield rows, torch.minimum(squared_distance(x[:, None], candidates.T[:, :, None]), sqdist[rows])

    def _weighted(self, factors: Tensor, rows: slice = slice(None)) -> Tensor:
        """Factors (..., rows) times the weights of these rows, as new float64."""
        return factors.double() * (1 if self.weights is None else self.weights[rows])

    def _draw(self, n: int, generator: torch.Generator, terms: Tensor, exponent: int) -> Tensor:
        """One integer below the total, in steps of the grid, decides each draw; exact prefix sums say whose it is."""
        bounds = to_grid(terms, exponent).cumsum(0)
        total = int(bounds[-1])
        numbers = [_integer_below(total, generator) for _ in range(n if total else 0)]
        found = torch.searchsorted(bounds, torch.tensor(numbers, dtype=torch.int64, device=bounds.device), right=True)
        return self.x[found].to(self.dtype)


def survey(x: Tensor, weights: Tensor | None) -> Survey:
    """The survey of points (N, D) in one tensor. Their values must be finite, their weights positive."""
    lowest, highest = (float(bound) for bound in torch.aminmax(x))
    weight_exponent = 0
    total_weight = float(len(x))
    if weights is not None:
        if weights.is_floating_point():
            weight_exponent = exponent(len(x) * float(weights.max()))
        # On the grid, so that the total has the same bits in whatever order it is summed.
        total = to_grid(weights.double(), weight_exponent).sum()
        total_weight = float(from_grid(total, weight_exponent))
    return Survey(
        rows=len(x),
        width=x.shape[1],
        lowest=lowest,
        highest=highest,
        weight_exponent=weight_exponent,
        total_weight=total_weight,
    )


def _integer_below(total: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, total): of as many random bits as it has, drawn until it is below.

    `torch.randint(total)` takes a remainder instead, which favors low integers when the total is near 2**62.
    """
    bits = total.bit_length()
    while True:
        number = int(torch.randint(1 << bits, (), generator=generator))
        if number < total:
            return number
