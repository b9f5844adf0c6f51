"""Triton kernels of greedy k-means++: maxima, sampling, potentials of candidates, and squared distances.

Each operation is the same as in `gpukmeans.points`, rounded once, and sums are of integers, so results have the bits of
`gpukmeans.seeding.extended`. A program processes a block of rows of one run. Squared distances are (B, N), values of
blocks are (B, blocks).
"""

from typing import no_type_check

import triton
import triton.language as tl

from gpukmeans.engines.fused.iteration_kernels import _finest_scale
from gpukmeans.engines.fused.kernels import _distance, _load, _to_fixed

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n", "k", "n_blocks", "n_maxima", "n_candidates", "column", "random_run"]


@triton.jit
@no_type_check
def _block_of_rows(n, n_blocks, block: tl.constexpr):
    """The run of this program, the number of its block, the rows of the block, and which of them exist."""
    run = (tl.program_id(0) // n_blocks).to(tl.int64)
    number = tl.program_id(0) % n_blocks
    rows = number.to(tl.int64) * block + tl.arange(0, block)
    return run, number, rows, rows < n


@triton.jit
@no_type_check
def _weights(weights, weights_problem, weights_row, problem, rows, inside):
    """The weights of the rows of a problem, float64; 1 without weights."""
    w = tl.full(rows.shape, 1.0, tl.float64)
    if weights is not None:
        weights += problem * weights_problem
        w = tl.load(weights + rows * weights_row, mask=inside, other=0).to(tl.float64)
    return w


@triton.jit
@no_type_check
def _units(sqdist, w, scale):
    """Weight times squared distance in fixed-point units, int64."""
    return _to_fixed(sqdist.to(tl.float64) * w * scale)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def scale_kernel(scale, maxima, total_weight, n_maxima, block: tl.constexpr):
    """Write the fixed-point scale (B,) of weight times squared distance, from maxima (B, n) of the squared distance."""
    run = tl.program_id(0).to(tl.int64)
    most = tl.zeros((block,), tl.float64)
    for start in range(0, n_maxima, block):
        i = start + tl.arange(0, block)
        most = tl.maximum(most, tl.load(maxima + run * n_maxima + i, mask=i < n_maxima, other=0).to(tl.float64))
    tl.store(scale + run, _finest_scale(tl.load(total_weight + run) * tl.max(most, 0)))


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def block_totals_kernel(
    block_totals, sqdist, weights, weights_problem, weights_row, problems, scale, n, n_blocks, block: tl.constexpr
):
    """Write the total of weight times squared distance of each block of rows, in fixed-point units."""
    run, number, rows, inside = _block_of_rows(n, n_blocks, block)
    w = _weights(weights, weights_problem, weights_row, tl.load(problems + run), rows, inside)
    units = _units(tl.load(sqdist + run * n + rows, mask=inside, other=0), w, tl.load(scale + run))
    tl.store(block_totals + run * n_blocks + number, tl.sum(tl.where(inside, units, 0), 0))


@triton.jit
@no_type_check
def _scaled_random(random, total):
    """floor(random · total / 2**62), see `gpukmeans.points.base.scale_random`."""
    high, low = random >> 31, random & 0x7FFFFFFF
    total_high, total_low = total >> 31, total & 0x7FFFFFFF
    return high * total_high + ((high * total_low + low * total_high + ((low * total_low) >> 31)) >> 31)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def sample_kernel(
    candidates,
    potentials,
    is_zero,
    block_totals,
    sqdist,
    weights,
    weights_problem,
    weights_row,
    x,
    x_problem,
    x_row,
    x_channel,
    problems,
    scale,
    random,
    random_run,
    n,
    n_blocks,
    n_candidates,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Write candidates (B, L, D), points sampled by weight times squared distance, and set their potentials to 0.

    Program (run, candidate) samples one point, by `random` (B or 1, L). If the total of a run is 0, `is_zero` (B,) is
    set.
    """
    run = tl.program_id(0).to(tl.int64)
    entry = run * n_candidates + tl.program_id(1)
    lanes = tl.arange(0, block)
    total = tl.full((), 0, tl.int64)
    for start in range(0, n_blocks, block):
        i = start + lanes
        total += tl.sum(tl.load(block_totals + run * n_blocks + i, mask=i < n_blocks, other=0), 0)
    if total == 0:
        tl.store(is_zero + run, 1)
    position = _scaled_random(tl.load(random + run * random_run + tl.program_id(1)), total)
    # The block of the position: the number of blocks that end at or before it, and the total of these blocks.
    block_of_position = tl.full((), 0, tl.int64)
    before_block = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int64)
    for start in range(0, n_blocks, block):
        i = start + lanes
        block_total = tl.load(block_totals + run * n_blocks + i, mask=i < n_blocks, other=0)
        ends = end + tl.cumsum(block_total, 0)
        is_before = (ends <= position) & (i < n_blocks)
        block_of_position += tl.sum(is_before.to(tl.int64), 0)
        before_block += tl.sum(tl.where(is_before, block_total, 0), 0)
        end += tl.sum(block_total, 0)
    rows = tl.minimum(block_of_position, n_blocks - 1) * block + lanes
    inside = rows < n
    problem = tl.load(problems + run)
    w = _weights(weights, weights_problem, weights_row, problem, rows, inside)
    units = _units(tl.load(sqdist + run * n + rows, mask=inside, other=0), w, tl.load(scale + run))
    ends = before_block + tl.cumsum(tl.where(inside, units, 0), 0)
    row = tl.min(rows, 0) + tl.sum((ends <= position).to(tl.int64), 0)
    row = tl.minimum(row, n - 1)
    for channel in tl.static_range(width):
        value = tl.load(x + problem * x_problem + row * x_row + channel * x_channel)
        tl.store(candidates + entry * width + channel, value.to(candidates.dtype.element_ty))
    tl.store(potentials + entry, 0)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def potentials_kernel(
    potentials,
    candidates,
    sqdist,
    weights,
    weights_problem,
    weights_row,
    x,
    x_problem,
    x_row,
    x_channel,
    problems,
    scale,
    n,
    n_blocks,
    n_candidates,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Add the inertia with one more center, in fixed-point units, for each candidate (B, L, D) to potentials (B, L)."""
    dtype: tl.constexpr = candidates.dtype.element_ty
    run, _, rows, inside = _block_of_rows(n, n_blocks, block)
    problem = tl.load(problems + run)
    w = _weights(weights, weights_problem, weights_row, problem, rows, inside)
    points = _load(x + problem * x_problem, x_channel, rows * x_row, inside, dtype, width)
    nearest = tl.load(sqdist + run * n + rows, mask=inside, other=0)
    run_scale = tl.load(scale + run)
    for candidate in range(n_candidates):
        entry = run * n_candidates + candidate
        center = _load(candidates, 1, entry * width, True, dtype, width)
        units = _units(tl.minimum(nearest, _distance(points, center, width)), w, run_scale)
        tl.atomic_add(potentials + entry, tl.sum(tl.where(inside, units, 0), 0), sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def choose_kernel(centers, candidates, potentials, k, column, n_candidates, width: tl.constexpr, block: tl.constexpr):
    """Write the candidate of the lowest potential, the first on ties, to this column of centers (B, K, D)."""
    run = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, block)
    inside = lanes < n_candidates
    potential = tl.load(potentials + run * n_candidates + lanes, mask=inside, other=0x7FFFFFFFFFFFFFFF)
    best = tl.min(tl.where(potential == tl.min(potential, 0), lanes, block), 0)
    for channel in tl.static_range(width):
        value = tl.load(candidates + (run * n_candidates + best) * width + channel)
        tl.store(centers + (run * k + column) * width + channel, value)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def update_kernel(
    sqdist,
    maxima,
    centers,
    weights,
    weights_problem,
    weights_row,
    x,
    x_problem,
    x_row,
    x_channel,
    problems,
    n,
    n_blocks,
    k,
    column,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Update squared distances (B, N) with the center of this column, and write the maximum of each block of rows.

    The maximum is over points with weight, and at least 0.
    """
    dtype: tl.constexpr = centers.dtype.element_ty
    run, number, rows, inside = _block_of_rows(n, n_blocks, block)
    problem = tl.load(problems + run)
    w = _weights(weights, weights_problem, weights_row, problem, rows, inside)
    points = _load(x + problem * x_problem, x_channel, rows * x_row, inside, dtype, width)
    center = _load(centers, 1, (run * k + column) * width, True, dtype, width)
    nearest = tl.minimum(tl.load(sqdist + run * n + rows, mask=inside, other=0), _distance(points, center, width))
    tl.store(sqdist + run * n + rows, nearest, mask=inside)
    most = tl.max(tl.where(inside & (w > 0), nearest, 0.0), 0)
    tl.store(maxima + run * n_blocks + number, most)
