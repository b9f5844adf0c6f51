"""The plain engine: blocks of `torch.cdist` + argmin, totals by `scatter_add_`. The meaning of every faster one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment
from gpukmeans.fixed_point import Grid, to_grid
from gpukmeans.moments import Moments
from gpukmeans.tiling import Problems, blocks, of_runs, tiles

# Entries of the largest tile of the table of distances. Of 2**16 to 2**20, measured on two cores, this was the fastest;
# with what is derived from it, one pass holds less than 64 MiB even in float64, for points of up to a million
# coordinates.
_TILE = 1 << 20

# The matrix-product mode of cdist cancels far from the origin and changes bits with the shape of the block.
_DIRECT = "donot_use_mm_for_euclid_dist"


Nearest = Callable[[Tensor, Tensor], Assignment]


@dataclass(frozen=True)
class TorchEngine:
    """Runs wherever torch does. `tile` is how many distances are held at a time; no bit depends on it."""

    tile: int = _TILE
    name = "torch"

    def obstacle(self, x: Tensor) -> str | None:
        """Why this engine cannot take these points, as a sentence; None if it can."""
        if x.device.type == "mps":
            return "its sums need float64 and int64, which MPS does not have"
        return None

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundTorchEngine":
        """The engine at work on P problems: points (P, N, D) of any real dtype, with weights (P, N) or all of weight 1.

        A point of weight 0 is absent: it is assigned, and not measured.
        """
        return BoundTorchEngine(x, weights, self.tile, nearest_by_cdist)


class _Block(NamedTuple):
    """Some runs and some of their points, few enough for one tile."""

    runs: slice
    rows: slice
    x: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class BoundTorchEngine:
    """The plain engine at work. It keeps no state but the last `problems` on the device.

    B sets of centers are served at a time; `problems`, B numbers below P, says whose points each is for.
    """

    x: Tensor
    weights: Tensor | None
    tile: int
    nearest: Nearest
    """Of points (B, N, D) and centers (B, K, D) that fit a tile, the nearest by the one score, lowest index first."""

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D), whose dtype is the one computed in."""
        labels = torch.empty(len(problems), self.x.shape[1], dtype=torch.int64, device=self.x.device)
        sqdist = torch.empty(labels.shape, dtype=centers.dtype, device=self.x.device)
        for block in self._blocks(centers, problems):
            labels[block.runs, block.rows], sqdist[block.runs, block.rows] = self._nearest(block.x, centers[block.runs])
        return Assignment(labels, sqdist)

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D), without labels for all points ever being held."""
        n_runs, n_clusters, width = centers.shape
        device = self.x.device
        sums = torch.zeros(n_runs, width, n_clusters, dtype=torch.int64, device=device)
        totals = torch.zeros(n_runs, n_clusters, dtype=torch.int64, device=device)
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=device)
        worst_sqdist = torch.full((n_runs,), -1.0, dtype=centers.dtype, device=device)
        worst_row = torch.zeros(n_runs, dtype=torch.int64, device=device)
        for runs, rows, x, weights in self._blocks(centers, problems):
            steps = grid.select(runs)
            labels, sqdist = self._nearest(x, centers[runs])
            w = torch.ones(1, 1, dtype=torch.float64, device=device) if weights is None else weights
            # Channel-major: scatter_add_ along the rows of (D, N) is 7 times faster on a CPU than into (K, D).
            for channels in blocks(width, self.tile // labels.numel()):
                above = x[..., channels].mT.double() - steps.lowest[:, channels, None]
                terms = to_grid(above * w[:, None], steps.sum[:, channels, None])
                sums[runs, channels].scatter_add_(2, labels[:, None].expand_as(terms), terms)
            ones = torch.ones(labels.shape, dtype=torch.float64, device=device)
            totals[runs].scatter_add_(1, labels, to_grid(ones * w, steps.weight[:, None]))
            inertia[runs] += to_grid(sqdist.double() * w, steps.sqdist[:, None]).sum(dim=1)
            if weights is not None:
                sqdist = sqdist.masked_fill(weights == 0, -1.0)
            farthest, row = sqdist.max(dim=1)
            further = farthest > worst_sqdist[runs]  # strictly, so that the lowest row wins a tie
            worst_sqdist[runs] = torch.where(further, farthest, worst_sqdist[runs])
            worst_row[runs] = torch.where(further, row + rows.start, worst_row[runs])
        return Moments(
            grid=grid,
            sums=sums.mT,
            totals=totals,
            inertia=inertia,
            worst_sqdist=worst_sqdist,
            worst_row=worst_row,
            worst_x=self.x[self._index(problems), worst_row].to(centers.dtype),
        )

    @cached_property
    def _index(self) -> Problems:
        return Problems(self.x.device)

    def _blocks(self, centers: Tensor, problems: Sequence[int]) -> Iterator[_Block]:
        """Blocks of one run's points; of problems that are small, several runs at a time."""
        # So many rows that their distances fit the tile, and the few copies of them do.
        n_rows = self.tile // max(centers.shape[1], 4 * self.x.shape[2])
        index = self._index(problems)
        for runs, rows in tiles(len(problems), self.x.shape[1], n_rows):
            whose = of_runs(problems[runs], index[runs])
            weights = None if self.weights is None else self.weights[whose, rows].double()
            yield _Block(runs, rows, self.x[whose, rows].to(centers.dtype), weights)

    def _nearest(self, x: Tensor, centers: Tensor) -> Assignment:
        """The centers (B, K, D) nearest to the points (B, N, D) of a block, tile by tile."""
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
    """`cdist` + argmin proposes; the one score decides where the runner-up is closer than the rounding of `cdist`."""
    width = x.shape[2]
    table = torch.cdist(x, centers, compute_mode=_DIRECT)
    # A sum of D squares and its root are off by less than (D/2 + 2) units of rounding, on either side of a comparison
    # with the score, which is off by D/2 + 1 in the root. Below the smallest normal number that rule has no meaning.
    info = torch.finfo(x.dtype)
    proposed, labels = table.min(dim=2)
    limit = proposed * (1 + (width + 4) * info.eps) + (width * info.tiny) ** 0.5
    return Proposal(table, proposed, labels, limit).decided(x, centers)


