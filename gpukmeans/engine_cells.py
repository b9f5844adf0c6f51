"""The engine for few coordinates: cells of near points, and for each cell the few centers that can be nearest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.blocks import of_runs, tiles
from gpukmeans.candidates import candidates, chosen, lowest
from gpukmeans.engine_torch import Assignment
from gpukmeans.layout import Cells, cells
from gpukmeans.moments import Grid, Moments, to_grid
from gpukmeans.score import squared_distance
from gpukmeans.tally import Tally

# Points of a small box, and small boxes of a large one.
_SIZE, _FAN = 32, 16
# Points of which something is held at a time.
_POINTS = 1 << 16


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


class BoundCellsEngine:
    """The engine at work. It keeps the points in cells, and the labels of the last call with their totals.

    Totals follow the labels that have changed (see `gpukmeans.tally`); no bit depends on what came before.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, size: int, fan: int) -> None:
        self._x = x
        self._weights = weights
        self._shape = size, fan
        self._cells: Cells | None = None
        self._tally: Tally | None = None
        self._sorted_weights: Tensor | None = None
        self._absent: Tensor | None = None

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D), whose dtype is the one computed in."""
        layout = self._layout(centers.dtype)
        labels, sqdist = self._nearest(layout, centers, problems)
        rows = layout.rows[list(problems), : labels.shape[1]]
        return Assignment(
            torch.empty_like(labels, dtype=torch.int64).scatter_(1, rows, labels.long()),
            torch.empty_like(sqdist).scatter_(1, rows, sqdist),
        )

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
            worst_x=self._x[torch.tensor(problems, device=centers.device), worst_row].to(centers.dtype),
        )

    def _layout(self, dtype: torch.dtype) -> Cells:
        if self._cells is None or self._cells.x.dtype != dtype:
            self._cells = cells(self._x, dtype, *self._shape)
            self._tally = self._sorted_weights = self._absent = None
            if self._weights is not None:
                self._sorted_weights = self._weights.gather(1, self._cells.rows[:, : self._x.shape[1]])
                absent = self._sorted_weights == 0
                self._absent = absent if absent.any() else None
        return self._cells

    def _nearest(self, layout: Cells, centers: Tensor, problems: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Labels (B, N) int32 and squared distances (B, N), in the order of the cells."""
        n_cells, size = layout.small.count, layout.small.size
        labels = torch.empty(len(problems) * n_cells, size, dtype=torch.int32, device=centers.device)
        sqdist = torch.empty(labels.shape, dtype=centers.dtype, device=centers.device)
        whose = torch.tensor(problems, device=centers.device)
        for runs, boxes, listed in candidates(layout, centers, problems):
            x = layout.x.index_select(1, whose[runs] * n_cells + boxes)
            scores = squared_distance(x[:, None], chosen(centers, runs, listed)[..., None])
            places = runs * n_cells + boxes
            for kept, new in zip((sqdist, labels), lowest(scores, listed[..., None]), strict=True):
                kept.index_copy_(0, places, new)
        n, n_runs = self._x.shape[1], len(problems)
        return labels.view(n_runs, -1)[:, :n], sqdist.view(n_runs, -1)[:, :n]

    def _served(
        self, layout: Cells, sqdist: Tensor, grid: Grid, problems: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The inertia in steps (B,), and of the worst-served point its squared distance and its row (B,)."""
        n_runs, n = sqdist.shape
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=sqdist.device)
        weights = self._sorted_weights
        present = sqdist
        if self._absent is not None:
            present = sqdist.masked_fill(self._absent[list(problems)], -1.0)
        whose = torch.tensor(problems, device=sqdist.device)
        for runs, rows in tiles(n_runs, n, _POINTS):
            terms = sqdist[runs, rows].double()
            if weights is not None:
                terms = terms * weights[of_runs(problems[runs], whose[runs]), rows].double()
            inertia[runs] += to_grid(terms, grid.sqdist[runs, None]).sum(dim=1)
        worst = present.amax(dim=1)
        run, place = (present == worst[:, None]).nonzero(as_tuple=True)
        row = layout.rows[whose[run], place]
        return inertia, worst, torch.full_like(inertia, n).scatter_reduce_(0, run, row, "amin")
