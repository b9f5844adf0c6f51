"""Triton kernels of rate-distortion optimization: color cells, sweeps, energy, normal equations, contrast.

Arithmetic is on integers, so results have the bits of `gpukmeans.images.rate_distortion`, which defines J, e and R. An
image is uint8 (H, W, C), a palette uint8 (K, C), indices are uint8 (H, W), all contiguous. Points are premultiplied
colors of 4 coordinates; without alpha the last one is 0. Errors (H, W, 4) are the points of the pixels minus the points
of their palette colors.
"""

from typing import no_type_check

import triton
import triton.language as tl

from gpukmeans.engines.fused.png_kernels import _predicted

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n_colors", "n_listed", "n_pixels", "n_columns", "height", "width", "top", "left", "share"]
_NOT_SPECIALIZED += ["price", "round_number", "n_rounds"]

_WHOLE = tl.constexpr(256)
_HIGHEST = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
@no_type_check
def _points(colors, places, inside, channels: tl.constexpr):
    """Points (N, 4), int32, of the colors at places (N,). The points of places that are not inside are 0."""
    axis = tl.arange(0, 4)[None, :]
    channel = tl.minimum(axis, channels - 1)
    if channels < 3:
        channel = tl.where(axis == 3, channels - 1, 0)
    n_axes: tl.constexpr = 4 - channels % 2
    mask = inside[:, None] & (axis < n_axes)
    values = tl.load(colors + places[:, None] * channels + channel, mask=mask, other=0).to(tl.int32)
    if channels % 2 == 0:
        alpha = tl.sum(tl.where(axis == 3, values, 0), 1)[:, None]
        values = tl.where(axis == 3, 255, values) * alpha
    return values


@triton.jit
@no_type_check
def _alpha(colors, places, inside, channels: tl.constexpr):
    """Alpha (N,), int32, of the colors at places (N,). It is 255 without alpha, and 0 if not inside."""
    if channels % 2 == 0:
        alpha = tl.load(colors + places * channels + channels - 1, mask=inside, other=0).to(tl.int32)
    else:
        alpha = tl.where(inside, 255, 0)
    return alpha


@triton.jit
@no_type_check
def _has_opaque(palette, n_colors, channels: tl.constexpr):
    """Whether a color of the palette is opaque."""
    color = tl.arange(0, 256)
    return tl.max(_alpha(palette, color, color < n_colors, channels), 0) == 255


@triton.jit
@no_type_check
def _blur_weight(offset):
    """Weight of the blur of one row or column at an offset of -2 to 2: 1, 4, 6, 4, 1."""
    distance = tl.abs(offset)
    return 6 - 2 * distance - distance // 2


@triton.jit
@no_type_check
def _correlated(blur, own, share, channels: tl.constexpr):
    """R times the values: from their blur (N, 4) and the values (N, 4). int64 with alpha, else int32."""
    if channels % 2 == 0:
        blur = blur.to(tl.int64)
        own = own.to(tl.int64)
    return blur * share + own * ((_WHOLE - share) * _WHOLE)


# ---- Cells of colors ----


