"""Triton kernels of Floyd-Steinberg error diffusion: range of colors, inverse palette, diffusion.

Arithmetic is on integers, so results have the bits of `gpukmeans.images.dithering`. Colors are vectors of 4 channels,
premultiplied, in sixteenths of an 8-bit level; channels that an image lacks are 0.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Arguments for whose values (1, multiples of 16) Triton does not compile a special version.
_NOT_SPECIALIZED = ["n", "height", "width", "strength"]


@triton.jit
@no_type_check
def _levels(image, pixels, inside, channels: tl.constexpr):
    """Premultiplied colors (N, 4), in sixteenths of a level, and alpha (N, 1), 0 to 255, of uint8 pixels (N,)."""
    channel = tl.arange(0, 4)[None, :]
    values = tl.load(image + pixels[:, None] * channels + channel, mask=inside[:, None] & (channel < channels), other=0)
    values = values.to(tl.int32)
    alpha = tl.full(values.shape, 255, tl.int32)
    if channels % 2 == 0:
        alpha = tl.sum(tl.where(channel == channels - 1, values, 0), 1)[:, None] + tl.zeros_like(values)
        color = (256 * values * alpha + 2040) // 4080
        values = tl.where(channel == channels - 1, 16 * values, color)
    else:
        values = 16 * values
    return values, alpha


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def range_kernel(extremes, images, n, channels: tl.constexpr, block: tl.constexpr):
    """Lower `extremes` (B, 2, 4) to the lowest values of the pixels, and to the negatives of their highest values.

    Program (i, image) processes pixels i · block to (i + 1) · block of an image.
    """
    image = tl.program_id(1).to(tl.int64)
    pixels = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    levels, _ = _levels(images + image * n * channels, tl.minimum(pixels, n - 1), pixels < n + block, channels)
    first = extremes + image * 8 + tl.arange(0, 4)
    tl.atomic_min(first, tl.min(levels, 0), sem="relaxed")
    tl.atomic_min(first + 4, -tl.max(levels, 0), sem="relaxed")


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def inverse_palette_kernel(cells, palettes, boxes, offsets, masks, channels: tl.constexpr, block: tl.constexpr):
    """Write the index of the color nearest to each cell, the lowest on ties.

    Program (i, image) processes cells i · block to (i + 1) · block of an image. The cells of an image begin at its
    number in `offsets` (B + 1,). `palettes` (B, 256, 4) and `boxes` (B, 5, 4) are as in `diffuse_kernel`. The last cell
    of each row is for the colors in `masks` (B, 256) if there is alpha. It has the center of the cell before it.
    """
    image = tl.program_id(1).to(tl.int64)
    palette = palettes + image * 1024
    box = boxes + image * 20
    first = tl.load(offsets + image)
    n_cells = tl.load(offsets + image + 1) - first
    shift = tl.load(box + 16)
    cell = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    place = tl.minimum(cell, n_cells - 1)
    is_opaque = place < 0
    centers = ()
    for i in tl.static_range(channels):
        axis = channels - 1 - i
        size = tl.load(box + 8 + axis)
        index = place % size
        place = place // size
        if channels % 2 == 0 and i == 0:
            is_opaque = index == size - 1
            index = tl.minimum(index, size - 2)
        center = (index << shift) + (1 << shift) // 2
        centers = (center.to(tl.float32),) + centers  # noqa: RUF005
    best = tl.full((block,), float("inf"), tl.float32)
    label = tl.zeros((block,), tl.int32)
    n_colors = tl.load(box + 18)
    for k in range(n_colors):
        difference = centers[0] - tl.load(palette + k * 4).to(tl.float32)
        sqdist = difference * difference
        if channels == 2:  # gray with alpha is three equal channels and alpha
            sqdist = (sqdist + difference * difference) + difference * difference
        for channel in tl.static_range(1, channels):
            difference = centers[channel] - tl.load(palette + k * 4 + channel).to(tl.float32)
            sqdist = sqdist + difference * difference
        allowed = (is_opaque == 0) | (tl.load(masks + image * 256 + k) != 0)
        closer = (sqdist < best) & allowed
        best = tl.where(closer, sqdist, best)
        label = tl.where(closer, k, label)
    tl.store(cells + first + cell, label.to(tl.uint8), mask=cell < n_cells)


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
@no_type_check
def diffuse_kernel(
    indices,
    edges,
    images,
    nearest,
    cells,
    palettes,
    boxes,
    offsets,
    strength,
    height,
    width,
    channels: tl.constexpr,
    rows: tl.constexpr,
):
    """Write indices (B, H, W) of images (B, H, W, C). A program processes an image, with one row of it per lane.

    A strip of `rows` rows is processed in waves: in wave t a row has the pixel at t - 2y, whose error depends on waves
    before. `edges` (B, W, 4) has the errors of the last row of the strip above. `palettes` (B, 256, 4) has the colors,
    relative to the corner of the box. `boxes` (B, 5, 4) has the corner, the highest target color, the number of cells
    along each channel, and the number of cells from one cell to the next along each channel; then the binary logarithm
    of the side of a cell, the spacing of the palette, and K.
    """
    image = tl.program_id(0).to(tl.int64)
    n_pixels = height.to(tl.int64) * width
    indices += image * n_pixels
    nearest += image * n_pixels
    images += image * n_pixels * channels
    edge = edges + image * width * 4
    palette = palettes + image * 1024
    box = boxes + image * 20
    cells += tl.load(offsets + image)
    y = tl.arange(0, rows)
    channel = tl.arange(0, 4)[None, :]
    is_alpha = (channel == channels - 1) & (channels % 2 == 0)
    is_first = y[:, None] == 0
    above_row = tl.maximum(y - 1, 0)[:, None] + tl.zeros((rows, 4), tl.int32)
    lowest = tl.load(box + channel)
    span = tl.load(box + 4 + channel)
    stride = tl.load(box + 12 + channel)
    opaque_layer = tl.load(box + 8 + channels - 1) - 1
    shift = tl.load(box + 16)
    limit = tl.load(box + 17)
    zero = tl.zeros((1, 4), tl.int32)
    edge_width = tl.zeros((1, 4), tl.int32)  # of the first strip, which has none above
    for top in range(0, height, rows):
        # Errors of the left pixel, and of the pixels above right, above and above left. They are multiplied by 2^13.
        left = tl.zeros((rows, 4), tl.int32)
        above_left = tl.zeros((rows, 4), tl.int32)
        above = tl.zeros((rows, 4), tl.int32)
        right = tl.where(is_first, tl.load(edge + channel, mask=zero < edge_width, other=0), 0)
        for t in range(0, width + 2 * (tl.minimum(rows, height - top) - 1)):
            x = t - 2 * y
            here = (top + y < height) & (x >= 0) & (x < width)
            pixel = tl.where(here, (top + y).to(tl.int64) * width + x, 0)
            levels, alpha = _levels(images, pixel, here, channels)
            color = levels - lowest
            default = tl.load(nearest + pixel, mask=here, other=0).to(tl.int32)
            difference = tl.abs(color - tl.load(palette + default[:, None] * 4 + channel))
            is_dithered = (tl.max(difference, 1) > 16)[:, None] & (alpha > 0)
            above_left = above
            above = right
            of_edge = tl.load(edge + (t + 1) * 4 + channel, mask=zero + t + 1 < edge_width, other=0)
            right = tl.where(is_first, of_edge, tl.gather(left, above_row, 0))
            target = color + ((7 * left + 3 * right + 5 * above + above_left) >> 13)
            target = tl.minimum(tl.maximum(target, 0), span)
            axis = target >> shift
            if channels % 2 == 0:
                target_alpha = tl.sum(tl.where(is_alpha, target, 0), 1)[:, None] + tl.zeros_like(target)
                target_alpha = tl.where(alpha == 255, 4080, target_alpha)
                target = tl.where(is_alpha, target_alpha, tl.minimum(target, target_alpha))
                axis = tl.where(is_alpha & (alpha == 255), opaque_layer, target >> shift)
            cell = tl.sum(axis * stride, 1)
            chosen = tl.load(cells + cell, mask=here, other=0).to(tl.int32)
            error = target - tl.load(palette + chosen[:, None] * 4 + channel)
            error = (error + tl.minimum(tl.maximum(error, -limit), limit)) * strength
            left = tl.where(here[:, None] & is_dithered, error, 0)
            dithered_row = tl.max(is_dithered.to(tl.int32), 1) > 0
            tl.store(indices + pixel, tl.where(dithered_row, chosen, default).to(tl.uint8), mask=here)
            is_last = (y[:, None] == rows - 1) & here[:, None] & (channel < 4)
            tl.store(edge + x[:, None] * 4 + channel, left, mask=is_last)
        edge_width = zero + width
        tl.debug_barrier()  # all threads have written the edge of this strip
