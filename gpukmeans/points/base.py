"""Weighted points and the operations of seeding and Lloyd's loop on them, independent of where they are stored.

A problem is one set of points of a batch. A run is one clustering of a problem from its own initial centers. A point
with weight is a point whose weight is above 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpukmeans.fixed_point import FixedPoint, finest_scale, from_fixed
from gpukmeans.moments import Moments
from gpukmeans.points.stats import InputStats, PointStats, WeightedStats
from gpukmeans.points.worst_served import WorstServed
from gpukmeans.transfers import from_host
from gpukmeans.validation import squared_diagonal

SAMPLE_BITS = 62
"""Random bits of a sample: the largest even number up to 63, because `scale_random` halves it and int64 has a sign."""


Generators = torch.Generator | Sequence[torch.Generator]
"""A CPU generator whose random numbers all runs use, or R generators for R equal parts of the runs."""


def each_generator(generator: Generators) -> Sequence[torch.Generator]:
    """The generators as a sequence."""
    return [generator] if isinstance(generator, torch.Generator) else generator


class SampleBy(Enum):
    """The sampling weight of a point. A point is sampled with a probability proportional to its sampling weight."""

    WEIGHT = "weight"
    UNCOVERED = "weight, of points that are not equal to a center; 0 for all others"
    D2 = "weight times squared distance to the nearest center"


@runtime_checkable
class WeightedSampler(Protocol):
    """Points at integer positions, in row order. A point fills one position per fixed-point unit of sampling weight."""

    @property
    def totals(self) -> Tensor:
        """The number of positions (B or 1, 1), int64."""
        ...

    def rows_at(self, positions: Tensor) -> Tensor:
        """The points (B, n, D) at positions (B or 1, n) below the totals; arbitrary points where the total is 0."""
        ...


@runtime_checkable
class NearestState(Protocol):
    """The nearest center of each point, for B runs with M centers each. Immutable: `update` returns a new state.

    `scale` (B,) float64 is the number of fixed-point units per 1. A D² sample is a sample by weight times squared
    distance to the nearest center.
    """

    def update(self, centers: Tensor) -> "NearestState":
        """The state with L more centers (B, L, D), whose indices are M to M + L - 1. The lowest index wins a tie."""
        ...

    def max_sqdist(self, total_weight: Tensor) -> Tensor:
        """The largest squared distance (B,) of a point with weight, float64, 0 without points.

        This distance and `total_weight` (B,), the weight of all points, determine the fixed-point scale of D² samples.
        """
        ...

    def sampler(self, by: SampleBy, scale: Tensor) -> WeightedSampler:
        """A sampler of the points. Without centers (M = 0), `by` must be `SampleBy.WEIGHT`."""
        ...

    def potentials(self, candidates: Tensor, scale: Tensor) -> Tensor:
        """The inertia (B, L) if one of the candidates (B, L, D) is added as a center, in fixed-point units, int64."""
        ...

    def cluster_weights(self, scale: Tensor) -> Tensor:
        """The weight (B, M) of the points nearest to each center, in fixed-point units, int64."""
        ...


@runtime_checkable
class PointSource(Protocol):
    """Points of P problems: all points, or one of several disjoint parts whose results add up.

    B runs are computed side by side. `problems` are B numbers below P, the problem of each run. `dtype` is the dtype of
    the computation, of centers and of squared distances. `weights_dtype` is None if the points have no weights, so that
    all weights are 1.
    """

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def weights_dtype(self) -> torch.dtype | None: ...

    def input_stats(self) -> InputStats:
        """Statistics of rows and weights before weights are rounded.

        ValueError for values that are not finite and, if all weights are integers above 0, for points that the metric
        excludes.
        """
        ...

    def with_fixed_point_weights(self, scale: Tensor) -> "PointSource":
        """The same points with their weights rounded to fixed point at `scale` (P,).

        A weight below half a unit becomes 0, so its point is absent.
        """
        ...

    def weighted_stats(self, scale: Tensor) -> WeightedStats:
        """Statistics of the points with weight, after weights are rounded.

        ValueError for points that the metric excludes.
        """
        ...

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D)."""
        ...

    def worst_served(self, centers: Tensor, n: int, problems: Sequence[int]) -> WorstServed:
        """The n points with weight that are farthest from their nearest centers (B, K, D), without equal points."""
        ...

    def totals_of_equal(self, values: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Tensor:
        """For each of the values (B, n, D), sums over the points that equal the value; 0 if an earlier value is equal.

        The sums (B, n, D + 1) of w·(x - lowest) and, last, of w are int64, in fixed-point units.
        """
        ...

    def assign(self, centers: Tensor | None, problems: Sequence[int]) -> NearestState:
        """The nearest of the centers (B, M, D) for each point. Without centers (None) the state has M = 0."""
        ...

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        """The index of the nearest center for each point (B, N) int64; None for streams."""
        ...

    def centers_as_points(self, centers: Tensor, weights: Tensor) -> "PointSource":
        """Centers (B, M, D) as the points of B problems, with these weights (B, M)."""
        ...


@dataclass(frozen=True, eq=False)
class Points:
    """Weighted points for B runs side by side. Each run uses the points of one of P problems.

    A sample is found by one random integer below the integer total of all sampling weights, so the samples and bits of
    a run depend neither on the other runs nor on where the points are stored.
    """

    source: PointSource
    stats: PointStats
    problems: Sequence[int]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation, of centers and of squared distances."""
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        return self.source.device

    @property
    def width(self) -> int:
        """The number of coordinates D."""
        return self.stats.lowest.shape[1]

    @property
    def fixed_point(self) -> FixedPoint:
        """The fixed-point scales of each run, for centers within the range of the points."""
        return self._scales[0]

    @property
    def total_weight(self) -> Tensor:
        """The weight of all points (B,), float64."""
        return self._scales[1]

    @cached_property
    def _scales(self) -> tuple[FixedPoint, Tensor]:
        scales, total_weight = self.stats.fixed_point.select(self._index), self.stats.total_weight[self._index]
        *tensors, total_weight = from_host(self.device, *scales.tensors().values(), total_weight)
        return FixedPoint(**dict(zip(scales.tensors(), tensors, strict=True))), total_weight

    @cached_property
    def _index(self) -> Tensor:
        """The problems (B,) on the CPU, an index of the statistics."""
        return torch.tensor(self.problems, dtype=torch.int64, device="cpu")

    def select(self, runs: Tensor) -> "Points":
        """The points of some of the runs, given as a mask (B,) or as indices."""
        return replace(self, problems=self._index[runs.cpu()].tolist())

    def sqdist_bound(self, centers: Tensor) -> Tensor:
        """The squared diagonal (B,) of a box around all points and centers (B, K, D), float64."""
        lowest, highest = torch.aminmax(centers.double(), dim=1)
        return squared_diagonal(
            torch.minimum(lowest, self.fixed_point.lowest), torch.maximum(highest, self.fixed_point.highest)
        )

    def measure(self, centers: Tensor, sqdist_bound: Tensor, scale: Tensor | None = None) -> Moments:
        """Moments at centers (B, K, D). No squared distance to a nearest center may exceed `sqdist_bound` (B,).

        `scale` (B,) is the `sqdist_scale` of the bound, if the caller has computed it.
        """
        scale = self.sqdist_scale(sqdist_bound) if scale is None else scale
        return self.source.measure(centers, self.fixed_point.with_sqdist(scale), self.problems)

    def worst_served(self, centers: Tensor, n: int) -> WorstServed:
        """The n points with weight that are farthest from their nearest centers (B, K, D), without equal points."""
        return self.source.worst_served(centers, n, self.problems)

    def totals_of_equal(self, values: Tensor) -> Tensor:
        """Sums and weights (B, n, D + 1), as in moments, of the points equal to each of the values (B, n, D)."""
        return self.source.totals_of_equal(values, self.fixed_point, self.problems)

    def labels(self, centers: Tensor) -> Tensor | None:
        """The index of the nearest of centers (B, K, D) for each point (B, N); None for streams."""
        return self.source.labels(centers, self.problems)

    def assign(self, centers: Tensor) -> NearestState:
        """The nearest of centers (B, M, D) for each point: the argument `nearest` of the methods below."""
        return self.source.assign(centers, self.problems)

    def sample(self, n: int, generator: Generators) -> Tensor:
        """n points (B, n, D), with replacement, by weight."""
        return self._sample(n, generator, self.source.assign(None, self.problems), [])

    def sample_uncovered(self, n: int, generator: Generators, nearest: NearestState) -> Tensor:
        """n points (B, n, D), sampled by weight from the points that equal no center, or from all if there are none."""
        return self._sample(n, generator, nearest, [(SampleBy.UNCOVERED, self.fixed_point.weight)])

    def sample_d2(self, n: int, generator: Generators, nearest: NearestState) -> Tensor:
        """n points (B, n, D), sampled by weight times squared distance; by `sample_uncovered` if all products are 0."""
        # Products below half a fixed-point unit round to 0, so all can be 0 although some point equals no center.
        choices = [(SampleBy.D2, self._d2_scale(nearest)), (SampleBy.UNCOVERED, self.fixed_point.weight)]
        return self._sample(n, generator, nearest, choices)

    def potentials(self, nearest: NearestState, candidates: Tensor) -> Tensor:
        """The inertia (B, L), int64, if one of the candidates (B, L, D) is added as a center.

        The fixed-point units are equal for all candidates of a run.
        """
        return nearest.potentials(candidates, self._d2_scale(nearest))

    def cluster_weights(self, nearest: NearestState) -> Tensor:
        """The weight (B, M) of the points nearest to each center: int64 if all weights are 1, else float64."""
        weights = nearest.cluster_weights(self.fixed_point.weight)
        return weights if self.source.weights_dtype is None else from_fixed(weights, self.fixed_point.weight[:, None])

    def centers_as_points(self, centers: Tensor, weights: Tensor) -> "Points":
        """Centers (B, M, D) as the points of B problems, with these weights (B, M)."""
        return points_from_source(self.source.centers_as_points(centers, weights))

    def _d2_scale(self, nearest: NearestState) -> Tensor:
        return self.sqdist_scale(nearest.max_sqdist(self.total_weight))

    def sqdist_scale(self, sqdist_bound: Tensor) -> Tensor:
        """The finest scale (B,) for the sum of w·d² if no squared distance exceeds the bound (B,)."""
        return finest_scale(self.total_weight * sqdist_bound)

    def _sample(
        self, n: int, generator: Generators, nearest: NearestState, choices: Sequence[tuple[SampleBy, Tensor]]
    ) -> Tensor:
        """n points (B, n, D), each found by one random integer.

        A run samples by the first of the `choices` whose total is not 0, else by weight.
        """
        numbers = random_numbers(n, generator, len(self.problems))
        (random,) = from_host(self.device, numbers) if choices else (numbers,)
        sampled: Tensor | None = None
        missing: Tensor | None = None
        for by, scale in choices:
            sampler = nearest.sampler(by, scale)
            totals = sampler.totals
            rows = sampler.rows_at(scale_random(random, totals))
            sampled = rows if missing is None or sampled is None else torch.where(missing[..., None], rows, sampled)
            missing = totals == 0 if missing is None else missing & (totals == 0)
            if not missing.any():
                return sampled
        # Positions by weight are computed on the CPU, where the totals are known.
        (positions,) = from_host(self.device, scale_random(numbers, self.stats.total_units[self._index][:, None]))
        rows = nearest.sampler(SampleBy.WEIGHT, self.fixed_point.weight).rows_at(positions)
        return rows if missing is None or sampled is None else torch.where(missing[..., None], rows, sampled)


def points_from_source(source: PointSource) -> Points:
    """All points of a source, one run for each problem. ValueError for values that fixed point cannot represent."""
    input_stats = source.input_stats()
    scale = input_stats.weight_scale(source.weights_dtype)
    is_integer = source.weights_dtype is None or not source.weights_dtype.is_floating_point
    if is_integer and (input_stats.lightest > 0).all():
        weighted_stats = input_stats.of_integer_weights()
    else:
        source = source.with_fixed_point_weights(scale)
        weighted_stats = source.weighted_stats(scale)
    return Points(source, PointStats.of(input_stats, weighted_stats, scale), range(len(scale)))


def random_numbers(n: int, generator: Generators, n_runs: int) -> Tensor:
    """Uniform random integers below 2**62, on the CPU: (1, n) by one generator, (B, n) for B runs by several."""
    generators = each_generator(generator)
    numbers = torch.stack([torch.randint(1 << SAMPLE_BITS, (n,), generator=one, device="cpu") for one in generators])
    return numbers if len(numbers) == 1 else numbers.repeat_interleave(n_runs // len(numbers), dim=0)


def scale_random(random: Tensor, totals: Tensor) -> Tensor:
    """floor(random · total / 2**62), exact, for random numbers below 2**62 (B or 1, n) and totals below 2**62 (B, 1).

    The result is uniform in [0, total) up to a probability of 2**-62. Rejection sampling would be exact, but runs would
    need different amounts of random numbers.
    """
    half = SAMPLE_BITS // 2
    mask = (1 << half) - 1
    high, low = random >> half, random & mask
    t_high, t_low = totals >> half, totals & mask
    return high * t_high + ((high * t_low + low * t_high + ((low * t_low) >> half)) >> half)
