"""Triton kernels of the steps of an iteration of Lloyd's loop apart from the pass over the points.

Each operation is the same as in `gpukmeans.lloyd` and `gpukmeans.moments`, in float64 and rounded once, so results have
the same bits. A program processes one run.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["k", "n_fixed", "n_runs", "n_copies", "per_run", "n_entries"]
_NOT_SPECIALIZED += ["n_channels", "patience", "tol_bits", "too_coarse_bits"]


@triton.jit
@no_type_check
def _finest_scale(largest_total):
    """The fixed-point scale for terms that add up to at most this float64, as `gpukmeans.fixed_point.finest_scale`."""
    # For a subnormal total the exponent is too large, and is clamped in either case.
    exponent = 61 - (((largest_total.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1022)
    exponent = tl.minimum(tl.maximum(exponent, -1000), 1000)
    scale = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where(largest_total == 0, 1.0, scale)


@triton.jit
@no_type_check
def _float64(bits):
    """The float64 of these bits. Triton would pass a float as float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
@no_type_check
def _misses_a_cluster(totals, totals_row, worst, k, n_fixed, block: tl.constexpr):
    """Whether a cluster that is not fixed is empty, and some point with weight is not at its center."""
    lanes = tl.arange(0, block)
    is_empty = tl.zeros((block,), tl.int32)
    for start in range(0, k, block):
        cluster = start + lanes
        total = tl.load(totals + cluster * totals_row, mask=cluster < k, other=1)
        is_empty |= ((total == 0) & (cluster >= n_fixed)).to(tl.int32)
    return (tl.max(is_empty, 0) > 0) & (worst > 0)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def reduce_kernel(
    totals,
    inertia,
    worst_sqdist,
    total_copies,
    inertia_parts,
    worst_parts,
    n_entries,
    n_runs,
    n_copies,
    per_run,
    block: tl.constexpr,
):
    """Add the copies (copies, B, entries) of the totals, and reduce the inertia and the worst distances (B, per_run).

    Program (run, i) processes entries i · block to (i + 1) · block of the run.
    """
    run = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1).to(tl.int64) * block + tl.arange(0, block)
    inside = entry < n_entries
    total = tl.zeros((block,), tl.int64)
    for copy in range(n_copies):
        total += tl.load(total_copies + (copy * n_runs + run) * n_entries + entry, mask=inside, other=0)
    tl.store(totals + run * n_entries + entry, total, mask=inside)
    if tl.program_id(1) == 0:
        lanes = tl.arange(0, block)
        part_of_inertia = tl.zeros((block,), tl.int64)
        worst = tl.full((block,), -1.0, worst_parts.dtype.element_ty)
        for start in range(0, per_run, block):
            part = start + lanes
            part_of_inertia += tl.load(inertia_parts + run * per_run + part, mask=part < per_run, other=0)
            part_of_worst = tl.load(worst_parts + run * per_run + part, mask=part < per_run, other=-1.0)
            worst = tl.maximum(worst, part_of_worst)
        tl.store(inertia + run, tl.sum(part_of_inertia, 0))
        tl.store(worst_sqdist + run, tl.max(worst, 0))


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def bound_kernel(bound, scale, centers, lowest, highest, total_weight, k, width: tl.constexpr, block: tl.constexpr):
    """Write the squared diagonal of a box around all points and the centers (B, K, D), and its fixed-point scale."""
    run = tl.program_id(0).to(tl.int64)
    sqdist = tl.full((), 0.0, tl.float64)
    for channel in tl.static_range(width):
        low = tl.load(lowest + run * width + channel)
        high = tl.load(highest + run * width + channel)
        for start in range(0, k, block):
            cluster = start + tl.arange(0, block)
            # Beyond the last cluster the first one is read again.
            cluster = tl.where(cluster < k, cluster, 0)
            values = tl.load(centers + (run * k + cluster) * width + channel).to(tl.float64)
            low = tl.minimum(low, tl.min(values, 0))
            high = tl.maximum(high, tl.max(values, 0))
        sqdist = sqdist + (high - low) * (high - low)
    tl.store(bound + run, sqdist)
    tl.store(scale + run, _finest_scale(tl.load(total_weight + run) * sqdist))


