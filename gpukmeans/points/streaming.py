"""Points in a stream of batches that need not fit into memory. Each result is a sum over the batches of one pass."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gpukmeans.engines import Engine
from gpukmeans.fixed_point import FixedPoint, finest_scale
from gpukmeans.metrics import Metric
from gpukmeans.moments import Moments
from gpukmeans.points.base import SampleBy
from gpukmeans.points.batches import Batch, Batches, batch_name
from gpukmeans.points.stats import InputStats, WeightedStats
from gpukmeans.points.tensor import TensorNearest, TensorSampler, TensorSource
from gpukmeans.points.worst_served import WorstServed
from gpukmeans.tiling import blocks, free_bytes
from gpukmeans.validation import check_points, check_weights, short_name

T = TypeVar("T")

# Rows of a block. The total sampling weights of the blocks show which blocks contain samples. Only these blocks are
# computed again.
_BLOCK = 1 << 12
# Binary exponents of fixed-point scales around the scale for the previous maximum distance. The pass that finds the new
# maximum also computes totals at all five scales, which saves a second pass. The scale that is needed may be finer,
# because the maximum can decrease, or coarser, because the maximum of another rank can be larger.
_SCALES = range(-1, 4)

# The share of the free memory of a GPU for the batches that are kept there.
_KEPT_SHARE = 0.25

_CHANGED = "x must give the same rows in the same order each time it is read"


class PointSpec(NamedTuple):
    """The properties that all batches have in common. `weights_dtype` is None for batches without weights."""

    width: int
    dtype: torch.dtype
    device: torch.device
    weights_dtype: torch.dtype | None

    def __str__(self) -> str:
        dtype = self.weights_dtype
        weights = "without weights" if dtype is None else f"with weights of {short_name(dtype)}"
        return f"(N, {self.width}) of {short_name(self.dtype)} on {self.device} {weights}"

    def empty_points(self, batch: tuple[int, ...] = ()) -> Tensor:
        """An empty tensor (*batch, 0, D) with these properties, for checks of other tensors."""
        return torch.empty(*batch, 0, self.width, dtype=self.dtype, device=self.device)

    @staticmethod
    def of(batch: Batch) -> "PointSpec":
        weights = None if batch.weights is None else batch.weights.dtype
        return PointSpec(batch.x.shape[-1], batch.x.dtype, batch.x.device, weights)


@dataclass(eq=False)
class _KeptBatches:
    """The first batches of a stream on a GPU, up to a number of bytes, so that later passes do not copy them again."""

    max_bytes: int
    batches: list[Batch] = field(default_factory=list)
    is_full: bool = False

    @staticmethod
    def on(device: torch.device) -> "_KeptBatches":
        """No batches yet, and a share of the free memory of this GPU."""
        return _KeptBatches(int(free_bytes(device) * _KEPT_SHARE))

    def add(self, batch: Batch) -> None:
        """Keep the next batch if there is room for it, otherwise keep no more batches."""
        n_bytes = sum(tensor.nbytes for tensor in batch if tensor is not None)
        self.is_full = self.is_full or n_bytes > self.max_bytes
        if not self.is_full:
            self.batches.append(batch)
            self.max_bytes -= n_bytes


@dataclass(eq=False)
class _StreamRecord:
    """The first row, and the number of rows of each batch. The first pass records them; later passes check them.

    `kept` are the first batches, if they were copied to a GPU.
    """

    rows: list[int] = field(default_factory=list)
    first: Tensor | None = None
    kept: "_KeptBatches | None" = None

    def block_rows(self) -> list[int]:
        """The number of rows of each block."""
        return [block.stop - block.start for n in self.rows for block in blocks(n, _BLOCK)]


@dataclass(frozen=True, eq=False)
class BatchSource:
    """Points in batches of equal spec, as one problem, or no points of `n_problems` problems (`batches` is None).

    Each pass must read the same rows in the same order. `scale` (P,) rounds weights to fixed point; None leaves them as
    they are.
    """

    batches: Batches | None
    spec: PointSpec
    engine: Engine
    dtype: torch.dtype
    metric: Metric
    n_problems: int = 1
    scale: Tensor | None = None
    record: _StreamRecord = field(default_factory=_StreamRecord)

    @property
    def device(self) -> torch.device:
        return self.spec.device

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return self.spec.weights_dtype

    def input_stats(self) -> InputStats:
        return _sum(self.map(lambda batch: batch.input_stats()), InputStats.empty(self.n_problems, self.spec.width))

    def with_fixed_point_weights(self, scale: Tensor) -> "BatchSource":
        return replace(self, scale=scale)

    def weighted_stats(self, scale: Tensor) -> WeightedStats:
        parts = self.map(lambda batch: batch.weighted_stats(scale))
        return _sum(parts, WeightedStats.empty(self.n_problems, self.spec.width))

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        parts = self.map(lambda batch: batch.measure(centers, fixed_point, problems))
        return _sum(parts, Moments.zeros(centers, fixed_point))

    def worst_served(self, centers: Tensor, n: int, problems: Sequence[int]) -> WorstServed:
        parts = self.map(lambda batch: batch.worst_served(centers, n, problems))
        return _sum(parts, WorstServed.none(centers, n))

    def totals_of_equal(self, values: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Tensor:
        shape = *values.shape[:2], values.shape[2] + 1
        parts = self.map(lambda batch: batch.totals_of_equal(values, fixed_point, problems))
        return _sum(parts, torch.zeros(shape, dtype=torch.int64, device=values.device))

    def assign(self, centers: Tensor | None, problems: Sequence[int]) -> "BatchNearest":
        return BatchNearest(self, problems, centers)

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        if self.batches is None:
            return torch.empty(len(problems), 0, dtype=torch.int64, device=self.spec.device)
        return None

    def centers_as_points(self, centers: Tensor, weights: Tensor) -> TensorSource:
        return TensorSource(centers, weights, self.engine, self.dtype)

    def tensors(self) -> Iterator[TensorSource]:
        """The batches that have rows, read in one pass.

        ValueError if the rows differ from the rows of the first pass, TypeError or ValueError for a batch of another
        spec.
        """
        if self.batches is None:
            return
        first_pass = self.record.first is None
        if first_pass and self.batches.copies_to_gpu:
            self.record.kept = _KeptBatches.on(self.spec.device)
        kept = self.record.kept
        known = [] if kept is None or first_pass else kept.batches
        for number, batch in enumerate(known):
            if len(batch.x):
                yield self._tensor(batch, number)
        if kept is not None and not first_pass and not kept.is_full:
            return
        n_read, numbers = sum(len(batch.x) > 0 for batch in known), itertools.count(len(known))
        for batch in self.batches.read(len(known)):  # `enumerate` would keep the last batch in memory
            number = next(numbers)
            check_batch(batch, self.spec, number)
            if kept is not None and first_pass:
                kept.add(batch)
            if n_rows := len(batch.x):
                if n_read == 0:
                    self._check_first_row(batch.x[0])
                if first_pass:
                    self.record.rows.append(n_rows)
                elif self.record.rows[n_read : n_read + 1] != [n_rows]:
                    raise ValueError(f"{_CHANGED}, got {n_rows} rows in batch {number}, unlike the first pass")
                n_read += 1
                tensor = self._tensor(batch, number)
                del batch  # no more than two batches may be in memory
                yield tensor
                del tensor
        if n_read < len(self.record.rows):
            raise ValueError(f"{_CHANGED}, got {n_read} batches after {len(self.record.rows)} in the first pass")

    def map(self, function: Callable[[TensorSource], T]) -> Iterator[T]:
        """`function(batch)` for each batch, in one pass."""
        # The built-in `map` releases a batch before it requests the next one.
        return map(function, self.tensors())

    def _tensor(self, batch: Batch, number: int) -> TensorSource:
        x = self.metric.prepare(batch.x.detach(), self.dtype)[None]
        weights = None if batch.weights is None else batch.weights.detach()[None]
        tensor = TensorSource(x, weights, self.engine, self.dtype, self.metric.normalizes, batch_name(number))
        return tensor if self.scale is None else tensor.with_fixed_point_weights(self.scale)

    def _check_first_row(self, row: Tensor) -> None:
        if self.record.first is None:
            self.record.first = row.detach().clone()
        elif not torch.equal(self.record.first, row):
            raise ValueError(f"{_CHANGED}, got another first row (is the source shuffled?)")


@dataclass(frozen=True, eq=False)
class _BlockTotals:
    """The totals (S, B, blocks) of blocks for D² samples, at S fixed-point scales (S, B)."""

    scales: Tensor
    totals: Tensor

    def at(self, scale: Tensor) -> Tensor | None:
        """The totals (B, blocks) at a scale (B,); None if a run has no totals at its scale."""
        matches = self.scales == scale
        if not matches.any(dim=0).all():
            return None
        return self.totals[matches.int().argmax(dim=0), torch.arange(len(scale), device=scale.device)]


@dataclass(eq=False)
class BatchNearest:
    """The nearest of M centers for each point. Each pass computes them again, because no state is stored per point.

    `bound` (B,) is the maximum squared distance before the last centers were added, if it is known.
    """

    source: BatchSource
    problems: Sequence[int]
    centers: Tensor | None
    bound: Tensor | None = None
    _max_sqdist: Tensor | None = None
    _d2_totals: _BlockTotals | None = None

    def update(self, centers: Tensor) -> "BatchNearest":
        assert self.centers is not None
        joined = torch.cat([self.centers, centers], dim=1)
        return BatchNearest(self.source, self.problems, joined, bound=self._max_sqdist)

    def max_sqdist(self, total_weight: Tensor) -> Tensor:
        if self._max_sqdist is not None:  # kept for later samples and potentials
            return self._max_sqdist
        device = self.source.spec.device
        scales = torch.empty(0, len(self.problems), dtype=torch.float64, device=device)
        if self.bound is not None:
            factors = torch.tensor([2.0**exponent for exponent in _SCALES], dtype=torch.float64, device=device)
            scales = finest_scale(total_weight * self.bound) * factors[:, None]

        def of_batch(batch: TensorSource) -> tuple[Tensor, Tensor]:
            nearest = self._nearest(batch)
            totals = [nearest.sampler(SampleBy.D2, scale).block_totals(_BLOCK) for scale in scales]
            empty = torch.zeros(0, dtype=torch.int64, device=device)
            return nearest.max_sqdist(total_weight), torch.stack(totals) if totals else empty

        largest = torch.zeros(len(self.problems), dtype=torch.float64, device=device)
        totals = []
        for max_sqdist, block_totals in self.source.map(of_batch):
            largest = torch.maximum(largest, max_sqdist)
            totals.append(block_totals)
        if len(scales) and totals:
            self._d2_totals = _BlockTotals(scales, torch.cat(totals, dim=2))
        self._max_sqdist = largest
        return largest

    def sampler(self, by: SampleBy, scale: Tensor) -> "BatchSampler":
        def sampler_of(batch: TensorSource) -> TensorSampler:
            return self._nearest(batch).sampler(by, scale)

        source, totals = self.source, None
        if by is SampleBy.WEIGHT and source.weights_dtype is None:  # counted by the first pass
            totals = torch.tensor([source.record.block_rows()], dtype=torch.int64, device=source.spec.device)
        elif by is SampleBy.D2 and self._d2_totals is not None:
            totals = self._d2_totals.at(scale)
        if totals is None:
            empty = torch.empty(len(self.problems), 0, dtype=torch.int64, device=source.spec.device)
            parts = source.map(lambda batch: sampler_of(batch).block_totals(_BLOCK))
            totals = torch.cat([empty, *parts], dim=1)
        return BatchSampler(source, sampler_of, totals, len(self.problems))

    def potentials(self, candidates: Tensor, scale: Tensor) -> Tensor:
        zeros = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=candidates.device)
        return _sum(self.source.map(lambda batch: self._nearest(batch).potentials(candidates, scale)), zeros)

    def cluster_weights(self, scale: Tensor) -> Tensor:
        assert self.centers is not None
        zeros = torch.zeros(self.centers.shape[:2], dtype=torch.int64, device=self.centers.device)
        return _sum(self.source.map(lambda batch: self._nearest(batch).cluster_weights(scale)), zeros)

    def _nearest(self, batch: TensorSource) -> TensorNearest:
        return batch.assign(self.centers, self.problems)


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """A sampler of the points of a stream for B runs. `block_totals` (B or 1, blocks) are the totals of its blocks."""

    source: BatchSource
    sampler_of: Callable[[TensorSource], TensorSampler]
    block_totals: Tensor
    n_runs: int

    @property
    def totals(self) -> Tensor:
        return self.block_totals.sum(dim=1, keepdim=True)

    def rows_at(self, positions: Tensor) -> Tensor:
        positions = positions.expand(self.n_runs, -1).contiguous()
        ends = self.block_totals.expand(self.n_runs, -1).cumsum(1)
        starts = ends - self.block_totals
        # Of a long stream only a few blocks contain a position. Only these blocks are computed.
        hit_blocks = torch.searchsorted(ends, positions, right=True).unique().tolist()
        shape = *positions.shape, self.source.spec.width
        sampled = torch.zeros(shape, dtype=self.source.dtype, device=positions.device)
        n_before = 0

        def collect(batch: TensorSource) -> None:
            nonlocal n_before
            batch_blocks = list(blocks(batch.x.shape[1], _BLOCK))
            in_batch = (number - n_before for number in hit_blocks if n_before <= number < n_before + len(batch_blocks))
            for first, last in _consecutive(in_batch):
                start, end = starts[:, n_before + first, None], ends[:, n_before + last, None]
                inside = (positions >= start) & (positions < end)
                sampler = self.sampler_of(batch.rows(slice(batch_blocks[first].start, batch_blocks[last].stop)))
                sampled[inside] = sampler.rows_at((positions - start).where(inside, 0))[inside]
            n_before += len(batch_blocks)

        for _ in self.source.map(collect):
            pass
        return sampled


def _consecutive(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each sequence of consecutive numbers, for ascending numbers."""
    for _, group in itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        run = [number for _, number in group]
        yield run[0], run[-1]


def first_batch(batches: Batches) -> Batch | None:
    """The first batch that has rows, or the last batch if none has rows, or None without batches.

    TypeError or ValueError for an item that is not a batch.
    """
    batch = None
    for number, batch in enumerate(batches.read()):
        check_batch(batch, None, number)
        if len(batch.x):
            break
    return batch


def check_batch(batch: Batch, spec: PointSpec | None, number: int) -> None:
    """TypeError or ValueError unless these are points with their weights and, if a spec is given, have this spec."""
    name = batch_name(number)
    if batch.x.ndim == 1:
        hint = "arrays in a list are batches, so stack rows to one array"
        raise ValueError(f"{name} must have shape (N, D), got {tuple(batch.x.shape)}; {hint}")
    check_points(batch.x, name, least=0)
    if batch.x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(batch.x.shape)}")
    check_weights(batch.weights, batch.x, f"the weights of {name}")
    if spec is not None and len(batch.x) and PointSpec.of(batch) != spec:
        raise ValueError(f"{name} must be like the first batch with rows, {spec}, got {PointSpec.of(batch)}")


def _sum(terms: Iterable[Any], zero: Any) -> Any:
    return functools.reduce(operator.add, terms, zero)
