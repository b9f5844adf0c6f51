"""Dithering: the few colors of a palette set so that from afar they mix to the colors of an image.

All of it is arithmetic of integers, in sixteenths of a level: a level is one of 255 steps of a channel. So every device
gives the same bits. With alpha, colors are premultiplied: that is what is seen, so an error is as large as it looks,
and the color of a faint pixel cannot darken or tint its neighbours.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.assignment import assign
from gpukmeans.images.colorspace import SRGB
from gpukmeans.images.histogram import check_image, unique_colors
from gpukmeans.tiling import blocks

Dithering = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""From an image (H, W, C), a palette (K, C), K at least 2, the indices (H, W) of the nearest colors and the strength in
256ths, 1 to 256: indices (H, W), all uint8."""

_LEVEL = 16

# Cells of an inverse palette: 64 x 64 x 64, or finer where the colors do not fill the whole cube. For small images
# fewer, as to fill them should not take longer than to use them.
_CELLS, _CELLS_A_PIXEL = 1 << 19, 64

# Pixels whose wanted colors are held at a time.
_BLOCK = 1 << 20


def dither(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    dithering: str | Dithering = "floyd-steinberg",
    *,
    strength: float = 1.0,
) -> UInt8[Tensor, "h w"]:
    """For each pixel of a uint8 image (H, W, C) the index of its color in a palette (K, C), uint8 (H, W).

    "none" takes the nearest color, the lowest index of equally near ones, by the premultiplied sRGB colors of
    `images.colorspace.SRGB`. The others mix colors, the less the lower the `strength` from 0 to 1, at 0 none; see
    `floyd_steinberg`, `bayer` and `blue_noise`. Clean areas stay clean: a pixel whose color is in the palette, give or
    take a level, takes its nearest color, and so does a pixel of alpha 0, which should be 0 in all channels
    (`gpukmeans.images.colorspace.hide_invisible`). Every device gives the same indices.

    Raises TypeError or ValueError for input that is not as said here.
    """
    check_image(image)
    _check_palette(palette, image)
    function = _check_dithering(dithering)
    share = round(256 * check_strength(strength))
    nearest = _nearest(image, palette)
    return function(image, palette, nearest, share) if share and len(palette) > 1 else nearest


def none(image: Tensor, palette: Tensor, nearest: Tensor, share: int) -> Tensor:
    """The nearest colors themselves."""
    return nearest


def floyd_steinberg(image: Tensor, palette: Tensor, nearest: Tensor, share: int) -> Tensor:
    """Error diffusion (Floyd & Steinberg 1976): what a pixel's color misses, its neighbours to come make up for.

    They take 7/16 (right), 3/16 (below left), 5/16 (below) and 1/16 (below right) of it, times the strength, all rows
    from left to right. So that errors do not build up, nor bleed over edges into what is clean:

    * of an error that is larger in a channel than the step between colors of the palette (`_step`) half of what is
      beyond it is dropped. Mixes of two neighbours keep their mean, as their errors are up to half a step; what no
      mix can reach leaves no trail. Over photos this gives the least visible error (FLIP);
    * what it wants stays in the range of the colors of image and palette;
    * pixels that are clean (`_mixed`) take and give nothing;
    * opaque pixels want to be opaque, as nothing should shine through them, and no pixel wants more color than alpha.

    What is wanted gets the color nearest to the center of its cell in an `_InversePalette`: now and then the second
    nearest, by less than a cell. The error is that of the color taken, so the next pixels make up for that as well.
    """
    wanted, colors = _levels(image), _levels(palette)
    mixed = _mixed(image, wanted, colors, nearest)
    inverse = _InversePalette(wanted, colors)
    planes = [*(wanted - inverse.lowest).movedim(2, 0), share * mixed]
    if _has_alpha(image):
        planes.append(torch.where(image[..., -1] == 255, 255 * _LEVEL, 0))
    # A column at the right, where the strength is 0, swallows the errors that leave the picture.
    planes = torch.nn.functional.pad(torch.stack([plane.short() for plane in planes]), (0, 1))
    indices = _diffuse(planes, colors - inverse.lowest, inverse, _step(colors))
    return torch.where(mixed, indices, nearest)


