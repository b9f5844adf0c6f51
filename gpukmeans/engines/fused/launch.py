"""Launches of the Triton kernels, as torch operations `gpukmeans::fused_assign` and `gpukmeans::fused_measure`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

import gpukmeans.engines.fused.iteration_kernels as iteration_kernels
import gpukmeans.engines.fused.kernels as kernels
from gpukmeans.engines.fused.storage import KernelInput
from gpukmeans.fixed_point import FixedPoint

# The largest number of bytes of the candidate lists of all programs.
_MAX_LISTS_BYTES = 128 << 20
# The largest number of copies of the totals, and of bytes of all copies. Several copies are faster, because programs
# that add to different copies do not wait for each other. More than 32 copies save no time.
_MAX_COPIES, _MAX_COPIES_BYTES = 32, 32 << 20
# For up to this many centers, the terms of a block are summed on chip and added to memory once for each center. The
# points of a sorted block of 128 points belong to 2 to 10 centers.
_MAX_REDUCED = 16
# Programs for each processor of the GPU: more than run at once, so that no processor is idle while another one works.
_PER_PROCESSOR = 128
# Entries of the totals that a program adds at a time.
_REDUCED_BLOCK = 256
# From this many centers on, programs have four warps, because one warp takes too long to compute the bounds.
_MANY_CENTERS = 1024


class Shape(NamedTuple):
    """Tiling of a kernel: points in a block, centers in a tile, warps in a program. No bit depends on the tiling."""

    block: int
    tile: int
    num_warps: int


def shape_of(width: int, n_clusters: int, dtype: torch.dtype, *, labels: bool) -> Shape:
    """The tiling for points of `width` coordinates: as many points per thread as its registers hold without spilling.

    A program of one warp needs no barriers; for many centers four warps are faster. With `labels`, for a kernel that
    writes labels and not totals, blocks are larger, because labels need fewer registers.
    """
    size = width * dtype.itemsize
    points = (4 if size <= 16 else 2) * (2 if labels and size <= 32 else 1)
    centers = 2 if size <= 16 else 1
    warps = 1 if n_clusters < _MANY_CENTERS else 4
    return Shape(block=32 * warps * points, tile=32 * warps * centers, num_warps=warps)


def assign(
    kernel_input: KernelInput, problems: Tensor, centers: Tensor, programs: int | None = None
) -> tuple[Tensor, Tensor]:
    """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D) of the points of problems (B,).

    `programs` is the number of programs of the launch; the default depends on the GPU.
    """
    return torch.ops.gpukmeans.fused_assign(
        kernel_input.x, kernel_input.rows, kernel_input.n, problems, centers, programs
    )


class Measured(NamedTuple):
    """Moments of one pass. `totals` (B, K, D + 1) int64 are the D sums of w·(x - lowest), then the sum of w."""

    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor


def measure(
    kernel_input: KernelInput, problems: Tensor, centers: Tensor, fixed_point: FixedPoint, programs: int | None = None
) -> Measured:
    """Moments at centers (B, K, D) of the points of problems (B,). The order of additions changes no integer sum."""
    scales = fixed_point.lowest, fixed_point.sum, fixed_point.weight, fixed_point.sqdist
    return Measured(*torch.ops.gpukmeans.fused_measure(*kernel_input, problems, centers, *scales, programs))


# Not `torch.library.custom_op`, because its first call loads torch's compiler, which takes a second.
_LIBRARY = torch.library.Library("gpukmeans", "FRAGMENT")
_LIBRARY.define(
    "fused_assign(Tensor x, Tensor? rows, SymInt n, Tensor problems, Tensor centers, int? programs)"
    " -> (Tensor labels, Tensor sqdist)"
)
_LIBRARY.define(
    "fused_measure(Tensor x, Tensor? weights, Tensor? rows, SymInt n, Tensor problems, Tensor centers, Tensor lowest,"
    " Tensor sum_scale, Tensor weight_scale, Tensor sqdist_scale, int? programs)"
    " -> (Tensor totals, Tensor inertia, Tensor worst_sqdist)"
)


def _assign(
    x: Tensor, rows: Tensor | None, n: int, problems: Tensor, centers: Tensor, programs: int | None
) -> tuple[Tensor, Tensor]:
    plan = _plan(x, n, centers, programs, labels=True)
    labels, sqdist = _assign_shapes(x, rows, n, problems, centers, programs)
    _, n_clusters, width = centers.shape
    tensors = labels, sqdist, x, rows, problems, centers.contiguous(), plan.lists
    sizes = n, x.shape[2], n_clusters, *x.stride(), plan.n_blocks, plan.per_run
    _launch(kernels.assign_kernel, plan, *tensors, *sizes, width=width)
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
) -> tuple[Tensor, Tensor, Tensor]:
    plan = _plan(x, n, centers, programs, labels=False)
    n_runs, n_clusters, width = centers.shape
    size = n_runs * n_clusters * (width + 1)
    n_copies = max(1, min(plan.per_run, _MAX_COPIES, _MAX_COPIES_BYTES // (8 * size)))
    totals = torch.zeros(n_copies, n_runs, n_clusters, width + 1, dtype=torch.int64, device=x.device)
    inertia = torch.empty(n_runs, plan.per_run, dtype=torch.int64, device=x.device)
    worst_sqdist = torch.empty(inertia.shape, dtype=centers.dtype, device=x.device)
    scales = (scale.contiguous() for scale in (lowest, sum_scale, weight_scale, sqdist_scale))
    tensors = totals, inertia, worst_sqdist, x, weights, problems, centers.contiguous(), *scales, plan.lists
    strides = *x.stride(), *((0, 0) if weights is None else weights.stride())
    # 0 for unsorted points and more centers, because a block has points of nearly all clusters.
    max_reduced = _MAX_REDUCED if rows is not None or n_clusters <= _MAX_REDUCED else 0
    sizes = n, x.shape[2], n_clusters, *strides, plan.n_blocks, plan.per_run, n_runs, n_copies, max_reduced
    _launch(kernels.measure_kernel, plan, *tensors, *sizes, width=width)
    return _reduced(totals, inertia, worst_sqdist)


def _reduced(total_copies: Tensor, inertia_parts: Tensor, worst_parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of copies (copies, B, K, D + 1) and of parts (B, programs), and the largest of the worst distances."""
    n_copies, n_runs, n_clusters, n_sums = total_copies.shape
    totals = torch.empty_like(total_copies[0])
    inertia, worst_sqdist = inertia_parts.new_empty(n_runs), worst_parts.new_empty(n_runs)
    n_entries = n_clusters * n_sums
    tensors = totals, inertia, worst_sqdist, total_copies, inertia_parts, worst_parts
    sizes = n_entries, n_runs, n_copies, inertia_parts.shape[1]
    grid = n_runs, triton.cdiv(n_entries, _REDUCED_BLOCK)
    run_kernel(iteration_kernels.reduce_kernel, grid, *tensors, *sizes, block=_REDUCED_BLOCK)
    return totals, inertia, worst_sqdist


