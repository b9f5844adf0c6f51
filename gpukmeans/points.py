"""What can hold points: the few questions that seeding and the loop ask, and their answer for a tensor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpukmeans.blocks import of_runs, tiles
from gpukmeans.engines import Assignment, BoundEngine, Engine
from gpukmeans.moments import Grid, Moments, finest_scale, from_grid, to_grid
from gpukmeans.score import squared_distance

# Squared differences of coordinates that are held at a time while candidates are weighed.
_BLOCK = 1 << 18
# Random bits of a draw: the largest even number below those of an int64 and its sign.
_DRAW_BITS = 62
# Binary exponent of what weights times squared distances may be: less than a grid has, as centers move apart.
_REACH = 900


@runtime_checkable
class Points(Protocol):
    """Weighted points, wherever they live, for B runs side by side, over the same points or over those of B problems.

    An `Assignment` that a method returns is for its own methods only. Draws are the same for each run, as far as its
    points and weights are: a run never sees how many others there are.
    """

    def select(self, runs: Tensor) -> "Points":
        """The points of some of the runs, given as a mask (B,) or as indices."""
        ...

    def farthest(self, centers: Tensor) -> Tensor:
        """The squared diagonal of a box around all points and centers (B, K, D): (B,) float64."""
        ...

    def measure(self, centers: Tensor, farthest: Tensor) -> Moments:
        """Moments at centers (B, K, D), no point's nearest being at a squared distance of more than `farthest` (B,)."""
        ...

    def assign(self, centers: Tensor) -> Assignment:
        """The center of (B, K, D) nearest to each point."""
        ...

    def nearer(self, near: Assignment, centers: Tensor, first: int) -> Assignment:
        """The nearest of the centers so far and of those that follow (B, L, D), whose indices begin at `first`."""
        ...

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points (B, n, D), with replacement, by weight."""
        ...

    def draw_new(self, n: int, generator: torch.Generator, near: Assignment) -> Tensor:
        """The same (B, n, D) among the points that are off their center; where none is, among all."""
        ...

    def draw_far(self, n: int, generator: torch.Generator, near: Assignment) -> Tensor:
        """The same by weight times squared distance; where that is 0 for all, as `draw_new`."""
        ...

    def potentials(self, near: Assignment, candidates: Tensor) -> Tensor:
        """For each candidate (B, L, D) the inertia if it were one more center: (B, L) int64, in steps of equal size."""
        ...

    def totals(self, near: Assignment, n_centers: int) -> Tensor:
        """The weight of the points nearest to each of so many centers (B, M)."""
        ...

    def gathered(self, centers: Tensor, totals: Tensor) -> "Points":
        """Centers (B, M, D) as points, with these totals as their weights."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What one look at all points tells, for each problem: their range in each coordinate (P, D), and how heavy they
    are (P,). All float64. Decides the grid."""

    lowest: Tensor
    highest: Tensor
    weight_scale: Tensor
    total_weight: Tensor

    def grid(self) -> Grid:
        """The finest steps at which no total can overflow. Its `sqdist` is for centers within the range."""
        return Grid(
            weight=self.weight_scale,
            sum=finest_scale(self.total_weight[:, None] * (self.highest - self.lowest)),
            sqdist=finest_scale(self.total_weight * diagonal(self.lowest, self.highest)),
            lowest=self.lowest,
            highest=self.highest,
        )

    def select(self, problems: Tensor) -> "Survey":
        """The survey of some of the problems."""
        return Survey(**{field.name: getattr(self, field.name)[problems] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class TensorPoints:
    """Points (P, N, D) in one tensor, with weights (P, N) on their grid or all of weight 1.

    `dtype` is the one computed in, and that of centers and squared distances. `problems`, B numbers below P, says whose
    points each run is about.
    """

    x: Tensor
    weights: Tensor | None
    engine: Engine
    dtype: torch.dtype
    survey: Survey
    problems: Sequence[int]

    @cached_property
    def grid(self) -> Grid:
        return self.survey.select(self._index).grid()

    @cached_property
    def _bound(self) -> BoundEngine:
        return self.engine.bind(self.x, self.weights)

    @cached_property
    def _index(self) -> Tensor:
        return torch.tensor(self.problems, device=self.x.device)

    def select(self, runs: Tensor) -> "TensorPoints":
        selected = replace(self, problems=torch.tensor(self.problems, device="cpu")[runs.cpu()].tolist())
        selected.__dict__["_bound"] = self._bound  # which may keep state
        return selected

    def farthest(self, centers: Tensor) -> Tensor:
        lowest, highest = torch.aminmax(centers.double(), dim=1)
        return diagonal(torch.minimum(lowest, self.grid.lowest), torch.maximum(highest, self.grid.highest))

    def measure(self, centers: Tensor, farthest: Tensor) -> Moments:
        return self._bound.measure(centers, replace(self.grid, sqdist=self._sqdist_scale(farthest)), self.problems)

    def assign(self, centers: Tensor) -> Assignment:
        return self._bound.assign(centers, self.problems)

    def nearer(self, near: Assignment, centers: Tensor, first: int) -> Assignment:
        # For one center there is nothing to choose: its scores alone are up to five times faster.
        found = self._scored(centers) if centers.shape[1] == 1 else self.assign(centers)
        closer = found.sqdist < near.sqdist  # strictly, so that the lowest index wins a tie
        return Assignment(
            torch.where(closer, found.labels + first, near.labels), torch.where(closer, found.sqdist, near.sqdist)
        )

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        if self.weights is None:  # all prefix sums are the rows' own numbers
            total = torch.full((1, 1), self.x.shape[1], dtype=torch.int64, device=self.x.device)
            return self._taken(self._random(n, generator, total))
        return self._draw(n, generator, self._masses())

    def draw_new(self, n: int, generator: torch.Generator, near: Assignment) -> Tensor:
        return self._draw(n, generator, self._masses_off(near))

    def draw_far(self, n: int, generator: torch.Generator, near: Assignment) -> Tensor:
        masses = to_grid(self._weighted(near.sqdist), self._scale_of(near)[:, None])
        none = (masses == 0).all(dim=1)
        if none.any():  # all that is left is nearer than a step of the grid can tell
            masses = torch.where(none[:, None], self._masses_off(near), masses)
        return self._draw(n, generator, masses)

    def potentials(self, near: Assignment, candidates: Tensor) -> Tensor:
        scale = self._scale_of(near)[:, None, None]
        totals = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=self.x.device)
        for runs, rows, scores in self._scores(candidates):
            left = torch.minimum(scores, near.sqdist[runs, None, rows])
            totals[runs] += to_grid(self._weighted(left, runs, rows), scale[runs]).sum(dim=2)
        return totals

    def totals(self, near: Assignment, n_centers: int) -> Tensor:
        totals = torch.zeros(len(self.problems), n_centers, dtype=torch.int64, device=self.x.device)
        totals.scatter_add_(1, near.labels, self._masses().expand_as(near.labels))
        return totals if self.weights is None else from_grid(totals, self.grid.weight[:, None])

    def gathered(self, centers: Tensor, totals: Tensor) -> "TensorPoints":
        return tensor_points(centers, totals, self.engine, self.dtype)

    def _scale_of(self, near: Assignment) -> Tensor:
        sqdist = near.sqdist
        if self.weights is not None:
            sqdist = sqdist.where(self.weights[self._index] > 0, 0)
        return self._sqdist_scale(sqdist.amax(dim=1).double())

    def _sqdist_scale(self, farthest: Tensor) -> Tensor:
        return finest_scale(self.survey.total_weight[self._index] * farthest)

    def _scored(self, center: Tensor) -> Assignment:
        """What `assign` finds for one center (B, 1, D)."""
        sqdist = torch.empty(len(self.problems), self.x.shape[1], dtype=self.dtype, device=self.x.device)
        for runs, rows, scores in self._scores(center):
            sqdist[runs, rows] = scores[:, 0]
        return Assignment(torch.zeros((), dtype=torch.int64, device=self.x.device).expand(sqdist.shape), sqdist)

    def _scores(self, centers: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """By blocks of runs and rows: squared distances (runs, L, rows) to centers (B, L, D)."""
        for runs, rows in tiles(len(self.problems), self.x.shape[1], _BLOCK // (centers.shape[1] * centers.shape[2])):
            x = self.x[of_runs(self.problems[runs], self._index[runs]), rows].to(self.dtype)
            x = x.permute(2, 0, 1).contiguous()
            yield runs, rows, squared_distance(x[:, :, None], centers[runs].permute(2, 0, 1)[..., None])

    def _weighted(self, factors: Tensor, runs: slice = slice(None), rows: slice = slice(None)) -> Tensor:
        """Factors (runs, ..., rows) times the weights of these rows, as new float64."""
        factors = factors.double()
        if self.weights is None:
            return factors
        weights = self.weights[of_runs(self.problems[runs], self._index[runs]), rows]
        return factors * weights.view(len(weights), *[1] * (factors.ndim - 2), -1)

    def _masses(self) -> Tensor:
        """The weights in steps (B or 1, N)."""
        if self.weights is None:
            return torch.ones(1, self.x.shape[1], dtype=torch.int64, device=self.x.device)
        return to_grid(self.weights[self._index].double(), self.grid.weight[:, None])

    def _masses_off(self, near: Assignment) -> Tensor:
        """The same (B, N), 0 for the points that are their center, unless all are."""
        masses = self._masses()
        off = masses.where(near.sqdist > 0, 0)
        return torch.where((off == 0).all(dim=1, keepdim=True), masses, off)

    def _draw(self, n: int, generator: torch.Generator, masses: Tensor) -> Tensor:
        """One integer below the total of the masses decides each draw; exact prefix sums say whose it is."""
        bounds = masses.cumsum(1)
        return self._taken(torch.searchsorted(bounds, self._random(n, generator, bounds[:, -1:]), right=True))

    def _random(self, n: int, generator: torch.Generator, totals: Tensor) -> Tensor:
        """Random integers (B or 1, n) below totals (B or 1, 1)."""
        random = torch.randint(1 << _DRAW_BITS, (n,), generator=generator, device="cpu")
        return _share(random.to(self.x.device), totals)

    def _taken(self, rows: Tensor) -> Tensor:
        """The points (B, n, D) in these rows (B or 1, n)."""
        return self.x[self._index[:, None], rows.expand(len(self.problems), -1)].to(self.dtype)


def tensor_points(x: Tensor, weights: Tensor | None, engine: Engine, dtype: torch.dtype) -> TensorPoints:
    """Points (P, N, D) in one tensor, with weights (P, N) or all of weight 1, a run for each problem.

    Values must be finite, weights not negative. ValueError for weights that no grid can hold.
    """
    scale = weight_scale(weights, x)
    if weights is not None and weights.is_floating_point():
        # Rounded once for all: a point that weighs less than a step weighs nothing.
        weights = from_grid(to_grid(weights.double(), scale[:, None]), scale[:, None])
    return TensorPoints(x, weights, engine, dtype, survey(x, weights, scale), range(len(x)))


def survey(x: Tensor, weights: Tensor | None, scale: Tensor) -> Survey:
    """The survey of points (P, N, D) in one tensor, with weights (P, N) on grids of these scales (P,)."""
    if weights is None:
        lowest, highest = torch.aminmax(x, dim=1)
        total = torch.full((len(x),), float(x.shape[1]), dtype=torch.float64, device=x.device)
    else:
        lowest, highest = _range_of_present(x, weights > 0)
        # On the grid, so that the total has the same bits in whatever order it is summed.
        total = from_grid(to_grid(weights.double(), scale[:, None]).sum(dim=1), scale)
    lowest, highest = lowest.double(), highest.double()
    check_reach(total, diagonal(lowest, highest))
    return Survey(lowest=lowest, highest=highest, weight_scale=scale, total_weight=total)


def weight_scale(weights: Tensor | None, x: Tensor) -> Tensor:
    """Steps in a unit of weight (P,) for points (P, N, D): 1 for integers, else the finest that cannot overflow.

    ValueError if the total of these weights, which are finite and not negative, would be too large.
    """
    ones = torch.ones(len(x), dtype=torch.float64, device=x.device)
    if weights is None:
        return ones
    if not weights.is_floating_point():
        total = float(weights.double().sum(dim=1).max())
        if total >= 2**61:
            raise ValueError(f"integer weights must add up to less than 2**61, got {total:.3g}")
        return ones
    if not (weights.amax(dim=1).double() >= 2.0**-_REACH).all():
        raise ValueError(
            f"weights must not vanish below {2.0**-_REACH:.0e}, got {float(weights.amax(dim=1).min()):.3g}"
        )
    # As many as there are, since a point of weight 0 must not change a bit.
    largest = weights.amax(dim=1).double() * (weights > 0).sum(dim=1)
    if not largest.isfinite().all():
        heaviest = float(weights.max())
        raise ValueError(f"weights must add up to a finite float64, got {weights.shape[1]} of up to {heaviest:.3g}")
    return finest_scale(largest)


def check_reach(total_weight: Tensor, farthest: Tensor) -> None:
    """ValueError if weights (P,) times squared distances (P,) leave what a grid of float64 can hold, with room."""
    reach = total_weight * farthest
    wrong = (farthest > 0) & ~((reach >= 2.0**-_REACH) & (reach < 2.0**_REACH))
    if wrong.any():
        came = f"{float(total_weight[wrong][0]):.3g} of weight and {float(farthest[wrong][0]):.3g} of squared distance"
        wanted = f"from {2.0**-_REACH:.0e} to {2.0**_REACH:.0e}"
        raise ValueError(f"weights times squared distances must be {wanted}, got {came}: scale them")


def diagonal(lowest: Tensor, highest: Tensor) -> Tensor:
    """The squared diagonal (B,) of boxes (B, D), float64. Added in one order, so that every device agrees."""
    return squared_distance(highest.mT, lowest.mT)


def _range_of_present(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest values (P, D), float64, of the points of which the mask (P, N) says that they are there."""
    if present.all():
        lowest, highest = torch.aminmax(x, dim=1)
        return lowest, highest
    lowest = torch.full((x.shape[0], x.shape[2]), math.inf, dtype=torch.float64, device=x.device)
    highest = -lowest
    for runs, rows in tiles(x.shape[0], x.shape[1], _BLOCK // x.shape[2]):
        part, absent = x[runs, rows].double(), ~present[runs, rows, None]
        lowest[runs] = torch.minimum(lowest[runs], part.masked_fill(absent, math.inf).amin(dim=1))
        highest[runs] = torch.maximum(highest[runs], part.masked_fill(absent, -math.inf).amax(dim=1))
    return lowest, highest


def _share(random: Tensor, totals: Tensor) -> Tensor:
    """floor(random · total / 2**62), exact, for random numbers below 2**62 (n,) and totals below 2**62 (B, 1): (B, n).

    Uniform in [0, total) up to odds of 2**-62, from one random number each, so that runs which draw side by side stay
    in step; drawing anew what is too large would not.
    """
    half = _DRAW_BITS // 2
    mask = (1 << half) - 1
    high, low = random >> half, random & mask
    t_high, t_low = totals >> half, totals & mask
    return high * t_high + ((high * t_low + low * t_high + ((low * t_low) >> half)) >> half)