@triton.jit
@no_type_check
def _cells(image, places, inside, channels: tl.constexpr):
    """Twice the cell of each pixel, plus 1 if it is opaque, int32."""
    points = _points(image, places, inside, channels)
    axis = tl.arange(0, 4)[None, :]
    digits = (points >> 2) << (6 * axis)
    if channels % 2 == 0:
        digits = ((points + 127) // 255 >> 3) << (5 * axis)
    is_opaque = _alpha(image, places, inside, channels) == 255
    return tl.sum(digits, 1) * 2 + is_opaque.to(tl.int32)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def mark_kernel(used, image, n_pixels, channels: tl.constexpr, block: tl.constexpr):
    """Write 1 to the entries of `used`, uint8, of the cells of all pixels."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < n_pixels
    tl.store(used + _cells(image, place, inside, channels), tl.full((block,), 1, tl.uint8), mask=inside)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def number_kernel(index, cells, ends, image, n_pixels, channels: tl.constexpr, block: tl.constexpr):
    """Write the number of the cell of each pixel, int32, and the cells (M,) by their numbers.

    `ends` has, for each cell, the number of used cells up to it.
    """
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < n_pixels
    cell = _cells(image, place, inside, channels)
    number = tl.load(ends + cell, mask=inside, other=1) - 1
    tl.store(index + place, number, mask=inside)
    tl.store(cells + number, cell, mask=inside)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def nearest_kernel(lists, cells, n_cells, palette, n_colors, n_listed, channels: tl.constexpr, block: tl.constexpr):
    """Write the colors nearest to the centers of cells (M, `n_listed`), uint8, the lowest on ties.

    `n_cells` points to M. If fewer colors are allowed in an opaque cell, its nearest color fills the other places.
    """
    number = tl.program_id(0) * block + tl.arange(0, block)
    inside = number < tl.load(n_cells)
    if tl.max(inside.to(tl.int32), 0) > 0:
        cell = tl.load(cells + number, mask=inside, other=0)
        color = tl.arange(0, 256)
        n_axes: tl.constexpr = 4 - channels % 2
        unit: tl.constexpr = 255 if channels % 2 == 0 else 1
        digits: tl.constexpr = 5 if channels % 2 == 0 else 6
        far: tl.constexpr = 1 << 58
        highest: tl.constexpr = _HIGHEST if channels % 2 == 0 else 0x7FFFFFFF
        distance = tl.zeros((block, 256), tl.int64 if channels % 2 == 0 else tl.int32)
        for axis in tl.static_range(n_axes):
            level = (cell >> (1 + digits * axis)) & ((1 << digits) - 1)
            center = level * (1 << (9 - digits)) + ((1 << (8 - digits)) - 1)
            source = channels - 1 if axis == 3 else 0 if channels < 3 else axis
            value = tl.load(palette + color * channels + source, mask=color < n_colors, other=0).to(tl.int32)
            if channels % 2 == 0:
                value = (255 if axis == 3 else value) * _alpha(palette, color, color < n_colors, channels)
            difference = (center * unit)[:, None] - (2 * value)[None, :]
            if channels % 2 == 0:
                difference = difference.to(tl.int64)
            distance += difference * difference
        ranks = distance * 256 + color[None, :]
        if channels % 2 == 0:
            alpha = _alpha(palette, color, color < n_colors, channels)
            is_excluded = (alpha < 255) & (tl.max(alpha, 0) == 255)
            ranks = tl.where(is_excluded[None, :] & (cell & 1 == 1)[:, None], color.to(tl.int64)[None, :] + far, ranks)
        ranks = tl.where((color < n_colors)[None, :], ranks, highest)
        first = tl.zeros((block,), tl.int32)
        for i in range(n_listed):
            least = tl.min(ranks, 1)
            nearest = (least & 255).to(tl.int32)
            if channels % 2 == 0:
                first = tl.where(i == 0, nearest, first)
                nearest = tl.where(least < far, nearest, first)
            tl.store(lists + number * n_listed + i, nearest.to(tl.uint8), mask=inside)
            ranks = tl.where(ranks == least[:, None], highest, ranks)


# ---- Contrast ----


@triton.jit
@no_type_check
def _block_pixels(height, width, n_blocks: tl.constexpr):
    """Rows and columns (N,) of the pixels of the blocks of 8 x 8 of a program, and whether they are inside.

    Then the numbers (`n_blocks`,) of the blocks, and whether they are inside.
    """
    lane = tl.arange(0, 64 * n_blocks)
    n_columns = (width + 7) // 8
    n_programs = (n_columns + n_blocks - 1) // n_blocks
    row = tl.program_id(0) // n_programs
    first = (tl.program_id(0) % n_programs) * n_blocks
    y = row * 8 + lane % 64 // 8
    x = first * 8 + lane // 64 * 8 + lane % 8
    column = first + tl.arange(0, n_blocks)
    return y, x, (y < height) & (x < width), row.to(tl.int64) * n_columns + column, column < n_columns


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def differences_kernel(sums, total, image, height, width, channels: tl.constexpr, n_blocks: tl.constexpr):
    """Write for each 8 x 8 block the differences of its pixels from left and upper neighbors. Add them to `total`."""
    y, x, inside, blocks, is_block = _block_pixels(height, width, n_blocks)
    place = y.to(tl.int64) * width + x
    difference = tl.zeros((64 * n_blocks,), tl.int32)
    for channel in tl.static_range(channels):
        at = image + place * channels + channel
        own = tl.load(at, mask=inside, other=0).to(tl.int32)
        left = tl.load(at - channels, mask=inside & (x > 0), other=0).to(tl.int32)
        above = tl.load(at - width * channels, mask=inside & (y > 0), other=0).to(tl.int32)
        difference += tl.where(x > 0, tl.abs(own - left), 0) + tl.where(y > 0, tl.abs(own - above), 0)
    difference = tl.where(inside, difference, 0)
    of_blocks = tl.sum(tl.reshape(difference, (n_blocks, 64)), 1).to(tl.int64)
    tl.store(sums + blocks, of_blocks, mask=is_block)
    if total is not None:
        tl.atomic_add(total, tl.sum(of_blocks, 0), sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def weights_kernel(weights, sums, total, height, width, block: tl.constexpr):
    """Write the weight of each 8 x 8 block, uint8, 4 to 32, from its sum of differences and the total of all blocks."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    n_columns = (width + 7) // 8
    y = place // n_columns * 8
    x = place % n_columns * 8
    inside = y < height
    n_pixels = (tl.minimum(height - y, 8) * tl.minimum(width - x, 8)).to(tl.int64)
    whole = tl.load(total)
    weight = tl.full((block,), 16, tl.int32)
    if whole > 0:
        difference = tl.load(sums + place, mask=inside, other=0)
        relative = difference * height * width * 256 // tl.where(inside, whole * n_pixels, 1)
        weight = tl.full((block,), 4, tl.int32)
        for higher in range(5, 33):
            weight += (relative >= higher * higher).to(tl.int32)
    tl.store(weights + place, weight.to(tl.uint8), mask=inside)


# ---- Energy, normal equations, squared error ----


@triton.jit
@no_type_check
def _add_wide(sums, total):
    """Add an int64 to two int64: the lower 32 bits, not negative, and the others."""
    tl.atomic_add(sums, total & 0xFFFFFFFF, sem="relaxed")
    tl.atomic_add(sums + 1, total >> 32, sem="relaxed")


@triton.jit
@no_type_check
def _errors_at(image, indices, palette, places, inside, channels: tl.constexpr):
    index = tl.load(indices + places, mask=inside, other=0).to(tl.int32)
    return _points(image, places, inside, channels) - _points(palette, index, inside, channels)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def energy_kernel(
    energies,
    total,
    image,
    indices,
    palette,
    share,
    height,
    width,
    blurred: tl.constexpr,
    channels: tl.constexpr,
    n_blocks: tl.constexpr,
):
    """Write e·R·e of each 8 x 8 block, or add the sum of all to `total` (2,): its lower 32 bits, and the others."""
    y, x, inside, blocks, is_block = _block_pixels(height, width, n_blocks)
    place = y.to(tl.int64) * width + x
    own = _errors_at(image, indices, palette, place, inside, channels)
    blur = tl.zeros((64 * n_blocks, 4), tl.int32)
    if blurred:
        for i in range(25):  # not unrolled, which would need too many registers
            down = i // 5 - 2
            right = i % 5 - 2
            is_in = inside & (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
            error = _errors_at(image, indices, palette, place + down * width + right, is_in, channels)
            blur += error * (_blur_weight(down) * _blur_weight(right))
    products = own.to(tl.int64) * _correlated(blur, own, share, channels)
    of_blocks = tl.sum(tl.reshape(tl.sum(products, 1), (n_blocks, 64)), 1)
    if energies is not None:
        tl.store(energies + blocks, of_blocks, mask=is_block)
    else:
        _add_wide(total, tl.sum(of_blocks, 0))


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def squared_error_kernel(total, image, indices, palette, n_pixels, channels: tl.constexpr, block: tl.constexpr):
    """Add the squared error of all pixels to `total` (2,): its lower 32 bits, and the others."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    error = _errors_at(image, indices, palette, place, place < n_pixels, channels).to(tl.int64)
    _add_wide(total, tl.sum(tl.sum(error * error, 1), 0))


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def normal_equations_kernel(
    a,
    v,
    image,
    indices,
    share,
    n_colors,
    height,
    width,
    blurred: tl.constexpr,
    channels: tl.constexpr,
    block: tl.constexpr,
):
    """Add the terms of all pixels to `a` (K, K) and `v` (K, 4), int64, of the normal equations A·P = V."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    y = place // width
    x = place - y * width
    inside = y < height
    own = tl.load(indices + place, mask=inside, other=0).to(tl.int64)
    of_own = a + own * n_colors
    point = _points(image, place, inside, channels)
    blur = tl.zeros((block, 4), tl.int32)
    diagonal = tl.zeros((block,), tl.int32) + (_WHOLE - share) * _WHOLE
    if blurred:
        for i in range(25):
            down = i // 5 - 2
            right = i % 5 - 2
            of_blur = _blur_weight(down) * _blur_weight(right)
            is_in = inside & (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
            at = place + down * width + right
            blur += _points(image, at, is_in, channels) * of_blur
            other = tl.load(indices + at, mask=is_in, other=0).to(tl.int64)
            weight = tl.zeros((block,), tl.int32) + share * of_blur
            diagonal += tl.where(is_in & (other == own), weight, 0)
            tl.atomic_add(of_own + other, weight.to(tl.int64), mask=is_in & (other != own), sem="relaxed")
    tl.atomic_add(of_own + own, diagonal.to(tl.int64), mask=inside, sem="relaxed")
    correlated = _correlated(blur, point, share, channels).to(tl.int64)
    axis = tl.arange(0, 4)[None, :]
    mask = inside[:, None] & (axis < 4 - channels % 2)
    tl.atomic_add(v + own[:, None] * 4 + axis, correlated, mask=mask, sem="relaxed")


@triton.jit
@no_type_check
def _at(values, row):
    """The entries of values (256, 4) in one row."""
    return tl.sum(tl.where(tl.arange(0, 256)[:, None] == row, values, 0), 0)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def descend_kernel(new_palette, palette, free, a, v, n_colors, n_rounds, channels: tl.constexpr):
    """Write the palette after rounds of coordinate descent. Only free, opaque and used colors change."""
    unit: tl.constexpr = 255 if channels % 2 == 0 else 1
    color = tl.arange(0, 256)
    axis = tl.arange(0, 4)
    inside = color < n_colors
    is_axis = inside[:, None] & (axis < 3)[None, :]
    channel = tl.minimum(axis, 2)
    if channels < 3:
        channel = axis * 0
    levels = tl.load(palette + color[:, None] * channels + channel[None, :], mask=is_axis, other=0).to(tl.int32)
    alpha = _alpha(palette, color, inside, channels)
    residuals = tl.load(v + color[:, None] * 4 + axis[None, :], mask=is_axis, other=0)
    points = levels * (alpha[:, None] if channels % 2 == 0 else 1)
    for k in range(n_colors):
        column = tl.load(a + k * n_colors + color, mask=inside, other=0)
        residuals -= column[:, None] * _at(points, k)[None, :]
    is_changed = 1
    for _ in range(n_rounds):
        if is_changed > 0:
            is_changed = 0
            for k in range(n_colors):
                weight = tl.load(a + k * n_colors + k) * unit
                is_free = tl.load(free + k).to(tl.int32)
                if channels % 2 == 0:
                    is_free = is_free * (tl.load(palette + k * channels + channels - 1) == 255).to(tl.int32)
                if (is_free > 0) & (weight > 0):
                    column = tl.load(a + k * n_colors + color, mask=inside, other=0)
                    level = _at(levels, k)
                    numerator = 2 * _at(residuals, k) + weight
                    step = numerator // (2 * weight)
                    step -= (numerator - step * (2 * weight) < 0).to(tl.int64)  # rounded down, not to 0
                    step = tl.minimum(tl.maximum(level + step, 0), 255) - level
                    step = tl.where(axis < 3, step, 0)
                    levels += tl.where((color == k)[:, None], step[None, :], 0).to(tl.int32)
                    residuals -= column[:, None] * (step * unit)[None, :]
                    is_changed += tl.max(tl.abs(step), 0).to(tl.int32)
    n_levels: tl.constexpr = 1 if channels < 3 else 3
    is_level = inside[:, None] & (axis < n_levels)[None, :]
    tl.store(new_palette + color[:, None] * channels + axis[None, :], levels.to(tl.uint8), mask=is_level)
    if channels % 2 == 0:
        tl.store(new_palette + color * channels + channels - 1, alpha.to(tl.uint8), mask=inside)


# ---- The order of colors and the best result ----


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def order_kernel(new_order, places, new_palette, order, palette, n_colors, channels: tl.constexpr):
    """Write an order (K,) with its opaque colors last, the place of each color, and the ordered palette."""
    place = tl.arange(0, 256)
    inside = place < n_colors
    color = tl.load(order + place, mask=inside, other=0)
    is_last = (_alpha(palette, color, inside, channels) == 255).to(tl.int32)
    is_first = inside.to(tl.int32) - is_last
    of_first = tl.cumsum(is_first, 0) - 1
    of_last = tl.sum(is_first, 0) + tl.cumsum(is_last, 0) - 1
    new_place = tl.where(is_last > 0, of_last, of_first)
    tl.store(new_order + new_place, color, mask=inside)
    tl.store(places + color, new_place.to(tl.int64), mask=inside)
    for channel in tl.static_range(channels):
        value = tl.load(palette + color * channels + channel, mask=inside, other=0)
        tl.store(new_palette + new_place * channels + channel, value, mask=inside)


@triton.jit
@no_type_check
def _cost(costs, price):
    """64 times the energy plus the price of all bits, as an int64 multiple of 2 to the power of 48, and the rest.

    `costs` (3,) int64 has the lower and the higher part of the energy, and the bits. The price is at most 2**47.
    """
    mask: tl.constexpr = (1 << 24) - 1
    low = tl.load(costs)
    energy = low >> 24
    low = low & mask
    energy += tl.load(costs + 1) * 256
    bits = tl.load(costs + 2)
    price = tl.full((), 0, tl.int64) + price
    low = low * 64 + (price & mask) * (bits & mask)
    middle = energy * 64 + (price >> 24) * (bits & mask) + (price & mask) * (bits >> 24) + (low >> 24)
    high = (price >> 24) * (bits >> 24) + (middle >> 24)
    return high, (middle & mask) * (mask + 1) + (low & mask)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def keep_kernel(
    best_palette, best_indices, palette, indices, costs, price, round_number, n_pixels, n_bytes, block: tl.constexpr
):
    """Copy the palette of `n_bytes` bytes and the indices of a round if its cost is below that of all rounds before.

    `costs` has the costs of the rounds, as for `_cost`.
    """
    high, low = _cost(costs + round_number * 3, price)
    is_best = high == high
    for earlier in range(round_number):
        other_high, other_low = _cost(costs + earlier * 3, price)
        is_best = is_best & ((high < other_high) | ((high == other_high) & (low < other_low)))
    if is_best:
        place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = place < n_pixels
        tl.store(best_indices + place, tl.load(indices + place, mask=inside, other=0), mask=inside)
        byte = tl.arange(0, 1024)
        inside = byte < tl.where(tl.program_id(0) == 0, n_bytes, 0)
        tl.store(best_palette + byte, tl.load(palette + byte, mask=inside, other=0), mask=inside)


# ---- Sweeps ----


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def errors_kernel(errors, image, indices, palette, n_pixels, channels: tl.constexpr, block: tl.constexpr):
    """Write the errors of the pixels, int16, or int32 with alpha."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < n_pixels
    error = _errors_at(image, indices, palette, place, inside, channels)
    at = errors + place[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(at, error.to(errors.dtype.element_ty), mask=inside[:, None])


@triton.jit
@no_type_check
def _gradient(errors, y, x, inside, share, height, width, blurred: tl.constexpr, channels: tl.constexpr):
    """R·e (N, 4) at pixels (N,). int64 with alpha, else int32."""
    at = errors + (y.to(tl.int64) * width + x)[:, None] * 4 + tl.arange(0, 4)[None, :]
    own = tl.load(at, mask=inside[:, None], other=0).to(tl.int32)
    blur = tl.zeros_like(own)
    if blurred:
        is_column = ()
        for right in tl.static_range(-2, 3):
            is_column = is_column + (((x + right >= 0) & (x + right < width))[:, None],)  # noqa: RUF005
        for down in range(-2, 3):
            is_row = (inside & (y + down >= 0) & (y + down < height))[:, None]
            row = at + down * width * 4
            outer = tl.load(row - 8, mask=is_row & is_column[0], other=0).to(tl.int32)
            outer += tl.load(row + 8, mask=is_row & is_column[4], other=0).to(tl.int32)
            inner = tl.load(row - 4, mask=is_row & is_column[1], other=0).to(tl.int32)
            inner += tl.load(row + 4, mask=is_row & is_column[3], other=0).to(tl.int32)
            middle = tl.load(row, mask=is_row & is_column[2], other=0).to(tl.int32)
            blur += (outer + 4 * inner + 6 * middle) * _blur_weight(down)
    return _correlated(blur, own, share, channels)


@triton.jit
@no_type_check
def _length(lengths, codes, weights, y, x, width, inside):
    """Code lengths, int32, of codes (N, T) of bytes (N,) at y and x, weighted if there are weights. 0 if not inside."""
    found = tl.load(lengths + codes, mask=inside[:, None] & (codes >= 0), other=0)
    if weights is not None:
        at = weights + (y // 8).to(tl.int64) * ((width + 7) // 8) + x // 8
        found = (found * tl.load(at, mask=inside, other=0).to(tl.int32)[:, None]) >> 4
    return found


@triton.jit
@no_type_check
def _color_in(bytes_, pixel, per_byte: tl.constexpr):
    """The index of a pixel in bytes of `per_byte` pixels."""
    bits: tl.constexpr = 8 // per_byte
    return (bytes_ >> (8 - bits * (pixel + 1))) & ((1 << bits) - 1)


@triton.jit
@no_type_check
def _coordinate(palette, color, inside, axis: tl.constexpr, channels: tl.constexpr):
    """A coordinate of the points of palette colors, int32. It is 0 for colors that are not inside."""
    channel: tl.constexpr = channels - 1 if axis == 3 else 0 if channels < 3 else axis
    value = tl.load(palette + color * channels + channel, mask=inside, other=0).to(tl.int32)
    if channels % 2 == 0:
        value = (255 if axis == 3 else value) * _alpha(palette, color, inside, channels)
    return value


@triton.jit
@no_type_check
def _step(
    palette, old, tried, pixel, inside, n_colors, axis: tl.constexpr, per_byte: tl.constexpr, channels: tl.constexpr
):
    """A coordinate of the points of a pixel of bytes (N,), minus those of the bytes tried (N, T). 0 if not inside."""
    color = _color_in(tried, pixel, per_byte)
    of_old = _coordinate(palette, _color_in(old, pixel, per_byte), inside, axis, channels)
    return of_old[:, None] - _coordinate(palette, color, inside[:, None] & (color < n_colors), axis, channels)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def sweep_kernel(
    rows,
    errors,
    image,
    palette,
    cells,
    lists,
    filters,
    lengths,
    weights,
    price,
    share,
    top,
    left,
    height,
    width,
    n_columns,
    n_colors,
    n_listed,
    blurred: tl.constexpr,
    per_byte: tl.constexpr,
    channels: tl.constexpr,
    n_tried: tl.constexpr,
    block: tl.constexpr,
):
    """Change the bytes of a phase to those of the least J: every third row from `top`, and columns from `left`.

    Rows of bytes are (H, B). For bytes of one pixel, every third column is changed, and the colors of `lists` and of
    the four neighbors are tried. For bytes of several pixels, every second column is changed, and all values are tried.
    Without `lengths` bits have no price. Without `filters` they are those of pairs of neighbors.
    """
    apart: tl.constexpr = 3 if per_byte == 1 else 2
    lane = tl.program_id(0) * block + tl.arange(0, block)
    n_lanes = (n_columns - left + apart - 1) // apart
    y = top + lane // n_lanes * 3
    x = left + lane % n_lanes * apart
    inside = y < height
    at = rows + y.to(tl.int64) * n_columns + x
    has_left = inside & (x > 0)
    has_right = inside & (x + 1 < n_columns)
    has_above = inside & (y > 0)
    has_below = inside & (y + 1 < height)
    old = tl.load(at, mask=inside, other=0).to(tl.int32)
    on_left = tl.load(at - 1, mask=has_left, other=0).to(tl.int32)
    on_right = tl.load(at + 1, mask=has_right, other=0).to(tl.int32)
    above = tl.load(at - n_columns, mask=has_above, other=0).to(tl.int32)
    under = tl.load(at + n_columns, mask=has_below, other=0).to(tl.int32)

    number = tl.arange(0, n_tried)[None, :]
    tried = number + tl.zeros((block, n_tried), tl.int32)
    if per_byte == 1:
        cell = tl.load(cells + y.to(tl.int64) * width + x, mask=inside, other=0).to(tl.int64)
        of_cell = lists + cell[:, None] * n_listed + number
        tried = tl.load(of_cell, mask=inside[:, None] & (number < n_listed), other=0).to(tl.int32)
        tried = tl.where(number == n_listed, tl.where(has_below, under, old)[:, None], tried)
        tried = tl.where(number == n_listed + 1, tl.where(has_above, above, old)[:, None], tried)
        tried = tl.where(number == n_listed + 2, tl.where(has_right, on_right, old)[:, None], tried)
        tried = tl.where(number == n_listed + 3, tl.where(has_left, on_left, old)[:, None], tried)
        tried = tl.where(number > n_listed + 3, old[:, None], tried)

    # The change of e·R·e. Pixels of a byte are up to two columns apart, so the products of their steps count too.
    weight = 36 * share + (_WHOLE - share) * _WHOLE
    has_opaque = _has_opaque(palette, n_colors, channels)
    is_excluded = tl.zeros((block, n_tried), tl.int32)
    for pixel in range(per_byte):
        column = x * per_byte + pixel
        if per_byte > 1 or channels % 2 == 0:
            color = _color_in(tried, pixel, per_byte)
            alpha = _alpha(image, y.to(tl.int64) * width + column, inside & (column < width), channels)
            stays = (alpha == 0)[:, None] | (color >= n_colors)
            if channels % 2 == 0:
                is_translucent = _alpha(palette, color, color < n_colors, channels) < 255
                stays = stays | ((alpha == 255)[:, None] & is_translucent & has_opaque)
            is_excluded |= (stays & (color != _color_in(old, pixel, per_byte)[:, None])).to(tl.int32)
    total = tl.zeros((block, n_tried), tl.int64)
    if per_byte == 1:
        gradient = 2 * _gradient(errors, y, x, inside, share, height, width, blurred, channels)
        for axis in tl.static_range(4 - channels % 2):
            old_value = _coordinate(palette, old, inside, axis, channels)
            step = old_value[:, None] - _coordinate(palette, tried, tried < n_colors, axis, channels)
            of_axis = tl.sum(tl.where(tl.arange(0, 4)[None, :] == axis, gradient, 0), 1)[:, None]
            total += step.to(tl.int64) * (of_axis + weight * step.to(of_axis.dtype))
    else:
        for pixel in range(per_byte):
            is_pixel = inside & (x * per_byte + pixel < width)
            gradient = 2 * _gradient(errors, y, x * per_byte + pixel, is_pixel, share, height, width, blurred, channels)
            for axis in tl.static_range(4 - channels % 2):
                of_axis = tl.sum(tl.where(tl.arange(0, 4)[None, :] == axis, gradient, 0), 1)[:, None]
                step = _step(palette, old, tried, pixel, is_pixel, n_colors, axis, per_byte, channels)
                has_one = is_pixel & (pixel + x > x)
                has_two = is_pixel & (pixel + x > x + 1)
                before = _step(palette, old, tried, pixel - 1, has_one, n_colors, axis, per_byte, channels)
                before_that = _step(palette, old, tried, pixel - 2, has_two, n_colors, axis, per_byte, channels)
                near = 48 * share * before + 12 * share * before_that
                total += step.to(tl.int64) * (of_axis + weight * step.to(of_axis.dtype) + near)
    total *= 64

    if lengths is not None:
        if filters is None:
            bits = _length(lengths, on_left[:, None] * 256 + tried, weights, y, x, width, inside)
            bits += _length(lengths, tried * 256 + on_right[:, None], weights, y, x + 1, width, has_right)
        else:
            above_left = tl.load(at - n_columns - 1, mask=has_above & has_left, other=0).to(tl.int32)
            above_right = tl.load(at - n_columns + 1, mask=has_above & has_right, other=0).to(tl.int32)
            under_left = tl.load(at + n_columns - 1, mask=has_below & has_left, other=0).to(tl.int32)
            under_right = tl.load(at + n_columns + 1, mask=has_below & has_right, other=0).to(tl.int32)
            own = tl.load(filters + y, mask=inside, other=0)
            below = tl.load(filters + y + 1, mask=has_below, other=0)
            code = (tried - _predicted(own, on_left, above, above_left)[:, None]) & 255
            bits = _length(lengths, code, weights, y, x, width, inside)
            predicted = _predicted(own[:, None], tried, above_right[:, None], above[:, None])
            code = (on_right[:, None] - predicted) & 255
            bits += _length(lengths, code, weights, y, x + 1, width, has_right)
            predicted = _predicted(below[:, None], under_left[:, None], tried, on_left[:, None])
            code = (under[:, None] - predicted) & 255
            bits += _length(lengths, code, weights, y + 1, x, width, has_below)
            predicted = _predicted(below[:, None], under[:, None], on_right[:, None], tried)
            code = (under_right[:, None] - predicted) & 255
            bits += _length(lengths, code, weights, y + 1, x + 1, width, has_below & has_right)
        total += bits.to(tl.int64) * price

    total = tl.where(is_excluded > 0, _HIGHEST, total)
    least = tl.min(total, 1)
    of_old = tl.min(tl.where(tried == old[:, None], total, _HIGHEST), 1)
    lowest = tl.min(tl.where(total == least[:, None], tried, 256), 1)
    new = tl.where(of_old == least, old, lowest)
    is_changed = inside & (new != old)
    tl.debug_barrier()  # all threads have read the bytes and errors
    tl.store(at, new.to(tl.uint8), mask=is_changed)
    for pixel in range(per_byte):
        column = x * per_byte + pixel
        mask = is_changed & (column < width)
        added = _points(palette, _color_in(old, pixel, per_byte), mask, channels)
        added -= _points(palette, _color_in(new, pixel, per_byte), mask, channels)
        error_at = errors + (y.to(tl.int64) * width + column)[:, None] * 4 + tl.arange(0, 4)[None, :]
        error = tl.load(error_at, mask=mask[:, None], other=0).to(tl.int32) + added
        tl.store(error_at, error.to(errors.dtype.element_ty), mask=mask[:, None])
