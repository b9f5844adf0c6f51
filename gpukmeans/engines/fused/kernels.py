"""Kernels of the fused engine, in Triton: the nearest center of each point, and the totals, without a table N x K.

A program takes blocks of one run's points. Of a block it keeps the points on chip and reads all centers twice, to list
those that may be nearest to some point in the bounding box of the block. It goes through that list alone, in ascending
order. Points that lie together, as `gpukmeans.engines.spatial_order.order` puts them, have short lists.

No bit depends on the list: a lower bound is the written score of the center moved into the box, an upper bound that of
the farthest corner. Each operation of the score rounds once, and rounding is monotone, so the bounds hold for the
rounded scores of all points in the box, without a margin.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Numbers for whose values no kernel is compiled anew.
_PLAIN = ["n", "k", "n_blocks", "per_run", "n_runs", "n_copies", "turns"]


@triton.jit
@no_type_check
def _load(x, stride, at, mask, dtype: tl.constexpr, width: tl.constexpr):
    """The channels of the points at these places, as a tuple."""
    channels = ()
    for d in tl.static_range(width):
        # In int64, since a channel may be more than 2**31 entries long.
        start = tl.full((), d, tl.int64) * stride
        channels = channels + (tl.load(x + start + at, mask=mask, other=0).to(dtype),)  # noqa: RUF005
    return channels


@triton.jit
@no_type_check
def _score(x, y, width: tl.constexpr):
    """The written score: ((x0-y0)² + (x1-y1)²) + ..., each operation rounded once. See `gpukmeans.distance`."""
    step = x[0] - y[0]
    score = step * step
    for d in tl.static_range(1, width):
        step = x[d] - y[d]
        score = score + step * step
    return score


@triton.jit
@no_type_check
def _farthest_corner(lowest, highest, y, width: tl.constexpr):
    """The highest score of any point in the box at y."""
    step = tl.maximum(tl.abs(lowest[0] - y[0]), tl.abs(highest[0] - y[0]))
    score = step * step
    for d in tl.static_range(1, width):
        step = tl.maximum(tl.abs(lowest[d] - y[d]), tl.abs(highest[d] - y[d]))
        score = score + step * step
    return score


@triton.jit
@no_type_check
def _box(x, inside, width: tl.constexpr):
    """The lowest and the highest coordinates of the points, as two tuples."""
    lowest = ()
    highest = ()
    for d in tl.static_range(width):
        lowest = lowest + (tl.min(tl.where(inside, x[d], float("inf")), 0),)  # noqa: RUF005
        highest = highest + (tl.max(tl.where(inside, x[d], float("-inf")), 0),)  # noqa: RUF005
    return lowest, highest


@triton.jit
@no_type_check
def _clamped(y, lowest, highest, width: tl.constexpr):
    """The points of the box that are nearest to y."""
    nearest = ()
    for d in tl.static_range(width):
        nearest = nearest + (tl.minimum(tl.maximum(y[d], lowest[d]), highest[d]),)  # noqa: RUF005
    return nearest


@triton.jit
@no_type_check
def _list_candidates(candidates, centers, k, lowest, highest, width: tl.constexpr, tile: tl.constexpr):
    """How many centers may be nearest to a point in the box; their indices are written to the list, ascending."""
    dtype: tl.constexpr = centers.dtype.element_ty
    lanes = tl.arange(0, tile)
    reach = tl.full((tile,), float("inf"), dtype)
    for start in range(0, k, tile):
        index = start + lanes
        y = _load(centers, 1, index * width, index < k, dtype, width)
        reach = tl.minimum(reach, tl.where(index < k, _farthest_corner(lowest, highest, y, width), float("inf")))
    reach = tl.min(reach, 0)  # no point is farther from its nearest center than this
    count = tl.full((), 0, tl.int32)
    tl.debug_barrier()  # the list of the block before has been read
    for start in range(0, k, tile):
        index = start + lanes
        y = _load(centers, 1, index * width, index < k, dtype, width)
        # Equality too: the reach may be what the center itself has.
        kept = (index < k) & (_score(_clamped(y, lowest, highest, width), y, width) <= reach)
        place = tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(candidates + count + place, index, mask=kept)
        count += tl.sum(kept.to(tl.int32), 0)
    tl.debug_barrier()  # the list has been written
    return count


@triton.jit
@no_type_check
def _nearest(x, candidates, count, centers, block: tl.constexpr, width: tl.constexpr):
    """Of the listed centers the score and the index of the nearest to each point, the lowest index of equals."""
    dtype: tl.constexpr = centers.dtype.element_ty
    best = tl.full((block,), float("inf"), dtype)
    label = tl.zeros((block,), tl.int32)
    for i in range(0, count, 2):
        for j in tl.static_range(2):
            # The last one may come twice, which changes nothing.
            index = tl.load(candidates + tl.minimum(i + j, count - 1))
            score = _score(x, _load(centers, 1, index * width, True, dtype, width), width)
            closer = score < best  # strictly, so that the lowest index wins a tie
            best = tl.where(closer, score, best)
            label = tl.where(closer, index, label)
    return best, label


@triton.jit
@no_type_check
def _steps(terms):
    """float64 terms as int64 numbers of steps, ties to even, as `gpukmeans.moments.to_grid` rounds them."""
    # Below 2**52 in magnitude the sum with 2**52 has no fraction left; from there on no float64 has one.
    whole = tl.where(terms < 0, -4503599627370496.0, 4503599627370496.0)
    rounded = (terms + whole) - whole
    return tl.where(tl.abs(terms) < 4503599627370496.0, rounded, terms).to(tl.int64)


@triton.jit
@no_type_check
def _add_totals(
    totals, terms, masses, label, present, k, turns, weight_step, width: tl.constexpr, weighted: tl.constexpr
):
    """Adds the terms of the block to the totals (K, D + 1) of the run: of one center at a turn, then of each point."""
    left = tl.where(present, label, k)
    index = tl.min(left, 0)
    turn = 0
    while (index < k) & (turn < turns):
        member = left == index
        cell = totals + index * (width + 1)
        for d in tl.static_range(width):
            tl.atomic_add(cell + d, tl.sum(tl.where(member, terms[d], 0), 0), sem="relaxed")
        if weighted:
            tl.atomic_add(cell + width, tl.sum(tl.where(member, masses, 0), 0), sem="relaxed")
        else:
            tl.atomic_add(cell + width, tl.sum(member.to(tl.int32), 0) * weight_step, sem="relaxed")
        left = tl.where(member, k, left)
        index = tl.min(left, 0)
        turn += 1
    if index < k:
        cells = totals + left * (width + 1)
        for d in tl.static_range(width):
            tl.atomic_add(cells + d, terms[d], mask=left < k, sem="relaxed")
        tl.atomic_add(cells + width, masses, mask=left < k, sem="relaxed")


@triton.jit
@no_type_check
def _rows_at(rows, problem, at, n_stored):
    """The rows of the points at these places: the places themselves where none are given."""
    row = at
    if rows is not None:
        row = tl.load(rows + problem * n_stored + at, mask=at < n_stored, other=0).to(tl.int64)
    return row


@triton.jit(do_not_specialize=_PLAIN)
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
    n_stored,
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
    """Writes labels (B, N) int64 and sqdist (B, N). Program p serves blocks p % per_run, ... of run p // per_run."""
    dtype: tl.constexpr = centers.dtype.element_ty
    program = tl.program_id(0)
    run = (program // per_run).to(tl.int64)
    problem = tl.load(problems + run)
    centers += run * k * width
    candidates = lists + program.to(tl.int64) * k
    x += problem * x_problem
    for i in range(program % per_run, n_blocks, per_run):
        at = tl.full((), block, tl.int64) * i + tl.arange(0, block)
        inside = at < n
        points = _load(x, x_channel, at * x_row, at < n_stored, dtype, width)
        lowest, highest = _box(points, inside, width)
        count = _list_candidates(candidates, centers, k, lowest, highest, width, tile)
        best, label = _nearest(points, candidates, count, centers, block, width)
        row = _rows_at(rows, problem, at, n_stored)
        tl.store(labels + run * n + row, label.to(tl.int64), mask=inside)
        tl.store(sqdist + run * n + row, best, mask=inside)


@triton.jit(do_not_specialize=_PLAIN)
@no_type_check
def measure_kernel(
    totals,
    inertia,
    worst_sqdist,
    worst_row,
    x,
    weights,
    rows,
    problems,
    centers,
    lowest_of_runs,
    sum_scale,
    weight_scale,
    sqdist_scale,
    lists,
    n,
    n_stored,
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
    turns,
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
):
    """Adds to totals (copies, B, K, D + 1) int64, and writes what each program found of the rest (B, per_run).

    Program p serves blocks p % per_run, ... of run p // per_run.
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
    step_of_sqdist = tl.load(sqdist_scale + run)
    step_of_weight = tl.load(weight_scale + run)
    found = tl.full((), 0, tl.int64)
    farthest = tl.full((), -1.0, dtype)
    farthest_row = tl.full((), 0, tl.int64)
    for i in range(program % per_run, n_blocks, per_run):
        at = tl.full((), block, tl.int64) * i + tl.arange(0, block)
        inside = at < n
        points = _load(x, x_channel, at * x_row, at < n_stored, dtype, width)
        lowest, highest = _box(points, inside, width)
        count = _list_candidates(candidates, centers, k, lowest, highest, width, tile)
        best, label = _nearest(points, candidates, count, centers, block, width)
        # In float64 w·(x - lowest), w and w·d², each product rounded as the plain engine does.
        present = inside
        inertia_terms = best.to(tl.float64)
        if weighted:
            w = tl.load(weights + problem * w_problem + at * w_row, mask=at < n_stored, other=0).to(tl.float64)
            present = inside & (w != 0)
            inertia_terms = inertia_terms * w
        terms = ()
        for d in tl.static_range(width):
            above = points[d].to(tl.float64) - tl.load(lowest_of_runs + run * width + d)
            if weighted:
                above = above * w
            terms = terms + (_steps(above * tl.load(sum_scale + run * width + d)),)  # noqa: RUF005
        weight_step = _steps(step_of_weight)
        masses = weight_step
        if weighted:
            masses = _steps(w * step_of_weight)
        _add_totals(totals, terms, masses, label, present, k, turns, weight_step, width, weighted)
        found += tl.sum(tl.where(present, _steps(inertia_terms * step_of_sqdist), 0), 0)
        served = tl.where(present, best, -1.0)
        most = tl.max(served, 0)
        if most >= farthest:
            row = _rows_at(rows, problem, at, n_stored)
            row = tl.min(tl.where(present & (served == most), row, 0x7FFFFFFFFFFFFFFF), 0)
            if (most > farthest) | (row < farthest_row):
                farthest_row = row
            farthest = most
    tl.store(inertia + program, found)
    tl.store(worst_sqdist + program, farthest)
    tl.store(worst_row + program, farthest_row)
