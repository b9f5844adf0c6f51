"""Triton kernels of the fused engine: the nearest center of each point, and the totals, without a table of N x K.

A program processes blocks of the points of one run. It loads a block into registers, computes its bounding box, and
reads all centers twice to list the candidates: centers that may be nearest to a point in the box. Each point is then
compared with the candidates only, in ascending order of index. After sorting by
`gpukmeans.engines.spatial_order.order`, boxes are small and lists are short.

The lists change no bit of a result. The lower bound of a center is its reference distance to the nearest point of the
box, and its upper bound is its reference distance to the farthest corner. Each operation of the reference distance is
rounded once, and rounding is monotone, so the bounds hold for the rounded distances of all points in the box without a
margin.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Arguments whose values change between calls. Without this list, Triton would compile another version of a kernel if
# such a value is 1 or a multiple of 16.
_NOT_SPECIALIZED = ["n", "k", "n_blocks", "per_run", "n_runs", "n_copies", "max_reduced"]


@triton.jit
@no_type_check
def _load(x, stride, offsets, mask, dtype: tl.constexpr, width: tl.constexpr):
    """The channels of the points at these offsets, as a tuple."""
    channels = ()
    for d in tl.static_range(width):
        # int64, because the offset of a channel may be 2**31 or more.
        start = tl.full((), d, tl.int64) * stride
        channels = channels + (tl.load(x + start + offsets, mask=mask, other=0).to(dtype),)  # noqa: RUF005
    return channels


@triton.jit
@no_type_check
def _distance(x, y, width: tl.constexpr):
    """The reference distance: ((x0-y0)² + (x1-y1)²) + ..., each operation rounded once. See `gpukmeans.distance`."""
    difference = x[0] - y[0]
    sqdist = difference * difference
    for d in tl.static_range(1, width):
        difference = x[d] - y[d]
        sqdist = sqdist + difference * difference
    return sqdist


@triton.jit
@no_type_check
def _farthest_corner(lowest, highest, y, width: tl.constexpr):
    """The upper bound: the largest reference distance from y to a point in the box."""
    difference = tl.maximum(tl.abs(lowest[0] - y[0]), tl.abs(highest[0] - y[0]))
    sqdist = difference * difference
    for d in tl.static_range(1, width):
        difference = tl.maximum(tl.abs(lowest[d] - y[d]), tl.abs(highest[d] - y[d]))
        sqdist = sqdist + difference * difference
    return sqdist


@triton.jit
@no_type_check
def _box(x, inside, width: tl.constexpr):
    """The bounding box of the points: the lowest and the highest coordinates, as two tuples."""
    lowest = ()
    highest = ()
    for d in tl.static_range(width):
        lowest = lowest + (tl.min(tl.where(inside, x[d], float("inf")), 0),)  # noqa: RUF005
        highest = highest + (tl.max(tl.where(inside, x[d], float("-inf")), 0),)  # noqa: RUF005
    return lowest, highest


@triton.jit
@no_type_check
def _clamped(y, lowest, highest, width: tl.constexpr):
    """The point of the box nearest to each y."""
    nearest = ()
    for d in tl.static_range(width):
        nearest = nearest + (tl.minimum(tl.maximum(y[d], lowest[d]), highest[d]),)  # noqa: RUF005
    return nearest


@triton.jit
@no_type_check
def _list_candidates(candidates, centers, k, lowest, highest, width: tl.constexpr, tile: tl.constexpr):
    """Write the indices of the candidates, centers that may be nearest to a point in the box, in ascending order.

    Returns the number of candidates.
    """
    dtype: tl.constexpr = centers.dtype.element_ty
    lanes = tl.arange(0, tile)
    limit = tl.full((tile,), float("inf"), dtype)
    for start in range(0, k, tile):
        index = start + lanes
        y = _load(centers, 1, index * width, index < k, dtype, width)
        limit = tl.minimum(limit, tl.where(index < k, _farthest_corner(lowest, highest, y, width), float("inf")))
    limit = tl.min(limit, 0)  # no point of the box is farther than this from its nearest center
    count = tl.full((), 0, tl.int32)
    tl.debug_barrier()  # all threads have read the list of the previous block
    for start in range(0, k, tile):
        index = start + lanes
        y = _load(centers, 1, index * width, index < k, dtype, width)
        # `<=`, because the lower bound of the center that determines the limit may be equal to the limit.
        kept = (index < k) & (_distance(_clamped(y, lowest, highest, width), y, width) <= limit)
        rank = tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(candidates + count + rank, index, mask=kept)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.debug_barrier()  # all threads have written the list
    return count


@triton.jit
@no_type_check
def _nearest(x, candidates, count, centers, block: tl.constexpr, width: tl.constexpr):
    """The squared distance of each point to its nearest candidate, and the index of this center, the lowest on ties."""
    dtype: tl.constexpr = centers.dtype.element_ty
    best = tl.full((block,), float("inf"), dtype)
    label = tl.zeros((block,), tl.int32)
    for i in range(0, count, 2):
        for j in tl.static_range(2):
            # For an odd count the last candidate is compared twice, which changes nothing.
            index = tl.load(candidates + tl.minimum(i + j, count - 1))
            sqdist = _distance(x, _load(centers, 1, index * width, True, dtype, width), width)
            closer = sqdist < best  # strictly, so that the lowest index wins a tie
            best = tl.where(closer, sqdist, best)
            label = tl.where(closer, index, label)
    return best, label


@triton.jit
@no_type_check
def _to_fixed(terms):
    """Scaled float64 terms rounded to int64, ties to even, as in `gpukmeans.fixed_point.to_fixed`."""
    # Adding 2**52 rounds a smaller number to an integer. Numbers from 2**52 on are integers.
    shift = tl.where(terms < 0, -4503599627370496.0, 4503599627370496.0)
    rounded = (terms + shift) - shift
    return tl.where(tl.abs(terms) < 4503599627370496.0, rounded, terms).to(tl.int64)


@triton.jit
@no_type_check
def _add_totals(
    totals, terms, w_terms, label, present, k, max_reduced, unit_weight, width: tl.constexpr, weighted: tl.constexpr
):
    """Add the terms of a block to the totals (K, D + 1) of the run: D terms of w·(x - lowest) and one of w per point.

    For up to `max_reduced` centers, one after the other, the terms are summed on chip first. The terms of further
    centers are added point by point. Without weights each point adds `unit_weight` as the term of w.
    """
    remaining = tl.where(present, label, k)
    index = tl.min(remaining, 0)
    n_reduced = 0
    while (index < k) & (n_reduced < max_reduced):
        member = remaining == index
        entry = totals + index * (width + 1)
        for d in tl.static_range(width):
            tl.atomic_add(entry + d, tl.sum(tl.where(member, terms[d], 0), 0), sem="relaxed")
        if weighted:
            tl.atomic_add(entry + width, tl.sum(tl.where(member, w_terms, 0), 0), sem="relaxed")
        else:
            tl.atomic_add(entry + width, tl.sum(member.to(tl.int32), 0) * unit_weight, sem="relaxed")
        remaining = tl.where(member, k, remaining)
        index = tl.min(remaining, 0)
        n_reduced += 1
    if index < k:
        entries = totals + remaining * (width + 1)
        for d in tl.static_range(width):
            tl.atomic_add(entries + d, terms[d], mask=remaining < k, sem="relaxed")
        tl.atomic_add(entries + width, w_terms, mask=remaining < k, sem="relaxed")


@triton.jit
@no_type_check
def _rows_at(rows, problem, positions, n_padded):
    """The rows of the points at these positions.

    A position is the place of a point in `x`, which may be sorted. A row is its place before sorting. `rows` has the
    row of each position of a problem. If `rows` is None, `x` is not sorted, so row and position are equal.
    """
    row = positions
    if rows is not None:
        row = tl.load(rows + problem * n_padded + positions, mask=positions < n_padded, other=0).to(tl.int64)
    return row


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def assign_kernel(
    labels,
    sqdist,
    x,
    rows,
    problems,
    centers,
    lists,
    n,
    n_padded,
    k,
    x_problem,
    x_channel,
    x_row,
    n_blocks,
    per_run,
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
):
    """Write labels (B, N) int64 and sqdist (B, N).

    Program p processes blocks p % per_run, p % per_run + per_run, ... of run p // per_run.
    """
    dtype: tl.constexpr = centers.dtype.element_ty
    program = tl.program_id(0)
    run = (program // per_run).to(tl.int64)
    problem = tl.load(problems + run)
    centers += run * k * width
    candidates = lists + program.to(tl.int64) * k
    x += problem * x_problem
    for i in range(program % per_run, n_blocks, per_run):
        positions = tl.full((), block, tl.int64) * i + tl.arange(0, block)
        inside = positions < n
        points = _load(x, x_channel, positions * x_row, positions < n_padded, dtype, width)
        lowest, highest = _box(points, inside, width)
        count = _list_candidates(candidates, centers, k, lowest, highest, width, tile)
        best, label = _nearest(points, candidates, count, centers, block, width)
        row = _rows_at(rows, problem, positions, n_padded)
        tl.store(labels + run * n + row, label.to(tl.int64), mask=inside)
        tl.store(sqdist + run * n + row, best, mask=inside)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def measure_kernel(
    totals,
    inertia,
    worst_sqdist,
    x,
    weights,
    problems,
    centers,
    x_lowest,
    sum_scale,
    weight_scale,
    sqdist_scale,
    lists,
    n,
    n_padded,
    k,
    x_problem,
    x_channel,
    x_row,
    w_problem,
    w_row,
    n_blocks,
    per_run,
    n_runs,
    n_copies,
    max_reduced,
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
):
    """Add to totals (copies, B, K, D + 1) int64, and write inertia int64 and worst_sqdist (B, per_run).

    The result is the sum of the copies of the totals. Several copies are faster, because programs that add to different
    copies do not wait for each other.

    Program p processes blocks p % per_run, p % per_run + per_run, ... of run p // per_run.
    """
    dtype: tl.constexpr = centers.dtype.element_ty
    weighted: tl.constexpr = weights is not None
    program = tl.program_id(0)
    run = (program // per_run).to(tl.int64)
    problem = tl.load(problems + run)
    centers += run * k * width
    candidates = lists + program.to(tl.int64) * k
    totals += ((program % n_copies).to(tl.int64) * n_runs + run) * k * (width + 1)
    x += problem * x_problem
    run_sqdist_scale = tl.load(sqdist_scale + run)
    run_weight_scale = tl.load(weight_scale + run)
    inertia_sum = tl.full((), 0, tl.int64)
    farthest = tl.full((), -1.0, dtype)
    for i in range(program % per_run, n_blocks, per_run):
        positions = tl.full((), block, tl.int64) * i + tl.arange(0, block)
        inside = positions < n
        points = _load(x, x_channel, positions * x_row, positions < n_padded, dtype, width)
        lowest, highest = _box(points, inside, width)
        count = _list_candidates(candidates, centers, k, lowest, highest, width, tile)
        best, label = _nearest(points, candidates, count, centers, block, width)
        # The terms of w·(x - lowest), w and w·d² are float64, and each product is rounded as in the plain engine.
        present = inside
        inertia_terms = best.to(tl.float64)
        if weighted:
            run_weights = weights + problem * w_problem
            w = tl.load(run_weights + positions * w_row, mask=positions < n_padded, other=0).to(tl.float64)
            present = inside & (w != 0)
            inertia_terms = inertia_terms * w
        terms = ()
        for d in tl.static_range(width):
            offset = points[d].to(tl.float64) - tl.load(x_lowest + run * width + d)
            if weighted:
                offset = offset * w
            terms = terms + (_to_fixed(offset * tl.load(sum_scale + run * width + d)),)  # noqa: RUF005
        unit_weight = _to_fixed(run_weight_scale)
        w_terms = unit_weight
        if weighted:
            w_terms = _to_fixed(w * run_weight_scale)
        _add_totals(totals, terms, w_terms, label, present, k, max_reduced, unit_weight, width, weighted)
        inertia_sum += tl.sum(tl.where(present, _to_fixed(inertia_terms * run_sqdist_scale), 0), 0)
        farthest = tl.maximum(farthest, tl.max(tl.where(present, best, -1.0), 0))
    tl.store(inertia + program, inertia_sum)
    tl.store(worst_sqdist + program, farthest)
