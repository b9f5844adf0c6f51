"""The kernels at work: one pass over the points, as the operations `gpukmeans::fused_assign` and `::fused_measure`."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

import gpukmeans.engines.fused.kernels as kernels
from gpukmeans.engines.fused.storage import Stored
from gpukmeans.fixed_point import Grid

# Most bytes of the lists of candidates of all programs, and of all copies of the totals.
_LISTS = 128 << 20
_COPIES = 32 << 20
# More copies than this save no time, since as many programs seldom add to one total at a time.
_MOST_COPIES = 32
# So many centers of a block have their totals added on chip; a sorted block of 128 points has 2 to 10.
_TURNS = 16
# Programs for each processor of the GPU. More than fit at a time, so that none waits for the slowest.
_PER_PROCESSOR = 128
# From this many centers on bounds take longer than one warp should be alone with them.
_MANY = 1024


class Shape(NamedTuple):
    """How a kernel is cut: points of a block and centers of a tile. No bit depends on it."""

    block: int
    tile: int
    num_warps: int


def shape_of(width: int, n_clusters: int, dtype: torch.dtype, *, labels: bool) -> Shape:
    """The shape for points of so many coordinates, as many of them a thread as registers hold without spilling.

    One warp alone needs no barrier, but should not be alone with many centers. Labels need fewer registers than totals.
    """
    size = width * dtype.itemsize
    points = (4 if size <= 16 else 2) * (2 if labels and size <= 32 else 1)
    centers = 2 if size <= 16 else 1
    warps = 1 if n_clusters < _MANY else 4
    return Shape(block=32 * warps * points, tile=32 * warps * centers, num_warps=warps)


def assign(stored: Stored, problems: Tensor, centers: Tensor, programs: int | None = None) -> tuple[Tensor, Tensor]:
    """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D) of the points of problems (B,).

    `programs` is how many run at a time; by default it suits the GPU.
    """
    return torch.ops.gpukmeans.fused_assign(stored.x, stored.rows, stored.n, problems, centers, programs)


class Measured(NamedTuple):
    """What one pass leaves: int64 totals (B, K, D + 1), of w·(x - lowest) and last of w, and the rest of Moments."""

    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor
    worst_row: Tensor


def measure(stored: Stored, problems: Tensor, centers: Tensor, grid: Grid, programs: int | None = None) -> Measured:
    """The same pass without labels: totals in steps of the grid, all by integers, so in whatever order."""
    steps = grid.lowest, grid.sum, grid.weight, grid.sqdist
    return Measured(*torch.ops.gpukmeans.fused_measure(*stored, problems, centers, *steps, programs))


# As a fragment and not by `torch.library.custom_op`, the first call of which loads torch's compiler: a second.
_LIBRARY = torch.library.Library("gpukmeans", "FRAGMENT")
_LIBRARY.define(
    "fused_assign(Tensor x, Tensor? rows, SymInt n, Tensor problems, Tensor centers, int? programs)"
    " -> (Tensor labels, Tensor sqdist)"
)
_LIBRARY.define(
    "fused_measure(Tensor x, Tensor? weights, Tensor? rows, SymInt n, Tensor problems, Tensor centers, Tensor lowest,"
    " Tensor sum_scale, Tensor weight_scale, Tensor sqdist_scale, int? programs)"
    " -> (Tensor totals, Tensor inertia, Tensor worst_sqdist, Tensor worst_row)"
)


def _assign(
    x: Tensor, rows: Tensor | None, n: int, problems: Tensor, centers: Tensor, programs: int | None
) -> tuple[Tensor, Tensor]:
    plan = _plan(x, n, centers, programs, labels=True)
    labels, sqdist = _assigned(x, rows, n, problems, centers, programs)
    _launch(
        kernels.assign_kernel,
        plan,
        labels,
        sqdist,
        x,
        rows,
        problems,
        centers.contiguous(),
        plan.lists,
        n,
        x.shape[2],
        centers.shape[1],
        *x.stride(),
        plan.n_blocks,
        plan.per_run,
        width=centers.shape[2],
    )
    return labels, sqdist


def _measure(
    x: Tensor,
    weights: Tensor | None,
    rows: Tensor | None,
    n: int,
    problems: Tensor,
    centers: Tensor,
    lowest: Tensor,
    sum_scale: Tensor,
    weight_scale: Tensor,
    sqdist_scale: Tensor,
    programs: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan = _plan(x, n, centers, programs, labels=False)
    n_runs, n_clusters, width = centers.shape
    size = n_runs * n_clusters * (width + 1)
    n_copies = max(1, min(plan.per_run, _MOST_COPIES, _COPIES // (8 * size)))
    totals = torch.zeros(n_copies, n_runs, n_clusters, width + 1, dtype=torch.int64, device=x.device)
    inertia = torch.empty(n_runs, plan.per_run, dtype=torch.int64, device=x.device)
    worst_sqdist = torch.empty(inertia.shape, dtype=centers.dtype, device=x.device)
    worst_row = torch.empty_like(inertia)
    _launch(
        kernels.measure_kernel,
        plan,
        totals,
        inertia,
        worst_sqdist,
        worst_row,
        x,
        weights,
        rows,
        problems,
        centers.contiguous(),
        lowest.contiguous(),
        sum_scale.contiguous(),
        weight_scale.contiguous(),
        sqdist_scale.contiguous(),
        plan.lists,
        n,
        x.shape[2],
        n_clusters,
        *x.stride(),
        *((0, 0) if weights is None else weights.stride()),
        plan.n_blocks,
        plan.per_run,
        n_runs,
        n_copies,
        # Points that are not sorted have as many centers as there are.
        _TURNS if rows is not None or n_clusters <= _TURNS else 0,
        width=width,
    )
    farthest = worst_sqdist.amax(dim=1)
    # Of equally far ones the lowest row. A program whose points all have no weight says -1 and row 0.
    row = worst_row.where(worst_sqdist == farthest[:, None], n).amin(dim=1)
    return totals.sum(dim=0), inertia.sum(dim=1), farthest, row


def _assigned(
    x: Tensor, rows: Tensor | None, n: int, problems: Tensor, centers: Tensor, programs: int | None
) -> tuple[Tensor, Tensor]:
    labels = x.new_empty(len(centers), n, dtype=torch.int64)
    return labels, torch.empty_like(labels, dtype=centers.dtype)


def _measured(
    x: Tensor,
    weights: Tensor | None,
    rows: Tensor | None,
    n: int,
    problems: Tensor,
    centers: Tensor,
    *steps: Tensor | int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_runs, n_clusters, width = centers.shape
    inertia = x.new_empty(n_runs, dtype=torch.int64)
    totals = x.new_empty(n_runs, n_clusters, width + 1, dtype=torch.int64)
    return totals, inertia, torch.empty_like(inertia, dtype=centers.dtype), torch.empty_like(inertia)


for _name, _work, _shapes in (("fused_assign", _assign, _assigned), ("fused_measure", _measure, _measured)):
    _LIBRARY.impl(_name, _work, "CPU")  # where the kernels are interpreted
    _LIBRARY.impl(_name, _work, "CUDA")
    torch.library.register_fake(f"gpukmeans::{_name}", _shapes, lib=_LIBRARY)


class _Plan(NamedTuple):
    shape: Shape
    n_blocks: int
    per_run: int
    programs: int
    lists: Tensor
    """Room for a list of candidates of each program (programs, K) int32."""


def _plan(x: Tensor, n: int, centers: Tensor, programs: int | None, *, labels: bool) -> _Plan:
    n_runs, n_clusters, width = centers.shape
    shape = shape_of(width, n_clusters, centers.dtype, labels=labels)
    n_blocks = triton.cdiv(n, shape.block)
    most = min(programs or _programs(x.device), _LISTS // (4 * n_clusters))
    per_run = max(1, min(n_blocks, most // n_runs))
    lists = torch.empty(n_runs * per_run, n_clusters, dtype=torch.int32, device=x.device)
    return _Plan(shape, n_blocks, per_run, n_runs * per_run, lists)


def _programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 1  # the interpreter runs one after the other
    return _PER_PROCESSOR * torch.get_device_module(device).get_device_properties(device).multi_processor_count


def _launch(kernel: Any, plan: _Plan, *args: Tensor | int | None, **constants: int) -> None:
    shape, device = plan.shape, plan.lists.device
    # Triton launches on the current device, which need not be that of the points.
    with torch.get_device_module(device).device_of(plan.lists) if device.type == "cuda" else nullcontext():
        kernel[(plan.programs,)](
            *args,
            block=shape.block,
            tile=shape.tile,
            num_warps=shape.num_warps,
            enable_fp_fusion=False,  # a fused multiply-add would round once where the score rounds twice
            **constants,
        )
