"""The move of centers of many coordinates by Triton kernels: 4 launches."""

import torch
import triton
from torch import Tensor

import gpukmeans.engines.screened.iteration_kernels as kernels
from gpukmeans.engines.fused.launch import run_kernel
from gpukmeans.engines.iteration import Move
from gpukmeans.engines.screened.summation import summation_on
from gpukmeans.moments import Moments

MAX_WIDTH, MAX_RUNS = 2048, 2**16 - 1
"""The largest numbers of coordinates and of runs."""

# Clusters and coordinates of a block of means, clusters of a block of maxima, and coordinates in registers of shifts.
_ROWS, _CHUNK, _BLOCK, _ENTRIES = 16, 64, 256, 2048


def move(
    centers: Tensor,
    moments: Moments,
    going: Tensor,
    n_iter: Tensor,
    unresolved: Tensor,
    *,
    n_fixed: int,
    total_weight: Tensor,
) -> Move:
    """The next centers, as `gpukmeans.engines.fused.iteration.move`, for 9 to 2048 coordinates."""
    n_runs, n_clusters, width = centers.shape
    centers, scales = centers.contiguous(), moments.fixed_point
    moved = Move(
        target=torch.empty_like(centers),
        sqshift=torch.empty_like(total_weight),
        bound=torch.empty_like(total_weight),
        scale=torch.empty_like(total_weight),
        n_iter=torch.empty_like(n_iter),
        going=torch.empty_like(going),
        unresolved=torch.empty_like(unresolved),
    )
    moves = torch.zeros(n_runs, dtype=torch.int32, device=centers.device)
    sqshifts = total_weight.new_empty(n_runs, n_clusters)
    order = summation_on(width, centers.device)
    totals, strides = moments.totals, moments.totals.stride()
    rows = max(1, _ENTRIES >> (order.depth + 3))
    run_kernel(
        kernels.means_kernel,
        (triton.cdiv(n_clusters, _ROWS), triton.cdiv(width, _CHUNK), n_runs),
        moved.target,
        moves,
        centers,
        moments.sums,
        totals,
        *moments.sums.stride(),
        *strides,
        scales.sum.contiguous(),
        scales.weight.contiguous(),
        scales.lowest.contiguous(),
        scales.highest.contiguous(),
        going,
        n_clusters,
        n_fixed,
        width,
        rows=_ROWS,
        chunk=_CHUNK,
    )
    run_kernel(
        kernels.shifts_kernel,
        (triton.cdiv(n_clusters, rows), n_runs),
        sqshifts,
        moved.target,
        centers,
        order.coordinates,
        n_clusters,
        width,
        rows=rows,
        n_terms=order.n_terms,
        depth=order.depth,
    )
    run_kernel(
        kernels.finish_kernel,
        (n_runs,),
        *moved[1:],
        sqshifts,
        moves,
        totals,
        *strides,
        moments.worst_sqdist.contiguous(),
        total_weight.contiguous(),
        n_iter,
        going,
        unresolved,
        n_clusters,
        n_fixed,
        block=min(_BLOCK, 1 << (n_clusters - 1).bit_length()),
    )
    return moved