def _assign_shapes(
    x: Tensor, rows: Tensor | None, n: int, problems: Tensor, centers: Tensor, programs: int | None
) -> tuple[Tensor, Tensor]:
    labels = x.new_empty(len(centers), n, dtype=torch.int64)
    return labels, torch.empty_like(labels, dtype=centers.dtype)


def _measure_shapes(
    x: Tensor,
    weights: Tensor | None,
    rows: Tensor | None,
    n: int,
    problems: Tensor,
    centers: Tensor,
    *scales: Tensor | int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n_runs, n_clusters, width = centers.shape
    inertia = x.new_empty(n_runs, dtype=torch.int64)
    totals = x.new_empty(n_runs, n_clusters, width + 1, dtype=torch.int64)
    return totals, inertia, torch.empty_like(inertia, dtype=centers.dtype)


class Operation(NamedTuple):
    """A torch operation: the function that runs it, and the function of its results without values."""

    run: Callable[..., tuple[Tensor, ...]]
    shapes: Callable[..., tuple[Tensor, ...]]


OPERATIONS = {"fused_assign": Operation(_assign, _assign_shapes), "fused_measure": Operation(_measure, _measure_shapes)}
"""The operations of `torch.ops.gpukmeans` by name."""

for _name, _operation in OPERATIONS.items():
    _LIBRARY.impl(_name, _operation.run, "CPU")  # where the kernels are interpreted
    _LIBRARY.impl(_name, _operation.run, "CUDA")
    torch.library.register_fake(f"gpukmeans::{_name}", _operation.shapes, lib=_LIBRARY)


class _Plan(NamedTuple):
    """Sizes of a launch: blocks of the points of a run, programs for each run (`per_run`), and all programs."""

    shape: Shape
    n_blocks: int
    per_run: int
    programs: int
    lists: Tensor
    """Memory for the candidate lists, one of K indices for each program: (programs, K) int32."""


def _plan(x: Tensor, n: int, centers: Tensor, programs: int | None, *, labels: bool) -> _Plan:
    n_runs, n_clusters, width = centers.shape
    shape = shape_of(width, n_clusters, centers.dtype, labels=labels)
    n_blocks = triton.cdiv(n, shape.block)
    max_programs = min(programs or _default_programs(x.device), _MAX_LISTS_BYTES // (4 * n_clusters))
    per_run = max(1, min(n_blocks, max_programs // n_runs))
    lists = torch.empty(n_runs * per_run, n_clusters, dtype=torch.int32, device=x.device)
    return _Plan(shape, n_blocks, per_run, n_runs * per_run, lists)


def _default_programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 1  # the interpreter runs programs one after the other
    return _PER_PROCESSOR * torch.get_device_module(device).get_device_properties(device).multi_processor_count


def _launch(kernel: Any, plan: _Plan, *args: Tensor | int | None, **constants: int) -> None:
    shape = plan.shape
    with current_device_of(plan.lists):
        kernel[(plan.programs,)](
            *args,
            block=shape.block,
            tile=shape.tile,
            num_warps=shape.num_warps,
            enable_fp_fusion=False,  # a fused multiply-add would round once where the reference distance rounds twice
            **constants,
        )


def run_kernel(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: int) -> None:
    """Launch a kernel of this grid on the device of the first tensor among its arguments."""
    with current_device_of(next(arg for arg in args if isinstance(arg, Tensor))):
        # A fused multiply-add would round once where the torch operations round twice.
        kernel[grid](*args, enable_fp_fusion=False, **constants)


def current_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which the device of the tensor is the current device, on which Triton launches kernels."""
    is_cuda = tensor.device.type == "cuda"
    return torch.get_device_module(tensor.device).device_of(tensor) if is_cuda else nullcontext()