@dataclass(frozen=True)
class Proposal:
    """The nearest centers by a table (B, N, K) of distances, or of what grows with them, that is off by rounding.

    `proposed` and `labels` (B, N) are its minima; what is above `limit` (B, N) cannot be nearest by the one score.
    """

    table: Tensor
    proposed: Tensor
    labels: Tensor
    limit: Tensor

    @cached_property
    def contested(self) -> Tensor:
        """The rows, numbered through all runs, in which more than the proposed center may be nearest."""
        runner_up = self.table.scatter_(2, self.labels[..., None], torch.inf).amin(dim=2)
        self.table.scatter_(2, self.labels[..., None], self.proposed[..., None])
        return (runner_up <= self.limit).flatten().nonzero().squeeze(1)

    def decided(self, x: Tensor, centers: Tensor) -> Assignment:
        """The nearest by the one score, lowest index first, and their squared distances."""
        n, (n_clusters, width) = x.shape[1], centers.shape[1:]
        labels, limit, table = self.labels.flatten().clone(), self.limit.flatten(), self.table.flatten(0, 1)
        points, choices = x.flatten(0, 1), centers.flatten(0, 1)
        # By quarters of the block, since every entry of the table may turn out to be a candidate.
        for part in blocks(len(self.contested), len(points) // 4):
            rows = self.contested[part]
            first = rows // n * n_clusters  # where the centers of that row's run begin
            labels[rows] = _decide(points[rows], choices, first, table[rows] <= limit[rows, None])
        labels = labels.view(-1, n)
        chosen = centers.permute(2, 0, 1).gather(2, labels.expand(width, -1, -1))
        return Assignment(labels, squared_distance(x.permute(2, 0, 1), chosen))


def _decide(x: Tensor, centers: Tensor, first: Tensor, candidates: Tensor) -> Tensor:
    """Of each row's candidates, a mask (N, K), the center of the lowest score, the lowest index first.

    The K centers of a row begin at its number in `first` (N,).
    """
    score = torch.full(candidates.shape, torch.inf, dtype=x.dtype, device=x.device)
    rows, columns = candidates.nonzero(as_tuple=True)
    # A quarter of the table's size at a time, since each pair has D channels and there may be as many pairs as entries.
    for pairs in blocks(len(rows), candidates.numel() // (4 * x.shape[1])):
        row, column = rows[pairs], columns[pairs]
        score[row, column] = squared_distance(x[row].T, centers[first[row] + column].T)
    return score.min(dim=1).indices  # the first of equals
