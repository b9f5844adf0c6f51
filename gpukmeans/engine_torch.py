"""The plain engine: blocks of `torch.cdist` + argmin, totals by `scatter_add_`. The meaning of every faster one."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.blocks import blocks
from gpukmeans.moments import Grid, Moments, to_grid
from gpukmeans.score import squared_distance

# Entries of the largest tile of the table of distances. Of 2**16 to 2**20, measured on two cores, this was the fastest;
# with what is derived from it, one pass holds less than 64 MiB even in float64, for points of up to a million
# coordinates.
_TILE = 1 << 20

# The matrix-product mode of cdist cancels far from the origin and changes bits with the shape of the block.
_DIRECT = "donot_use_mm_for_euclid_dist"


class Assignment(NamedTuple):
    """For each point the index of its nearest center and the squared distance to it."""

    labels: Tensor
    sqdist: Tensor


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
        """The engine at work on points (N, D) of any real dtype, with weights (N,) or all of weight 1."""
        return BoundTorchEngine(x, weights, self.tile)


@dataclass(frozen=True)
class BoundTorchEngine:
    """The plain engine at work. It keeps no state."""

    x: Tensor
    weights: Tensor | None
    tile: int

    def assign(self, centers: Tensor) -> Assignment:
        """Labels (N,) int64 and squared distances (N,) at centers (K, D), whose dtype is the one computed in."""
        labels = torch.empty(len(self.x), dtype=torch.int64, device=self.x.device)
        sqdist = torch.empty(len(self.x), dtype=centers.dtype, device=self.x.device)
        for rows in blocks(len(self.x), self._rows_at_a_time(len(centers))):
            labels[rows], sqdist[rows] = _nearest(self.x[rows].to(centers.dtype), centers, self.tile)
        return Assignment(labels, sqdist)

    def measure(self, centers: Tensor, grid: Grid) -> Moments:
        """Moments at centers (K, D), without labels for all points ever being held."""
        n_clusters, width = centers.shape
        device = self.x.device
        sums = torch.zeros(width, n_clusters, dtype=torch.int64, device=device)
        totals = torch.zeros(n_clusters, dtype=torch.int64, device=device)
        inertia = torch.zeros((), dtype=torch.int64, device=device)
        worst_sqdist = torch.full((), -1.0, dtype=centers.dtype, device=device)
        worst_row = torch.zeros((), dtype=torch.int64, device=device)
        for rows in blocks(len(self.x), self._rows_at_a_time(n_clusters)):
            block = self.x[rows].to(centers.dtype)
            weights = 1.0 if self.weights is None else self.weights[rows].double()
            labels, sqdist = _nearest(block, centers, self.tile)
            # Channel-major: scatter_add_ along the rows of (D, N) is 7 times faster on a CPU than into (K, D).
            for channels in blocks(width, self.tile // len(block)):
                above = block[:, channels].T.double() - grid.lowest[channels, None]
                terms = to_grid(above * weights, grid.sum[channels, None])
                sums[channels].scatter_add_(1, labels.expand_as(terms), terms)
            totals.scatter_add_(0, labels, to_grid(torch.ones_like(sqdist, dtype=torch.float64) * weights, grid.weight))
            inertia += to_grid(sqdist.double() * weights, grid.sqdist).sum()
            farthest, row = sqdist.max(dim=0)
            further = farthest > worst_sqdist  # strictly, so that the lowest row wins a tie
            worst_sqdist = torch.where(further, farthest, worst_sqdist)
            worst_row = torch.where(further, row + rows.start, worst_row)
        return Moments(
            grid=grid,
            sums=sums.T,
            totals=totals,
            inertia=inertia,
            worst_sqdist=worst_sqdist,
            worst_row=worst_row,
            worst_x=self.x[worst_row].to(centers.dtype),
        )

    def _rows_at_a_time(self, n_clusters: int) -> int:
        """So many that their distances fit the tile, and the few copies of them do."""
        return max(1, self.tile // max(n_clusters, 4 * self.x.shape[1]))


def _nearest(x: Tensor, centers: Tensor, tile: int) -> Assignment:
    """The centers nearest to the points of a block by the one score, lowest index first."""
    best: Assignment | None = None
    for columns in blocks(len(centers), tile // len(x)):
        labels, sqdist = _nearest_in_tile(x, centers[columns])
        if best is None:
            best = Assignment(labels, sqdist)
        else:
            closer = sqdist < best.sqdist  # strictly, so that the lowest index wins a tie
            best = Assignment(
                torch.where(closer, labels + columns.start, best.labels), torch.where(closer, sqdist, best.sqdist)
            )
    assert best is not None
    return best


def _nearest_in_tile(x: Tensor, centers: Tensor) -> Assignment:
    """`cdist` + argmin proposes; the one score decides where the runner-up is closer than the rounding of `cdist`."""
    table = torch.cdist(x, centers, compute_mode=_DIRECT)
    proposed, labels = table.min(dim=1)
    runner_up = table.scatter_(1, labels[:, None], torch.inf).amin(dim=1)
    # A sum of D squares and its root are off by less than (D/2 + 2) units of rounding, on either side of a comparison
    # with the score, which is off by D/2 + 1 in the root. Below the smallest normal number that rule has no meaning.
    info = torch.finfo(x.dtype)
    limit = proposed * (1 + (x.shape[1] + 4) * info.eps) + (x.shape[1] * info.tiny) ** 0.5
    contested = (runner_up <= limit).nonzero().squeeze(1)
    if len(contested):
        table[contested, labels[contested]] = proposed[contested]
        # By quarters of the block, since every entry of the table may turn out to be a candidate.
        for part in blocks(len(contested), len(x) // 4):
            rows = contested[part]
            labels[rows] = _decide(x[rows], centers, table[rows] <= limit[rows, None])
    return Assignment(labels, squared_distance(x.T, centers.T[:, labels]))


def _decide(x: Tensor, centers: Tensor, candidates: Tensor) -> Tensor:
    """Of each row's candidates, a mask (N, K), the center of the lowest score, the lowest index first."""
    score = torch.full(candidates.shape, torch.inf, dtype=x.dtype, device=x.device)
    rows, columns = candidates.nonzero(as_tuple=True)
    # A quarter of the table's size at a time, since each pair has D channels and there may be as many pairs as entries.
    for pairs in blocks(len(rows), candidates.numel() // (4 * x.shape[1])):
        row, column = rows[pairs], columns[pairs]
        score[row, column] = squared_distance(x[row].T, centers[column].T)
    return score.min(dim=1).indices  # the first of equals
