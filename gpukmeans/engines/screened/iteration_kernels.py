"""Triton kernels that move centers of many coordinates. See `gpukmeans.engines.fused.iteration_kernels`.

Each operation is the same as in `gpukmeans.lloyd` and `gpukmeans.moments`, in float64 and rounded once, so results have
the same bits.
"""

from typing import no_type_check

import triton
import triton.language as tl

from gpukmeans.engines.fused.iteration_kernels import _write_move
from gpukmeans.engines.screened.kernels import _row_distance

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["k", "n_fixed", "width"]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def means_kernel(
    target,
    moved,
    centers,
    sums,
    totals,
    sums_run,
    sums_row,
    sums_channel,
    totals_run,
    totals_row,
    sum_scale,
    weight_scale,
    lowest,
    highest,
    going,
    k,
    n_fixed,
    width,
    rows: tl.constexpr,
    chunk: tl.constexpr,
):
    """Write the next centers (B, K, D), and 1 to `moved` (B,) of runs whose centers move. Others keep their value.

    Program (i, j, run) processes a block of clusters and a chunk of coordinates.
    """
    dtype: tl.constexpr = centers.dtype.element_ty
    run = tl.program_id(2).to(tl.int64)
    cluster = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * chunk + tl.arange(0, chunk)
    total = tl.load(totals + run * totals_run + cluster * totals_row, mask=cluster < k, other=0)
    weight = tl.where(total == 0, 1, total).to(tl.float64) / tl.load(weight_scale + run)
    takes_mean = (tl.load(going + run) != 0) & (cluster >= n_fixed) & (total != 0)
    inside = (cluster < k)[:, None] & (channel < width)[None, :]
    scale = tl.load(sum_scale + run * width + channel, mask=channel < width, other=1)[None, :]
    low = tl.load(lowest + run * width + channel, mask=channel < width, other=0)[None, :]
    high = tl.load(highest + run * width + channel, mask=channel < width, other=0)[None, :]
    offset = cluster[:, None] * sums_row + channel.to(tl.int64)[None, :] * sums_channel
    mean = tl.load(sums + run * sums_run + offset, mask=inside, other=0).to(tl.float64) / scale / weight[:, None] + low
    mean = tl.minimum(tl.maximum(mean, low), high)
    entry = (run * k + cluster)[:, None] * width + channel[None, :]
    before = tl.load(centers + entry, mask=inside, other=0)
    after = tl.where(takes_mean[:, None], mean.to(dtype), before)
    tl.store(target + entry, after, mask=inside)
    moves = tl.max(tl.max(((after != before) & inside).to(tl.int32), 1), 0)
    if moves > 0:
        tl.store(moved + run, 1)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def shifts_kernel(
    sqshifts, target, centers, coordinates, k, width, rows: tl.constexpr, n_terms: tl.constexpr, depth: tl.constexpr
):
    """Write the squared distance (B, K) that each center moves, float64."""
    run = tl.program_id(1).to(tl.int64)
    cluster = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    first = (run * k + tl.where(cluster < k, cluster, 0)) * width
    sqshift = _row_distance(target + first, centers + first, coordinates, 1, 1, tl.float64, rows, n_terms, depth)
    tl.store(sqshifts + run * k + cluster, sqshift, mask=cluster < k)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def finish_kernel(
    sqshift,
    bound,
    scale,
    n_iter_after,
    going_after,
    unresolved_after,
    sqshifts,
    moved,
    totals,
    totals_run,
    totals_row,
    worst_sqdist,
    total_weight,
    n_iter,
    going,
    unresolved,
    k,
    n_fixed,
    block: tl.constexpr,
):
    """Write the values (B,) of `gpukmeans.engines.iteration.Move`, from the squared shifts (B, K)."""
    run = tl.program_id(0).to(tl.int64)
    goes = tl.load(going + run) != 0
    worst = tl.load(worst_sqdist + run).to(tl.float64)
    totals += run * totals_run
    most = tl.zeros((block,), tl.float64)
    most_of_used = tl.zeros((block,), tl.float64)
    for start in range(0, k, block):
        cluster = start + tl.arange(0, block)
        shift = tl.load(sqshifts + run * k + cluster, mask=cluster < k, other=0)
        total = tl.load(totals + cluster * totals_row, mask=cluster < k, other=0)
        most = tl.maximum(most, shift)
        most_of_used = tl.maximum(most_of_used, tl.where(total > 0, shift, 0.0))
    results = sqshift, bound, scale, n_iter_after, unresolved_after
    shifts = tl.max(most, 0), tl.max(most_of_used, 0)
    _write_move(
        results, run, goes, shifts, totals, totals_row, worst, total_weight, n_iter, unresolved, k, n_fixed, block
    )
    tl.store(going_after + run, tl.load(moved + run) > 0)
