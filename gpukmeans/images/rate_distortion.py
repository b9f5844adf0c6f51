"""Rate-distortion optimization of an indexed image: indices and palette of small visible error and few bits.

The nearest color of each pixel is not the best choice of indices, for two reasons. First, the eye averages over
neighboring pixels, so errors that cancel after a small blur are less visible (direct binary search, Analoui & Allebach
1992). Second, a file is smaller if a few residuals of indices are much more frequent than others (entropy-constrained
vector quantization, Chou, Lookabaugh & Gray 1989). `optimized` minimizes, over the indices and the palette,

    J = e·R·e + price · bits.

Here e are the errors of all pixels, and R is a mixture of the identity and of a small blur correlated with itself. The
bits are the code lengths of `png_rate` or `gif_rate`, which may be weighted by position. Pixels are changed one by one
to the color of the least J (iterated conditional modes, Besag 1986). Pixels that share a byte of the file are changed
together. All arithmetic is on integers, so every device returns the same bits.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import optimizing as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.fused.optimizing import Candidates
from gpukmeans.engines.fused.png import mapped
from gpukmeans.engines.native import optimizing, png
from gpukmeans.engines.native.tensors import takes
from gpukmeans.images.colorspace import SRGB, n_color_channels
from gpukmeans.images.contrast import block_sums, pixel_weights, weighted
from gpukmeans.images.gif_rate import GifRate, fitted_gif_rate
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.nearest import is_opaque, is_transparent
from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import (
    BIT,
    PngRate,
    fitted_rate,
    free_rate,
    packed,
    predicted,
    smallest_rate,
    unpacked,
)
from gpukmeans.tiling import blocks

RateName = Literal["png", "gif"]
"""File formats whose bits are estimated."""

RATES: tuple[RateName, ...] = ("png", "gif")

# [1 2 1] correlated with itself. The outer product of these weights with themselves is the blur in R, of sum `WHOLE`.
_BLUR = (1, 4, 6, 4, 1)
WHOLE = 256

BLURRED_SHARE = 208
"""Weight of the blurred error, in 256ths. This weight gave the best SSIMULACRA2 and FLIP on photos."""

# No term of J depends on two pixels that are `_APART` or more rows or columns apart, or on two bytes of several pixels
# that are `_BYTES_APART` or more columns apart.
_APART, _BYTES_APART = 3, 2

# A pixel may change to the color of a neighbor, or to one of the palette colors nearest to its cell. Cells are cubes in
# color space with a side of 4 levels, or 8 with alpha. The first number of nearest colors is for J with a blurred
# error, the second for J without.
N_NEAREST, N_NEAREST_BY_PIXEL = 8, 4
_CELL_BITS, _CELL_BITS_OF_ALPHA = 2, 3

# Largest number of rounds of coordinate descent over the palette.
_DESCENTS = 4

# Number of distances computed at a time, and the squared distance given to excluded colors.
_BLOCK, _FAR = 1 << 18, 1 << 50


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights in the objective J: of the blurred error, of the error of single pixels, and of bits.

    Args:
        share: weight of the blurred error, from 0 to `WHOLE`. The weight of single pixels is `WHOLE` - `share`.
        price: squared error that one bit is worth, as an integer with 16 fractional bits.
    """

    share: int
    price: int

    def weights(self) -> dict[tuple[int, int], int]:
        """Nonzero weights of R, by the offset (rows, columns) between the two pixels whose errors are multiplied.

        The sum of the weights is `WHOLE` squared.
        """
        blurred = {(y, x): self.share * _BLUR[y + 2] * _BLUR[x + 2] for y in range(-2, 3) for x in range(-2, 3)}
        blurred[0, 0] += (WHOLE - self.share) * WHOLE
        return {place: weight for place, weight in blurred.items() if weight}


def none_free(palette: UInt8[Tensor, "k c"]) -> Bool[Tensor, " k"]:
    """Mask (K,), all False, for `optimized`: no color of the palette may change."""
    return torch.zeros_like(palette[:, 0], dtype=torch.bool)


def blurred_share(strength: float) -> int:
    """Weight of the blurred error: `BLURRED_SHARE` times a dithering strength from 0 to 1, rounded."""
    return round(BLURRED_SHARE * strength)


