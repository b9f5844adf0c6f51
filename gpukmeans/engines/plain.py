"""The plain engine: assignments by `torch.cdist` and argmin, totals by `scatter_add_`.

This engine defines the results of every engine: other engines must return the same bits. It is `gpukmeans.textbook`
with five additions:

* Blocks: one tile of the N x K table of distances is in memory at a time.
* Batches: B runs are computed side by side. A problem is a set of N points, and a run is a set of K centers for the
  points of one of P problems.
* Weights: each point may have a weight.
* Ties: where the rounding of `cdist` could change which center is nearest, the reference distance (see
  `gpukmeans.distance`) decides. If several centers have the same reference distance, the lowest index is the label.
* Fixed-point sums: terms are added as integers, so no bit depends on blocks, threads or devices.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment
from gpukmeans.fixed_point import FixedPoint, to_fixed
from gpukmeans.moments import Moments
from gpukmeans.tiling import ProblemIndex, blocks, problem_index, tile_size, tiles

# The largest number of entries of a tile of the distance table on a CPU. 2**20 was the fastest of 2**16 to 2**20,
# measured on two cores. One pass over all points takes less than 64 MiB of temporary memory, also in float64 and also
# for points of up to a million coordinates each.
_TILE = 1 << 20

# Distances from differences of coordinates. cdist could use a matrix product instead, but then digits cancel for points
# far from the origin, and bits depend on the shape of the block.
_DIRECT = "donot_use_mm_for_euclid_dist"


Nearest = Callable[[Tensor, Tensor], Assignment]
"""A function that returns the nearest of the centers (B, K, D) for each point (B, N, D), by the reference distance, the
lowest index on ties. The B·N·K distances fit a tile."""


@dataclass(frozen=True)
class PlainEngine:
    """Engine for every device of torch with float64 and int64.

    At most `tile` distances are in memory at a time; the default depends on the device and its free memory. No bit of
    a result depends on `tile`.
    """

    tile: int | None = None
    name = "plain"

    def unsupported_reason(self, x: Tensor) -> str | None:
        if x.device.type == "mps":
            return "its sums need float64 and int64, which MPS does not have"
        return None

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundPlainEngine":
        return BoundPlainEngine(x, weights, self._tile_for(x), nearest_by_cdist)

    def _tile_for(self, x: Tensor) -> int:
        return self.tile or tile_size(x.device, _TILE)


class _Block(NamedTuple):
    """Points `x` (runs, rows, D) of some runs and some rows, in the dtype of the centers, with their weights."""

    runs: slice
    rows: slice
    x: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class BoundPlainEngine:
    """The plain engine, bound to points (P, N, D).

    Between calls it caches only the `problems` of the last call, as a tensor on the device.
    """

    x: Tensor
    weights: Tensor | None
    tile: int
    nearest: Nearest

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N), in the dtype of the centers (B, K, D)."""
        labels = torch.empty(len(problems), self.x.shape[1], dtype=torch.int64, device=self.x.device)
        sqdist = torch.empty(labels.shape, dtype=centers.dtype, device=self.x.device)
        for block in self._blocks(centers, problems):
            labels[block.runs, block.rows], sqdist[block.runs, block.rows] = self._nearest(block.x, centers[block.runs])
        return Assignment(labels, sqdist)

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments (see `gpukmeans.moments`) at centers (B, K, D). Labels are stored for one block at a time."""
        n_runs, n_clusters, width = centers.shape
        device = self.x.device
        sums = torch.zeros(n_runs, width, n_clusters, dtype=torch.int64, device=device)
        totals = torch.zeros(n_runs, n_clusters, dtype=torch.int64, device=device)
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=device)
        worst_sqdist = torch.full((n_runs,), -1.0, dtype=centers.dtype, device=device)
        for runs, _, x, weights in self._blocks(centers, problems):
            scales = fixed_point.select(runs)
            labels, sqdist = self._nearest(x, centers[runs])
            w = torch.ones(1, 1, dtype=torch.float64, device=device) if weights is None else weights
            # Channel-major, because scatter_add_ of (D, N) into (D, K) is 7 times faster on a CPU than into (K, D).
            for channels in blocks(width, self.tile // labels.numel()):
                offsets = x[..., channels].mT.double() - scales.lowest[:, channels, None]
                terms = to_fixed(offsets * w[:, None], scales.sum[:, channels, None])
                sums[runs, channels].scatter_add_(2, labels[:, None].expand_as(terms), terms)
            ones = torch.ones(labels.shape, dtype=torch.float64, device=device)
            totals[runs].scatter_add_(1, labels, to_fixed(ones * w, scales.weight[:, None]))
            inertia[runs] += to_fixed(sqdist.double() * w, scales.sqdist[:, None]).sum(dim=1)
            if weights is not None:
                sqdist = sqdist.masked_fill(weights == 0, -1.0)
            worst_sqdist[runs] = torch.maximum(worst_sqdist[runs], sqdist.amax(dim=1))
        return Moments(
            fixed_point=fixed_point,
            sums=sums.mT,
            totals=totals,
            inertia=inertia,
            worst_sqdist=worst_sqdist,
        )

    @cached_property
    def _problem_index(self) -> ProblemIndex:
        return ProblemIndex(self.x.device)

    def _blocks(self, centers: Tensor, problems: Sequence[int]) -> Iterator[_Block]:
        """Blocks of rows of one run, or of all rows of several runs if their problems are small."""
        # A tile has room for the distances of a block, and for four temporary tensors of the size of its points. A
        # block has at least one row, even if this row alone exceeds a tile.
        n_rows = self.tile // max(centers.shape[1], 4 * self.x.shape[2])
        index = self._problem_index(problems)
        for runs, rows in tiles(len(problems), self.x.shape[1], n_rows):
            selected = problem_index(problems[runs], index[runs])
            weights = None if self.weights is None else self.weights[selected, rows].double()
            yield _Block(runs, rows, self.x[selected, rows].to(centers.dtype), weights)

    def _nearest(self, x: Tensor, centers: Tensor) -> Assignment:
        """The centers (B, K, D) nearest to the points (B, N, D) of a block.

        Centers are compared in groups only if K alone exceeds a tile. Otherwise one tile has all distances.
        """
        best: Assignment | None = None
        for columns in blocks(centers.shape[1], self.tile // (x.shape[0] * x.shape[1])):
            labels, sqdist = self.nearest(x, centers[:, columns])
            if best is None:
                best = Assignment(labels, sqdist)
            else:
                closer = sqdist < best.sqdist  # strictly, so that the lowest index wins a tie
                best = Assignment(
                    torch.where(closer, labels + columns.start, best.labels), torch.where(closer, sqdist, best.sqdist)
                )
        assert best is not None
        return best


def nearest_by_cdist(x: Tensor, centers: Tensor) -> Assignment:
    """Labels and squared distances (B, N) by `cdist`, and by the reference distance where rounding could decide."""
    width = x.shape[2]
    table = torch.cdist(x, centers, compute_mode=_DIRECT)
    # With u = eps/2, the relative error of an entry, the root of a sum of D squares, is below (D/2 + 2)·u. The relative
    # error of the root of the reference distance is below (D/2 + 1)·u. The sum of both bounds is (D + 3)·u for one
    # center and (D + 3)·eps for two compared centers, which is less than the (D + 4)·eps in `limit`. The last term of
    # `limit` covers squares below the smallest normal number, for which these bounds do not hold.
    info = torch.finfo(x.dtype)
    proposed, labels = table.min(dim=2)
    limit = proposed * (1 + (width + 4) * info.eps) + (width * info.tiny) ** 0.5
    return Proposal(table, proposed, labels, limit).resolved(x, centers)


@dataclass(frozen=True)
class Proposal:
    """Nearest centers by a table (B, N, K) of rounded distances, or of rounded values that increase with the distance.

    `proposed` and `labels` (B, N) are the minima of the table over the centers and their indices. A center whose entry
    is above `limit` (B, N) cannot be the nearest by the reference distance.
    """

    table: Tensor
    proposed: Tensor
    labels: Tensor
    limit: Tensor

    @cached_property
    def contested(self) -> Tensor:
        """Rows with more than one possible nearest center, as indices into the B·N rows of all runs."""
        runner_up = self.table.scatter_(2, self.labels[..., None], torch.inf).amin(dim=2)
        self.table.scatter_(2, self.labels[..., None], self.proposed[..., None])
        return (runner_up <= self.limit).flatten().nonzero().squeeze(1)

    def resolved(self, x: Tensor, centers: Tensor) -> Assignment:
        """The nearest centers by the reference distance, the lowest index on ties, and the squared distances."""
        n, (n_clusters, width) = x.shape[1], centers.shape[1:]
        labels, limit, table = self.labels.flatten().clone(), self.limit.flatten(), self.table.flatten(0, 1)
        flat_x, flat_centers = x.flatten(0, 1), centers.flatten(0, 1)
        # A quarter of the rows at a time. Even if every center is a candidate, the two int64 indices of each candidate
        # then take no more memory than a table of four or more rows.
        for block in blocks(len(self.contested), len(flat_x) // 4):
            rows = self.contested[block]
            first = rows // n * n_clusters  # index of the first center of the run of each row
            labels[rows] = _nearest_candidate(flat_x[rows], flat_centers, first, table[rows] <= limit[rows, None])
        labels = labels.view(-1, n)
        nearest = centers.permute(2, 0, 1).gather(2, labels.expand(width, -1, -1))
        return Assignment(labels, squared_distance(x.permute(2, 0, 1), nearest))


def _nearest_candidate(x: Tensor, centers: Tensor, first: Tensor, candidates: Tensor) -> Tensor:
    """The nearest candidate (N,) of each row by the reference distance, the lowest index on ties.

    `candidates` is a mask (N, K). The K centers of a row begin at index `first` (N,) of the centers.
    """
    sqdist = torch.full(candidates.shape, torch.inf, dtype=x.dtype, device=x.device)
    rows, columns = candidates.nonzero(as_tuple=True)
    # In blocks, because all entries may be candidates, and each needs D coordinates. The coordinates of the points of a
    # block have a quarter as many entries as the table.
    for pairs in blocks(len(rows), candidates.numel() // (4 * x.shape[1])):
        row, column = rows[pairs], columns[pairs]
        sqdist[row, column] = squared_distance(x[row].T, centers[first[row] + column].T)
    return sqdist.min(dim=1).indices  # the first on ties
