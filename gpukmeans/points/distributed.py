"""Points on the ranks of a process group. Each rank holds a part of the points; results of the parts are combined."""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments
from gpukmeans.points.base import NearestState, PointSource, SampleBy, WeightedSampler
from gpukmeans.points.communicator import Communicator, on_device, run_on_all_ranks
from gpukmeans.points.stats import InputStats, WeightedStats
from gpukmeans.points.worst_served import WorstServed


@dataclass(frozen=True, eq=False)
class DistributedSource:
    """The points of all ranks, in rank order. `own` is the part of this rank.

    Results are equal on all ranks, except labels, which a rank computes for its own points only.
    """

    own: PointSource
    communicator: Communicator
    width: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return self.own.dtype

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return self.own.weights_dtype

    def input_stats(self) -> InputStats:
        stats = self.communicator.all_gather("the statistics of the input", self.own.input_stats)
        return functools.reduce(operator.add, stats)

    def with_fixed_point_weights(self, scale: Tensor) -> "DistributedSource":
        own = run_on_all_ranks(self.communicator, "the weights", lambda: self.own.with_fixed_point_weights(scale))
        return replace(self, own=own)

    def weighted_stats(self, scale: Tensor) -> WeightedStats:
        stats = self.communicator.all_gather("the statistics of the points", lambda: self.own.weighted_stats(scale))
        return functools.reduce(operator.add, stats)

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        own = zero = Moments.zeros(centers, fixed_point)

        def measure_own() -> Tensor:
            nonlocal own
            own = self.own.measure(centers, fixed_point, problems)
            return _flat(own)

        summed = self.communicator.all_reduce_sum("the sum of moments", _flat(zero), measure_own)
        sums, totals, inertia = summed.split([zero.sums.numel(), zero.totals.numel(), zero.inertia.numel()])
        return replace(
            zero,
            sums=sums.view(zero.sums.shape),
            totals=totals.view(zero.totals.shape),
            inertia=inertia,
            worst_sqdist=self.communicator.all_reduce_max("the maximum distance", own.worst_sqdist),
        )

    def worst_served(self, centers: Tensor, n: int, problems: Sequence[int]) -> WorstServed:
        own = WorstServed.none(centers, n)

        def own_keys() -> tuple[Tensor, Tensor]:
            nonlocal own
            own = self.own.worst_served(centers, n, problems)
            return own.sqdist, own.labels

        by_rank = on_device(self.communicator.all_gather("the worst-served points", own_keys), self.device)
        sqdist, labels = (torch.cat(parts, dim=1) for parts in zip(*by_rank, strict=True))
        # A point may equal a point of another rank, and only squared distances are known before the points are sent.
        # Equal points have equal squared distances, so the points of the n largest distinct squared distances are
        # enough.
        order = sqdist.argsort(dim=1, descending=True, stable=True)
        sqdist = sqdist.gather(1, order)
        n_different = (sqdist.diff(dim=1) != 0).cumsum(dim=1)
        n_needed = torch.minimum((sqdist > 0).sum(dim=1), 1 + (n_different < n).sum(dim=1))
        order = order[:, : int(n_needed.max())]
        rank, position = order // n, order % n
        rows = own.x.gather(1, position[..., None].expand(-1, -1, self.width))
        here = rank == self.communicator.rank
        x = _rows_of_all_ranks(self.communicator, "the rows of the worst-served points", here, rows, lambda: rows)
        return WorstServed.among(sqdist[:, : order.shape[1]], labels.gather(1, order), [*x], n)

    def totals_of_equal(self, values: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Tensor:
        like = torch.zeros(*values.shape[:2], values.shape[2] + 1, dtype=torch.int64, device=values.device)
        return self.communicator.all_reduce_sum(
            "the weights of the worst-served points",
            like,
            lambda: self.own.totals_of_equal(values, fixed_point, problems),
        )

    def assign(self, centers: Tensor | None, problems: Sequence[int]) -> "DistributedNearest":
        n_centers = 0 if centers is None else centers.shape[1]
        return DistributedNearest(self, len(problems), n_centers, lambda: self.own.assign(centers, problems))

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        return run_on_all_ranks(self.communicator, "the labels", lambda: self.own.labels(centers, problems))

    def centers_as_points(self, centers: Tensor, weights: Tensor) -> PointSource:
        return self.own.centers_as_points(centers, weights)  # the centers are equal on all ranks


class DistributedNearest:
    """The nearest of M centers for the points of all ranks.

    The rank's own state is computed inside the first collective that uses it, so that an error reaches all ranks.
    """

    def __init__(
        self, source: DistributedSource, n_runs: int, n_centers: int, compute: Callable[[], NearestState]
    ) -> None:
        self._source = source
        self._communicator = source.communicator
        self._n_runs = n_runs
        self._n_centers = n_centers
        self._compute: Callable[[], NearestState] | None = compute
        self._state: NearestState | None = None
        self._max_sqdist: Tensor | None = None

    @property
    def _own(self) -> NearestState:
        if self._compute is not None:
            self._state, self._compute = self._compute(), None  # frees the previous state
        assert self._state is not None
        return self._state

    def update(self, centers: Tensor) -> "DistributedNearest":
        n_centers = self._n_centers + centers.shape[1]
        return DistributedNearest(self._source, self._n_runs, n_centers, lambda: self._own.update(centers))

    def max_sqdist(self, total_weight: Tensor) -> Tensor:
        if self._max_sqdist is None:  # kept for later samples and potentials
            by_rank = self._communicator.all_gather("the maximum distance", lambda: self._own.max_sqdist(total_weight))
            self._max_sqdist = torch.stack(by_rank).amax(dim=0).to(self._source.device)
        return self._max_sqdist

    def sampler(self, by: SampleBy, scale: Tensor) -> "DistributedSampler":
        sampler: WeightedSampler | None = None

        def own_totals() -> Tensor:
            nonlocal sampler
            sampler = self._own.sampler(by, scale)
            return sampler.totals

        source = self._source
        totals = on_device(self._communicator.all_gather("the totals of a sample", own_totals), source.device)
        assert sampler is not None  # an error on any rank has been raised on all
        before = functools.reduce(operator.add, totals[: self._communicator.rank], torch.zeros_like(totals[0]))
        empty = torch.empty(self._n_runs, 0, source.width, dtype=source.dtype, device=source.device)
        return DistributedSampler(sampler, self._communicator, before, functools.reduce(operator.add, totals), empty)

    def potentials(self, candidates: Tensor, scale: Tensor) -> Tensor:
        like = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=self._source.device)
        return self._communicator.all_reduce_sum(
            "the sum of potentials", like, lambda: self._own.potentials(candidates, scale)
        )

    def cluster_weights(self, scale: Tensor) -> Tensor:
        like = torch.zeros(self._n_runs, self._n_centers, dtype=torch.int64, device=self._source.device)
        return self._communicator.all_reduce_sum("the sum of weights", like, lambda: self._own.cluster_weights(scale))


