"""Points in one tensor. `gpukmeans.points.base` defines problems, runs, points with weight and sampling positions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines import Assignment, BoundEngine, Engine
from gpukmeans.engines.fused import seeding as cuda_seeding
from gpukmeans.engines.native.few import MAX_SORTED
from gpukmeans.engines.native.many import MAX_WIDTH
from gpukmeans.engines.native.seeding import MAX_CANDIDATES, WeightedRows, extended
from gpukmeans.engines.native.tensors import takes
from gpukmeans.fixed_point import FixedPoint, from_fixed, to_fixed
from gpukmeans.moments import Moments
from gpukmeans.points.base import (
    SAMPLE_BITS,
    Generators,
    Points,
    SampleBy,
    each_generator,
    points_from_source,
    random_numbers,
)
from gpukmeans.points.stats import InputStats, WeightedStats
from gpukmeans.points.worst_served import WorstServed
from gpukmeans.tiling import ProblemIndex, blocks, problem_index, tile_size, tiles
from gpukmeans.transfers import from_host, on_host
from gpukmeans.validation import Range, bounds_of, check_nonzero_rows, checked_range

# The number of coordinates, or of their squared differences, that are in memory at a time on a CPU.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Points (P, N, D) in one tensor, N at least 1, with weights (P, N) or None for weights of 1.

    `x` are the points after `Metric.prepare`: unchanged for the Euclidean metric, divided by their norms for the cosine
    metric. If `nonzero` is true, a row of zeros whose weight is above 0 is an error. `name` is the name of the points
    in errors.
    """

    x: Tensor
    weights: Tensor | None
    engine: Engine
    dtype: torch.dtype
    nonzero: bool = False
    name: str = "x"

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return None if self.weights is None else self.weights.dtype

    @cached_property
    def bound(self) -> BoundEngine:
        return self.engine.bind(self.x, self.weights)

    @cached_property
    def _block(self) -> int:
        return tile_size(self.x.device, _BLOCK)

    @cached_property
    def index(self) -> ProblemIndex:
        return ProblemIndex(self.x.device)

    def input_stats(self) -> InputStats:
        n_problems, n_rows, width = self.x.shape
        x, weights = _squeezed(self.x), self.weights
        if weights is None:
            (bounds,) = on_host(bounds_of(x))
            lightest = heaviest = torch.ones(n_problems, dtype=torch.float64, device="cpu")
            n_weighted = units = torch.full((n_problems,), n_rows, device="cpu")
            total = n_weighted.double()
        else:
            extremes, n_weighted = torch.stack(torch.aminmax(weights, dim=1)).double(), (weights > 0).sum(dim=1)
            total = weights.double().sum(dim=1)
            units = n_weighted if weights.is_floating_point() else weights.sum(dim=1)
            bounds, extremes, n_weighted, total, units = on_host(bounds_of(x), extremes, n_weighted, total, units)
            lightest, heaviest = extremes
        values = checked_range(bounds, x, self.name)
        is_integer = weights is None or not weights.is_floating_point()
        if self.nonzero and is_integer and (lightest > 0).all():
            check_nonzero_rows(x, self.name)
        return InputStats(
            values=Range(*(bound.view(n_problems, width) for bound in values)),
            lightest=lightest,
            heaviest=heaviest,
            n_weighted=n_weighted,
            total=total,
            units=units,
        )

    def with_fixed_point_weights(self, scale: Tensor) -> "TensorSource":
        if self.weights is None or not self.weights.is_floating_point():
            return self
        (scale,) = from_host(self.x.device, scale[:, None])
        return replace(self, weights=from_fixed(to_fixed(self.weights.double(), scale), scale))

    def weighted_stats(self, scale: Tensor) -> WeightedStats:
        if self.weights is None:
            return self.input_stats().of_integer_weights()
        present = self.weights > 0
        if self.nonzero:
            check_nonzero_rows(_squeezed(self.x), self.name, _squeezed(present))
        (scale,) = from_host(self.x.device, scale)
        total = to_fixed(self.weights.double(), scale[:, None]).sum(dim=1)
        lowest, highest = (bound.double() for bound in _range_of_present(self.x, present))
        lowest, highest, total, n_present = on_host(lowest, highest, total, present.sum(dim=1))
        return WeightedStats(lowest=lowest, highest=highest, total=total, n_present=n_present)

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        return self.bound.measure(centers, fixed_point, problems)

    def worst_served(self, centers: Tensor, n: int, problems: Sequence[int]) -> WorstServed:
        labels, sqdist = self.bound.assign(centers, problems)
        if self.weights is not None:
            sqdist = sqdist.where(self.weights[self.index(problems)] > 0, 0)
        return WorstServed.among(sqdist, labels, [self.x[problem] for problem in problems], n)

    def totals_of_equal(self, values: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Tensor:
        labels, sqdist = self.bound.assign(values, problems)
        scales = torch.cat([fixed_point.sum, fixed_point.weight[:, None]], dim=1)
        totals = torch.zeros(*values.shape[:2], scales.shape[1], dtype=torch.int64, device=values.device)
        near = (sqdist == 0).nonzero()  # also unequal points whose squared distance underflows
        for block in blocks(len(near), tile_size(values.device, _BLOCK) // values.shape[2]):
            run, row = near[block].unbind(dim=1)
            label, problem = labels[run, row], self.index(problems)[run]
            x = self.x[problem, row].to(self.dtype)
            equal = (x == values[run, label]).all(dim=1).double()
            w = (equal if self.weights is None else equal * self.weights[problem, row])[:, None]
            terms = to_fixed(torch.cat([(x.double() - fixed_point.lowest[run]) * w, w], dim=1), scales[run])
            totals.flatten(0, 1).index_add_(0, run * values.shape[1] + label, terms)
        return totals

    def assign(self, centers: Tensor | None, problems: Sequence[int]) -> "TensorNearest":
        if centers is None:
            shape, device = (len(problems), self.x.shape[1]), self.x.device
            label = torch.zeros((), dtype=torch.int64, device=device)
            infinity = torch.full((), math.inf, dtype=self.dtype, device=device)
            return TensorNearest(self, problems, 0, label.expand(shape), infinity.expand(shape))
        return TensorNearest(self, problems, centers.shape[1], *self.bound.assign(centers, problems))

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor:
        return self.bound.assign(centers, problems).labels

    def centers_as_points(self, centers: Tensor, weights: Tensor) -> "TensorSource":
        return TensorSource(centers, weights, self.engine, self.dtype)

    def rows(self, rows: slice) -> "TensorSource":
        """The points of some rows, the same rows of each problem."""
        weights = None if self.weights is None else self.weights[:, rows]
        return replace(self, x=self.x[:, rows], weights=weights)

    def distances(self, centers: Tensor, problems: Sequence[int]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Blocks: a slice of runs, a slice of rows, and squared distances (runs, L, rows) to centers (B, L, D)."""
        index = self.index(problems)
        n_rows = self._block // (centers.shape[1] * centers.shape[2])
        for runs, rows in tiles(len(problems), self.x.shape[1], n_rows):
            x = self.x[problem_index(problems[runs], index[runs]), rows].to(self.dtype)
            x = x.permute(2, 0, 1).contiguous()
            yield runs, rows, squared_distance(x[:, :, None], centers[runs].permute(2, 0, 1)[..., None])

    def weighted(
        self, factors: Tensor, problems: Sequence[int], runs: slice = slice(None), rows: slice = slice(None)
    ) -> Tensor:
        """Factors (runs, ..., rows) times the weights of these rows, float64."""
        factors = factors.double()
        if self.weights is None:
            return factors
        weights = self.weights[problem_index(problems[runs], self.index(problems)[runs]), rows]
        return factors * weights.view(len(weights), *[1] * (factors.ndim - 2), -1)

    def fixed_point_weights(self, scale: Tensor, problems: Sequence[int]) -> Tensor:
        """The weights (B or 1, N) in fixed-point units, int64."""
        if self.weights is None:
            return torch.ones(1, self.x.shape[1], dtype=torch.int64, device=self.x.device)
        return to_fixed(self.weights[self.index(problems)].double(), scale[:, None])


@dataclass(frozen=True, eq=False)
class TensorNearest:
    """The nearest of M centers for each point of B runs: labels (B, N) int64, and squared distances (B, N)."""

    source: TensorSource
    problems: Sequence[int]
    n_centers: int
    labels: Tensor
    sqdist: Tensor

    def update(self, centers: Tensor) -> "TensorNearest":
        # For one center the distances alone are up to five times faster than an assignment.
        added = self._distances_to(centers) if centers.shape[1] == 1 else self.source.assign(centers, self.problems)
        closer = added.sqdist < self.sqdist  # strictly, so that the lowest index wins a tie
        labels = torch.where(closer, added.labels + self.n_centers, self.labels)
        sqdist = torch.where(closer, added.sqdist, self.sqdist)
        return replace(self, n_centers=self.n_centers + centers.shape[1], labels=labels, sqdist=sqdist)

    def max_sqdist(self, total_weight: Tensor) -> Tensor:
        sqdist, weights = self.sqdist, self.source.weights
        if weights is not None:
            sqdist = sqdist.where(weights[self.source.index(self.problems)] > 0, 0)
        return sqdist.amax(dim=1).double()

    def sampler(self, by: SampleBy, scale: Tensor) -> "TensorSampler":
        source, index = self.source, self.source.index(self.problems)
        if by is SampleBy.D2:
            units = to_fixed(source.weighted(self.sqdist, self.problems), scale[:, None])
        else:
            units = source.fixed_point_weights(scale, self.problems)
            if by is SampleBy.UNCOVERED:
                units = units.where(self.sqdist > 0, 0)
            elif source.weights is None:  # 1 unit each, so the position of a point is its row
                return TensorSampler(source.x, source.dtype, index, None)
        return TensorSampler(source.x, source.dtype, index, units.cumsum(1))

    def potentials(self, candidates: Tensor, scale: Tensor) -> Tensor:
        scale = scale[:, None, None]
        totals = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=candidates.device)
        for runs, rows, sqdist in self.source.distances(candidates, self.problems):
            sqdist = torch.minimum(sqdist, self.sqdist[runs, None, rows])
            totals[runs] += to_fixed(self.source.weighted(sqdist, self.problems, runs, rows), scale[runs]).sum(dim=2)
        return totals

    def cluster_weights(self, scale: Tensor) -> Tensor:
        totals = torch.zeros(len(self.problems), self.n_centers, dtype=torch.int64, device=self.labels.device)
        weights = self.source.fixed_point_weights(scale, self.problems)
        return totals.scatter_add_(1, self.labels, weights.expand_as(self.labels))

    def _distances_to(self, center: Tensor) -> Assignment:
        """The assignment to one center (B, 1, D)."""
        sqdist = torch.empty_like(self.sqdist)
        for runs, rows, block in self.source.distances(center, self.problems):
            sqdist[runs, rows] = block[:, 0]
        return Assignment(torch.zeros((), dtype=torch.int64, device=sqdist.device).expand(sqdist.shape), sqdist)


@dataclass(frozen=True, eq=False)
class TensorSampler:
    """A sampler of the points (P, N, D) of the problems `index` (B,).

    `bounds` (B or 1, N) int64 are the exact prefix sums of the sampling weights; None where each weight is 1 unit.
    """

    x: Tensor
    dtype: torch.dtype
    index: Tensor
    bounds: Tensor | None

    @property
    def totals(self) -> Tensor:
        if self.bounds is None:
            return torch.full((1, 1), self.x.shape[1], dtype=torch.int64, device=self.x.device)
        # A copy, because a view would keep all bounds in memory.
        return self.bounds[:, -1:].clone()

    def block_totals(self, size: int) -> Tensor:
        """The total of each block of `size` rows, int64 (B or 1, blocks). The last block may be shorter."""
        n_rows = self.x.shape[1]
        ends = torch.tensor([*range(size, n_rows, size), n_rows], device=self.x.device)
        ends = ends[None] if self.bounds is None else self.bounds[:, ends - 1]
        return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))

    def rows_at(self, positions: Tensor) -> Tensor:
        rows = positions
        if self.bounds is not None:
            rows = torch.searchsorted(self.bounds, positions.contiguous(), right=True).clamp_(max=self.x.shape[1] - 1)
        return self.x[self.index[:, None], rows.expand(len(self.index), -1)].to(self.dtype)


def tensor_points(x: Tensor, weights: Tensor | None, engine: Engine, dtype: torch.dtype) -> Points:
    """The `Points` of a tensor (P, N, D), with one run of each problem. Weights are (P, N), or None for weights of 1.

    ValueError for values that are not finite or that fixed point cannot represent.
    """
    return points_from_source(TensorSource(x, weights, engine, dtype))


def extended_by_kernels(
    points: Points, centers: Tensor, n_clusters: int, n_candidates: int, generator: Generators
) -> Tensor | None:
    """Centers (B, K, D): the given centers (B, M, D), then points by greedy k-means++, by the kernels of the device.

    The bits, and the use of random numbers, are those of `gpukmeans.seeding.extended`. If the kernels do not apply, the
    result is None and the generators are unchanged. In each step some point must not be at a center. On the CPU the
    kernels need contiguous points whose dtype, float32 or float64, is the dtype of the computation; on CUDA they need
    at most 8 coordinates.
    """
    source = points.source
    if not isinstance(source, TensorSource):
        return None
    generators = each_generator(generator)
    states = [one.get_state() for one in generators]
    if cuda_seeding.supports(source.x):
        found = _extended_on_cuda(source, points, centers, n_clusters, n_candidates, generator)
    elif n_candidates <= MAX_CANDIDATES and _has_native_rows(source):
        found = _natively_extended(source, points, centers, n_clusters, n_candidates, generator)
    else:
        return None
    if found is None:
        for one, state in zip(generators, states, strict=True):
            one.set_state(state)
    return found


def _extended_on_cuda(
    source: TensorSource,
    points: Points,
    centers: Tensor,
    n_clusters: int,
    n_candidates: int,
    generator: Generators,
) -> Tensor | None:
    problems, n_more = source.index(points.problems), n_clusters - centers.shape[1]
    # All numbers at once, because a copy to the device synchronizes with it.
    random = random_numbers(n_more * n_candidates, generator, len(points.problems)).view(-1, n_more, n_candidates)
    sqdist = source.assign(centers, points.problems).sqdist
    return cuda_seeding.extended(source.x, source.weights, problems, points.total_weight, centers, sqdist, random)


def _natively_extended(
    source: TensorSource,
    points: Points,
    centers: Tensor,
    n_clusters: int,
    n_candidates: int,
    generator: Generators,
) -> Tensor | None:
    nearest, n_runs, drawn = source.assign(centers, points.problems), len(points.problems), list[list[list[int]]]()
    run = 0

    def draw(step: int, total: int) -> list[int]:
        if step == len(drawn):
            drawn.append(random_numbers(n_candidates, generator, n_runs).tolist())
        numbers = drawn[step]
        return [number * total >> SAMPLE_BITS for number in numbers[run if len(numbers) > 1 else 0]]

    extended_runs: list[Tensor] = []
    for run, problem in enumerate(points.problems):
        weights = None if source.weights is None else source.weights[problem].double().contiguous()
        rows = WeightedRows(source.x[problem], weights, float(points.stats.total_weight[problem]))
        state_of_run = nearest.labels[run], nearest.sqdist[run]
        found = extended(rows, centers[run], *state_of_run, n_clusters, n_candidates, draw)
        if found is None:
            return None
        extended_runs.append(found)
    return torch.stack(extended_runs)


def _has_native_rows(source: TensorSource) -> bool:
    x = source.x
    fits = x.shape[1] <= MAX_SORTED and x.shape[2] <= MAX_WIDTH
    return fits and takes(x, dtype=source.dtype) and x[0].is_contiguous() and not x.is_neg()


def _squeezed(values: Tensor) -> Tensor:
    """The values of a single problem without the first dimension, so that errors do not number the problem."""
    return values[0] if len(values) == 1 else values


def _range_of_present(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest values (P, D) of the points in the mask (P, N)."""
    if present.all():
        lowest, highest = torch.aminmax(x, dim=1)
        return lowest, highest
    lowest = torch.full((x.shape[0], x.shape[2]), math.inf, dtype=torch.float64, device=x.device)
    highest = -lowest
    for runs, rows in tiles(x.shape[0], x.shape[1], tile_size(x.device, _BLOCK) // x.shape[2]):
        block, absent = x[runs, rows].double(), ~present[runs, rows, None]
        lowest[runs] = torch.minimum(lowest[runs], block.masked_fill(absent, math.inf).amin(dim=1))
        highest[runs] = torch.maximum(highest[runs], block.masked_fill(absent, -math.inf).amax(dim=1))
    return lowest, highest
