"""Dithering: palette indices whose colors average, over neighboring pixels, to the colors of the image.

All arithmetic is on integers, in sixteenths of an 8-bit level, so every device returns the same bits. Colors with alpha
are premultiplied: errors are measured as they are visible, and nearly transparent pixels do not tint their neighbors.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Literal, SupportsFloat

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.images.colorspace import has_alpha
from gpukmeans.images.histogram import check_image, unique_colors
from gpukmeans.images.nearest import assign_within_opaque, is_opaque, nearest_colors
from gpukmeans.summaries import summary
from gpukmeans.tiling import blocks

Dithering = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""A dithering method: indices (H, W) from an image (H, W, C), a palette (K, C) of at least 2 colors, the indices (H, W)
of the nearest colors, and the strength in 256ths, from 1 to 256. All tensors are uint8. It is called once for each
image, unless the palette has one color or the strength is 0."""

# Fixed-point units per 8-bit level.
_LEVEL = 16

# Cells of the inverse palette: 64 x 64 x 64, or finer if the colors fill only part of the cube. Small images get fewer,
# so that filling the table does not take longer than using it.
_MAX_CELLS, _MAX_CELLS_PER_PIXEL = 1 << 19, 64

# Number of pixels assigned at a time by ordered dithering.
_BLOCK = 1 << 20


def dither(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    dithering: str | Dithering = "floyd-steinberg",
    *,
    strength: SupportsFloat = 1.0,
) -> UInt8[Tensor, "h w"]:
    """Palette indices (H, W), uint8, of the pixels of a uint8 image (H, W, C) dithered with a palette (K, C).

    "none" takes the nearest color in premultiplied sRGB (`images.colorspace.SRGB`), the lowest index on ties. For the
    other methods see `floyd_steinberg`, `bayer` and `blue_noise`. A pixel takes the nearest color without dithering if
    its color is within one level of it in each channel, so areas of palette colors stay free of noise. So does a fully
    transparent pixel, which should be 0 in all channels (`clear_transparent_pixels`). An opaque pixel takes an opaque
    color if the palette has one. The `strength` goes from 0, no dithering, to 1. Every device returns the same indices.

    Raises TypeError or ValueError for other input.
    """
    check_image(image)
    _check_palette(palette, image)
    function = check_dithering(dithering)
    strength_256 = round(256 * check_strength(strength))
    nearest = _nearest(image, palette)
    if not strength_256 or len(palette) == 1:
        return nearest
    indices = function(image, palette, nearest, strength_256)
    _check_indices(indices, nearest, len(palette))
    return indices


