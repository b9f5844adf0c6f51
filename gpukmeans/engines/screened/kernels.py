"""Triton kernels of the screened engine: nearest centers by half-precision products, exact distances where they decide.

Coordinates relative to an origin o of the problem are X = (x - o)·2**a and C = (c - o)·2**b, with exponents that bring
the largest magnitude to between 2**13 and 2**14. The screen computes h = G - X·C with G = 2**(a-b)·|C|²/2. This is half
the squared distance in units of 2**-(a+b), less 2**(b-a)·|X|²/2, which is the same for all centers. The factors are X'
and C', which are X and C rounded to float16, with residues dX = X - X' and dC = C - C'. A label is certain if the
computed value of each other center is so much larger that no rounding can change the order.

The error of h is bounded as follows. u is 2**-24, the unit roundoff of float32. f is the largest |C|, or 8 if this is
larger, of a tile of centers. κ is the largest |dC| / f of a run.

* Residues. X·C - X'·C' = dX·C + X'·dC, so its magnitude is at most (|dX| + κ·|X'|)·f.
* Accumulation. The product of two float16 numbers is exact in float32. A tensor core adds b products to an accumulator:
  it aligns them to the largest exponent and truncates, with an error of at most 2**-23 of the largest magnitude for
  each of the b + 1 terms, and for the result (Fasi, Higham, Mikaitis and Pranesh 2021, Numerical behavior of NVIDIA
  tensor cores; b is at least 4). For sums in any order the errors of the additions add up (Higham 2002, Accuracy and
  Stability of Numerical Algorithms, section 4.2). The error of a chunk of n products is at most (1.5·n + 16)·2**-23 of
  the sum of their magnitudes. The m chunks are subtracted from G one after the other, with at most m + 4 roundings. In
  all, the error is at most ((1.5·n + 16)·2**-23 + (m + 4)·u)·|X'|·f + (m + 4)·u·G.
* Rounding of x - o, c - o and G: relative errors of u, u and 4u, which are in |dX|, |dC| and the factor of G.
* The reference distance. It is a sum of L levels and T terms, so its relative error is at most (L + T + 4)·u (Higham
  2002, section 4.2). Half of it is at most 2**(b-a)·|X|² + 2·G, because (p + q)² <= 2·(p² + q²). The error of each
  square below the smallest normal number is at most 2**-150 more.

The sum of these bounds is e·f + g·G + r, where e depends on the row, g is a constant, and r depends on row and run. Let
v = h - e·f - g·G. Half of the reference distance is at least v - r, and at most v + 2·(e·f + g·G) + r. A row is
contested unless its second lowest v is above v + 2·(e·f + g·G) + 2·r of its lowest. Each tile has its own f, so a far
center makes the bound of only one tile loose. Norms are rounded up by a factor of 1 + 2**-10, which covers their own
errors, terms of second order, and the rounding of the bound. If a value overflows, all rows are contested.
"""

from typing import no_type_check

import triton
import triton.language as tl

from gpukmeans.engines.fused.kernels import _to_fixed

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n", "k", "n_tiles", "n_copies", "n_slots"]

# Levels of the tree of sums that are unrolled.
_UNROLLED = tl.constexpr(3)
_INFINITY_BITS = tl.constexpr(0x7F800000)
_MAX_LABEL = tl.constexpr(0x7FFFFFFF)
# Factors that round a positive number up by more than the errors of a few operations on it.
_UP = tl.constexpr(1 + 2.0**-10)
_UNIT = tl.constexpr(2.0**-24)
# An upper bound of float32 underflow in norms, in scaled units.
_TINY = tl.constexpr(2.0**-40)


@triton.jit
@no_type_check
def _exponent(bits):
    """The exponent of the power of two that brings this largest magnitude, as bits of float32, to 2**13 to 2**14."""
    return tl.minimum(140 - (bits >> 23), 126)