def price_of_bit(lossy: float, squared_error: int, n_pixels: int) -> int:
    """Price of a bit: `lossy` hundredths of the mean squared error, with 16 fractional bits, rounded down.

    Args:
        lossy: price in hundredths of the mean squared error. It is rounded to three decimals.
        squared_error: squared error of the K-means palette, summed over the pixels: an integer.
        n_pixels: number of pixels.

    Example:
        >>> price_of_bit(15.0, 1000, 100)
        98304
    """
    return round(1000 * lossy) * squared_error * (1 << 16) // (100_000 * n_pixels)


def optimized(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    indices: UInt8[Tensor, "h w"],
    objective: Objective,
    *,
    n_rounds: int = 4,
    free: Bool[Tensor, " k"] | None = None,
    rate_name: RateName = "png",
    bit_weights: UInt8[Tensor, "p q"] | None = None,
) -> IndexedImage:
    """The indexed image of the lowest J among the given image and the result of each round. Colors keep their order.

    A round has three steps:

    * The rate is fitted to the indices. For a PNG the palette is ordered by `size_order` before. If the price is 0,
      this step is omitted.
    * The indices are changed in one `sweep` over all pixels.
    * The palette is refitted to the image, except in the last round.

    For a PNG the number of pixels per byte is chosen once, in the first round, by `smallest_rate`.

    Args:
        image: uint8 (H, W, C), whose fully transparent pixels are 0 in all channels.
        palette: uint8 (K, C).
        indices: uint8 (H, W). Opaque pixels must have an opaque color, if the palette has any.
        objective: the weights in J.
        n_rounds: number of rounds.
        free: mask (K,) of the colors that may change. Only opaque ones do. By default all may.
        rate_name: file format whose bits are estimated.
        bit_weights: weights of bits by blocks, from `contrast_weights`. Not used where bytes have several pixels.
    """
    free = torch.ones_like(palette[:, 0], dtype=torch.bool) if free is None else free
    cells, per_byte = color_cells(image), None
    n_nearest = N_NEAREST if objective.share else N_NEAREST_BY_PIXEL
    costs = {"n_rounds": n_rounds + 1, "share": objective.share, "price": objective.price}
    best = (cuda.Best if cuda.supports(image, objective.price) else _Best)(image, palette, **costs)
    for number in range(n_rounds + 1):
        is_ordered = objective.price > 0 and rate_name == "png"
        order = _size_order(palette, indices) if is_ordered else _same_order(palette)
        ordered = IndexedImage(order.palette, _renumbered(indices, order.places))
        if is_ordered:
            rate = fitted_rate(ordered.indices, per_byte) if per_byte else smallest_rate(ordered.indices, len(palette))
            per_byte = rate.per_byte
            rate = replace(rate, weights=bit_weights if per_byte == 1 else None)
        elif objective.price:
            rate = replace(fitted_gif_rate(ordered.indices), weights=bit_weights)
        else:
            rate = free_rate(ordered.indices)
        best.offer(palette, indices, ordered.indices, rate)
        if number < n_rounds:
            sweep(image, ordered, cells.nearest(ordered.palette, n_nearest), rate, objective)
            indices = _renumbered(ordered.indices, order.colors)
            if number < n_rounds - 1:
                palette = refitted(image, IndexedImage(palette, indices), free, objective)
    return IndexedImage(best.palette, best.indices)


class _Best:
    """The indexed image of the least cost of some rounds, the first on ties, for `optimized`."""

    def __init__(self, image: Tensor, palette: Tensor, *, n_rounds: int, share: int, price: int) -> None:
        self._image, self._objective = image, Objective(share=share, price=price)
        self.palette, self.indices = palette, image[..., 0]  # until the first offer
        self._cost: int | None = None

    def offer(self, palette: Tensor, indices: Tensor, ordered: Tensor, rate: PngRate | GifRate) -> None:
        """Keep this image if its cost, with the bits of the ordered indices, is less than all costs before."""
        error = energy(self._image, IndexedImage(palette, indices), self._objective)
        cost = BIT * error + self._objective.price * rate.total_bits(ordered)
        if self._cost is None or cost < self._cost:
            self._cost, self.palette, self.indices = cost, palette, indices


