"""Points, wherever they live: what seeding and the loop ask of them, and what is asked of the parts that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gpukmeans.fixed_point import Grid, finest_scale, from_grid
from gpukmeans.moments import Moments
from gpukmeans.points.stats import Census, Spread, Survey
from gpukmeans.validation import diagonal

# Random bits of a draw: the largest even number below those of an int64 and its sign.
_DRAW_BITS = 62

# What a part knows of the nearest of some centers. Only the part that made it can read it.
Near = Any


class Masses(Enum):
    """What the odds of a draw are proportional to."""

    WEIGHT = "weight"
    OFF = "weight, of points that are off their center"
    FAR = "weight times squared distance to the nearest center"


@runtime_checkable
class Urn(Protocol):
    """Points that can be drawn: each fills as many positions as its mass has steps, in the order of their rows."""

    @property
    def totals(self) -> Tensor:
        """How many positions there are (B or 1, 1), int64."""
        ...

    def take(self, positions: Tensor) -> Tensor:
        """The points (B, n, D) at positions (B or 1, n) below the totals; where these are 0, any."""
        ...


@runtime_checkable
class Part(Protocol):
    """A part of the points of P problems, or all: it answers questions and decides nothing, so that answers add.

    B runs are served at a time; `problems`, B numbers below P, says whose points each is about. `dtype` is the one
    computed in, and that of centers and squared distances, `weights_dtype` that of the weights, None where all are 1.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def weights_dtype(self) -> torch.dtype | None: ...

    def census(self) -> Census:
        """The first look. ValueError for coordinates that are not finite, and without weights for points that the
        metric cannot take."""
        ...

    def weighed(self, scale: Tensor) -> "Part":
        """The same points with their weights rounded to steps of which a unit has `scale` (P,).

        A point that weighs less than half a step weighs nothing, and is absent from all that follows.
        """
        ...

    def spread(self, scale: Tensor) -> Spread:
        """The second look, at weights on that grid. ValueError for points of weight that the metric cannot take."""
        ...

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D) on a grid."""
        ...

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Near:
        """The center of (B, K, D) nearest to each point."""
        ...

    def nearer(self, near: Near, centers: Tensor, first: int, problems: Sequence[int]) -> Near:
        """The nearest of the centers so far and of those that follow (B, L, D), whose indices begin at `first`."""
        ...

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        """The index of the nearest center for each point (B, N); None where they are too many to be held."""
        ...

    def farthest(self, near: Near, total_weight: Tensor, problems: Sequence[int]) -> Tensor:
        """The largest squared distance of a point of weight (B,) float64, at least 0.

        Times the weight of all points (B,) it says at which scale masses will be asked for.
        """
        ...

    def urn(self, masses: Masses, near: Near, scale: Tensor, problems: Sequence[int]) -> Urn:
        """The points to be drawn by these masses, of which a unit has `scale` (B,) steps."""
        ...

    def potentials(self, near: Near, candidates: Tensor, scale: Tensor, problems: Sequence[int]) -> Tensor:
        """For each candidate (B, L, D) the inertia if it were one more center: (B, L) int64, in steps of `scale`."""
        ...

    def totals(self, near: Near, n_centers: int, scale: Tensor, problems: Sequence[int]) -> Tensor:
        """The weight of the points nearest to each of so many centers (B, M) int64, in steps of `scale`."""
        ...

    def gathered(self, centers: Tensor, totals: Tensor) -> "Part":
        """Centers (B, M, D) as points of B problems, with these totals as their weights."""
        ...


@dataclass(frozen=True, eq=False)
class Points:
    """Weighted points, wherever they live, for B runs side by side, over the same points or over those of P problems.

    Draws are the same for each run, as far as its points and weights are: a run never sees how many others there are.
    They are integers below a total, so no draw depends on where a point lives either.
    """

    part: Part
    survey: Survey
    problems: Sequence[int]

    @property
    def dtype(self) -> torch.dtype:
        """The one computed in, and that of centers and squared distances."""
        return self.part.dtype

    @property
    def device(self) -> torch.device:
        return self.survey.lowest.device

    @property
    def width(self) -> int:
        """How many coordinates a point has."""
        return self.survey.lowest.shape[1]

    @cached_property
    def grid(self) -> Grid:
        return self.survey.grid.select(self._index)

    @cached_property
    def _index(self) -> Tensor:
        return torch.tensor(self.problems, device=self.device)

    @cached_property
    def _total_weight(self) -> Tensor:
        return self.survey.total_weight[self._index]

    def select(self, runs: Tensor) -> "Points":
        """The points of some of the runs, given as a mask (B,) or as indices."""
        return replace(self, problems=torch.tensor(self.problems, device="cpu")[runs.cpu()].tolist())

    def farthest(self, centers: Tensor) -> Tensor:
        """The squared diagonal of a box around all points and centers (B, K, D): (B,) float64."""
        lowest, highest = torch.aminmax(centers.double(), dim=1)
        return diagonal(torch.minimum(lowest, self.grid.lowest), torch.maximum(highest, self.grid.highest))

    def measure(self, centers: Tensor, farthest: Tensor) -> Moments:
        """Moments at centers (B, K, D), no point's nearest being at a squared distance of more than `farthest` (B,)."""
        return self.part.measure(centers, replace(self.grid, sqdist=self._sqdist_scale(farthest)), self.problems)

    def assign(self, centers: Tensor) -> Near:
        """The center of (B, K, D) nearest to each point, for `nearer` and all that takes a `near`."""
        return self.part.assign(centers, self.problems)

    def nearer(self, near: Near, centers: Tensor, first: int) -> Near:
        """The nearest of the centers so far and of those that follow (B, L, D), whose indices begin at `first`."""
        return self.part.nearer(near, centers, first, self.problems)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points (B, n, D), with replacement, by weight."""
        return self._drawn(n, generator, None, [(Masses.WEIGHT, self.grid.weight)])

    def draw_new(self, n: int, generator: torch.Generator, near: Near) -> Tensor:
        """The same (B, n, D) among the points that are off their center; where none is, among all."""
        weight = self.grid.weight
        return self._drawn(n, generator, near, [(Masses.OFF, weight), (Masses.WEIGHT, weight)])

    def draw_far(self, n: int, generator: torch.Generator, near: Near) -> Tensor:
        """The same by weight times squared distance; where that is 0 for all, as `draw_new`."""
        weight = self.grid.weight
        # Where all that is left is nearer than a step of the grid can tell, the others are asked.
        masses = [(Masses.FAR, self._scale_of(near)), (Masses.OFF, weight), (Masses.WEIGHT, weight)]
        return self._drawn(n, generator, near, masses)

    def potentials(self, near: Near, candidates: Tensor) -> Tensor:
        """For each candidate (B, L, D) the inertia if it were one more center: (B, L) int64, in steps of equal size."""
        return self.part.potentials(near, candidates, self._scale_of(near), self.problems)

    def totals(self, near: Near, n_centers: int) -> Tensor:
        """The weight of the points nearest to each of so many centers (B, M)."""
        totals = self.part.totals(near, n_centers, self.grid.weight, self.problems)
        return totals if self.part.weights_dtype is None else from_grid(totals, self.grid.weight[:, None])

    def gathered(self, centers: Tensor, totals: Tensor) -> "Points":
        """Centers (B, M, D) as points, with these totals as their weights."""
        return surveyed(self.part.gathered(centers, totals))

    def labels(self, centers: Tensor) -> Tensor | None:
        """For each point the index (B, N) of the nearest of centers (B, K, D); None if they are too many to be held."""
        return self.part.labels(centers, self.problems)

    def _scale_of(self, near: Near) -> Tensor:
        return self._sqdist_scale(self.part.farthest(near, self._total_weight, self.problems))

    def _sqdist_scale(self, farthest: Tensor) -> Tensor:
        return finest_scale(self._total_weight * farthest)

    def _drawn(
        self, n: int, generator: torch.Generator, near: Near, choices: Sequence[tuple[Masses, Tensor]]
    ) -> Tensor:
        """n points (B, n, D), each by one integer below the total of its masses: the first of them that is above 0."""
        random = torch.randint(1 << _DRAW_BITS, (n,), generator=generator, device="cpu").to(self.device)
        drawn: Tensor | None = None
        none: Tensor = torch.ones(1, 1, dtype=torch.bool, device=self.device)
        for masses, scale in choices:
            urn = self.part.urn(masses, near, scale, self.problems)
            taken = urn.take(share(random, urn.totals))
            drawn = taken if drawn is None else torch.where(none[..., None], taken, drawn)
            none = none & (urn.totals == 0)
            if masses is Masses.WEIGHT or not none.any():
                break
        assert drawn is not None
        return drawn


def surveyed(part: Part) -> Points:
    """Points as a part holds all of them, a run for each problem. ValueError for values that no grid can hold."""
    census = part.census()
    scale = census.weight_scale(part.weights_dtype)
    if part.weights_dtype is None:
        spread = census.spread()
    else:
        part = part.weighed(scale)
        spread = part.spread(scale)
    return Points(part, Survey.of(census, spread, scale), range(len(scale)))


def share(random: Tensor, totals: Tensor) -> Tensor:
    """floor(random · total / 2**62), exact, for random numbers below 2**62 (n,) and totals below 2**62 (B, 1): (B, n).

    Uniform in [0, total) up to odds of 2**-62, from one random number each, so that runs which draw side by side stay
    in step; drawing anew what is too large would not.
    """
    half = _DRAW_BITS // 2
    mask = (1 << half) - 1
    high, low = random >> half, random & mask
    t_high, t_low = totals >> half, totals & mask
    return high * t_high + ((high * t_low + low * t_high + ((low * t_low) >> half)) >> half)