@triton.jit
@no_type_check
def _power(exponent):
    """2**exponent, float32, for an exponent from -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _power64(exponent):
    """2**exponent, float64, for an exponent from -1022 to 1023."""
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
@no_type_check
def _float_bits(value):
    return value.to(tl.float32).to(tl.int32, bitcast=True)


@triton.jit
@no_type_check
def _square(x, c, coordinates, leaf, x_channel, c_channel, dtype: tl.constexpr):
    """The square of the difference of one coordinate; 0 for a leaf without coordinate."""
    coordinate = tl.load(coordinates + leaf)
    channel = tl.maximum(coordinate, 0).to(tl.int64)
    difference = tl.load(x + channel * x_channel).to(dtype) - tl.load(c + channel * c_channel).to(dtype)
    return tl.where(coordinate >= 0, difference * difference, 0.0)


@triton.jit
@no_type_check
def _tree(x, c, coordinates, leaf, x_channel, c_channel, zeros, level: tl.constexpr):
    """The sum of 2**level squares from this leaf on, added as a balanced binary tree."""
    total = zeros  # adding a square to +0 changes no bit
    # One `return` at the end, because Triton would compile the code after an earlier one, and recurse without end.
    if level == 0:
        total = _square(x, c, coordinates, leaf, x_channel, c_channel, zeros.dtype)
    elif level <= _UNROLLED:
        total = _tree(x, c, coordinates, leaf, x_channel, c_channel, zeros, level - 1)
        total += _tree(x, c, coordinates, leaf + (1 << (level - 1)), x_channel, c_channel, zeros, level - 1)
    else:
        for half in range(2):
            first = leaf + half * (1 << (level - 1))
            total = total + _tree(x, c, coordinates, first, x_channel, c_channel, zeros, level - 1)
    return total


@triton.jit
@no_type_check
def _distance(x, c, coordinates, x_channel, c_channel, zeros, n_terms: tl.constexpr, depth: tl.constexpr):
    """The reference distance of points and centers at these pointers, in the shape and dtype of `zeros`.

    See `gpukmeans.engines.screened.summation`.
    """
    total = zeros
    for term in range(n_terms):
        total = total + _tree(x, c, coordinates, term * (1 << depth), x_channel, c_channel, zeros, depth)
    return total


@triton.jit
@no_type_check
def _row_distance(
    x,
    c,
    coordinates,
    x_channel,
    c_channel,
    dtype: tl.constexpr,
    rows: tl.constexpr,
    n_terms: tl.constexpr,
    depth: tl.constexpr,
):
    """The reference distances (rows,) of points and centers at these pointers, all coordinates at a time."""
    # Terms are the fastest axis, because adjacent terms begin at adjacent coordinates.
    leaf = tl.arange(0, 8 << depth)
    coordinate = tl.load(coordinates + (leaf % 8) * (1 << depth) + leaf // 8).to(tl.int64)[None, :]
    present = (coordinate >= 0) & (tl.arange(0, rows) >= 0)[:, None]
    point = tl.load(x[:, None] + coordinate * x_channel, mask=present, other=0).to(dtype)
    difference = point - tl.load(c[:, None] + coordinate * c_channel, mask=present, other=0).to(dtype)
    sums = difference * difference
    for level in tl.static_range(depth):
        # A sum of two numbers has the same bits in either order.
        sums = tl.reshape(
            tl.sum(tl.reshape(sums, (rows, 1 << (depth - 1 - level), 2, 8)), 2), (rows, 4 << (depth - level))
        )
    total = tl.zeros((rows,), dtype)
    for term in tl.static_range(n_terms):
        total += tl.sum(tl.where(tl.arange(0, 8)[None, :] == term, sums, 0.0), 1)
    return total


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def points_kernel(
    halves,
    norms,
    residues,
    x,
    origin,
    extent,
    n,
    x_problem,
    x_row,
    x_channel,
    width: tl.constexpr,
    padded: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
):
    """Write X' (P, N, padded) float16, and upper bounds of |X| and |dX| (P, N).

    `extent` (P,) is the largest magnitude of x - o.
    """
    problem = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    inside = row < n
    largest = _float_bits(tl.abs(tl.load(extent + problem)))
    scale = _power(_exponent(largest))
    norm = tl.zeros((rows,), tl.float32)
    residue = tl.zeros((rows,), tl.float32)
    for start in range(0, padded, chunk):
        channel = start + tl.arange(0, chunk)
        present = inside[:, None] & (channel < width)[None, :]
        offset = row[:, None] * x_row + channel.to(tl.int64)[None, :] * x_channel
        value = tl.load(x + problem * x_problem + offset, mask=present, other=0).to(tl.float32)
        value = value - tl.load(origin + problem * width + channel, mask=channel < width, other=0)[None, :]
        # Without a finite extent all rows are contested, and no value may be NaN.
        value = tl.where(present & (largest < _INFINITY_BITS), value * scale, 0.0)
        half = value.to(tl.float16)
        stored = inside[:, None] & (channel < padded)[None, :]
        tl.store(halves + (problem * n + row[:, None]) * padded + channel[None, :], half, mask=stored)
        difference = value - half.to(tl.float32)
        norm += tl.sum(value * value, 1)
        residue += tl.sum(difference * difference, 1)
    norm = tl.sqrt(norm) * _UP + _TINY
    tl.store(norms + problem * n + row, norm, mask=inside)
    tl.store(residues + problem * n + row, tl.sqrt(residue) * _UP + norm * (4 * _UNIT) + _TINY, mask=inside)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def extent_kernel(
    extent,
    worst_sqdist,
    centers,
    origin,
    problems,
    k,
    width: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
):
    """Write the bits of the largest |c - o| of the coordinates of each run, and start `worst_sqdist` (B,) at -1."""
    run = tl.program_id(1).to(tl.int64)
    center = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    problem = tl.load(problems + run)
    largest = tl.zeros((rows, chunk), tl.float32)
    for start in range(0, width, chunk):
        channel = start + tl.arange(0, chunk)
        present = (center < k)[:, None] & (channel < width)[None, :]
        value = tl.load(centers + (run * k + center[:, None]) * width + channel[None, :], mask=present, other=0)
        value = value - tl.load(origin + problem * width + channel, mask=channel < width, other=0)[None, :]
        largest = tl.maximum(largest, tl.where(present, tl.abs(value), 0.0))
    tl.atomic_max(extent + run, _float_bits(tl.max(tl.max(largest, 1), 0)), sem="relaxed")
    if tl.program_id(0) == 0:
        tl.store(worst_sqdist + run, -1.0)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def centers_kernel(
    halves,
    lows,
    norms,
    ratio,
    slack,
    centers,
    origin,
    problems,
    x_extent,
    extent,
    k,
    n_tiles,
    relative_error: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    tile: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
):
    """Write C' (B, K, padded) float16, G less its error (B, K), and the bits of f of each tile of centers (B, tiles).

    `ratio` (B,) are the bits of κ. `slack` (B,) are the bits of the errors of all rows of a run.
    """
    run = tl.program_id(1).to(tl.int64)
    center = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    inside = center < k
    problem = tl.load(problems + run)
    x_largest = _float_bits(tl.abs(tl.load(x_extent + problem)))
    largest = tl.load(extent + run)
    is_finite = (x_largest < _INFINITY_BITS) & (largest < _INFINITY_BITS)
    x_exponent = _exponent(x_largest)
    exponent = _exponent(largest)
    scale = _power(exponent)
    square = tl.zeros((rows,), tl.float64)
    residue = tl.zeros((rows,), tl.float32)
    for start in range(0, padded, chunk):
        channel = start + tl.arange(0, chunk)
        present = inside[:, None] & (channel < width)[None, :]
        value = tl.load(centers + (run * k + center[:, None]) * width + channel[None, :], mask=present, other=0)
        value = value - tl.load(origin + problem * width + channel, mask=channel < width, other=0)[None, :]
        value = tl.where(present & is_finite, value * scale, 0.0)
        half = value.to(tl.float16)
        stored = inside[:, None] & (channel < padded)[None, :]
        tl.store(halves + (run * k + center[:, None]) * padded + channel[None, :], half, mask=stored)
        difference = value - half.to(tl.float32)
        square += tl.sum(value.to(tl.float64) * value.to(tl.float64), 1)
        residue += tl.sum(difference * difference, 1)
    # At least 8, so that the residue of a center near the origin does not make κ large.
    norm = tl.maximum(tl.sqrt(square.to(tl.float32)) * _UP, 8.0)
    residue = tl.sqrt(residue) * _UP + norm * (4 * _UNIT) + _TINY
    low = square * (0.5 * (1 - relative_error)) * _power64(x_exponent - exponent)
    is_valid = is_finite & (low < 1.0e30)
    tile_norm = _float_bits(tl.max(tl.where(inside, norm, 0.0), 0))
    tl.atomic_max(norms + run * n_tiles + tl.program_id(0) * rows // tile, tile_norm, sem="relaxed")
    tl.store(lows + run * k + center, tl.where(is_valid, low, 0.0).to(tl.float32), mask=inside)
    worst_ratio = tl.max(tl.where(inside, residue / norm, 0.0), 0) * _UP
    tl.atomic_max(ratio + run, _float_bits(worst_ratio), sem="relaxed")
    # Squares may be below the smallest normal number, and distances above the largest number.
    row_slack = (_power64(x_exponent + exponent - 149) * width).to(tl.float32)
    widest = x_largest.to(tl.float32, bitcast=True).to(tl.float64) + largest.to(tl.float32, bitcast=True).to(tl.float64)
    row_slack = tl.where(widest * widest * width < 1.0e38, row_slack, float("inf"))
    is_useless = tl.max(tl.where(inside & (is_valid == 0), 1, 0), 0) > 0
    tl.atomic_max(slack + run, tl.where(is_useless, _INFINITY_BITS, _float_bits(row_slack)), sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def screen_kernel(
    keys,
    listed,
    n_listed,
    x,
    x_norms,
    x_residues,
    x_extent,
    problems,
    centers,
    lows,
    norms,
    extent,
    ratio,
    slack,
    n,
    k,
    product_error: tl.constexpr,
    relative_error: tl.constexpr,
    reference_error: tl.constexpr,
    padded: tl.constexpr,
    rows: tl.constexpr,
    tile: tl.constexpr,
    chunk: tl.constexpr,
):
    """Write the label of each row as `keys` (B, N) int64. Contested rows get the largest key and are listed.

    `listed` (B, N) int32 are the contested rows of each run in any order, `n_listed` (B,) their number, initially 0.
    """
    run = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = row < n
    lanes = tl.arange(0, tile)
    d = tl.arange(0, chunk)
    problem = tl.load(problems + run)
    x += problem * n * padded
    centers += run * k * padded
    lows += run * k
    norms += run * tl.cdiv(k, tile)
    x_norm = tl.load(x_norms + problem * n + row, mask=inside, other=0)
    error = tl.load(x_residues + problem * n + row, mask=inside, other=0)
    run_ratio = tl.load(ratio + run).to(tl.float32, bitcast=True)
    error = (error + (run_ratio + product_error) * x_norm) * _UP
    x_pointers = x + row.to(tl.int64)[:, None] * padded
    first = tl.load(x_pointers + d[None, :], mask=inside[:, None] & (d < padded)[None, :], other=0)
    best = tl.full((rows, tile), float("inf"), tl.float32)
    second = tl.full((rows, tile), float("inf"), tl.float32)
    best_start = tl.zeros((rows, tile), tl.int32)
    for start in range(0, k, tile):
        center = start + lanes
        low = tl.load(lows + center, mask=center < k, other=float("inf"))
        norm = tl.load(norms + start // tile).to(tl.float32, bitcast=True)
        c_pointers = centers + center.to(tl.int64)[None, :] * padded + d[:, None]
        present = (center < k)[None, :]
        half = tl.load(c_pointers, mask=present & (d < padded)[:, None], other=0)
        value = low[None, :] - tl.dot(first, half)
        for begin in range(chunk, padded, chunk):
            channel = begin + d
            more = tl.load(x_pointers + channel[None, :], mask=inside[:, None] & (channel < padded)[None, :], other=0)
            half = tl.load(c_pointers + begin, mask=present & (channel < padded)[:, None], other=0)
            # Subtracted, so that the compiler does not add to the accumulator of the previous chunk.
            value = value - tl.dot(more, half)
        value = value - (error * norm)[:, None]
        best_start = tl.where(value < best, start, best_start)
        second = tl.minimum(second, tl.maximum(best, value))
        best = tl.minimum(best, value)
    least = tl.min(best, 1)
    columns = best_start + lanes[None, :]
    label = tl.min(tl.where(best == least[:, None], columns, _MAX_LABEL), 1)
    # The second lowest value of all: of the lowest in other lanes, and of the second lowest in each lane.
    others = tl.where(columns == label[:, None], float("inf"), best)
    runner_up = tl.minimum(tl.min(others, 1), tl.min(second, 1))
    in_range = label < k
    error = error * tl.load(norms + label // tile, mask=in_range, other=0).to(tl.float32, bitcast=True)
    error += relative_error * tl.load(lows + label, mask=in_range, other=0)
    exponent = _exponent(tl.load(extent + run)) - _exponent(_float_bits(tl.abs(tl.load(x_extent + problem))))
    row_error = (reference_error * x_norm * x_norm).to(tl.float64) * _power64(exponent)
    row_error = row_error.to(tl.float32) + tl.load(slack + run).to(tl.float32, bitcast=True)
    limit = least + 2 * (error + row_error) * _UP
    is_clear = (runner_up > limit) & in_range
    contested = inside & (is_clear == 0)
    tl.store(keys + run * n + row, tl.where(contested, 0x7FFFFFFFFFFFFFFF, label.to(tl.int64)), mask=inside)
    counts = contested.to(tl.int32)
    total = tl.sum(counts, 0)
    if total > 0:
        position = tl.atomic_add(n_listed + run, total, sem="relaxed") + tl.cumsum(counts, 0) - 1
        tl.store(listed + run * n + position, row, mask=contested)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def nearest_kernel(
    keys,
    listed,
    n_listed,
    x,
    problems,
    centers,
    coordinates,
    n,
    k,
    x_problem,
    x_row,
    x_channel,
    c_run,
    c_row,
    c_channel,
    n_terms: tl.constexpr,
    depth: tl.constexpr,
    rows: tl.constexpr,
    tile: tl.constexpr,
):
    """Lower the keys of listed rows to the least (reference distance, center), as bits of the distance, then the index.

    The programs of a run share its blocks of rows, and the centers of each block if there are few blocks. The number of
    programs does not depend on the number of listed rows, which the host does not read.
    """
    run = tl.program_id(1).to(tl.int64)
    lanes = tl.arange(0, tile)
    count = tl.load(n_listed + run)
    n_blocks = tl.cdiv(count, rows)
    n_tiles = tl.cdiv(k, tile)
    n_splits = tl.minimum(tl.maximum(tl.num_programs(0) // tl.maximum(n_blocks, 1), 1), n_tiles)
    per_split = tl.cdiv(n_tiles, n_splits)
    x += tl.load(problems + run) * x_problem
    centers += run * c_run
    zeros = tl.zeros((rows, tile), tl.float32)
    for item in range(tl.program_id(0), n_blocks * n_splits, tl.num_programs(0)):
        position = item // n_splits * rows + tl.arange(0, rows)
        row = tl.load(listed + run * n + position, mask=position < count, other=0)
        pointers = x + row.to(tl.int64)[:, None] * x_row
        best = tl.full((rows, tile), float("inf"), tl.float32)
        label = tl.zeros((rows, tile), tl.int32)
        begin = item % n_splits * per_split
        for i in range(begin, tl.minimum(begin + per_split, n_tiles)):
            center = i * tile + lanes
            # Beyond the last center the last one is compared again, which changes nothing.
            center = tl.minimum(center, k - 1)[None, :]
            c_pointers = centers + center.to(tl.int64) * c_row
            sqdist = _distance(pointers, c_pointers, coordinates, x_channel, c_channel, zeros, n_terms, depth)
            closer = sqdist < best
            best = tl.where(closer, sqdist, best)
            label = tl.where(closer, center, label)
        least = tl.min(best, 1)
        nearest = tl.min(tl.where(best == least[:, None], label, _MAX_LABEL), 1)
        # Bits of distances, which are at least +0, have the order of the distances.
        key = (_float_bits(least).to(tl.int64) << 32) | nearest.to(tl.int64)
        tl.atomic_min(keys + run * n + row, key, mask=position < count, sem="relaxed")


@triton.jit
@no_type_check
def _label(key):
    return key & 0x7FFFFFFF


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def distance_kernel(
    keys,
    sqdist,
    inertia,
    worst_bits,
    counts,
    n_present,
    x,
    weights,
    problems,
    centers,
    coordinates,
    sqdist_scale,
    n,
    k,
    n_copies,
    n_slots,
    x_problem,
    x_row,
    x_channel,
    w_problem,
    w_row,
    c_run,
    c_row,
    c_channel,
    n_terms: tl.constexpr,
    depth: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
):
    """Compute the reference distance of each row to the center of its key.

    With `sqdist` (B, N) the keys become labels, and distances are written. Otherwise the inertia and the worst distance
    are reduced, and rows with weight are counted in slots (B, K · copies): one of the copies of the cluster.
    """
    run = tl.program_id(1).to(tl.int64)
    problem = tl.load(problems + run)
    x += problem * x_problem
    centers += run * c_run
    total_units = tl.full((), 0, tl.int64)
    total_present = tl.full((), 0, tl.int32)
    # The bits of -1 are a negative integer, and bits of distances have the order of the distances.
    worst = tl.full((), -1, tl.int32)
    first = tl.program_id(0).to(tl.int64) * block
    for start in range(0, tl.minimum(n - first, block).to(tl.int32), rows):
        row = first + start + tl.arange(0, rows)
        inside = row < n
        safe_row = tl.where(inside, row, 0)
        label = _label(tl.load(keys + run * n + row, mask=inside, other=0))
        pointers, c_pointers = x + safe_row * x_row, centers + label * c_row
        nearest = _row_distance(
            pointers, c_pointers, coordinates, x_channel, c_channel, tl.float32, rows, n_terms, depth
        )
        if sqdist is not None:
            tl.store(keys + run * n + row, label, mask=inside)
            tl.store(sqdist + run * n + row, nearest, mask=inside)
        else:
            present = inside
            terms = nearest.to(tl.float64)
            if weights is not None:
                w = tl.load(weights + problem * w_problem + safe_row * w_row).to(tl.float64)
                present = inside & (w != 0)
                terms = terms * w
            units = _to_fixed(tl.where(present, terms, 0.0) * tl.load(sqdist_scale + run))
            total_units += tl.sum(units, 0)
            worst = tl.maximum(worst, tl.max(tl.where(present, _float_bits(nearest), -1), 0))
            total_present += tl.sum(present.to(tl.int32), 0)
            slot = label * n_copies + tl.program_id(0) % n_copies
            tl.atomic_add(counts + run * n_slots + slot, 1, mask=present, sem="relaxed")
    if sqdist is None:
        tl.atomic_add(inertia + run, total_units, sem="relaxed")
        tl.atomic_max(worst_bits + run, worst, sem="relaxed")
        tl.atomic_add(n_present + run, total_present, sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def order_kernel(
    ordered,
    ends,
    keys,
    weights,
    problems,
    n,
    n_copies,
    n_slots,
    w_problem,
    w_row,
    rows: tl.constexpr,
):
    """Write the rows with weight in order of their slots, `ordered` (B, N), as for `distance_kernel`.

    `ends` (B, slots) are the ends of the slots, and become their starts. Rows within a slot are in any order.
    """
    run = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    present = row < n
    label = _label(tl.load(keys + run * n + row, mask=present, other=0))
    if weights is not None:
        pointers = weights + tl.load(problems + run) * w_problem + row.to(tl.int64) * w_row
        present = present & (tl.load(pointers, mask=present, other=0) != 0)
    slot = label * n_copies + tl.program_id(0) % n_copies
    position = tl.atomic_add(ends + run * n_slots + slot, -1, mask=present, sem="relaxed") - 1
    tl.store(ordered + run * n + position, row, mask=present)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def sums_kernel(
    totals,
    ordered,
    n_present,
    keys,
    x,
    weights,
    problems,
    lowest,
    sum_scale,
    weight_scale,
    n,
    k,
    x_problem,
    x_row,
    x_channel,
    w_problem,
    w_row,
    width: tl.constexpr,
    rows: tl.constexpr,
    chunk: tl.constexpr,
):
    """Add w·(x - lowest) and w of the rows in `ordered` to totals (B, K, D + 1), in fixed point.

    The terms of a cluster in a block are added first. A program processes one chunk of coordinates.
    """
    run = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channel = tl.program_id(1) * chunk + tl.arange(0, chunk)
    present = position < tl.load(n_present + run)
    problem = tl.load(problems + run)
    row = tl.load(ordered + run * n + position, mask=present, other=0).to(tl.int64)
    remaining = tl.where(present, _label(tl.load(keys + run * n + row)), k).to(tl.int32)
    offset = row[:, None] * x_row + channel.to(tl.int64)[None, :] * x_channel
    mask = present[:, None] & (channel < width)[None, :]
    terms = tl.load(x + problem * x_problem + offset, mask=mask, other=0).to(tl.float32).to(tl.float64)
    terms = terms - tl.load(lowest + run * width + channel, mask=channel < width, other=0)[None, :]
    w = tl.full((rows,), 1.0, tl.float64)
    if weights is not None:
        w = tl.load(weights + problem * w_problem + row * w_row, mask=present, other=0).to(tl.float64)
        terms = terms * w[:, None]
    terms = tl.where(mask, terms, 0.0)
    terms = _to_fixed(terms * tl.load(sum_scale + run * width + channel, mask=channel < width, other=1)[None, :])
    w_terms = _to_fixed(w * tl.load(weight_scale + run))
    index = tl.min(remaining, 0)
    while index < k:
        member = remaining == index
        entry = totals + (run * k + index) * (width + 1)
        sums = tl.sum(tl.where(member[:, None], terms, 0), 0)
        tl.atomic_add(entry + channel, sums, mask=channel < width, sem="relaxed")
        if tl.program_id(1) == 0:
            tl.atomic_add(entry + width, tl.sum(tl.where(member, w_terms, 0), 0), sem="relaxed")
        remaining = tl.where(member, k, remaining)
        index = tl.min(remaining, 0)
