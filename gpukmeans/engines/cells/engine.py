"""The cells engine, for few coordinates: cells of near points, each with a list of the centers that may be nearest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment
from gpukmeans.engines.cells.candidates import CandidateBatch, candidates, lowest
from gpukmeans.engines.cells.incremental_totals import IncrementalTotals
from gpukmeans.engines.cells.workspace import Workspace
from gpukmeans.engines.spatial_order import Cells, cells
from gpukmeans.fixed_point import FixedPoint, to_fixed
from gpukmeans.moments import Moments
from gpukmeans.tiling import ProblemIndex, problem_index, tiles

# Points in a small box, and small boxes in a large one.
_SIZE, _FANOUT = 32, 16
# Points that are processed at a time.
_POINTS = 1 << 16
# The slack of new lists is this multiple of the last move of the centers, but at most this fraction of the half
# diagonal of a cell: lists that are too long cost more than new ones.
_SLACK_PER_MOVE, _MAX_SLACK = 4.0, 0.15


@dataclass(frozen=True)
class CellsEngine:
    """The reference distance from each point to a few candidate centers: the bits of the plain engine.

    A cell has `size` points, and `fanout` cells make a large box. No bit depends on either.
    """

    size: int = _SIZE
    fanout: int = _FANOUT
    name = "cells"

    def unsupported_reason(self, x: Tensor) -> str | None:
        if x.device.type == "mps":
            return "its sums need float64 and int64, which MPS does not have"
        if x.shape[-1] > 8:
            return f"it is for points of at most 8 coordinates, and these have {x.shape[-1]}"
        return None

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundCellsEngine":
        return BoundCellsEngine(x, weights, self.size, self.fanout)


@dataclass(frozen=True, kw_only=True, eq=False)
class _CachedLists:
    """Candidate lists that are valid while no center of a run is farther than `slack` (B,) from its origin.

    `origins` (B, K, D) are the centers at which the lists were made, `last` those of the last call.
    """

    problems: Sequence[int]
    origins: Tensor
    last: Tensor
    slack: Tensor
    batches: list[CandidateBatch]


class BoundCellsEngine:
    """The cells engine, bound to points. It caches the points in cells, and the lists and totals of the last call.

    Lists are reused while they are valid, and totals are updated. No bit depends on earlier calls.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, size: int, fanout: int) -> None:
        self._x = x
        self._weights = weights
        self._shape = size, fanout
        self._problem_index = ProblemIndex(x.device)
        self._workspace = Workspace()
        self._cells: Cells | None = None
        self._lists: _CachedLists | None = None
        self._totals: IncrementalTotals | None = None
        self._sorted_weights: Tensor | None = None
        self._absent: Tensor | None = None

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N), in the dtype of the centers (B, K, D)."""
        layout = self._layout(centers.dtype)
        labels, sqdist = self._nearest(layout, centers, problems)
        n_runs, n = labels.shape
        assignment = Assignment(labels.new_empty(n_runs, n, dtype=torch.int64), sqdist.new_empty(n_runs, n))
        index = self._problem_index(problems)
        for runs, positions in tiles(n_runs, n, _POINTS):
            rows = layout.rows[problem_index(problems[runs], index[runs]), positions].long()
            assignment.labels[runs].scatter_(1, rows, labels[runs, positions].long())
            assignment.sqdist[runs].scatter_(1, rows, sqdist[runs, positions])
        return assignment

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D)."""
        layout = self._layout(centers.dtype)
        labels, sqdist = self._nearest(layout, centers, problems)
        totals, n_clusters = self._totals, centers.shape[1]
        if totals is not None and totals.fits(layout, problems, fixed_point, n_clusters):
            totals = totals.update(labels)
        else:
            totals = IncrementalTotals.of(layout, self._sorted_weights, problems, fixed_point, labels, n_clusters)
        self._totals = totals
        inertia, worst_sqdist = self._inertia_and_worst(sqdist, fixed_point, problems)
        return Moments(
            fixed_point=fixed_point,
            sums=totals.totals[:-1].permute(1, 2, 0),
            totals=totals.totals[-1],
            inertia=inertia,
            worst_sqdist=worst_sqdist,
        )

    def _layout(self, dtype: torch.dtype) -> Cells:
        if self._cells is None or self._cells.x.dtype != dtype:
            self._cells = cells(self._x, dtype, *self._shape)
            self._lists = self._totals = self._sorted_weights = self._absent = None
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
        index = self._problem_index(problems)
        flat_centers = centers.permute(2, 0, 1).flatten(1)
        for run_cells, center_ids in self._lists_for(layout, centers, problems):
            cell, flat_ids = run_cells, center_ids
            if n_runs > 1 or len(self._x) > 1:
                run = run_cells // n_cells
                cell, flat_ids = index[run] * n_cells + run_cells % n_cells, center_ids + run * n_clusters
            near = flat_centers.index_select(1, flat_ids.flatten()).view(width, *center_ids.shape, 1)
            shape = *center_ids.shape, size
            table, spare = (self._workspace.table(name, shape, centers) for name in ("sqdist", "spare"))
            squared_distance(layout.x.index_select(1, cell)[:, None], near, out=table, workspace=spare)
            best, label = lowest(table, center_ids[..., None], spare)
            sqdist.index_copy_(0, run_cells, best)
            labels.index_copy_(0, run_cells, label)
        n = self._x.shape[1]
        return labels.view(n_runs, -1)[:, :n], sqdist.view(n_runs, -1)[:, :n]

    def _lists_for(self, layout: Cells, centers: Tensor, problems: Sequence[int]) -> list[CandidateBatch]:
        """Candidate lists that are valid at these centers: the cached ones while they are valid."""
        lists, slack = self._lists, torch.zeros(len(centers), dtype=centers.dtype, device=centers.device)
        if lists is not None and lists.problems == problems and lists.origins.shape == centers.shape:
            moved = _max_move(lists.last, centers)
            if (_max_move(lists.origins, centers) <= lists.slack).all():
                self._lists = replace(lists, last=centers.clone())
                return lists.batches
            max_slack = _MAX_SLACK * layout.half_diagonal[self._problem_index(problems)]
            slack = torch.where(moved <= max_slack, (_SLACK_PER_MOVE * moved).minimum(max_slack), 0)
        batches = candidates(layout, centers, self._problem_index(problems), slack, self._workspace)
        copy = centers.clone()  # the caller may change them in place
        self._lists = _CachedLists(problems=problems, origins=copy, last=copy, slack=slack, batches=batches)
        return batches

    def _inertia_and_worst(
        self, sqdist: Tensor, fixed_point: FixedPoint, problems: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The inertia in fixed-point units, and the largest squared distance of a point with weight: (B,) each."""
        n_runs, n = sqdist.shape
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=sqdist.device)
        weights = self._sorted_weights
        present, index = sqdist, self._problem_index(problems)
        if self._absent is not None:
            present = sqdist.masked_fill(self._absent[index], -1.0)
        for runs, rows in tiles(n_runs, n, _POINTS):
            terms = sqdist[runs, rows].double()
            if weights is not None:
                terms = terms * weights[problem_index(problems[runs], index[runs]), rows].double()
            inertia[runs] += to_fixed(terms, fixed_point.sqdist[runs, None]).sum(dim=1)
        return inertia, present.amax(dim=1)


def _max_move(before: Tensor, after: Tensor) -> Tensor:
    """An upper bound (B,) of the distance that any center (B, K, D) of a run has moved."""
    width, info = after.shape[2], torch.finfo(after.dtype)
    sqdist = squared_distance(after.permute(2, 0, 1), before.permute(2, 0, 1)).amax(dim=1)
    return sqdist.sqrt_() * (1 + (width + 8) * info.eps) + (width * info.tiny) ** 0.5