@torch.inference_mode()  # a third of the time of so many short operations is to keep track of them for gradients
def _diffuse(planes: Tensor, colors: Tensor, inverse: "_InversePalette", limit: int) -> Tensor:
    """Indices (H, W) by error diffusion in waves: pixel (y, x) is in wave x + 2y, and needs only earlier ones.

    The planes (C + 1, H, W + 1), int16, hold the image and the strength in 256ths; with alpha one more, the least that
    each pixel wants of it. Pixel (y, x) lies at y·(W + 1) + x of a plane, so wave t lies at t + y·(W - 1).

    Errors lie by row of the picture, from 1 on, as nothing comes from above row 0. At wave t a row takes those of wave
    t - 1 (its left, and the row above to the right), of t - 2 (above) and of t - 3 (above to the left).
    """
    n_planes, height, pitch = planes.shape
    channels, device = colors.shape[1], planes.device
    most = min(height, pitch // 2 + 1)
    palette = colors.T.contiguous()
    # Tensors, as to make one of a number takes longer than the operation.
    numbers = (7, 4 + 8 + 1, -limit, limit)
    seven, to_sixteenths, lowest, highest = (torch.tensor(n, dtype=torch.int32, device=device) for n in numbers)
    errors = [torch.zeros(channels, height + 1, dtype=torch.int32, device=device) for _ in range(4)]
    wave = torch.empty(n_planes, most, dtype=torch.int32, device=device)
    scratch = torch.empty(channels, most, dtype=torch.int32, device=device)
    indices = torch.empty(height, pitch, dtype=torch.uint8, device=device)
    for t in range(pitch + 2 * (height - 1)):
        top = max(0, (t - pitch + 2) // 2)
        n = min(height - 1, t // 2) + 1 - top
        start = t + top * (pitch - 2)
        here, taken = wave.narrow(1, 0, n), scratch.narrow(1, 0, n)
        here.copy_(planes.as_strided((n_planes, n), (height * pitch, pitch - 2), start))
        given, last, second, third = errors
        errors = [third, given, last, second]
        torch.mul(last.narrow(1, top + 1, n), seven, out=taken)
        taken.add_(last.narrow(1, top, n), alpha=3)
        taken.add_(second.narrow(1, top, n), alpha=5)
        taken.add_(third.narrow(1, top, n))
        taken.bitwise_right_shift_(to_sixteenths)
        wanted = here.narrow(0, 0, channels)
        torch.clamp(wanted.add_(taken), inverse.zero, inverse.span, out=wanted)
        if n_planes > channels + 1:
            color, alpha = wanted[:-1], wanted[-1]
            torch.maximum(alpha, here[-1], out=alpha)
            torch.minimum(color, alpha, out=color)
        chosen = inverse(wanted, taken)
        given = given.narrow(1, top + 1, n)
        torch.sub(wanted, palette.index_select(1, chosen), out=given)
        # Twice what is given: half of what is beyond the limit is dropped.
        given.add_(torch.clamp(given, lowest, highest, out=taken)).mul_(here[channels])
        indices.as_strided((n,), (pitch - 2,), start).copy_(chosen)
    return indices[:, : pitch - 1]


class _InversePalette:
    """The nearest color of each cell of a box around the colors of image (H, W, C) and palette (K, C), in sixteenths.

    Cells are cubes of a power of two, the smallest with which there are no more than `_CELLS`. Of grey they are as
    small as can be, except in the smallest of images, so exact.
    """

    def __init__(self, image: Tensor, palette: Tensor) -> None:
        colors = torch.cat([image.flatten(0, 1), palette])
        lowest, highest = torch.aminmax(colors, dim=0)
        if palette.shape[1] in (2, 4):
            lowest = torch.zeros_like(lowest)  # color and alpha are compared
        self.lowest = lowest
        """(C,), the corner of the box that wanted colors are told from."""
        self.span = (highest - lowest)[:, None]
        """(C, 1), the most that may be wanted."""
        self.zero = torch.zeros_like(self.span)
        spans = self.span.flatten().tolist()
        shift = 0
        most = min(_CELLS, _CELLS_A_PIXEL * image.shape[0] * image.shape[1])
        while math.prod((span >> shift) + 1 for span in spans) > most:
            shift += 1
        self._shift = torch.tensor(shift, dtype=torch.int32, device=palette.device)
        self._sizes = [(span >> shift) + 1 for span in spans]
        sides = [(torch.arange(size, device=palette.device) << shift) + (1 << shift) // 2 for size in self._sizes]
        centers = torch.cartesian_prod(*sides).view(-1, len(sides)) + lowest
        self._nearest = assign(_points(centers), _points(palette)).labels.int()

    def __call__(self, wanted: Tensor, scratch: Tensor) -> Tensor:
        """Indices (N,), int32, for wanted colors (C, N), int32 from `zero` to `span`. Overwrites the scratch (C, N)."""
        cells = torch.bitwise_right_shift(wanted, self._shift, out=scratch)
        cell = cells[0]
        for side, size in zip(cells[1:], self._sizes[1:], strict=True):
            cell = torch.add(side, cell, alpha=size, out=side)
        return self._nearest.index_select(0, cell)


def bayer(image: Tensor, palette: Tensor, nearest: Tensor, share: int) -> Tensor:
    """Ordered dithering by the 8 x 8 thresholds of Bayer (1973), a regular pattern; see `_ordered`."""
    return _ordered(image, palette, nearest, share, bayer_ranks())


def blue_noise(image: Tensor, palette: Tensor, nearest: Tensor, share: int) -> Tensor:
    """Ordered dithering by 64 x 64 thresholds of blue noise (Ulichney 1993), which has no pattern; see `_ordered`."""
    return _ordered(image, palette, nearest, share, blue_noise_ranks())


def _ordered(image: Tensor, palette: Tensor, nearest: Tensor, share: int, ranks: Tensor) -> Tensor:
    """Indices of the colors nearest to those of the image plus an offset by place.

    The offset is the same for all channels, for color in proportion to alpha. Over all places it is evenly spread over
    the step between colors of the palette (`_step`), times the strength, half of it above 0. Pixels that are clean
    (`_mixed`) get none. Opaque pixels stay opaque, and no pixel wants more color than alpha.
    """
    height, width = nearest.shape
    wanted, colors = _levels(image), _levels(palette)
    mixed = _mixed(image, wanted, colors, nearest)
    amplitude = _step(colors) * share // 256
    side = len(ranks)
    ranks = ranks.to(image.device).repeat(-(-height // side), -(-width // side))[:height, :width]
    # From -1/2 to 1/2 of the amplitude, symmetric: the middles of as many steps as there are ranks.
    steps = 2 * side**2
    offsets = torch.div(amplitude * (2 * ranks + 1 - side**2), steps, rounding_mode="floor").int()[..., None]
    if _has_alpha(image):
        alpha = wanted[..., -1:]
        solid = torch.where(alpha == 255 * _LEVEL, alpha, (alpha + offsets).clamp_(0, 255 * _LEVEL))
        offsets = torch.div(offsets * alpha, 255 * _LEVEL, rounding_mode="floor")
        wanted = torch.cat([torch.minimum((wanted[..., :-1] + offsets).clamp_(min=0), solid), solid], dim=2)
    else:
        wanted = (wanted + offsets).clamp_(0, 255 * _LEVEL)
    wanted, centers = wanted.flatten(0, 1), _points(colors)
    chosen = [assign(_points(wanted[block]), centers).labels.to(torch.uint8) for block in blocks(len(wanted), _BLOCK)]
    return torch.where(mixed, torch.cat(chosen).view(height, width), nearest)


def bayer_ranks(side: int = 8) -> Int[Tensor, "n n"]:
    """The numbers 0 to n² - 1 in the order of Bayer (1973), n a power of two, int64: the next is far from the last."""
    ranks = torch.zeros(1, 1, dtype=torch.int64)
    while len(ranks) < side:
        ranks = 4 * ranks
        ranks = torch.cat([torch.cat([ranks, ranks + 2], dim=1), torch.cat([ranks + 3, ranks + 1], dim=1)])
    return ranks


@functools.cache
def blue_noise_ranks(side: int = 64) -> Int[Tensor, "n n"]:
    """The numbers 0 to n² - 1 by void-and-cluster (Ulichney 1993), int64, not to be changed: the first of them, however
    many, lie evenly and without a pattern, also across the borders.

    A place is as crowded as the sum over the chosen ones of (4/5)^d², d their distance: a Gaussian of sigma 1.5, in
    integers. The place of another chosen one is the least crowded, and what is taken away is the most crowded, the
    first of equal ones.
    """
    # Around the middle of a field twice as large, so that every shift of it is a view.
    axis = [min(abs(x), side - abs(x)) for x in range(-side, side)]
    kernel = torch.tensor([[4 ** (y * y + x * x) * 2**50 // 5 ** (y * y + x * x) for x in axis] for y in axis])
    chosen = torch.zeros(side * side, dtype=torch.bool)
    crowded = torch.zeros(side, side, dtype=torch.int64)
    largest = torch.iinfo(torch.int64).max

    def put(place: int, present: bool) -> None:
        y, x = divmod(place, side)
        chosen[place] = present
        shifted = kernel[side - y : 2 * side - y, side - x : 2 * side - x]
        crowded.add_(shifted, alpha=1 if present else -1)

    def most_crowded() -> int:
        return int(torch.where(chosen, crowded.view(-1), -1).argmax())

    def least_crowded() -> int:
        return int(torch.where(chosen, largest, crowded.view(-1)).argmin())

    # Any tenth of the places; they spread when the most crowded moves to where it is least crowded.
    places = torch.arange(side * side)
    first = ((places * places * 40503 + places * 30011) % 65521).argsort(stable=True)[: side * side // 10]
    for place in first.tolist():
        put(place, True)
    while True:
        moved = most_crowded()
        put(moved, False)
        to = least_crowded()
        put(to, True)
        if to == moved:
            break
    ranks = torch.empty(side * side, dtype=torch.int64)
    spread, spread_crowded = chosen.clone(), crowded.clone()
    for rank in range(len(first) - 1, -1, -1):
        place = most_crowded()
        put(place, False)
        ranks[place] = rank
    chosen.copy_(spread)
    crowded.copy_(spread_crowded)
    # From a half on, Ulichney takes the place most crowded by those not chosen. As all shifts of the kernel have the
    # same total, that is the one least crowded by those chosen.
    for rank in range(len(first), side * side):
        place = least_crowded()
        put(place, True)
        ranks[place] = rank
    return ranks.view(side, side)


DITHERINGS: dict[str, Dithering] = {
    "none": none,
    "floyd-steinberg": floyd_steinberg,
    "bayer": bayer,
    "blue-noise": blue_noise,
}
"""Ways to dither by name."""


def _nearest(image: Tensor, palette: Tensor) -> Tensor:
    """The index of the nearest color of each pixel, uint8 (H, W)."""
    histogram = unique_colors(image)
    labels = assign(SRGB.encode(histogram.colors), SRGB.encode(palette)).labels
    return histogram.spread(labels.to(torch.uint8), image)


def _levels(colors: Tensor) -> Tensor:
    """Colors (..., C), premultiplied, in sixteenths of a level, int32."""
    colors = _LEVEL * colors.int()
    if not _has_alpha(colors):
        return colors
    color, alpha = colors[..., :-1], colors[..., -1:]
    whole = 255 * _LEVEL
    return torch.cat([torch.div(color * alpha + whole // 2, whole, rounding_mode="floor"), alpha], dim=-1)


def _points(levels: Tensor) -> Tensor:
    """Colors (M, C) in sixteenths as points to assign, float32: grey with alpha counts as three equal channels."""
    points = levels.float()
    return points[:, [0, 0, 0, 1]] if points.shape[1] == 2 else points


def _mixed(image: Tensor, wanted: Tensor, colors: Tensor, nearest: Tensor) -> Tensor:
    """Which pixels (H, W) are to be mixed: those that can be seen and are more than a level from the nearest color."""
    missing = (wanted - colors.index_select(0, nearest.flatten().int()).view(wanted.shape)).abs_()
    mixed = (missing > _LEVEL).any(dim=2)
    return mixed & (image[..., -1] > 0) if _has_alpha(image) else mixed


def _step(colors: Tensor) -> int:
    """The distance of `_spacing` in each color channel, along the diagonal of greys."""
    n_colors = colors.shape[1] - _has_alpha(colors)
    return math.isqrt(_spacing(colors) ** 2 // n_colors)


def _spacing(colors: Tensor) -> int:
    """The distance to the nearest other color that a color of the palette (K, C) typically has: the lower median of
    those above 0, rounded down, in sixteenths; 0 if all are equal."""
    sqdist = (colors[:, None].long() - colors.long()).square_().sum(dim=2)
    sqdist[sqdist == 0] = torch.iinfo(torch.int64).max
    nearest = sqdist.amin(dim=1)
    nearest = nearest[nearest < torch.iinfo(torch.int64).max]
    return math.isqrt(int(nearest.median())) if len(nearest) else 0


def _has_alpha(colors: Tensor) -> bool:
    return colors.shape[-1] in (2, 4)


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


def _check_dithering(dithering: str | Dithering) -> Dithering:
    if isinstance(dithering, str):
        if dithering not in DITHERINGS:
            raise ValueError(f"dithering must be one of {', '.join(DITHERINGS)} or a function, got {dithering!r}")
        return DITHERINGS[dithering]
    if not callable(dithering):
        raise TypeError(f"dithering must be a name or a function, got {type(dithering).__name__}")
    return dithering


def check_strength(strength: object) -> float:
    """The strength itself, if it is a number from 0 to 1; else TypeError or ValueError."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)):
        raise TypeError(f"strength must be a number, got {type(strength).__name__}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    return strength