class _Order(NamedTuple):
    """An order of a palette: its colors, int64 (K,), the place of each color, int64 (K,), and the ordered palette."""

    colors: Int[Tensor, " k"]
    places: Int[Tensor, " k"]
    palette: UInt8[Tensor, "k c"]


def _same_order(palette: Tensor) -> _Order:
    numbers = torch.arange(len(palette), device=palette.device)
    return _Order(numbers, numbers, palette)


def _size_order(palette: Tensor, indices: Tensor) -> _Order:
    """The best of `palette_orders`, with opaque colors last, so that a file can omit their alpha."""
    order = palette_orders(indices, len(palette))[0].to(palette.device, non_blocking=True)
    if has_kernels(palette):
        return _Order(*cuda.opaque_last(order, palette))
    order = order[is_opaque(palette)[order].int().sort(stable=True).indices]
    return _Order(order, order.argsort(), palette[order])


def _renumbered(indices: Tensor, numbers: Tensor) -> Tensor:
    """Indices (H, W), uint8, after replacing each index by its entry in `numbers` (K,), int64."""
    if has_kernels(indices):
        return mapped(indices, numbers)
    if takes(indices, dtype=torch.uint8):
        return png.mapped(indices.contiguous(), numbers.to(torch.uint8))
    return numbers.to(torch.uint8)[indices.int()]


def energy(image: UInt8[Tensor, "h w c"], indexed: IndexedImage, objective: Objective) -> int:
    """e·R·e in squared levels, with 16 fractional bits. With alpha, e is premultiplied and 255 times as large."""
    # Blocks are added as Python's integers, because the sum for an image with alpha may exceed 64 bits.
    return sum(block_energies(image, indexed, objective).flatten().tolist())


def block_energies(image: UInt8[Tensor, "h w c"], indexed: IndexedImage, objective: Objective) -> Int[Tensor, "p q"]:
    """Terms of `energy` by blocks of 8 x 8 pixels, int64 (ceil(H / 8), ceil(W / 8))."""
    if takes(image, *indexed, dtype=torch.uint8):
        points, indices = _points(indexed.palette), indexed.indices.contiguous()
        return optimizing.energy(image.contiguous(), points, indices, objective.share)
    if has_kernels(image):
        return cuda.block_energies(image, *indexed, objective.share)
    errors = _errors(image, indexed)
    return block_sums((errors * _correlated(errors, objective)).sum(dim=2))


def _errors(image: Tensor, indexed: IndexedImage) -> Tensor:
    """Errors e (H, W, D), int64: the points of the image minus the points of the palette colors."""
    return _image_points(image) - _points(indexed.palette)[indexed.indices.int()]


def _correlated(errors: Tensor, objective: Objective) -> Tensor:
    """R·e (H, W, D), int64, of errors (H, W, D)."""
    (height, width, _), padded = errors.shape, torch.nn.functional.pad(errors, (0, 0, 2, 2, 2, 2))
    total = torch.zeros_like(errors)
    for (y, x), weight in objective.weights().items():
        total += weight * padded[y + 2 : y + 2 + height, x + 2 : x + 2 + width]
    return total


