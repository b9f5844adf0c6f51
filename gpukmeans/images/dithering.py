"""Dithering: palette indices whose colors average, over neighboring pixels, to the colors of the image.

All arithmetic is on integers, in sixteenths of an 8-bit level, so every device returns the same bits. Colors with alpha
are premultiplied, so the errors of nearly transparent pixels are small and do not tint their neighbors.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Literal, SupportsFloat

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import dithering as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.native import dithering as native
from gpukmeans.engines.native.tensors import takes
from gpukmeans.images import rate_distortion
from gpukmeans.images.colorspace import has_alpha, n_color_channels
from gpukmeans.images.histogram import ColorHistogram, check_colors, check_image, unique_colors
from gpukmeans.images.nearest import assign_within_opaque, is_opaque, is_transparent, nearest_indices
from gpukmeans.images.rate_distortion import Objective, blurred_share, none_free
from gpukmeans.summaries import summary
from gpukmeans.tiling import blocks, tiles

Dithering = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""A dithering method: a function that returns indices (H, W). Its arguments are an image (H, W, C), a palette (K, C) of
at least 2 colors, the indices (H, W) of the nearest colors, and the strength in 256ths, from 1 to 256. All tensors are
uint8. The function is called once for each image, unless the palette has one color or the strength rounds to 0."""

# Fixed-point units per 8-bit level.
_LEVEL = 16

# Largest numbers of cells of an inverse palette. The first gives 64 x 64 x 64 cells, or finer cells if the colors fill
# only part of the cube. Small images get fewer cells, so that filling the table does not take longer than using it.
_MAX_CELLS, _MAX_CELLS_PER_PIXEL = 1 << 19, 64

# Largest number of pixels that are prepared for error diffusion at a time. The number of waves is also limited, to the
# larger of the width of the image and `_MIN_WAVES`. `_diffuse` defines the waves.
_CHUNK, _MIN_WAVES = 1 << 16, 64

# Number of pixels that ordered dithering assigns at a time.
_BLOCK = 1 << 18


def dither(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    dithering: str | Dithering = "floyd-steinberg",
    *,
    strength: SupportsFloat = 1.0,
    histogram: ColorHistogram | None = None,
) -> UInt8[Tensor, "h w"]:
    """Palette indices (H, W), uint8, of an image that is dithered with a palette. Equal on all devices.

    "none" takes the nearest color in premultiplied sRGB, the lowest index on ties. The functions `optimized`,
    `floyd_steinberg`, `bayer` and `blue_noise` describe the other methods. All methods but "optimized" map a pixel to
    the nearest color if the two differ by at most one level in each channel. So areas of palette colors stay free of
    noise. All methods map a fully transparent pixel to the nearest color. An opaque pixel takes an opaque color if the
    palette has one.

    Args:
        image: uint8 (H, W, C). Fully transparent pixels should be 0 in all channels (`clear_transparent_pixels`).
        palette: uint8 (K, C), K from 1 to 256.
        dithering: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, from 0 (nearest colors) to 1.
        histogram: a histogram that has all colors of the image. If it is not given, the colors are counted.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has the wrong shape or range, or a `Dithering` function returns wrong indices.

    Example:
        >>> image = torch.full((2, 4, 1), 128, dtype=torch.uint8)
        >>> dither(image, torch.tensor([[0], [255]], dtype=torch.uint8)).tolist()
        [[1, 0, 1, 0], [0, 1, 0, 1]]
    """
    check_image(image)
    return dither_batch(image[None], palette, dithering, strength=strength, histogram=histogram)[0]


