"""The engine for few coordinates: cells of near points, and for each cell the few centers that can be nearest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment
from gpukmeans.engines.cells.candidates import Group, candidates, lowest
from gpukmeans.engines.cells.incremental_totals import Tally
from gpukmeans.engines.cells.workspace import Scratch
from gpukmeans.engines.spatial_order import Cells, cells
from gpukmeans.fixed_point import Grid, to_grid
from gpukmeans.moments import Moments
from gpukmeans.tiling import Problems, of_runs, tiles

# Points of a small box, and small boxes of a large one.
_SIZE, _FAN = 32, 16
# Points of which something is held at a time.
_POINTS = 1 << 16
# Lists hold while centers move by about so many times what they moved last, but by no more than this part of the half
# diagonal of a cell, as lists that are too long cost more than new ones.
_LASTING, _LONGEST = 4.0, 0.15


@dataclass(frozen=True)
class CellsEngine:
    """The same answers as those of the plain engine, by the one score alone, of a few centers for each point.

    A cell is `size` points that are near to each other, and `fan` of them are looked at together first; no bit depends
    on either.
    """

    size: int = _SIZE
    fan: int = _FAN
    name = "cells"

    def obstacle(self, x: Tensor) -> str | None:
        """Why this engine cannot take these points, as a sentence; None if it can."""
        if x.device.type == "mps":
            return "its sums need float64 and int64, which MPS does not have"
        if x.shape[-1] > 8:
            return f"it is for points of at most 8 coordinates, and these have {x.shape[-1]}"
        return None

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundCellsEngine":
        """The engine at work on points (P, N, D) of any real dtype, with weights (P, N) or all of weight 1."""
        return BoundCellsEngine(x, weights, self.size, self.fan)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lists:
    """Lists for these problems that hold while no center of a run is farther than `slack` (B,) from where it was.

    That was at `since` (B, K, D); `last` is where the centers were at the last call.
    """

    problems: Sequence[int]
    since: Tensor
    last: Tensor
    slack: Tensor
    groups: list[Group]


class BoundCellsEngine:
    """The engine at work. It keeps the points in cells, and of the last call the lists, the labels and their totals.

    Lists serve as long as they hold, totals follow the labels that changed; no bit depends on what came before.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, size: int, fan: int) -> None:
        self._x = x
        self._weights = weights
        self._shape = size, fan
        self._whose = Problems(x.device)
        self._scratch = Scratch()
        self._cells: Cells | None = None
        self._lists: _Lists | None = None
        self._tally: Tally | None = None
        self._sorted_weights: Tensor | None = None
        self._absent: Tensor | None = None

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D), whose dtype is the one computed in."""
        layout = self._layout(centers.dtype)
        labels, sqdist = self._nearest(layout, centers, problems)
        n_runs, n = labels.shape
        found = Assignment(labels.new_empty(n_runs, n, dtype=torch.int64), sqdist.new_empty(n_runs, n))
        whose = self._whose(problems)
        for runs, places in tiles(n_runs, n, _POINTS):
            rows = layout.rows[of_runs(problems[runs], whose[runs]), places].long()
            found.labels[runs].scatter_(1, rows, labels[runs, places].long())
            found.sqdist[runs].scatter_(1, rows, sqdist[runs, places])
        return found

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D)."""
        layout = self._layout(centers.dtype)
        labels, sqdist = self._nearest(layout, centers, problems)
        tally, n_clusters = self._tally, centers.shape[1]
        if tally is not None and tally.fits(layout, problems, grid, n_clusters):
            tally = tally.moved_to(labels)
        else:
            tally = Tally.of(layout, self._sorted_weights, problems, grid, labels, n_clusters)
        self._tally = tally
        inertia, worst_sqdist, worst_row = self._served(layout, sqdist, grid, problems)
        return Moments(
            grid=grid,
            sums=tally.totals[:-1].permute(1, 2, 0),
            totals=tally.totals[-1],
            inertia=inertia,
            worst_sqdist=worst_sqdist,
            worst_row=worst_row,
            worst_x=self._x[self._whose(problems), worst_row].to(centers.dtype),
        )

    def _layout(self, dtype: torch.dtype) -> Cells:
        if self._cells is None or self._cells.x.dtype != dtype:
            self._cells = cells(self._x, dtype, *self._shape)
            self._lists = self._tally = self._sorted_weights = self._absent = None
            if self._weights is not None:
                rows = self._cells.rows[:, : self._x.shape[1]].long()
                self._sorted_weights = self._weights.gather(1, rows)
                absent = self._sorted_weights == 0
                self._absent = absent if absent.any() else None
        return self._cells

    def _nearest(self, layout: Cells, centers: Tensor, problems: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Labels (B, N) int32 and squared distances (B, N), in the order of the cells."""
        n_runs, n_clusters, width = centers.shape
        n_cells, size = layout.small.count, layout.small.size
        labels = torch.empty(n_runs * n_cells, size, dtype=torch.int32, device=centers.device)
        sqdist = torch.empty(labels.shape, dtype=centers.dtype, device=centers.device)
        whose = self._whose(problems)
        choices = centers.permute(2, 0, 1).flatten(1)
        for cells_of_runs, listed in self._lists_for(layout, centers, problems):
            numbers, chosen = cells_of_runs, listed
            if n_runs > 1 or len(self._x) > 1:
                run = cells_of_runs // n_cells
                numbers, chosen = whose[run] * n_cells + cells_of_runs % n_cells, listed + run * n_clusters
            near = choices.index_select(1, chosen.flatten()).view(width, *listed.shape, 1)
            shape = *listed.shape, size
            scores, spare = (self._scratch.table(name, shape, centers) for name in ("scores", "spare"))
            squared_distance(layout.x.index_select(1, numbers)[:, None], near, out=scores, spare=spare)
            best, label = lowest(scores, listed[..., None], spare)
            sqdist.index_copy_(0, cells_of_runs, best)
            labels.index_copy_(0, cells_of_runs, label)
        n = self._x.shape[1]
        return labels.view(n_runs, -1)[:, :n], sqdist.view(n_runs, -1)[:, :n]

    def _lists_for(self, layout: Cells, centers: Tensor, problems: Sequence[int]) -> list[Group]:
        """Lists that hold at these centers: the last ones, as long as they do."""
        lists, slack = self._lists, torch.zeros(len(centers), dtype=centers.dtype, device=centers.device)
        if lists is not None and lists.problems == problems and lists.since.shape == centers.shape:
            moved = _moved(lists.last, centers)
            if (_moved(lists.since, centers) <= lists.slack).all():
                self._lists = replace(lists, last=centers.clone())
                return lists.groups
            longest = _LONGEST * layout.reach[self._whose(problems)]
            slack = torch.where(moved <= longest, (_LASTING * moved).minimum(longest), 0)
        groups = candidates(layout, centers, self._whose(problems), slack, self._scratch)
        kept = centers.clone()  # whoever asks may change them
        self._lists = _Lists(problems=problems, since=kept, last=kept, slack=slack, groups=groups)
        return groups

    def _served(
        self, layout: Cells, sqdist: Tensor, grid: Grid, problems: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The inertia in steps (B,), and of the worst-served point its squared distance and its row (B,)."""
        n_runs, n = sqdist.shape
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=sqdist.device)
        weights = self._sorted_weights
        present, whose = sqdist, self._whose(problems)
        if self._absent is not None:
            present = sqdist.masked_fill(self._absent[whose], -1.0)
        for runs, rows in tiles(n_runs, n, _POINTS):
            terms = sqdist[runs, rows].double()
            if weights is not None:
                terms = terms * weights[of_runs(problems[runs], whose[runs]), rows].double()
            inertia[runs] += to_grid(terms, grid.sqdist[runs, None]).sum(dim=1)
        worst = present.amax(dim=1)
        run, place = (present == worst[:, None]).nonzero(as_tuple=True)
        row = layout.rows[whose[run], place].long()
        return inertia, worst, torch.full_like(inertia, n).scatter_reduce_(0, run, row, "amin")


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """How far any center (B, K, D) of a run has moved (B,), at most."""
    width, info = after.shape[2], torch.finfo(after.dtype)
    sqdist = squared_distance(after.permute(2, 0, 1), before.permute(2, 0, 1)).amax(dim=1)
    return sqdist.sqrt_() * (1 + (width + 8) * info.eps) + (width * info.tiny) ** 0.5