@dataclass(frozen=True, eq=False)
class ColorCells:
    """Cells (cubes in color space) that contain a pixel, and the cell of each pixel.

    Opaque pixels have other cells than translucent pixels.

    Args:
        centers: twice the center of each cell in levels, int32 (M, D).
        opaque: mask (M,) of the cells of opaque pixels.
        index: cell of each pixel, int32 (H, W).
        unit: factor that alpha adds to the points of colors, 255 or 1; see `ColorSpace.unit`.
    """

    centers: Int[Tensor, "m d"]
    opaque: Bool[Tensor, " m"]
    index: Int[Tensor, "h w"]
    unit: int

    def nearest(self, palette: UInt8[Tensor, "k c"], n: int) -> Candidates:
        """The `n` palette colors nearest to the center of each cell, or all colors of a smaller palette.

        The lowest index wins a tie. Cells of opaque pixels get opaque colors only, if there are any. If there are fewer
        than n, the nearest opaque color is repeated.
        """
        n, points, opaque = min(n, len(palette)), _points(palette), is_opaque(palette)
        excluded = ~opaque & opaque.any()
        if takes(palette, dtype=torch.uint8) and takes(self.centers, dtype=torch.int32):
            lists = optimizing.nearest_to_cells(self.centers, self.opaque, points, excluded, unit=self.unit, n=n)
            return Candidates(self.index, lists)
        numbers, points = torch.arange(len(palette), device=palette.device), 2 * points
        lists = []
        for block in blocks(len(self.centers), max(1, _BLOCK // len(palette))):
            sqdist = (self.centers[block, None] * self.unit - points).long().square().sum(dim=2)
            sqdist.masked_fill_(self.opaque[block, None] & excluded, _FAR)
            ranked = (sqdist * 256 + numbers).sort(dim=1).values[:, :n]
            lists.append((torch.where(ranked < _FAR * 256, ranked, ranked[:, :1]) & 255).to(torch.uint8))
        return Candidates(self.index, torch.cat(lists))


def color_cells(image: UInt8[Tensor, "h w c"]) -> "ColorCells | cuda.ColorCells":
    """Cells of the colors of an image (H, W, C): cubes of side 4 levels, or 8 premultiplied levels with alpha."""
    if has_kernels(image):
        return cuda.color_cells(image)
    unit = SRGB.unit(image.shape[2])
    bits, n_channels = (_CELL_BITS, 3) if unit == 1 else (_CELL_BITS_OF_ALPHA, 4)
    digits = 8 - bits
    shifts = torch.arange(n_channels, device=image.device) * digits
    if takes(image, dtype=torch.uint8):
        keys, index = optimizing.color_cells(image.contiguous(), 2 << n_channels * digits)
    else:
        levels = (_image_points(image) + unit // 2) // unit
        numbers = ((levels >> bits) << shifts).sum(dim=2) * 2 + is_opaque(image)
        keys, index = torch.unique(numbers, return_inverse=True)
    cells = (keys[:, None] >> 1 + shifts) & (1 << digits) - 1
    centers = (cells << bits + 1) + (1 << bits) - 1
    return ColorCells(centers.int(), (keys & 1).bool(), index.int(), unit)


def sweep(
    image: UInt8[Tensor, "h w c"],
    indexed: IndexedImage,
    candidates: Candidates,
    rate: PngRate | GifRate,
    objective: Objective,
) -> None:
    """Change the indices in place: each byte of the rows becomes the candidate of the lowest J, with other bytes fixed.

    For a byte of one pixel the candidates are the present color, the colors of the pixel's cell, and the colors of the
    four neighbors. For a byte of several pixels all combinations of colors are candidates. Opaque pixels take opaque
    colors, if there are any, and fully transparent pixels do not change. The present byte wins a tie, then the lowest
    byte. Bytes that are 3 rows and 3 columns apart, or 2 columns for bytes of several pixels, are changed at the same
    time, because no term of J depends on two of them.
    """
    by_pixel = rate.per_byte == 1
    if cuda.supports(image, objective.price) and indexed.indices.is_contiguous():
        cuda.sweep(image, *indexed, candidates, rate, share=objective.share, price=objective.price)
        return
    if (
        takes(image, candidates.lists, *indexed, dtype=torch.uint8)
        and objective.price <= optimizing.max_price(image.shape[2])
        and (candidates.lists.shape[1] <= optimizing.MAX_TRIED or not by_pixel)
    ):
        _sweep_by_kernels(image, indexed, candidates, rate, objective)
        return
    grid = _Grid(image, indexed, rate, objective)
    n_rows = max(1, _BLOCK // (grid.width * (candidates.lists.shape[1] + 5 if by_pixel else 256)))
    for top in range(min(_APART, grid.height)):
        for left in range(min(grid.columns_apart, grid.width)):
            for rows in blocks(-(-(grid.height - top) // _APART), n_rows):
                grid.change(top + _APART * rows.start, left, rows.stop - rows.start, candidates if by_pixel else None)
    indexed.indices.copy_(grid.indices())


def _sweep_by_kernels(
    image: Tensor, indexed: IndexedImage, candidates: Candidates, rate: PngRate | GifRate, objective: Objective
) -> None:
    opaque = is_opaque(indexed.palette)
    swept = optimizing.sweep(
        image.contiguous(),
        _points(indexed.palette),
        indexed.indices.contiguous(),
        packed(indexed.indices, rate.per_byte),
        candidates.cells.contiguous(),
        candidates.lists.contiguous(),
        filters=rate.filters,
        lengths=rate.lengths.contiguous(),
        weights=None if rate.weights is None else rate.weights.contiguous(),
        per_byte=rate.per_byte,
        translucent=~opaque if opaque.any() and not opaque.all() else None,
        share=objective.share,
        price=objective.price,
        bit=BIT,
    )
    indexed.indices.copy_(unpacked(swept, rate.per_byte).flatten(1)[:, : image.shape[1]])


class _Grid:
    """Bytes and errors of an image, with a border on each side, for changing many bytes at a time.

    The last byte of a row may have pixels outside the image. Their errors are 0, and they do not change.
    """

    def __init__(self, image: Tensor, indexed: IndexedImage, rate: PngRate | GifRate, objective: Objective) -> None:
        self._shape, self._per_byte = indexed.indices.shape, rate.per_byte
        rows = packed(indexed.indices, rate.per_byte)
        self.height, self.width = rows.shape
        self.columns_apart = _APART if rate.per_byte == 1 else _BYTES_APART
        self._bytes = torch.nn.functional.pad(rows.int(), (1, 1, 1, 1))
        n_outside = self.width * rate.per_byte - self._shape[1]
        self._errors = torch.nn.functional.pad(_errors(image, indexed), (0, 0, 2, 2 + n_outside, 2, 2))
        # Indices from K to 255 have no palette color, so they are excluded.
        n_missing = 256 - len(indexed.palette)
        self._points = torch.nn.functional.pad(_points(indexed.palette).long(), (0, 0, 0, n_missing))
        opaque = is_opaque(indexed.palette)
        self._is_missing = torch.nn.functional.pad(torch.zeros_like(opaque), (0, n_missing), value=True)
        self._translucent = torch.nn.functional.pad(~opaque, (0, n_missing))
        self._only_opaque = self._by_byte(is_opaque(image) & opaque.any(), outside=False)
        self._stays = self._by_byte(is_transparent(image), outside=True)
        # One more row, because `_bits` reads the filter of the row below the last one.
        self._filters = None if rate.filters is None else torch.cat([rate.filters, rate.filters[:1]])
        self._lengths, self._objective = rate.lengths.long(), objective
        self._weights = None
        if rate.weights is not None:
            self._weights = torch.nn.functional.pad(pixel_weights(rate.weights, *rows.shape), (1, 1, 1, 1))

    def indices(self) -> Tensor:
        """The indices (H, W), int32."""
        return unpacked(self._bytes[1:-1, 1:-1], self._per_byte).flatten(1)[:, : self._shape[1]]

    def change(self, top: int, left: int, n_rows: int, candidates: Candidates | None) -> None:
        """Change the bytes in every third row from `top`, and in every second or third column from `left`.

        If `candidates` is None, all values of a byte are tried.
        """
        rows = top + _APART * torch.arange(n_rows, device=self._bytes.device)
        columns = torch.arange(left, self.width, self.columns_apart, device=self._bytes.device)
        inner = slice(top, top + _APART * n_rows, _APART), slice(left, None, self.columns_apart)

        def shifted(grid: Tensor, y: int, x: int, size: int = 1) -> Tensor:
            """Entries of a bordered array at the bytes or pixels to change, shifted by y rows and x columns.

            `size` is the number of columns of the array for each byte.
            """
            y, x = y + top, x + left * size
            step = self.columns_apart * size
            return grid[y : y + _APART * n_rows - 2 : _APART, x : x + step * (len(columns) - 1) + 1 : step]

        around = {(y, x): shifted(self._bytes, y + 1, x + 1)[..., None] for y in (-1, 0, 1) for x in (-1, 0, 1)}
        old = around[0, 0]
        has_right, has_below = (columns < self.width - 1)[:, None], (rows < self.height - 1)[:, None, None]
        has_left, has_above = (columns > 0)[:, None], (rows > 0)[:, None, None]
        if candidates is None:
            tried = torch.arange(256, dtype=torch.int32, device=old.device).expand(*old.shape[:2], -1)
        else:
            inside = {(1, 0): has_below, (-1, 0): has_above, (0, 1): has_right, (0, -1): has_left}
            lists = candidates.lists[candidates.cells[inner]].int()
            tried = [old, lists, *(torch.where(is_in, around[at], old) for at, is_in in inside.items())]
            tried = torch.cat(tried, dim=2)
        old_colors, colors = unpacked(old, self._per_byte), unpacked(tried, self._per_byte)
        excluded = self._only_opaque[inner][:, :, None] & self._translucent[colors]
        excluded = excluded | self._stays[inner][:, :, None] | self._is_missing[colors]
        colors = torch.where(excluded, old_colors, colors)
        tried = packed(colors.flatten(0, 2).to(torch.uint8), self._per_byte).view(tried.shape).int()

        correlations, n = self._objective.weights(), self._per_byte
        errors = [self._errors[:, i:] for i in range(n)]
        gradient = torch.stack([torch.zeros_like(shifted(one, 2, 2, n)) for one in errors], dim=2)
        for (y, x), weight in correlations.items():
            gradient += weight * torch.stack([shifted(one, y + 2, x + 2, n) for one in errors], dim=2)
        steps = self._points[old_colors] - self._points[colors]
        reflected = correlations[0, 0] * steps
        for distance in range(1, min(n, 3)):
            weight = correlations.get((0, distance), 0)
            reflected[:, :, :, distance:] += weight * steps[:, :, :, :-distance]
            reflected[:, :, :, :-distance] += weight * steps[:, :, :, distance:]
        change = (steps * (2 * gradient[:, :, None] + reflected)).sum(dim=(3, 4))

        weights = self._weights
        dependent = [(y, x) for y in (0, 1) for x in (0, 1)]  # offsets of bytes whose codes depend on this byte
        of_bits = {(y, x): None if weights is None else shifted(weights, y + 1, x + 1)[..., None] for y, x in dependent}
        bits = self._bits(tried, around, of_bits, rows, has_right, has_below)
        total = BIT * change + self._objective.price * bits
        least = total.amin(dim=2, keepdim=True)
        lowest = torch.where(total == least, tried, 256).amin(dim=2)
        is_kept = ((total == least) & (tried == old)).any(dim=2)
        new = torch.where(is_kept, old[:, :, 0], lowest)
        new_colors = unpacked(new, n)
        for i, one in enumerate(errors):
            shifted(one, 2, 2, n).add_(self._points[old_colors[:, :, 0, i]] - self._points[new_colors[:, :, i]])
        shifted(self._bytes, 1, 1).copy_(new)

    def _bits(
        self,
        tried: Tensor,
        around: dict[tuple[int, int], Tensor],
        weights: dict[tuple[int, int], Tensor | None],
        rows: Tensor,
        has_right: Tensor,
        has_below: Tensor,
    ) -> Tensor:
        """Code length, int64, of all codes that depend on the byte, for each value tried, in 1/64 bit."""
        if self._filters is None:
            own, right = self._lengths[around[0, -1], tried], self._lengths[tried, around[0, 1]]
            return weighted(own, weights[0, 0]) + has_right * weighted(right, weights[0, 1])
        own, below = self._filters[rows][:, None, None], self._filters[rows + 1][:, None, None]
        here = tried - predicted(own, around[0, -1], around[-1, 0], around[-1, -1])
        right = around[0, 1] - predicted(own, tried, around[-1, 1], around[-1, 0])
        under = around[1, 0] - predicted(below, around[1, -1], tried, around[0, -1])
        diagonal = around[1, 1] - predicted(below, around[1, 0], around[0, 1], tried)
        here, right, under, diagonal = (
            weighted(self._lengths[residuals & 255], weights[at])
            for at, residuals in (((0, 0), here), ((0, 1), right), ((1, 0), under), ((1, 1), diagonal))
        )
        return here + has_right * right + has_below * under + has_right * has_below * diagonal

    def _by_byte(self, mask: Tensor, *, outside: bool) -> Tensor:
        """A mask (H, W) of pixels, arranged by bytes (H, B, `per_byte`). Pixels outside the image are `outside`."""
        n_outside = self.width * self._per_byte - mask.shape[1]
        return torch.nn.functional.pad(mask, (0, n_outside), value=outside).unflatten(1, (self.width, self._per_byte))


def refitted(
    image: UInt8[Tensor, "h w c"], indexed: IndexedImage, free: Bool[Tensor, " k"], objective: Objective
) -> UInt8[Tensor, "k c"]:
    """The palette (K, C) after coordinate descent on e·R·e, by its normal equations A·P = V. e·R·e never rises.

    In up to 4 rounds, each color in turn is set to the 8-bit color of the least e·R·e while the other colors are fixed.
    Only colors that are in the mask `free`, opaque and used by a pixel change.

    Args:
        image: uint8 (H, W, C).
        indexed: its palette and indices.
        free: mask (K,) of the colors that may change.
        objective: the weights of R.
    """
    palette = indexed.palette
    if has_kernels(image):
        return cuda.refitted(image, *indexed, free, share=objective.share, n_rounds=_DESCENTS)
    a, v = _normal_equations(image, indexed, objective)
    residuals = v - a @ _points(palette).long()
    unit, n_levels = SRGB.unit(palette.shape[1]), n_color_channels(palette.shape[1])
    changing = (free & is_opaque(palette) & (a.diagonal() > 0)).nonzero().squeeze(1)
    levels = palette[:, :n_levels].long()
    descend = optimizing.descend if takes(image, palette, dtype=torch.uint8) else _descend
    levels = descend(a, residuals, levels, changing, unit=unit, n_rounds=_DESCENTS)
    return torch.cat([levels.to(torch.uint8), palette[:, n_levels:]], dim=1)


def _descend(a: Tensor, residuals: Tensor, levels: Tensor, changing: Tensor, *, unit: int, n_rounds: int) -> Tensor:
    """Levels (K, 1 or 3) of the palette after coordinate descent. Overwrites `residuals` (K, D), which are V - A·P."""
    levels = levels.clone()
    for _ in range(n_rounds):
        before = levels.clone()
        for k in changing.tolist():
            weight = a[k, k] * unit
            step = (2 * residuals[k, : levels.shape[1]] + weight) // (2 * weight)
            new = (levels[k] + step).clamp(0, 255)
            step = (new - levels[k]) * unit
            levels[k] = new
            residuals[:, :3] -= a[:, k, None] * step
        if torch.equal(levels, before):
            break
    return levels


def _normal_equations(image: Tensor, indexed: IndexedImage, objective: Objective) -> tuple[Tensor, Tensor]:
    """A (K, K) and V (K, D), int64. The palette points P (K, D) of the least e·R·e solve A·P = V."""
    n_colors, share = len(indexed.palette), objective.share
    if takes(image, *indexed, dtype=torch.uint8):
        n_dims = _points(indexed.palette).shape[1]
        return optimizing.normal_equations(image.contiguous(), indexed.indices.contiguous(), n_colors, n_dims, share)
    index = indexed.indices.long()
    height, width = index.shape
    a = torch.zeros(n_colors**2, dtype=torch.int64, device=index.device)
    for (y, x), weight in objective.weights().items():
        own = index[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
        other = index[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
        a += weight * torch.bincount((own * n_colors + other).flatten(), minlength=n_colors**2)
    correlated = _correlated(_image_points(image), objective)
    v = torch.zeros(n_colors, correlated.shape[2], dtype=torch.int64, device=index.device)
    v.index_add_(0, index.flatten(), correlated.flatten(0, 1))
    return a.view(n_colors, n_colors), v


def _image_points(image: Tensor) -> Tensor:
    """Premultiplied colors (H, W, D), int64, of an image (H, W, C)."""
    return _points(image.flatten(0, 1)).long().view(*image.shape[:2], -1)


def _points(colors: Tensor) -> Tensor:
    """Premultiplied colors (M, D), int32: D is 3, or 4 with alpha."""
    return SRGB.encode(colors).int()