def none(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """The nearest colors, without dithering."""
    return nearest


def floyd_steinberg(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Error diffusion (Floyd & Steinberg 1976): the error of each pixel is added to neighbors that come after it.

    The error times the strength is divided: 7/16 goes right, 3/16 below left, 5/16 below and 1/16 below right. All rows
    run from left to right. To keep errors from accumulating or crossing edges:

    * An error that exceeds the spacing of the palette (`_channel_spacing`) in a channel loses half of the excess.
      Mixtures of two neighboring colors keep their mean, because their errors are at most half the spacing. Colors
      outside the range of the palette leave no trail. On photos this gave the least visible error (FLIP).
    * The target color, that of the image plus errors, is clamped to the range of the colors of image and palette.
    * Pixels that are not dithered (`_dithered_pixels`) neither receive nor pass on errors.
    * Opaque pixels keep an opaque target and take an opaque color; no target has a color above its alpha.

    The color chosen is the one nearest to the center of the target's cell in an `_InversePalette`: sometimes the second
    nearest, farther by less than a cell. The error is that of the color chosen, so later pixels compensate for it too.
    """
    target, colors = _levels(image), _levels(palette)
    dithered = _dithered_pixels(image, target, colors, nearest)
    inverse = _InversePalette(target, colors, is_opaque(palette))
    planes = [*(target - inverse.lowest).movedim(2, 0), strength * dithered]
    if has_alpha(image.shape[-1]):
        opaque = is_opaque(image)
        planes += [torch.where(opaque, least, 0) for least in (255 * _LEVEL, inverse.opaque_layer)]
    # One more column at the right, of strength 0, absorbs the errors that leave the image.
    planes = torch.nn.functional.pad(torch.stack([plane.short() for plane in planes]), (0, 1))
    indices = _diffuse(planes, colors - inverse.lowest, inverse, _channel_spacing(colors))
    return torch.where(dithered, indices, nearest)


@torch.inference_mode()  # saves a third of the time, which many short operations spend on tracking gradients
def _diffuse(planes: Tensor, colors: Tensor, inverse: "_InversePalette", limit: int) -> Tensor:
    """Indices (H, W) by error diffusion in waves. Pixel (y, x) is in wave x + 2y and depends only on earlier waves.

    The planes (C + 1, H, W + 1), int16, are the channels of the image and the strength in 256ths; with alpha two more,
    the minima of the target alpha and of its cell. Pixel (y, x) has offset y·(W + 1) + x in a plane, so wave t is the
    strided view of t + y·(W - 1).

    Errors are stored per image row, with one row of zeros above the first. In wave t a row receives the errors of wave
    t - 1 (from its left, and from above right), t - 2 (from above) and t - 3 (from above left).
    """
    n_planes, height, pitch = planes.shape
    channels, device = colors.shape[1], planes.device
    max_wave = min(height, pitch // 2 + 1)
    palette = colors.T.contiguous()
    # Tensors, because converting a Python number takes longer than the operation.
    numbers = (7, 4 + 8 + 1, -limit, limit)
    seven, to_sixteenths, lowest, highest = (torch.tensor(n, dtype=torch.int32, device=device) for n in numbers)
    errors = [torch.zeros(channels, height + 1, dtype=torch.int32, device=device) for _ in range(4)]
    wave = torch.empty(n_planes, max_wave, dtype=torch.int32, device=device)
    workspace = torch.empty(channels, max_wave, dtype=torch.int32, device=device)
    indices = torch.empty(height, pitch, dtype=torch.uint8, device=device)
    for t in range(pitch + 2 * (height - 1)):
        top = max(0, (t - pitch + 2) // 2)
        n = min(height - 1, t // 2) + 1 - top
        start = t + top * (pitch - 2)
        pixels, received = wave.narrow(1, 0, n), workspace.narrow(1, 0, n)
        pixels.copy_(planes.as_strided((n_planes, n), (height * pitch, pitch - 2), start))
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
        if n_planes > channels + 1:
            color, alpha = target[:-1], target[-1]
            least_alpha, least_cell = pixels[channels + 1 :]
            torch.maximum(alpha, least_alpha, out=alpha)
            torch.minimum(color, alpha, out=color)
        chosen = inverse(target, received, least_cell)
        error = error.narrow(1, top + 1, n)
        torch.sub(target, palette.index_select(1, chosen), out=error)
        # Twice the error passed on: half of what exceeds the limit is dropped.
        error.add_(torch.clamp(error, lowest, highest, out=received)).mul_(pixels[channels])
        indices.as_strided((n,), (pitch - 2,), start).copy_(chosen)
    return indices[:, : pitch - 1]


class _InversePalette:
    """Table of the nearest palette color in each cell of a box around all colors of image and palette.

    Image (H, W, C) and palette (K, C) are in sixteenths of a level. Cells are cubes whose side is the smallest power of
    two that makes no more than `_MAX_CELLS` of them. For grey the side is 1, so the table is exact, except for the
    smallest images.

    With alpha, one more layer of cells, above the highest alpha, holds the nearest opaque color for opaque pixels.
    """

    def __init__(self, image: Tensor, palette: Tensor, opaque: Tensor) -> None:
        colors = torch.cat([image.flatten(0, 1), palette])
        lowest, highest = torch.aminmax(colors, dim=0)
        if has_alpha(palette.shape[1]):
            lowest = torch.zeros_like(lowest)  # one origin for all channels, because color is compared with alpha
        self.lowest = lowest
        """(C,), the corner of the box, to which target colors are relative."""
        self.span = (highest - lowest)[:, None]
        """(C, 1), the highest target color."""
        self.zero = torch.zeros_like(self.span)
        spans = self.span.flatten().tolist()
        shift = 0
        max_cells = min(_MAX_CELLS, _MAX_CELLS_PER_PIXEL * image.shape[0] * image.shape[1])
        while math.prod((span >> shift) + 1 for span in spans) > max_cells:
            shift += 1
        self._shift = torch.tensor(shift, dtype=torch.int32, device=palette.device)
        self._sizes = [(span >> shift) + 1 for span in spans]
        axes = [(torch.arange(size, device=palette.device) << shift) + (1 << shift) // 2 for size in self._sizes]
        self.opaque_layer = self._sizes[-1]
        """The alpha cell of opaque pixels."""
        if has_alpha(palette.shape[1]):
            axes[-1] = torch.cat([axes[-1], axes[-1][-1:]])
            self._sizes[-1] += 1
        centers = torch.cartesian_prod(*axes).view(-1, len(axes)) + lowest
        rows = torch.arange(len(centers), device=palette.device) % self._sizes[-1]
        labels = assign_within_opaque(_points(centers), rows == self.opaque_layer, _points(palette), opaque).labels
        self._nearest = labels.int()

    def __call__(self, target: Tensor, workspace: Tensor, least_cell: Tensor | None) -> Tensor:
        """Indices (N,), int32, for target colors (C, N), int32, from `zero` to `span`. Overwrites the workspace.

        `least_cell` (N,) is the minimum of the alpha cells, `opaque_layer` for opaque pixels.
        """
        cells = torch.bitwise_right_shift(target, self._shift, out=workspace)
        if least_cell is not None:
            torch.maximum(cells[-1], least_cell, out=cells[-1])
        cell = cells[0]
        for axis, size in zip(cells[1:], self._sizes[1:], strict=True):
            cell = torch.add(axis, cell, alpha=size, out=axis)
        return self._nearest.index_select(0, cell)


def bayer(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Ordered dithering with the 8 x 8 threshold matrix of Bayer (1973), a regular pattern; see `_ordered`."""
    return _ordered(image, palette, nearest, strength, bayer_ranks())


def blue_noise(image: Tensor, palette: Tensor, nearest: Tensor, strength: int) -> Tensor:
    """Ordered dithering with a 64 x 64 blue-noise mask (Ulichney 1993), without a visible pattern; see `_ordered`."""
    return _ordered(image, palette, nearest, strength, blue_noise_ranks())


def _ordered(image: Tensor, palette: Tensor, nearest: Tensor, strength: int, ranks: Tensor) -> Tensor:
    """Indices (H, W) of the colors nearest to those of the image plus an offset that depends on the position.

    The offset is equal in all channels; with alpha, that of color is multiplied by alpha. Over the threshold matrix
    offsets are uniform from -1/2 to 1/2 of the palette's spacing (`_channel_spacing`) times the strength. Only some
    pixels are dithered (`_dithered_pixels`). Opaque pixels keep an opaque target and take an opaque color; no target
    has a color above its alpha.
    """
    height, width = nearest.shape
    target, colors = _levels(image), _levels(palette)
    dithered = _dithered_pixels(image, target, colors, nearest)
    amplitude = _channel_spacing(colors) * strength // 256
    side = len(ranks)
    ranks = ranks.to(image.device).repeat(-(-height // side), -(-width // side))[:height, :width]
    # Rank r of n becomes the middle of the r-th of n equal intervals.
    denominator = 2 * side**2
    offsets = torch.div(amplitude * (2 * ranks + 1 - side**2), denominator, rounding_mode="floor").int()[..., None]
    if has_alpha(image.shape[-1]):
        alpha = target[..., -1:]
        new_alpha = torch.where(alpha == 255 * _LEVEL, alpha, (alpha + offsets).clamp_(0, 255 * _LEVEL))
        offsets = torch.div(offsets * alpha, 255 * _LEVEL, rounding_mode="floor")
        target = torch.cat([torch.minimum((target[..., :-1] + offsets).clamp_(min=0), new_alpha), new_alpha], dim=2)
    else:
        target = (target + offsets).clamp_(0, 255 * _LEVEL)
    target, centers = target.flatten(0, 1), _points(colors)
    opaque, opaque_centers = is_opaque(image).flatten(), is_opaque(palette)
    chosen = [
        assign_within_opaque(_points(target[block]), opaque[block], centers, opaque_centers).labels.to(torch.uint8)
        for block in blocks(len(target), _BLOCK)
    ]
    return torch.where(dithered, torch.cat(chosen).view(height, width), nearest)


def bayer_ranks(side: int = 8) -> Int[Tensor, "n n"]:
    """Ranks 0 to n² - 1 of the threshold matrix of Bayer (1973), int64, for n a power of two."""
    ranks = torch.zeros(1, 1, dtype=torch.int64, device="cpu")
    while len(ranks) < side:
        ranks = 4 * ranks
        ranks = torch.cat([torch.cat([ranks, ranks + 2], dim=1), torch.cat([ranks + 3, ranks + 1], dim=1)])
    return ranks


@functools.cache
def blue_noise_ranks(side: int = 64) -> Int[Tensor, "n n"]:
    """Ranks 0 to n² - 1 of a blue-noise mask, int64, by the void-and-cluster method (Ulichney 1993). Do not modify it.

    For any m, the positions of the first m ranks are evenly distributed without a pattern, also across the borders. The
    density at a position is the sum over the chosen positions at distance d of (4/5)^d², a Gaussian of sigma 1.5 in
    integers. Positions are added where the density is lowest and removed where it is highest, the first on ties.
    """
    # Centered in a field twice as large, so that every cyclic shift of the kernel is a view.
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

    # An arbitrary tenth of the positions, made even by moving the tightest cluster to the largest void until it stays.
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
    # kernel have the same total, so that is the largest void of the chosen ones.
    for rank in range(len(initial), side * side):
        position = largest_void()
        set_chosen(position, True)
        ranks[position] = rank
    return ranks.view(side, side)


DitheringName = Literal["none", "floyd-steinberg", "bayer", "blue-noise"]
"""A name of `DITHERINGS`."""

DITHERINGS: dict[str, Dithering] = {
    "none": none,
    "floyd-steinberg": floyd_steinberg,
    "bayer": bayer,
    "blue-noise": blue_noise,
}
"""Dithering methods by name."""


def _nearest(image: Tensor, palette: Tensor) -> Tensor:
    """Indices (H, W), uint8, of the palette colors nearest to the pixels."""
    histogram = unique_colors(image)
    labels = nearest_colors(histogram.colors, palette).labels
    return histogram.map_values(labels.to(torch.uint8), image)


def _levels(colors: Tensor) -> Tensor:
    """Premultiplied colors (..., C) in sixteenths of a level, int32."""
    colors = _LEVEL * colors.int()
    if not has_alpha(colors.shape[-1]):
        return colors
    color, alpha = colors[..., :-1], colors[..., -1:]
    opaque = 255 * _LEVEL
    return torch.cat([torch.div(color * alpha + opaque // 2, opaque, rounding_mode="floor"), alpha], dim=-1)


def _points(levels: Tensor) -> Tensor:
    """Points to assign, float32, of colors (M, C) in sixteenths. Grey with alpha becomes three equal channels."""
    points = levels.float()
    return points[:, [0, 0, 0, 1]] if points.shape[1] == 2 else points


def _dithered_pixels(image: Tensor, target: Tensor, colors: Tensor, nearest: Tensor) -> Tensor:
    """Mask (H, W) of the pixels to dither: not fully transparent, and more than a level off the nearest color."""
    difference = (target - colors.index_select(0, nearest.flatten().int()).view(target.shape)).abs_()
    mask = (difference > _LEVEL).any(dim=2)
    return mask & (image[..., -1] > 0) if has_alpha(image.shape[-1]) else mask


def _channel_spacing(colors: Tensor) -> int:
    """Typical difference per channel of neighboring colors of a palette (K, C), in sixteenths; 0 if all are equal.

    The lower median of the distances of each color to the nearest different one, rounded down. It is converted to the
    difference of greys at that distance: divided by the square root of the number of color channels.
    """
    sqdist = (colors[:, None].long() - colors.long()).square_().sum(dim=2)
    sqdist[sqdist == 0] = torch.iinfo(torch.int64).max
    nearest = sqdist.amin(dim=1)
    nearest = nearest[nearest < torch.iinfo(torch.int64).max]
    spacing = math.isqrt(int(nearest.median())) if len(nearest) else 0
    return math.isqrt(spacing**2 // (colors.shape[1] - has_alpha(colors.shape[1])))


def _check_palette(palette: object, image: Tensor) -> None:
    if not isinstance(palette, Tensor):
        raise TypeError(f"palette must be a tensor, got {type(palette).__name__}")
    if palette.dtype != torch.uint8:
        raise TypeError(f"palette must be uint8, got {palette.dtype}")
    channels = image.shape[2]
    fits = palette.ndim == 2 and 1 <= len(palette) <= 256 and palette.shape[1] == channels
    if not fits or palette.device != image.device:
        raise ValueError(
            f"palette must have shape (K, {channels}), K from 1 to 256, on {image.device}, like image,"
            f" got shape {tuple(palette.shape)} on {palette.device}"
        )


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
    if isinstance(strength, bool) or not isinstance(strength, numbers.Real):
        raise TypeError(f"strength must be a number, got {type(strength).__name__}")
    value = float(strength)
    if not 0 <= value <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    return value
