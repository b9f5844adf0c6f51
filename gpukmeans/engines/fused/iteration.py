"""The two steps of an iteration of Lloyd's loop apart from the pass over the points, by Triton kernels on CUDA.

With the Triton engine an iteration takes 5 launches: totals are set to 0, the pass over the points, the sum of its
parts, the end rule, and the move of the centers. For more than 8 coordinates the move takes 4 launches.
"""

import struct

import torch
from torch import Tensor

from gpukmeans.engines.fused.availability import MAX_WIDTH, has_kernels
from gpukmeans.engines.iteration import Decision, Move
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments

# Clusters that a program processes at a time.
_BLOCK = 256


def move(
    centers: Tensor,
    moments: Moments,
    going: Tensor,
    n_iter: Tensor,
    unresolved: Tensor,
    *,
    n_fixed: int,
    total_weight: Tensor,
) -> Move | None:
    """The next centers of the runs of the mask `going` (B,), with the bits of the torch operations in `lloyd`.

    Empty clusters do not move, and their runs are unresolved. None if there are no Triton kernels for the device or for
    this many coordinates.
    """
    n_runs, n_clusters, width = centers.shape
    if not has_kernels(centers):
        return None
    if width > MAX_WIDTH:
        import gpukmeans.engines.screened.iteration as wide

        if width > wide.MAX_WIDTH or n_runs > wide.MAX_RUNS:
            return None
        return wide.move(centers, moments, going, n_iter, unresolved, n_fixed=n_fixed, total_weight=total_weight)
    import gpukmeans.engines.fused.iteration_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    moved = Move(
        target=torch.empty_like(centers, memory_format=torch.contiguous_format),
        sqshift=torch.empty_like(total_weight),
        bound=torch.empty_like(total_weight),
        scale=torch.empty_like(total_weight),
        n_iter=torch.empty_like(n_iter),
        going=torch.empty_like(going),
        unresolved=torch.empty_like(unresolved),
    )
    scales = moments.fixed_point
    run_kernel(
        kernels.move_kernel,
        (n_runs,),
        *moved,
        centers.contiguous(),
        moments.sums,
        moments.totals,
        *moments.sums.stride(),
        *moments.totals.stride(),
        scales.sum.contiguous(),
        scales.weight.contiguous(),
        scales.lowest.contiguous(),
        scales.highest.contiguous(),
        moments.worst_sqdist.contiguous(),
        total_weight.contiguous(),
        n_iter,
        going,
        unresolved,
        n_clusters,
        n_fixed,
        width=width,
        block=_block(n_clusters),
    )
    return moved


def next_centers(centers: Tensor, moments: Moments, n_fixed: int) -> Tensor | None:
    """The means (B, K, D) as by `lloyd.next_centers`. None if there are no Triton kernels for these centers."""
    if not has_kernels(centers):
        return None
    weight = moments.fixed_point.weight
    going = torch.ones_like(weight, dtype=torch.bool)
    state = going, torch.empty_like(weight, dtype=torch.int64), torch.empty_like(going)
    moved = move(centers, moments, *state, n_fixed=n_fixed, total_weight=weight)
    return None if moved is None else moved.target


def decide(
    moments: Moments,
    previous: Moments | None,
    going: Tensor,
    bound: Tensor,
    inertia: Tensor,
    lowest: Tensor,
    stalled: Tensor,
    unresolved: Tensor,
    *,
    n_fixed: int,
    tol: float,
    patience: int,
    too_coarse: float,
) -> Decision | None:
    """The state of runs after a move, decided by the moments, with the bits of the torch operations in `lloyd`.

    `previous` are the moments before the move; None if no run had ended. The result is None if there are no Triton
    kernels for the device.
    """
    if not has_kernels(inertia):
        return None
    import gpukmeans.engines.fused.iteration_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    values = [torch.empty_like(value) for value in (inertia, lowest, stalled, going, unresolved)]
    n_runs, n_clusters, width = moments.sums.shape
    selected = moments if previous is None else _empty_like(moments)
    block = _block(n_clusters)
    run_kernel(
        kernels.decide_kernel,
        (n_runs, 1 if previous is None else -(-n_clusters // block)),
        *values,
        *_tensors(selected),
        *_described(moments),
        *([None] * 5 + [0] * 5 if previous is None else _described(previous)),
        inertia,
        lowest,
        stalled,
        going,
        unresolved,
        bound,
        _bits(tol),
        _bits(too_coarse),
        patience,
        n_clusters,
        width,
        n_fixed,
        block=block,
    )
    return Decision(selected, *values)


def bound_and_scale(centers: Tensor, fixed_point: FixedPoint, total_weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """An upper bound (B,) of squared distances at any centers (B, K, D), and the fixed-point scale for it.

    The bits are those of `Points.sqdist_bound` and `Points.sqdist_scale`. None if there are no Triton kernels for the
    device or for this many coordinates.
    """
    n_runs, n_clusters, width = centers.shape
    if width > MAX_WIDTH or not has_kernels(centers):
        return None
    import gpukmeans.engines.fused.iteration_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    bound, scale = torch.empty_like(total_weight), torch.empty_like(total_weight)
    tensors = bound, scale, centers.contiguous(), fixed_point.lowest.contiguous(), fixed_point.highest.contiguous()
    constants = {"width": width, "block": _block(n_clusters)}
    run_kernel(kernels.bound_kernel, (n_runs,), *tensors, total_weight.contiguous(), n_clusters, **constants)
    return bound, scale


def tightened(moments: Moments, bound: Tensor, too_coarse: float) -> tuple[Tensor, Tensor] | None:
    """The bound (B,), or the largest squared distance found where the bound is far above it; and the mask of these.

    None if there are no Triton kernels for the device.
    """
    if not has_kernels(bound):
        return None
    import gpukmeans.engines.fused.iteration_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    result, is_coarse = torch.empty_like(bound), torch.empty_like(bound, dtype=torch.bool)
    arguments = result, is_coarse, moments.worst_sqdist, bound, _bits(too_coarse)
    run_kernel(kernels.tighten_kernel, (len(bound),), *arguments)
    return result, is_coarse


def _tensors(moments: Moments) -> list[Tensor]:
    """The tensors that differ between the measurements of a run. The other scales depend on the points alone."""
    return [moments.sums, moments.totals, moments.inertia, moments.worst_sqdist, moments.fixed_point.sqdist]


def _described(moments: Moments) -> list[Tensor | int]:
    return [*_tensors(moments), *moments.sums.stride(), *moments.totals.stride()]


def _empty_like(moments: Moments) -> Moments:
    """Contiguous moments at the same scales, not initialized, with a scale of w·d² of their own."""
    sums, totals, inertia, worst_sqdist, scale = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in _tensors(moments)
    )
    fixed_point = moments.fixed_point.with_sqdist(scale)
    return Moments(fixed_point=fixed_point, sums=sums, totals=totals, inertia=inertia, worst_sqdist=worst_sqdist)


def _block(n_clusters: int) -> int:
    # A warp processes 32 clusters as fast as fewer.
    return max(32, min(_BLOCK, 1 << (n_clusters - 1).bit_length()))


def _bits(value: float) -> int:
    """The bits of a float64, as an int64."""
    return struct.unpack("<q", struct.pack("<d", value))[0]