@triton.jit
@no_type_check
def tighten_kernel(tightened, is_coarse, worst_sqdist, bound, too_coarse_bits):
    """Write the largest squared distance found (B,) where the bound is far above it, else the bound."""
    run = tl.program_id(0).to(tl.int64)
    worst = tl.load(worst_sqdist + run).to(tl.float64)
    before = tl.load(bound + run)
    coarse = (worst > 0) & (worst * _float64(too_coarse_bits) < before)
    tl.store(tightened + run, tl.where(coarse, worst, before))
    tl.store(is_coarse + run, coarse)


@triton.jit
@no_type_check
def _write_move(
    results,
    run,
    goes,
    shifts,
    totals,
    totals_row,
    worst,
    total_weight,
    n_iter,
    unresolved,
    k,
    n_fixed,
    block: tl.constexpr,
):
    """Write the values (B,) of `gpukmeans.engines.iteration.Move` of a run, except `going`.

    `shifts` are the largest squared shift of all centers, and that of the centers of clusters with weight.
    """
    sqshift, bound, scale, n_iter_after, unresolved_after = results
    largest, largest_of_used = shifts
    run_bound = 2 * (worst + largest_of_used)
    misses = goes & _misses_a_cluster(totals, totals_row, worst, k, n_fixed, block)
    tl.store(sqshift + run, largest)
    tl.store(bound + run, run_bound)
    tl.store(scale + run, _finest_scale(tl.load(total_weight + run) * run_bound))
    tl.store(n_iter_after + run, tl.load(n_iter + run) + goes.to(tl.int64))
    tl.store(unresolved_after + run, (tl.load(unresolved + run) != 0) | misses)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def move_kernel(
    target,
    sqshift,
    bound,
    scale,
    n_iter_after,
    going_after,
    unresolved_after,
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
    worst_sqdist,
    total_weight,
    n_iter,
    going,
    unresolved,
    k,
    n_fixed,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Write the results of `gpukmeans.engines.iteration.Move`: centers (B, K, D), and values (B,)."""
    dtype: tl.constexpr = centers.dtype.element_ty
    run = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    goes = tl.load(going + run) != 0
    run_weight_scale = tl.load(weight_scale + run)
    worst = tl.load(worst_sqdist + run).to(tl.float64)
    sums += run * sums_run
    totals += run * totals_run
    most = tl.zeros((block,), tl.float64)
    most_of_used = tl.zeros((block,), tl.float64)
    moves = tl.zeros((block,), tl.int32)
    for start in range(0, k, block):
        cluster = start + lanes
        inside = cluster < k
        total = tl.load(totals + cluster * totals_row, mask=inside, other=0)
        weight = tl.where(total == 0, 1, total).to(tl.float64) / run_weight_scale
        takes_mean = goes & (cluster >= n_fixed) & (total != 0)
        first = (run * k + cluster) * width
        sqdist = tl.zeros((block,), tl.float64)
        for channel in tl.static_range(width):
            low = tl.load(lowest + run * width + channel)
            high = tl.load(highest + run * width + channel)
            sum_of_channel = tl.load(sums + cluster * sums_row + channel * sums_channel, mask=inside, other=0)
            mean = sum_of_channel.to(tl.float64) / tl.load(sum_scale + run * width + channel) / weight + low
            mean = tl.minimum(tl.maximum(mean, low), high)
            before = tl.load(centers + first + channel, mask=inside, other=0)
            after = tl.where(takes_mean, mean.to(dtype), before)
            tl.store(target + first + channel, after, mask=inside)
            moves |= (after != before).to(tl.int32)
            # From left to right, as `gpukmeans.distance.squared_distance` adds up to 8 channels.
            difference = after.to(tl.float64) - before.to(tl.float64)
            sqdist = sqdist + difference * difference
        most = tl.maximum(most, sqdist)
        most_of_used = tl.maximum(most_of_used, tl.where(total > 0, sqdist, 0.0))
    results = sqshift, bound, scale, n_iter_after, unresolved_after
    shifts = tl.max(most, 0), tl.max(most_of_used, 0)
    _write_move(
        results, run, goes, shifts, totals, totals_row, worst, total_weight, n_iter, unresolved, k, n_fixed, block
    )
    tl.store(going_after + run, tl.max(moves, 0) > 0)


@triton.jit
@no_type_check
def _decide(
    inertia_after,
    lowest_after,
    stalled_after,
    going_after,
    unresolved_after,
    run,
    goes,
    totals,
    totals_row,
    units,
    worst,
    sqdist_scale,
    inertia,
    lowest,
    stalled,
    unresolved,
    bound,
    tol_bits,
    too_coarse_bits,
    patience,
    k,
    n_fixed,
    block: tl.constexpr,
):
    """Write the values of one run of `gpukmeans.engines.iteration.Decision`, except its moments."""
    before = tl.load(inertia + run)
    lowest_before = tl.load(lowest + run)
    measured = units.to(tl.float64) / sqdist_scale
    stalled_rounds = tl.where(measured < lowest_before, 0, tl.load(stalled + run) + 1)
    misses = _misses_a_cluster(totals, totals_row, worst, k, n_fixed, block)
    settled = (stalled_rounds >= patience) | ((before - measured <= _float64(tol_bits) * before) & (misses == 0))
    is_coarse = goes & (worst > 0) & (worst * _float64(too_coarse_bits) < tl.load(bound + run))
    tl.store(inertia_after + run, tl.where(goes, measured, before))
    tl.store(lowest_after + run, tl.minimum(measured, lowest_before))
    tl.store(stalled_after + run, stalled_rounds)
    tl.store(going_after + run, goes & (settled == 0))
    tl.store(unresolved_after + run, (tl.load(unresolved + run) != 0) | is_coarse)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def decide_kernel(
    inertia_after,
    lowest_after,
    stalled_after,
    going_after,
    unresolved_after,
    sums,
    totals,
    units,
    worst_sqdist,
    sqdist_scale,
    measured_sums,
    measured_totals,
    measured_units,
    measured_worst,
    measured_scale,
    measured_sums_run,
    measured_sums_row,
    measured_sums_channel,
    measured_totals_run,
    measured_totals_row,
    previous_sums,
    previous_totals,
    previous_units,
    previous_worst,
    previous_scale,
    previous_sums_run,
    previous_sums_row,
    previous_sums_channel,
    previous_totals_run,
    previous_totals_row,
    inertia,
    lowest,
    stalled,
    going,
    unresolved,
    bound,
    tol_bits,
    too_coarse_bits,
    patience,
    k,
    n_channels,
    n_fixed,
    block: tl.constexpr,
):
    """Write the results of `gpukmeans.engines.iteration.Decision`. `units` (B,) is the inertia in fixed point.

    Program (run, i) writes the moments of clusters i · block to (i + 1) · block, which are contiguous in the result.
    Without `previous_sums` no run had ended, and moments are not written.
    """
    run = tl.program_id(0).to(tl.int64)
    goes = tl.load(going + run) != 0
    run_units = tl.load(measured_units + run)
    worst = tl.load(measured_worst + run)
    scale = tl.load(measured_scale + run)
    if tl.program_id(1) == 0:
        _decide(
            inertia_after,
            lowest_after,
            stalled_after,
            going_after,
            unresolved_after,
            run,
            goes,
            measured_totals + run * measured_totals_run,
            measured_totals_row,
            run_units,
            worst.to(tl.float64),
            scale,
            inertia,
            lowest,
            stalled,
            unresolved,
            bound,
            tol_bits,
            too_coarse_bits,
            patience,
            k,
            n_fixed,
            block,
        )
    if previous_sums is not None:
        cluster = tl.program_id(1).to(tl.int64) * block + tl.arange(0, block)
        n_measured = tl.where(goes, k, 0)
        new, old = cluster < n_measured, (cluster >= n_measured) & (cluster < k)
        total = tl.load(measured_totals + run * measured_totals_run + cluster * measured_totals_row, mask=new, other=0)
        total += tl.load(previous_totals + run * previous_totals_run + cluster * previous_totals_row, mask=old, other=0)
        tl.store(totals + run * k + cluster, total, mask=cluster < k)
        measured_sums += run * measured_sums_run + cluster * measured_sums_row
        previous_sums += run * previous_sums_run + cluster * previous_sums_row
        for channel in range(n_channels):
            value = tl.load(measured_sums + channel * measured_sums_channel, mask=new, other=0)
            value += tl.load(previous_sums + channel * previous_sums_channel, mask=old, other=0)
            tl.store(sums + (run * k + cluster) * n_channels + channel, value, mask=cluster < k)
        if tl.program_id(1) == 0:
            tl.store(units + run, tl.where(goes, run_units, tl.load(previous_units + run)))
            tl.store(worst_sqdist + run, tl.where(goes, worst, tl.load(previous_worst + run)))
            tl.store(sqdist_scale + run, tl.where(goes, scale, tl.load(previous_scale + run)))