@dataclass(frozen=True, eq=False)
class DistributedSampler:
    """A sampler of the points of all ranks for B runs. This rank's positions begin at `before` (B or 1, 1).

    `empty` (B, 0, D) has the dtype and device of the points.
    """

    own: WeightedSampler
    communicator: Communicator
    before: Tensor
    totals: Tensor
    empty: Tensor

    def rows_at(self, positions: Tensor) -> Tensor:
        within = positions - self.before
        here = ((within >= 0) & (within < self.own.totals)).expand(len(self.empty), -1)
        like = self.empty.new_empty(*here.shape, self.empty.shape[2])

        def own_rows() -> Tensor:
            return self.own.rows_at(within.clamp(min=0).minimum((self.own.totals - 1).clamp(min=0)))

        return _rows_of_all_ranks(self.communicator, "the sampled points", here, like, own_rows)


def _rows_of_all_ranks(
    communicator: Communicator, what: str, here: Tensor, like: Tensor, own_rows: Callable[[], Tensor]
) -> Tensor:
    """Rows (B, n, D), of the dtype of `like`, each from the only rank whose mask `here` (B, n) selects it."""
    bits = torch.int32 if like.dtype == torch.float32 else torch.int64
    # The sum of the bits over the ranks is the row, because the other ranks add 0.
    summed = communicator.all_reduce_sum(
        what, like.to(torch.int64), lambda: own_rows().view(bits).long().where(here[..., None], 0)
    )
    return summed.to(bits).view(like.dtype)


def _flat(moments: Moments) -> Tensor:
    return torch.cat([moments.sums.flatten(), moments.totals.flatten(), moments.inertia])
