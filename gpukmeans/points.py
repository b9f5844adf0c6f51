"""What can hold points: the few questions that seeding and the loop ask, and their answer for a tensor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpukmeans.blocks import blocks
from gpukmeans.engines import Assignment, BoundEngine
from gpukmeans.moments import Grid, Moments, finest_scale, from_grid, to_grid
from gpukmeans.score import squared_distance

# Squared differences of coordinates that are held at a time while candidates are weighed.
_BLOCK = 1 << 18


@runtime_checkable
class Points(Protocol):
    """Weighted points, wherever they live. Squared distances that a method returns are for its own methods only."""

    def farthest(self, centers: Tensor) -> float:
        """The squared diagonal of a box around all points and centers (K, D)."""
        ...

    def measure(self, centers: Tensor, farthest: float) -> Moments:
        """Moments at centers (K, D) of which no point's nearest is at a squared distance of more than `farthest`."""
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
        """For each candidate (L, D) the inertia if it were one more center: (L,) int64, in steps of equal size."""
        ...


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one look at all points tells: their range in each coordinate, and how heavy they are. Decides the grid."""

    lowest: Tensor
    highest: Tensor
    weight_scale: float
    total_weight: float

    def grid(self) -> Grid:
        """The finest steps at which no total can overflow. Its `sqdist` is for centers within the range."""
        scales = [finest_scale(self.total_weight * spread) for spread in (self.highest - self.lowest).tolist()]
        return Grid(
            weight=self.weight_scale,
            sum=torch.tensor(scales, dtype=torch.float64, device=self.lowest.device),
            sqdist=finest_scale(self.total_weight * largest_sqdist(self.lowest, self.highest)),
            lowest=self.lowest,
            highest=self.highest,
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

    def farthest(self, centers: Tensor) -> float:
        lowest, highest = torch.aminmax(centers.double(), dim=0)
        return largest_sqdist(torch.minimum(lowest, self.survey.lowest), torch.maximum(highest, self.survey.highest))

    def measure(self, centers: Tensor, farthest: float) -> Moments:
        return self.engine.measure(centers, replace(self.grid, sqdist=self._sqdist_scale(farthest)))

    def assign(self, centers: Tensor) -> Assignment:
        return self.engine.assign(centers)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        everywhere = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        return self._draw(n, generator, to_grid(self._weighted(everywhere), self.grid.weight))

    def draw_new(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        return self._draw(n, generator, to_grid(self._weighted(sqdist > 0), self.grid.weight))

    def draw_far(self, n: int, generator: torch.Generator, sqdist: Tensor) -> Tensor:
        return self._draw(n, generator, to_grid(self._weighted(sqdist), self._sqdist_scale(float(sqdist.max()))))

    def sqdist(self, centers: Tensor) -> Tensor:
        return self.assign(centers).sqdist

    def closer(self, sqdist: Tensor, center: Tensor) -> Tensor:
        return torch.cat([part.squeeze(0) for _, part in self._candidate_sqdist(sqdist, center[None])])

    def potentials(self, sqdist: Tensor, candidates: Tensor) -> Tensor:
        scale = self._sqdist_scale(float(sqdist.max()))
        totals = torch.zeros(len(candidates), dtype=torch.int64, device=self.x.device)
        for rows, part in self._candidate_sqdist(sqdist, candidates):
            totals += to_grid(self._weighted(part, rows), scale).sum(dim=1)
        return totals

    def _sqdist_scale(self, farthest: float) -> float:
        return finest_scale(self.survey.total_weight * farthest)

    def _candidate_sqdist(self, sqdist: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """By blocks of rows: squared distances (L, rows) if each of the candidates were one more center."""
        for rows in blocks(len(self.x), _BLOCK // candidates.numel()):
            x = self.x[rows].to(self.dtype).T.contiguous()
            yield rows, torch.minimum(squared_distance(x[:, None], candidates.T[:, :, None]), sqdist[rows])

    def _weighted(self, factors: Tensor, rows: slice = slice(None)) -> Tensor:
        """Factors (..., rows) times the weights of these rows, as new float64."""
        return factors.double() * (1 if self.weights is None else self.weights[rows])

    def _draw(self, n: int, generator: torch.Generator, masses: Tensor) -> Tensor:
        """One integer below the total of the masses decides each draw; exact prefix sums say whose it is."""
        bounds = masses.cumsum(0)
        total = int(bounds[-1])
        numbers = [_integer_below(total, generator) for _ in range(n if total else 0)]
        found = torch.searchsorted(bounds, torch.tensor(numbers, dtype=torch.int64, device=bounds.device), right=True)
        return self.x[found].to(self.dtype)


def survey(x: Tensor, weights: Tensor | None) -> Survey:
    """The survey of points (N, D) in one tensor. Their values must be finite, their weights positive and on a grid."""
    lowest, highest = torch.aminmax(x, dim=0)
    scale = weight_scale(weights)
    # On the grid, so that the total has the same bits in whatever order it is summed.
    total = len(x) if weights is None else from_grid(to_grid(weights.double(), scale).sum(), scale).item()
    return Survey(lowest=lowest.double(), highest=highest.double(), weight_scale=scale, total_weight=float(total))


def weight_scale(weights: Tensor | None) -> float:
    """Steps in a unit of weight: 1 for integers, else the finest for which no total can overflow.

    ValueError if the total of these weights, which are finite and not negative, would be too large.
    """
    if weights is None:
        return 1.0
    if not weights.is_floating_point():
        total = float(weights.double().sum())
        if total >= 2**61:
            raise ValueError(f"integer weights must add up to less than 2**61, got {total:.3g}")
        return 1.0
    heaviest = float(weights.max())
    if not math.isfinite(heaviest * len(weights)):
        raise ValueError(f"weights must add up to a finite float64, got {len(weights)} of up to {heaviest:.3g}")
    return finest_scale(heaviest * len(weights))


def largest_sqdist(lowest: Tensor, highest: Tensor) -> float:
    """The squared diagonal of a box (D,), float64. Rounded once, so that every device agrees."""
    return math.fsum(spread * spread for spread in (highest - lowest).tolist())


def _integer_below(total: int, generator: torch.Generator) -> int:
    """A uniform integer in [0, total): of as many random bits as it has, drawn until it is below.

    `torch.randint(total)` takes a remainder instead, which favors low integers when the total is near 2**62.
    """
    bits = total.bit_length()
    while True:
        number = int(torch.randint(1 << bits, (), generator=generator, device="cpu"))
        if number < total:
            return number