def dither_batch(
    images: UInt8[Tensor, "b h w c"],
    palette: UInt8[Tensor, "k c"],
    dithering: str | Dithering,
    *,
    strength: SupportsFloat = 1.0,
    histogram: ColorHistogram | None = None,
) -> UInt8[Tensor, "b h w"]:
    """Palette indices (B, H, W), uint8, of images of one size and one palette, each as by `dither`.

    On CUDA, Floyd-Steinberg takes one launch for all images. The arguments are those of `dither`.
    """
    check_colors(palette, "palette", images, 256, min_colors=1)
    function = check_dithering(dithering)
    strength_256 = round(256 * check_strength(strength))
    # The nearest color does not depend on the image, so a batch is mapped as one tall image.
    tall = images.flatten(0, 1)
    nearest = nearest_indices(tall, histogram or unique_colors(tall), palette).view(images.shape[:-1])
    if not strength_256 or len(palette) == 1:
        return nearest
    if function is floyd_steinberg and has_kernels(images):
        return _diffuse_on_cuda(images, palette, nearest, strength_256)
    indices = []
    for image, default in zip(images, nearest, strict=True):
        indices.append(function(image, palette, default, strength_256))
        _check_indices(indices[-1], default, len(palette))
    return torch.stack(indices)


def none(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """The nearest colors, without dithering."""
    return nearest


def floyd_steinberg(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Error diffusion (Floyd & Steinberg 1976): the error of each pixel is added to neighbors that are processed later.

    The target of a pixel is its color plus the received errors. The error of a pixel is its target minus the chosen
    palette color. The error times the strength is divided among neighbors: 7/16 right, 3/16 below left, 5/16 below and
    1/16 below right. All rows are processed from left to right. To keep errors from accumulating or crossing edges:

    * If an error exceeds the spacing of the palette (`_channel_spacing`) in a channel, half of the excess is dropped.
      Mixtures of two neighboring palette colors keep their mean, because their errors are at most half the spacing.
      Colors outside the range of the palette do not streak over their neighbors. On photos this limit gave the least
      visible error (FLIP).
    * Targets are clamped to the range of the colors of image and palette.
    * Pixels that are not dithered (`_dithered_pixels`) neither receive nor pass on errors.
    * Targets of opaque pixels have alpha 255, and opaque pixels take opaque colors, if there are any.
    * The premultiplied color channels of a target do not exceed its alpha.

    The chosen color is nearest to the center of the target's cell in an `_InversePalette`. It may be farther from the
    target than the nearest color, by less than the diagonal of a cell.
    """
    if has_kernels(image):
        return _diffuse_on_cuda(image[None], palette, nearest[None], strength)[0]
    if takes(image, palette, nearest, dtype=torch.uint8):
        return _diffuse_natively(image.contiguous(), palette, nearest.contiguous(), strength)
    colors, opaque = _levels(palette), is_opaque(palette)
    return _diffuse(image, colors, nearest, strength, _InversePalette(image, colors, opaque))


def _diffuse_natively(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """`_diffuse` with an `_InversePalette`, by native kernels."""
    target = _target(native.color_range(image), palette, nearest.numel())
    box = {"lowest": target.lowest, "sizes": target.sizes, "shift": target.shift}
    cells = native.inverse_palette(target.colors, target.opaque, **box)
    box |= {"span": target.span, "limit": target.limit}
    return native.diffuse(image, target.colors, nearest, cells, **box, strength=strength)


def _diffuse_on_cuda(images: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """`_diffuse` of a batch (B, H, W, C) with an `_InversePalette` for each image, by Triton kernels."""
    palette = palette.cpu()
    targets = [_target(color_range, palette, nearest[0].numel()) for color_range in cuda.color_ranges(images)]
    return cuda.diffuse(images, targets, nearest, strength)


def _target(color_range: Tensor, palette: Tensor, n_pixels: int) -> cuda.Target:
    """The palette and the box of the inverse palette of an image with this range of colors (2, C)."""
    colors, opaque = _levels(palette), is_opaque(palette)
    lowest, span = (values.tolist() for values in _box(color_range, colors))
    shift = _cell_shift(span, n_pixels)
    sizes = [(length >> shift) + 1 for length in span]
    sizes[-1] += has_alpha(palette.shape[1])  # the layer of opaque colors
    opaque = opaque if opaque.any() else ~opaque
    limit = _channel_spacing(colors)
    return cuda.Target(colors, opaque, lowest=lowest, span=span, sizes=sizes, shift=shift, limit=limit)


@torch.inference_mode()  # saves the third of the time that autograd takes for many short operations
def _diffuse(image: Tensor, colors: Tensor, nearest: Tensor, strength: int, inverse: "_InversePalette") -> Tensor:
    """Indices (H, W) by error diffusion in waves. Pixel (y, x) is in wave x + 2y and depends only on earlier waves.

    The pixels of a wave are processed at the same time. The errors of the last waves are stored by image row, with a
    row of zeros above the first. In wave t a pixel receives errors of wave t - 1 (from the left and from above right),
    t - 2 (from above) and t - 3 (from above left).
    """
    (height, width), device = nearest.shape, image.device
    if width == 1:  # a second column, because the stride `width - 2` must not be negative
        image, nearest = image.expand(-1, 2, -1), nearest.expand(-1, 2)
    image, nearest = image.contiguous(), nearest.contiguous()
    with torch.inference_mode(False):  # so that the result can be used with autograd
        indices = torch.empty_like(nearest)
    step = max(indices.shape[1] - 2, 0)
    channels, palette = image.shape[2], (colors - inverse.lowest).T.contiguous()
    limit = _channel_spacing(colors)
    # Tensors, because converting a Python number takes longer than the operation.
    numbers = (7, 4 + 8 + 1, -limit, limit)
    seven, to_sixteenths, lowest, highest = (torch.tensor(n, dtype=torch.int32, device=device) for n in numbers)
    errors = [torch.zeros(len(palette), height + 1, dtype=torch.int32, device=device) for _ in range(4)]
    workspace = torch.empty(len(palette), min(height, (width + 1) // 2), dtype=torch.int32, device=device)
    for waves in blocks(width + 2 * (height - 1), min(_CHUNK // workspace.shape[1], max(width, _MIN_WAVES))):
        chunk_rows = _rows_of_waves(waves.start, waves.stop, height, width)
        chunk = _chunk_of_waves(image, nearest, waves, slice(*chunk_rows), palette, strength, inverse)
        for t, wave in enumerate(chunk.unbind(1), waves.start):
            top, end = _rows_of_waves(t, t + 1, height, width)
            n = end - top
            pixels, received = wave.narrow(1, top - chunk_rows[0], n), workspace.narrow(1, 0, n)
            error, last, second, third = errors
            errors = [third, error, last, second]
            torch.mul(last.narrow(1, top + 1, n), seven, out=received)
            received.add_(last.narrow(1, top, n), alpha=3)
            received.add_(second.narrow(1, top, n), alpha=5)
            received.add_(third.narrow(1, top, n))
            received.bitwise_right_shift_(to_sixteenths)
            target = pixels.narrow(0, 0, channels)
            torch.clamp(target.add_(received), inverse.zero, inverse.span, out=target)
            least_cell = None
            if len(pixels) > channels + 2:
                color, alpha = target[:-1], target[-1]
                least_alpha, least_cell = pixels[channels + 2 :]
                torch.maximum(alpha, least_alpha, out=alpha)
                torch.minimum(color, alpha, out=color)
            chosen = inverse(target, received, least_cell, pixels.select(0, channels + 1))
            if t % 2 == width % 2:  # the row above `top` has no pixel in this wave, so it passes on no error
                error.select(1, top).zero_()
            error = error.narrow(1, top + 1, n)
            torch.sub(target, palette.index_select(1, chosen), out=error)
            # Twice the error to pass on: error + clamped error. So half of the excess over the limit is dropped.
            error.add_(torch.clamp(error, lowest, highest, out=received)).mul_(pixels.select(0, channels))
            indices.as_strided((n,), (step,), t + top * step).copy_(chosen)
    return indices[:, :width]


def _rows_of_waves(first: int, end: int, height: int, width: int) -> tuple[int, int]:
    """First row with a pixel (y, t - 2y) in a wave t in range(first, end), and the row after the last such row.

    The two are equal for odd waves of an image that is one pixel wide, because these have no pixel.
    """
    return max(0, (first - width + 2) // 2), min(height, (end + 1) // 2)


def _chunk_of_waves(
    image: Tensor,
    nearest: Tensor,
    waves: slice,
    rows: slice,
    palette: Tensor,
    strength: int,
    inverse: "_InversePalette",
) -> Tensor:
    """Planes (C + 2, T, R), int32, of pixels (y, t - 2y) for T waves t and R rows y of the image (H, W, C).

    * C planes: the channels, relative to the corner of the inverse palette.
    * One plane: the strength in 256ths, 0 for pixels that are not dithered.
    * One plane: a lower bound of the entry in the inverse palette. It is 0 for dithered pixels, and the entry of the
      nearest color for the other pixels.
    * With alpha two more planes: lower bounds of the target's alpha and of its alpha cell, 0 for translucent pixels.

    In a contiguous image, pixel (y, t - 2y) has the number t + y(W - 2). If t - 2y is outside the row, the planes have
    the values of another pixel.
    """
    width, channels = image.shape[1:]
    shape, start = (waves.stop - waves.start, rows.stop - rows.start), waves.start + rows.start * (width - 2)
    pixels = image.as_strided(
        (channels, *shape), (1, channels, (width - 2) * channels), image.storage_offset() + start * channels
    )
    pixels = pixels.contiguous().movedim(0, -1)
    default = nearest.as_strided(shape, (1, width - 2), nearest.storage_offset() + start).int()
    levels = _levels(pixels).sub_(inverse.lowest)
    best = palette.index_select(1, default.flatten()).view(channels, *shape).movedim(0, -1)
    dithered = _dithered_pixels(pixels, levels, best)
    entries = (default + inverse.n_cells).masked_fill_(dithered, 0)
    planes = [*levels.movedim(-1, 0), strength * dithered.int(), entries]
    if has_alpha(channels):
        opaque = is_opaque(pixels).int()
        planes += [255 * _LEVEL * opaque, inverse.opaque_layer * opaque]
    return torch.stack(planes)


class _InversePalette:
    """Table of the nearest palette color in each cell of a box around all colors of image and palette.

    The image (H, W, C) is uint8, and the palette (K, C) is in sixteenths of a level. Cells are cubes. Their side is the
    smallest power of two with at most `_MAX_CELLS` cells, and at most `_MAX_CELLS_PER_PIXEL` cells for each pixel. For
    grey images of 64 pixels or more, without alpha, the side is 1 sixteenth of a level, so the table is exact.

    With alpha, a layer of cells above the highest alpha has the nearest opaque color, for opaque pixels. After the
    cells, the table has an entry for each palette color.
    """

    def __init__(self, image: Tensor, palette: Tensor, opaque: Tensor) -> None:
        lowest, span = _box(_color_range(image), palette)
        self.lowest = lowest
        """The lowest corner (C,) of the box, which is subtracted from target colors."""
        self.span = span[:, None]
        """The highest target color (C, 1), relative to the corner."""
        self.zero = torch.zeros_like(self.span)
        spans = span.tolist()
        shift = _cell_shift(spans, image.shape[0] * image.shape[1])
        self._shift = torch.tensor(shift, dtype=torch.int32, device=palette.device)
        self._sizes = [(span >> shift) + 1 for span in spans]
        axes = [(torch.arange(size, device=palette.device) << shift) + (1 << shift) // 2 for size in self._sizes]
        self.opaque_layer = self._sizes[-1]
        """Number of the layer of alpha cells for opaque pixels."""
        if has_alpha(palette.shape[1]):
            axes[-1] = torch.cat([axes[-1], axes[-1][-1:]])
            self._sizes[-1] += 1
        centers = torch.cartesian_prod(*axes).view(-1, len(axes)) + lowest
        rows = torch.arange(len(centers), device=palette.device) % self._sizes[-1]
        labels = assign_within_opaque(_points(centers), rows == self.opaque_layer, _points(palette), opaque).labels
        self.n_cells = len(centers)
        """Number of cells. The entries of the palette colors begin here."""
        self._nearest = torch.cat([labels.int(), torch.arange(len(palette), dtype=torch.int32, device=palette.device)])

    def __call__(self, target: Tensor, workspace: Tensor, least_cell: Tensor | None, least_entry: Tensor) -> Tensor:
        """Indices (N,), int32, for target colors (C, N), int32, from `zero` to `span`. Overwrites the workspace.

        `least_cell` (N,) are lower bounds of the alpha cells: `opaque_layer` for opaque pixels, otherwise 0.
        `least_entry` (N,) are lower bounds of the entries of the table: `n_cells` plus the index for pixels that are
        not dithered, otherwise 0.
        """
        cells = torch.bitwise_right_shift(target, self._shift, out=workspace)
        if least_cell is not None:
            torch.maximum(cells[-1], least_cell, out=cells[-1])
        cell = cells[0]
        for axis, size in zip(cells[1:], self._sizes[1:], strict=True):
            cell = torch.add(axis, cell, alpha=size, out=axis)
        return self._nearest.index_select(0, torch.maximum(cell, least_entry, out=cell))


def _color_range(image: Tensor) -> Tensor:
    """Lowest and highest value (2, C), int32, of each channel of an image, premultiplied, in sixteenths."""
    pixels = image.flatten(0, 1)
    ranges = [torch.stack(_levels(pixels[block]).aminmax(dim=0)) for block in blocks(len(pixels), _BLOCK)]
    return torch.stack(torch.cat(ranges).aminmax(dim=0))


def _box(color_range: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Corner and extent (C,), int32, of a box around a range (2, C) and the colors of a palette, in sixteenths."""
    lowest, highest = torch.cat([color_range, colors]).aminmax(dim=0)
    if has_alpha(colors.shape[1]):
        lowest = torch.zeros_like(lowest)  # the same corner in all channels, because color is compared with alpha
    return lowest, highest - lowest


def _cell_shift(spans: Sequence[int], n_pixels: int) -> int:
    """Binary logarithm of the side of the cells of an inverse palette whose box has the extents `spans`."""
    shift = 0
    max_cells = min(_MAX_CELLS, _MAX_CELLS_PER_PIXEL * n_pixels)
    while math.prod((span >> shift) + 1 for span in spans) > max_cells:
        shift += 1
    return shift


def bayer(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Ordered dithering with the 8 x 8 threshold matrix of Bayer (1973), a regular pattern; see `_ordered`.

    An index depends only on the color and the position of its pixel, which suits pixel art and animations. On photos
    error diffusion looks better.
    """
    return _ordered(image, palette, nearest, strength, bayer_ranks())


def blue_noise(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Ordered dithering with a 64 x 64 blue-noise mask (Ulichney 1993), without a visible pattern; see `_ordered`.

    Its even texture suits gradients. As with `bayer`, an index depends only on the color and the position of its pixel,
    which suits animations. On photos error diffusion looks better.
    """
    return _ordered(image, palette, nearest, strength, blue_noise_ranks())


def _ordered(image: Tensor, palette: Tensor, nearest: Tensor, strength: int, ranks: Tensor) -> Tensor:
    """Indices (H, W) of the palette colors nearest to the pixels plus an offset that depends on the position.

    The offset is equal in all channels. With alpha, the offset of the color channels is multiplied by alpha / 255. The
    offsets of the threshold matrix `ranks` (n, n) are evenly spaced from -1/2 to 1/2 of the palette's spacing
    (`_channel_spacing`) times the strength. Pixels that are not dithered (`_dithered_pixels`) take the nearest color.
    Opaque pixels keep alpha 255 and take opaque colors, if there are any. The premultiplied color channels of a pixel
    plus its offset do not exceed its alpha.
    """
    colors, side = _levels(palette), len(ranks)
    amplitude = _channel_spacing(colors) * strength // 256
    # Rank r of n becomes the middle of the r-th of n equal intervals.
    offsets = torch.div(amplitude * (2 * ranks + 1 - side**2), 2 * side**2, rounding_mode="floor").int()
    offsets, centers, opaque_centers = offsets.to(image.device), _points(colors), is_opaque(palette)
    indices = torch.empty_like(nearest)
    height, width = nearest.shape
    for tile in tiles(height, width, _BLOCK):
        pixels, default = image[tile], nearest[tile]
        levels = _levels(pixels)
        y, x = (torch.arange(s.start, s.stop, device=image.device) % side for s in tile)
        points = _points(_with_offsets(levels, offsets.index_select(0, y).index_select(1, x)[..., None]).flatten(0, 1))
        labels = assign_within_opaque(points, is_opaque(pixels).flatten(), centers, opaque_centers).labels
        best = colors.index_select(0, default.flatten().int()).view(levels.shape)
        dithered = _dithered_pixels(pixels, levels, best)
        indices[tile] = torch.where(dithered, labels.view(default.shape).to(torch.uint8), default)
    return indices


def _with_offsets(levels: Tensor, offsets: Tensor) -> Tensor:
    """Colors (H, W, C) plus offsets (H, W, 1), both in sixteenths of a level, limited as described at `_ordered`."""
    if not has_alpha(levels.shape[-1]):
        return (levels + offsets).clamp_(0, 255 * _LEVEL)
    color, alpha = levels[..., :-1], levels[..., -1:]
    new_alpha = torch.where(alpha == 255 * _LEVEL, alpha, (alpha + offsets).clamp_(0, 255 * _LEVEL))
    offsets = torch.div(offsets * alpha, 255 * _LEVEL, rounding_mode="floor")
    return torch.cat([torch.minimum((color + offsets).clamp_(min=0), new_alpha), new_alpha], dim=2)


def bayer_ranks(side: int = 8) -> Int[Tensor, "n n"]:
    """Ranks 0 to n² - 1 of the threshold matrix of Bayer (1973), int64, for n a power of two."""
    ranks = torch.zeros(1, 1, dtype=torch.int64, device="cpu")
    while len(ranks) < side:
        ranks = 4 * ranks
        ranks = torch.cat([torch.cat([ranks, ranks + 2], dim=1), torch.cat([ranks + 3, ranks + 1], dim=1)])
    return ranks


@functools.cache
def blue_noise_ranks(side: int = 64) -> Int[Tensor, "n n"]:
    """Ranks 0 to n² - 1 of a blue-noise mask, int64, by the void-and-cluster method (Ulichney 1993).

    For any m, the positions of the ranks below m are evenly distributed without a pattern, also across the borders. The
    density at a position is a sum over the chosen positions: (4/5)^d² at distance d, a Gaussian of sigma 1.5, in fixed
    point. Positions are added where the density is lowest and removed where it is highest, the first on ties. The
    result is cached, so do not modify it.
    """
    # The kernel is twice as wide and high as the mask, so that each of its cyclic shifts is a view.
    axis = [min(abs(x), side - abs(x)) for x in range(-side, side)]
    weights = [[4 ** (y * y + x * x) * 2**50 // 5 ** (y * y + x * x) for x in axis] for y in axis]
    kernel = torch.tensor(weights, device="cpu")
    chosen = torch.zeros(side * side, dtype=torch.bool, device="cpu")
    density = torch.zeros(side, side, dtype=torch.int64, device="cpu")
    largest = torch.iinfo(torch.int64).max

    def set_chosen(position: int, value: bool) -> None:
        y, x = divmod(position, side)
        chosen[position] = value
        shifted = kernel[side - y : 2 * side - y, side - x : 2 * side - x]
        density.add_(shifted, alpha=1 if value else -1)

    def tightest_cluster() -> int:
        return int(torch.where(chosen, density.view(-1), -1).argmax())

    def largest_void() -> int:
        return int(torch.where(chosen, largest, density.view(-1)).argmin())

    # An arbitrary tenth of the positions is made even: the tightest cluster moves to the largest void until it stays.
    positions = torch.arange(side * side, device="cpu")
    initial = ((positions * positions * 40503 + positions * 30011) % 65521).argsort(stable=True)[: side * side // 10]
    for position in initial.tolist():
        set_chosen(position, True)
    while True:
        removed = tightest_cluster()
        set_chosen(removed, False)
        added = largest_void()
        set_chosen(added, True)
        if added == removed:
            break
    ranks = torch.empty(side * side, dtype=torch.int64, device="cpu")
    even, even_density = chosen.clone(), density.clone()
    for rank in range(len(initial) - 1, -1, -1):
        position = tightest_cluster()
        set_chosen(position, False)
        ranks[position] = rank
    chosen.copy_(even)
    density.copy_(even_density)
    # For the upper half of the ranks Ulichney takes the tightest cluster of the positions not chosen. All shifts of the
    # kernel have the same total, so this position is the largest void of the chosen positions.
    for rank in range(len(initial), side * side):
        position = largest_void()
        set_chosen(position, True)
        ranks[position] = rank
    return ranks.view(side, side)


def optimized(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Indices with a small error after a blur, optimized in rounds over all pixels (`images.rate_distortion`).

    The weight of the blurred error is the strength times `BLURRED_SHARE`. This function does not change the palette,
    but `quantize` does.
    """
    objective = Objective(share=blurred_share(strength / 256), price=0)
    return rate_distortion.optimized(image, palette, nearest, objective, free=none_free(palette)).indices


DitheringName = Literal["none", "optimized", "floyd-steinberg", "bayer", "blue-noise"]
"""A name of `DITHERINGS`."""

DITHERINGS: dict[str, Dithering] = {
    "none": none,
    "optimized": optimized,
    "floyd-steinberg": floyd_steinberg,
    "bayer": bayer,
    "blue-noise": blue_noise,
}
"""Dithering methods by name."""


def _levels(colors: Tensor) -> Tensor:
    """Premultiplied colors (..., C) in sixteenths of a level, int32."""
    levels = colors.int().mul_(_LEVEL)
    if has_alpha(levels.shape[-1]):
        color, alpha = levels[..., :-1], levels[..., -1:]
        opaque = 255 * _LEVEL
        color.mul_(alpha).add_(opaque // 2).div_(opaque, rounding_mode="floor")
    return levels


def _points(levels: Tensor) -> Tensor:
    """Points to assign, float32, for colors (M, C) in sixteenths. With alpha, grey becomes three equal channels."""
    points = levels.float()
    return points[:, [0, 0, 0, 1]] if points.shape[1] == 2 else points


def _dithered_pixels(image: Tensor, levels: Tensor, best: Tensor) -> Tensor:
    """Mask (...) of the pixels (..., C) to dither.

    These are not fully transparent and differ by more than one level from the nearest color in some channel. `levels`
    and `best` (..., C) are the pixels and their nearest colors in sixteenths, relative to the same color. Overwrites
    `best`.
    """
    mask = (best.sub_(levels).abs_() > _LEVEL).any(dim=-1)
    return mask & ~is_transparent(image)


def _channel_spacing(colors: Tensor) -> int:
    """Typical difference per channel of neighboring colors of a palette (K, C), in sixteenths; 0 if all are equal.

    This is the lower median, over the colors, of the distance to the nearest different color, divided by the square
    root of the number of color channels. So two greys at this distance differ by the spacing in each channel.
    """
    sqdist = (colors[:, None].long() - colors.long()).square_().sum(dim=2)
    sqdist[sqdist == 0] = torch.iinfo(torch.int64).max
    nearest = sqdist.amin(dim=1)
    nearest = nearest[nearest < torch.iinfo(torch.int64).max]
    spacing = math.isqrt(int(nearest.median())) if len(nearest) else 0
    return math.isqrt(spacing**2 // n_color_channels(colors.shape[1]))


def check_dithering(dithering: str | Dithering) -> Dithering:
    """The method of this name, or the function itself. ValueError for an unknown name, TypeError for other types."""
    if isinstance(dithering, str):
        if dithering not in DITHERINGS:
            raise ValueError(f"dither must be one of {', '.join(DITHERINGS)} or a function, got {dithering!r}")
        return DITHERINGS[dithering]
    if not callable(dithering):
        raise TypeError(f"dither must be a name or a function, got {type(dithering).__name__}")
    return dithering


def _check_indices(indices: object, nearest: Tensor, n_colors: int) -> None:
    """ValueError unless a function returned indices below `n_colors`, of the shape, dtype and device of `nearest`."""
    if not isinstance(indices, Tensor):
        received = type(indices).__name__
    elif summary(indices) != summary(nearest):
        received = summary(indices)
    elif (highest := int(indices.max())) >= n_colors:
        received = f"an index of {highest}"
    else:
        return
    raise ValueError(f"dither must return {summary(nearest)}, with indices below {n_colors}, got {received}")


def check_strength(strength: object) -> float:
    """The strength, if it is a number from 0 to 1. TypeError or ValueError otherwise."""
    return check_number("strength", strength, most=1.0)


def check_number(name: str, value: object, most: float) -> float:
    """The value, if it is a number from 0 to `most`. TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be from 0 to {most:g}, got {value}")
    return number
