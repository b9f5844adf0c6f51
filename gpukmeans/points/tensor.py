"""Points in one tensor."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment, BoundEngine, Engine
from gpukmeans.fixed_point import Grid, from_grid, to_grid
from gpukmeans.moments import Moments
from gpukmeans.points.base import Masses, Points, surveyed
from gpukmeans.points.stats import Census, Spread
from gpukmeans.tiling import Problems, of_runs, tiles
from gpukmeans.validation import Range, check_directions, finite_range

# Squared differences of coordinates that are held at a time while candidates are weighed.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class TensorPart:
    """Points (P, N, D) in one tensor, N at least 1, with weights (P, N) or all of weight 1.

    They are as the metric sees them; where only their `directions` count, a point of zeros is an error. `name` is what
    errors call them.
    """

    x: Tensor
    weights: Tensor | None
    engine: Engine
    dtype: torch.dtype
    directions: bool = False
    name: str = "x"

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return None if self.weights is None else self.weights.dtype

    @cached_property
    def _bound(self) -> BoundEngine:
        return self.engine.bind(self.x, self.weights)

    @cached_property
    def _index(self) -> Problems:
        return Problems(self.x.device)

    def census(self) -> Census:
        n_problems, n_rows, width = self.x.shape
        values = finite_range(self._told(self.x), self.name)
        if self.weights is None:
            if self.directions:
                check_directions(self._told(self.x), self.name)
            lightest = heaviest = torch.ones(n_problems, dtype=torch.float64, device=self.x.device)
            n_weighted = torch.full((n_problems,), n_rows, device=self.x.device)
            total = n_weighted.double()
        else:
            lightest, heaviest = (bound.double() for bound in torch.aminmax(self.weights, dim=1))
            n_weighted = (self.weights > 0).sum(dim=1)
            total = self.weights.double().sum(dim=1)
        return Census(
            values=Range(*(bound.view(n_problems, width) for bound in values)),
            lightest=lightest,
            heaviest=heaviest,
            n_weighted=n_weighted,
            total=total,
        )

    def weighed(self, scale: Tensor) -> "TensorPart":
        if self.weights is None or not self.weights.is_floating_point():
            return self
        # Rounded once for all.
        return replace(self, weights=from_grid(to_grid(self.weights.double(), scale[:, None]), scale[:, None]))

    def spread(self, scale: Tensor) -> Spread:
        if self.weights is None:
            return self.census().spread()
        present = self.weights > 0
        if self.directions:
            check_directions(self._told(self.x), self.name, self._told(present))
        lowest, highest = _range_of_present(self.x, present)
        total = to_grid(self.weights.double(), scale[:, None]).sum(dim=1)
        return Spread(lowest=lowest.double(), highest=highest.double(), total=total, n_present=present.sum(dim=1))

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        return self._bound.measure(centers, grid, problems)

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        return self._bound.assign(centers, problems)

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor:
        return self.assign(centers, problems).labels

    def nearer(self, near: Assignment, centers: Tensor, first: int, problems: Sequence[int]) -> Assignment:
        # For one center there is nothing to choose: its scores alone are up to five times faster.
        found = self._scored(centers, problems) if centers.shape[1] == 1 else self.assign(centers, problems)
        closer = found.sqdist < near.sqdist  # strictly, so that the lowest index wins a tie
        return Assignment(
            torch.where(closer, found.labels + first, near.labels), torch.where(closer, found.sqdist, near.sqdist)
        )

    def farthest(self, near: Assignment, total_weight: Tensor, problems: Sequence[int]) -> Tensor:
        sqdist = near.sqdist
        if self.weights is not None:
            sqdist = sqdist.where(self.weights[self._index(problems)] > 0, 0)
        return sqdist.amax(dim=1).double()

    def urn(self, masses: Masses, near: Assignment | None, scale: Tensor, problems: Sequence[int]) -> "TensorUrn":
        index = self._index(problems)
        if masses is Masses.FAR:
            assert near is not None
            steps = to_grid(self._weighted(near.sqdist, problems), scale[:, None])
        else:
            steps = self._weights_in_steps(scale, problems)
            if masses is Masses.OFF:
                assert near is not None
                steps = steps.where(near.sqdist > 0, 0)
            elif self.weights is None:  # the bounds are the rows' own numbers
                return TensorUrn(self.x, self.dtype, index, None)
        return TensorUrn(self.x, self.dtype, index, steps.cumsum(1))

    def potentials(self, near: Assignment, candidates: Tensor, scale: Tensor, problems: Sequence[int]) -> Tensor:
        scale = scale[:, None, None]
        totals = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=self.x.device)
        for runs, rows, scores in self._scores(candidates, problems):
            left = torch.minimum(scores, near.sqdist[runs, None, rows])
            totals[runs] += to_grid(self._weighted(left, problems, runs, rows), scale[runs]).sum(dim=2)
        return totals

    def totals(self, near: Assignment, n_centers: int, scale: Tensor, problems: Sequence[int]) -> Tensor:
        totals = torch.zeros(len(problems), n_centers, dtype=torch.int64, device=self.x.device)
        return totals.scatter_add_(1, near.labels, self._weights_in_steps(scale, problems).expand_as(near.labels))

    def rows(self, rows: slice) -> "TensorPart":
        """Some of the rows, of each problem the same."""
        weights = None if self.weights is None else self.weights[:, rows]
        return replace(self, x=self.x[:, rows], weights=weights)

    def gathered(self, centers: Tensor, totals: Tensor) -> "TensorPart":
        return TensorPart(centers, totals, self.engine, self.dtype)

    def _told(self, values: Tensor) -> Tensor:
        """Of a single problem without the dimension of problems, as errors tell of it."""
        return values[0] if len(values) == 1 else values

    def _scored(self, center: Tensor, problems: Sequence[int]) -> Assignment:
        """What `assign` finds for one center (B, 1, D)."""
        sqdist = torch.empty(len(problems), self.x.shape[1], dtype=self.dtype, device=self.x.device)
        for runs, rows, scores in self._scores(center, problems):
            sqdist[runs, rows] = scores[:, 0]
        return Assignment(torch.zeros((), dtype=torch.int64, device=self.x.device).expand(sqdist.shape), sqdist)

    def _scores(self, centers: Tensor, problems: Sequence[int]) -> Iterator[tuple[slice, slice, Tensor]]:
        """By blocks of runs and rows: squared distances (runs, L, rows) to centers (B, L, D)."""
        index = self._index(problems)
        for runs, rows in tiles(len(problems), self.x.shape[1], _BLOCK // (centers.shape[1] * centers.shape[2])):
            x = self.x[of_runs(problems[runs], index[runs]), rows].to(self.dtype)
            x = x.permute(2, 0, 1).contiguous()
            yield runs, rows, squared_distance(x[:, :, None], centers[runs].permute(2, 0, 1)[..., None])

    def _weighted(
        self, factors: Tensor, problems: Sequence[int], runs: slice = slice(None), rows: slice = slice(None)
    ) -> Tensor:
        """Factors (runs, ..., rows) times the weights of these rows, as new float64."""
        factors = factors.double()
        if self.weights is None:
            return factors
        weights = self.weights[of_runs(problems[runs], self._index(problems)[runs]), rows]
        return factors * weights.view(len(weights), *[1] * (factors.ndim - 2), -1)

    def _weights_in_steps(self, scale: Tensor, problems: Sequence[int]) -> Tensor:
        """(B or 1, N) int64."""
        if self.weights is None:
            return torch.ones(1, self.x.shape[1], dtype=torch.int64, device=self.x.device)
        return to_grid(self.weights[self._index(problems)].double(), scale[:, None])


@dataclass(frozen=True, eq=False)
class TensorUrn:
    """The points (P, N, D) that B runs draw from, those of the problems in `index` (B,).

    `bounds` (B or 1, N) int64 are the exact prefix sums of their masses, None where each has one step.
    """

    x: Tensor
    dtype: torch.dtype
    index: Tensor
    bounds: Tensor | None

    @property
    def totals(self) -> Tensor:
        if self.bounds is None:
            return torch.full((1, 1), self.x.shape[1], dtype=torch.int64, device=self.x.device)
        return self.bounds[:, -1:].clone()  # else it would keep all of them, and take them along to other ranks

    def subtotals(self, size: int) -> Tensor:
        """The totals of each so many rows, and of those left: (B or 1, blocks) int64."""
        n_rows = self.x.shape[1]
        ends = torch.tensor([*range(size, n_rows, size), n_rows], device=self.x.device)
        ends = ends[None] if self.bounds is None else self.bounds[:, ends - 1]
        return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))

    def take(self, positions: Tensor) -> Tensor:
        rows = positions
        if self.bounds is not None:
            rows = torch.searchsorted(self.bounds, positions.contiguous(), right=True).clamp_(max=self.x.shape[1] - 1)
        return self.x[self.index[:, None], rows.expand(len(self.index), -1)].to(self.dtype)


def tensor_points(x: Tensor, weights: Tensor | None, engine: Engine, dtype: torch.dtype) -> Points:
    """Points (P, N, D) in one tensor, with weights (P, N) or all of weight 1, a run for each problem.

    ValueError for values that are not finite or that no grid can hold.
    """
    return surveyed(TensorPart(x, weights, engine, dtype))


def _range_of_present(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest values (P, D) of the points of which the mask (P, N) says that they are there."""
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
