"""Triton kernels of the estimated bits of PNG and GIF files: filters, code lengths, adjacent colors.

Arithmetic is on integers, so results have the bits of `gpukmeans.images.png_rate`, `gif_rate` and `palette_order`.
Rows of bytes are uint8 (H, W), contiguous.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n", "n_colors", "height", "width", "n_columns", "n_pixels"]


@triton.jit
@no_type_check
def _binary_logarithms(numbers, powers):
    """Binary logarithms of int64 numbers in units of 1/64, rounded down. The logarithm of 0 is 0.

    `powers` (63,) int64 are 2 to the power of 62 + i / 64 for i from 1 to 63, rounded up.
    """
    exponents = tl.zeros_like(numbers)
    for i in tl.static_range(6):
        step = 32 >> i
        exponents += tl.where(numbers >> (exponents + step) > 0, step, 0)
    mantissas = numbers << (62 - exponents)
    parts = tl.zeros_like(numbers)
    for i in tl.static_range(6):
        step = 32 >> i
        parts += tl.where(mantissas >= tl.load(powers + parts + (step - 1)), step, 0)
    return 64 * exponents + parts


@triton.jit
@no_type_check
def _code_lengths(counts, powers):
    """Code lengths (256,), int32, of bytes by their counts (256,), int64."""
    tenths = 10 * counts + 1
    total = tl.zeros_like(tenths) + tl.sum(tenths, 0)
    lengths = _binary_logarithms(total, powers) - _binary_logarithms(tenths, powers)
    return tl.minimum(tl.maximum(lengths, 64), 15 * 64).to(tl.int32)


@triton.jit
@no_type_check
def _paeth(left, above, above_left):
    """Predictions of bytes by the Paeth filter, all int32."""
    by_left = tl.abs(above - above_left)
    by_above = tl.abs(left - above_left)
    by_both = tl.abs(left + above - 2 * above_left)
    other = tl.where(by_above <= by_both, above, above_left)
    return tl.where((by_left <= by_above) & (by_left <= by_both), left, other)


@triton.jit
@no_type_check
def _predicted(filters, left, above, above_left):
    """Predictions of bytes by filter types, all int32."""
    found = tl.where(filters == 3, (left + above) >> 1, 0)
    found = tl.where(filters == 4, _paeth(left, above, above_left), found)
    return tl.where(filters == 1, left, tl.where(filters == 2, above, found))


@triton.jit
@no_type_check
def _around(rows, y, x, height, width):
    """The bytes at y and x, to the left, above, and above left, int32. Bytes outside the rows are 0."""
    at = rows + y.to(tl.int64) * width + x
    inside = (y < height) & (x < width)
    byte = tl.load(at, mask=inside, other=0).to(tl.int32)
    left = tl.load(at - 1, mask=inside & (x > 0), other=0).to(tl.int32)
    above = tl.load(at - width, mask=inside & (y > 0), other=0).to(tl.int32)
    above_left = tl.load(at - width - 1, mask=inside & (x > 0) & (y > 0), other=0).to(tl.int32)
    return byte, left, above, above_left


@triton.jit
@no_type_check
def _costs(bytes_, lengths, inside):
    """Code lengths of residuals, or their magnitudes without `lengths`. 0 if not inside."""
    residuals = bytes_ & 255
    if lengths is not None:
        costs = tl.load(lengths + residuals, mask=inside, other=0)
    else:
        costs = tl.where(inside, tl.minimum(residuals, 256 - residuals), 0)
    return costs


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def filter_kernel(
    filters,
    new_lengths,
    bits,
    counts,
    n_done,
    lengths,
    powers,
    rows,
    height,
    width,
    n_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Write the filter type of least cost of each row (H,), the lowest on ties, and code lengths fitted to the filters.

    The cost is the sum of code lengths (256,), or without `lengths` of magnitudes. A program processes `n_rows` rows
    and adds their stored bytes to `counts` (256,). The last program that is done writes the new code lengths (256,)
    and the sum of the code lengths of all stored bytes. `n_done` has the number of programs that are done.
    """
    y = tl.program_id(0) * n_rows + tl.arange(0, n_rows)
    zero = tl.zeros((n_rows, block), tl.int32)
    row = zero + y[:, None]
    cost_0 = tl.zeros((n_rows,), tl.int64)
    cost_1 = cost_0
    cost_2 = cost_0
    cost_3 = cost_0
    cost_4 = cost_0
    for start in range(0, width, block):
        x = zero + start + tl.arange(0, block)[None, :]
        byte, left, above, above_left = _around(rows, row, x, height, width)
        inside = x < width
        cost_0 += tl.sum(_costs(byte, lengths, inside), 1)
        cost_1 += tl.sum(_costs(byte - left, lengths, inside), 1)
        cost_2 += tl.sum(_costs(byte - above, lengths, inside), 1)
        cost_3 += tl.sum(_costs(byte - ((left + above) >> 1), lengths, inside), 1)
        cost_4 += tl.sum(_costs(byte - _paeth(left, above, above_left), lengths, inside), 1)
    every = y >= 0
    type_0 = tl.zeros((n_rows,), tl.int32)
    rank_0 = (cost_0 + _costs(type_0, lengths, every)) * 8
    rank_1 = (cost_1 + _costs(type_0 + 1, lengths, every)) * 8 + 1
    rank_2 = (cost_2 + _costs(type_0 + 2, lengths, every)) * 8 + 2
    rank_3 = (cost_3 + _costs(type_0 + 3, lengths, every)) * 8 + 3
    rank_4 = (cost_4 + _costs(type_0 + 4, lengths, every)) * 8 + 4
    rank = tl.minimum(tl.minimum(rank_0, rank_1), tl.minimum(tl.minimum(rank_2, rank_3), rank_4))
    best = (rank & 7).to(tl.int32)
    tl.store(filters + y, best, mask=y < height)
    histogram = tl.histogram(tl.where(y < height, best, 0), 256)
    n_added = tl.sum((y >= height).to(tl.int32), 0)  # as bytes of value 0
    for start in range(0, width, block):
        x = zero + start + tl.arange(0, block)[None, :]
        byte, left, above, above_left = _around(rows, row, x, height, width)
        residual = (byte - _predicted(zero + best[:, None], left, above, above_left)) & 255
        inside = (x < width) & (row < height)
        histogram += tl.histogram(tl.ravel(tl.where(inside, residual, 0)), 256)
        n_added += tl.sum(tl.ravel((inside == 0).to(tl.int32)), 0)
    lanes = tl.arange(0, 256)
    histogram -= tl.where(lanes == 0, n_added, 0)
    tl.atomic_add(counts + lanes, histogram.to(tl.int64), mask=histogram > 0, sem="relaxed")
    tl.debug_barrier()  # all threads have added their counts, which the next operation releases
    if tl.atomic_add(n_done, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        all_counts = tl.load(counts + lanes, cache_modifier=".cg")
        code_lengths = _code_lengths(all_counts, powers)
        tl.store(new_lengths + lanes, code_lengths)
        tl.store(bits, tl.sum(all_counts * code_lengths, 0))


@triton.jit
@no_type_check
def _weighted(lengths, weights, y, x, width, mask):
    """Code lengths times the weights of blocks of 8 x 8 bytes in sixteenths, rounded down; or code lengths, int32."""
    if weights is not None:
        at = weights + (y // 8).to(tl.int64) * ((width + 7) // 8) + x // 8
        lengths = (lengths * tl.load(at, mask=mask, other=0).to(tl.int32)) >> 4
    return lengths


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def bits_kernel(bits, rows, filters, lengths, weights, height, width, n_rows: tl.constexpr, block: tl.constexpr):
    """Add the code lengths of the stored bytes to `bits`.

    Without filters, code lengths (256, 256) are those of a byte after the byte to its left.
    """
    y = (tl.program_id(0) * n_rows + tl.arange(0, n_rows))[:, None] + tl.zeros((n_rows, block), tl.int32)
    total = tl.zeros((n_rows, block), tl.int64)
    own = tl.zeros((n_rows, block), tl.int32)
    if filters is not None:
        own = tl.load(filters + y, mask=y < height, other=0)
        is_first = (y < height) & (tl.arange(0, block)[None, :] == 0)
        total += tl.load(lengths + own, mask=is_first, other=0)
    for start in range(0, width, block):
        x = start + tl.arange(0, block)[None, :] + tl.zeros((n_rows, block), tl.int32)
        inside = (y < height) & (x < width)
        byte, left, above, above_left = _around(rows, y, x, height, width)
        code = left * 256 + byte
        if filters is not None:
            code = (byte - _predicted(own, left, above, above_left)) & 255
        total += _weighted(tl.load(lengths + code, mask=inside, other=0), weights, y, x, width, inside)
    tl.atomic_add(bits, tl.sum(tl.ravel(total), 0), sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def adjacency_kernel(counts, indices, height, width, n_colors, block: tl.constexpr):
    """Count adjacent pixels of two colors in `counts` (K, K), in both orders. Pixels of equal colors are omitted."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    y = place // width
    inside = y < height
    own = tl.load(indices + place, mask=inside, other=0).to(tl.int64)
    for is_below in tl.static_range(2):
        if is_below:
            has_other = inside & (y + 1 < height)
            step = width
        else:
            has_other = inside & (place - y * width + 1 < width)
            step = 1
        other = tl.load(indices + place + step, mask=has_other, other=0).to(tl.int64)
        differs = has_other & (other != own)
        tl.atomic_add(counts + own * n_colors + other, tl.full((block,), 1, tl.int64), mask=differs, sem="relaxed")
        tl.atomic_add(counts + other * n_colors + own, tl.full((block,), 1, tl.int64), mask=differs, sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def map_kernel(values, indices, table, n, n_colors, block: tl.constexpr):
    """Write the entry in a table (K,), int64, of each index below K."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    index = tl.load(indices + place, mask=place < n, other=0).to(tl.int32)
    value = tl.load(table + index, mask=index < n_colors, other=0)
    tl.store(values + place, value.to(tl.uint8), mask=place < n)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def pack_kernel(rows, indices, height, width, n_columns, per_byte: tl.constexpr, block: tl.constexpr):
    """Write bytes (H, B) of several indices (H, W) each. The first pixel has the highest bits."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    y = place // n_columns
    x = (place - y * n_columns) * per_byte
    byte = tl.zeros((block,), tl.int32)
    for pixel in tl.static_range(per_byte):
        inside = (y < height) & (x + pixel < width)
        index = tl.load(indices + y * width + x + pixel, mask=inside, other=0).to(tl.int32)
        byte = ((byte << (8 // per_byte)) | index) & 255
    tl.store(rows + place, byte.to(tl.uint8), mask=y < height)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def unpack_kernel(indices, rows, height, width, n_columns, per_byte: tl.constexpr, block: tl.constexpr):
    """Write the indices (H, W) of bytes (H, B)."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    y = place // width
    x = (place - y * width).to(tl.int32)
    bits: tl.constexpr = 8 // per_byte
    byte = tl.load(rows + y * n_columns + x // per_byte, mask=y < height, other=0).to(tl.int32)
    index = (byte >> (8 - bits * (x % per_byte + 1))) & ((1 << bits) - 1)
    tl.store(indices + place, index.to(tl.uint8), mask=y < height)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def pairs_kernel(counts, indices, height, width, block: tl.constexpr):
    """Add pairs (index to the left, index) to `counts` (257, 256). Row 256 has the counts of indices."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place // width < height
    index = tl.load(indices + place, mask=inside, other=0).to(tl.int32)
    left = tl.load(indices + place - 1, mask=inside & (place % width > 0), other=0).to(tl.int32)
    tl.atomic_add(counts + left * 256 + index, tl.full((block,), 1, tl.int64), mask=inside, sem="relaxed")
    lanes = tl.arange(0, 256)
    n_added = tl.sum((inside == 0).to(tl.int32), 0)  # as indices of value 0
    histogram = tl.histogram(index, 256) - tl.where(lanes == 0, n_added, 0)
    tl.atomic_add(counts + 65536 + lanes, histogram.to(tl.int64), mask=histogram > 0, sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def pair_lengths_kernel(
    lengths, counts, powers, n_pixels, prior: tl.constexpr, longest: tl.constexpr, n_rows: tl.constexpr
):
    """Write code lengths (256, 256), int32, of an index after the index to its left, from `counts` (257, 256)."""
    row = (tl.program_id(0) * n_rows + tl.arange(0, n_rows))[:, None]
    column = tl.arange(0, 256)[None, :]
    count = tl.load(counts + row * 256 + column)
    after = tl.load(counts + 65536 + column)
    before = tl.sum(count, 1)[:, None]
    whole = _binary_logarithms((before + prior) * n_pixels, powers)
    part = _binary_logarithms(count * n_pixels + prior * after, powers)
    tl.store(lengths + row * 256 + column, tl.minimum(whole - part, longest).to(tl.int32))
