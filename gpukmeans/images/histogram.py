"""Color histograms: the distinct colors of images and the number of pixels of each color."""

import functools
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.engines.native.colors import ColorRows, count_colors
from gpukmeans.engines.native.tensors import takes
from gpukmeans.summaries import summary_of_fields
from gpukmeans.tiling import blocks, blocks_of

# On one CPU core, counting by a table of all 2**24 colors takes 30 ms plus 3 ns a pixel. Sorting takes 15 to 25 ns a
# pixel. The table is faster above 3 megapixels: at 3.8 it takes 40 ms instead of 70. It is used only from 5
# megapixels, because it takes too much memory for smaller images: the table has 64 MB, and counting a photo writes to
# memory pages of 35 to 50 MB in total.
_COUNT_BY_TABLE_FROM = 5 << 20
# Lookup by table is faster above half a megapixel: at one megapixel it takes 23 ms instead of 53.
_LOOK_UP_BY_TABLE_FROM = 1 << 19

# `map_values` has a table of bytes, which is a quarter as large. At 16,000 pixels it takes 0.7 ms, a search 1.2 ms.
_MAP_BY_TABLE_FROM = 1 << 14

# Number of pixels or colors processed at a time, and number of pixels sorted at a time. Sorting needs 28 bytes a pixel.
# It takes 12 ns a pixel for up to 2**19 pixels, 15 ns for 2**20 and 27 ns for 2**22, which exceed the caches.
_BLOCK = 1 << 17
_SORTED_BLOCK = 1 << 19

# Number of pixels counted by one call of native kernels.
_NATIVE_BLOCK = 1 << 30

# The colors of sorted blocks are added to the histogram when they are at least this many; see `_count_by_sorting`.
_MIN_ADDED = 1 << 21

# Number of entries of the count table in a group. Groups without a count are skipped, which is faster than a search for
# nonzero entries in all groups.
_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class ColorHistogram:
    """Color histogram: the distinct colors of one or more images and the number of pixels of each.

    The sum of two histograms is the histogram of both images. K-means over the colors, weighted by the counts, is
    K-means over the pixels.

    Args:
        colors: uint8 (M, C), distinct, in lexicographic order.
        counts: number of pixels of each color, int64 (M,).

    Example:
        >>> image = torch.tensor([[[7], [9], [9]]], dtype=torch.uint8)
        >>> (unique_colors(image) + unique_colors(image)).counts.tolist()
        [2, 4]
    """

    colors: UInt8[Tensor, "m c"]
    counts: Int[Tensor, " m"]

    def __add__(self, other: "ColorHistogram") -> "ColorHistogram":
        if not isinstance(other, ColorHistogram):
            return NotImplemented
        if self.colors.shape[1] != other.colors.shape[1]:
            raise ValueError(
                "histograms to add must have colors of equally many channels,"
                f" got {self.colors.shape[1]} and {other.colors.shape[1]}"
            )
        codes, counts = _sum([(_codes(part.colors), part.counts) for part in (self, other)])
        return ColorHistogram(colors=_colors(codes, self.colors.shape[1]), counts=counts)

    def __radd__(self, other: object) -> "ColorHistogram":
        return self if other == 0 else NotImplemented  # the start of `sum`

    def __repr__(self) -> str:
        return summary_of_fields("ColorHistogram", vars(self))

    def lookup(self, image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "h w"]:
        """For each pixel, the row of the histogram with its color, int32 (H, W).

        Args:
            image: uint8 (H, W, C).

        Raises:
            ValueError: if the number of channels differs, or the histogram lacks a color of the image.

        Example:
            >>> image = torch.tensor([[[7], [9], [9]]], dtype=torch.uint8)
            >>> unique_colors(image).lookup(image).tolist()
            [[0, 1, 1]]
        """
        check_image(image)
        self._check_channels(image)
        pixels = image.flatten(0, 1)
        if takes(image, self.colors, dtype=torch.uint8):
            return ColorRows(self.colors.contiguous()).look_up(pixels.contiguous()).view(image.shape[:2])
        rows = torch.empty(len(pixels), dtype=torch.int32, device=image.device)
        for block, block_rows, is_present in self._rows(pixels):
            if not is_present.all():
                raise ValueError("image must have no other colors than the histogram")
            rows[block] = block_rows
        return rows.view(image.shape[:2])

    def map_values(self, values: UInt8[Tensor, " m"], image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "h w"]:
        """For each pixel, the value of its color, uint8 (H, W): a faster `values[self.lookup(image)]`.

        The value of a pixel whose color is not in the histogram is undefined.

        Args:
            values: value of each color of the histogram, uint8 (M,).
            image: uint8 (H, W, C).

        Raises:
            ValueError: if the number of channels differs.

        Example:
            >>> image = torch.tensor([[[7], [9], [9]]], dtype=torch.uint8)
            >>> unique_colors(image).map_values(torch.tensor([3, 5], dtype=torch.uint8), image).tolist()
            [[3, 5, 5]]
        """
        check_image(image)
        self._check_channels(image)
        pixels = image.flatten(0, 1)
        if takes(image, self.colors, values, dtype=torch.uint8):
            rows = ColorRows(self.colors.contiguous())
            return rows.map_values(values.contiguous(), pixels.contiguous()).view(image.shape[:2])
        mapped = torch.empty(len(pixels), dtype=torch.uint8, device=image.device)
        if _prefers_table(pixels, _MAP_BY_TABLE_FROM):
            table = torch.zeros(1 << 8 * pixels.shape[1], dtype=torch.uint8, device=image.device)
            for block in blocks_of(values, _BLOCK):
                table[_codes(self.colors[block])] = values[block]
            for block in blocks_of(pixels, _BLOCK):
                torch.index_select(table, 0, _codes(pixels[block]), out=mapped[block])
        else:
            for block, rows, _ in self._rows(pixels):
                torch.index_select(values, 0, rows, out=mapped[block])
        return mapped.view(image.shape[:2])

    def _rows(self, pixels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of blocks of pixels (N, C), rows of their colors, int32, and masks of the pixels that have a row."""
        keys = _codes(self.colors)
        table = _row_table(keys, pixels.shape[1]) if _prefers_table(pixels, _LOOK_UP_BY_TABLE_FROM) else None
        for block in blocks_of(pixels, _BLOCK):
            codes = _codes(pixels[block])
            if table is None:
                index = torch.searchsorted(keys, codes, out_int32=True).clamp_(max=len(keys) - 1)
            else:
                index = table.index_select(0, codes).clamp_(0, len(keys) - 1)  # unwritten entries are arbitrary
            yield block, index, keys.index_select(0, index) == codes

    def _check_channels(self, image: Tensor) -> None:
        if image.shape[2] != self.colors.shape[1]:
            raise ValueError(f"image must have {self.colors.shape[1]} channels, got shape {tuple(image.shape)}")


@eager
def unique_colors(image: UInt8[Tensor, "h w c"]) -> ColorHistogram:
    """The exact color histogram of an image.

    Args:
        image: uint8 (H, W, C), H and W at least 1, C from 1 to 4.

    Raises:
        TypeError: if the image is not a uint8 tensor.
        ValueError: if the image has another shape.

    Example:
        >>> histogram = unique_colors(torch.tensor([[[1, 2, 3], [0, 9, 9], [1, 2, 3]]], dtype=torch.uint8))
        >>> histogram.colors.tolist(), histogram.counts.tolist()
        ([[0, 9, 9], [1, 2, 3]], [1, 2])
    """
    check_image(image)
    pixels = image.flatten(0, 1)
    if takes(image, dtype=torch.uint8):
        counted = (count_colors(pixels[block].contiguous()) for block in blocks(len(pixels), _NATIVE_BLOCK))
        histograms = (ColorHistogram(colors=colors, counts=counts) for colors, counts in counted)
        return functools.reduce(operator.add, histograms)
    count = _count_by_table if _prefers_table(pixels, _COUNT_BY_TABLE_FROM) else _count_by_sorting
    codes, counts = count(pixels)
    return ColorHistogram(colors=_colors(codes, pixels.shape[1]), counts=counts)


def _count_by_table(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the distinct colors of pixels (N, C) in ascending order, int32, and their counts, int64."""
    dtype = torch.int32 if len(pixels) < 1 << 31 else torch.int64
    table = torch.zeros(1 << 8 * pixels.shape[1], dtype=dtype, device=pixels.device)
    one = torch.ones(1, dtype=dtype, device=pixels.device)
    for block in blocks_of(pixels, _BLOCK):
        codes = _codes(pixels[block]).long()
        table.scatter_add_(0, codes, one.expand(len(codes)))
    groups, parts = table.view(-1, _GROUP), []
    used = groups.amax(dim=1).nonzero().squeeze(1)
    for block in blocks_of(used, _BLOCK // _GROUP):
        entries = groups.index_select(0, used[block]).flatten()
        within = entries.nonzero().squeeze(1)
        first = used[block].mul_(_GROUP).index_select(0, within // _GROUP)
        parts.append(((first + within % _GROUP).int(), entries.index_select(0, within).long()))
    codes, counts = zip(*parts, strict=True)
    return torch.cat(codes), torch.cat(counts)


def _count_by_sorting(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the distinct colors of pixels (N, C) in ascending order, int32, and their counts, int64."""
    parts: list[tuple[Tensor, Tensor]] = []
    for block in blocks_of(pixels, _SORTED_BLOCK):
        parts.append(_count_sorted(_codes(pixels[block]).sort().values))
        # parts[0] is the sum so far. The other parts are added when they have as many colors as the sum, so that each
        # color is sorted few times.
        if sum(len(codes) for codes, _ in parts[1:]) >= max(len(parts[0][0]), _MIN_ADDED):
            parts = [_sum(parts)]
    return _sum(parts)


def _count_sorted(codes: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct codes among ascending codes, and their counts, int64. (`torch.unique` waits twice for a GPU.)"""
    is_first = torch.cat([codes.new_ones(1, dtype=torch.bool), codes[1:] != codes[:-1]])
    first = is_first.nonzero().squeeze(1)
    return codes.index_select(0, first), first.diff(append=first.new_full((1,), len(codes)))


def _sum(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum of histograms. Each histogram is a pair of codes in ascending order and their counts, and so is the sum.

    The range of codes is cut into pieces, and each piece is sorted on its own. The cuts are at equal steps through the
    codes of the longest histogram.
    """
    if len(parts) == 1:
        return parts[0]
    step = max(1, _SORTED_BLOCK // len(parts))
    bounds = max((codes for codes, _ in parts), key=len)[step::step].contiguous()
    cuts = [[0, *torch.searchsorted(codes, bounds).tolist(), len(codes)] for codes, _ in parts]
    pieces = []
    for starts_and_ends in zip(*map(itertools.pairwise, cuts), strict=True):
        slices = [slice(*pair) for pair in starts_and_ends]
        codes, counts = (
            torch.cat([values[s] for values, s in zip(column, slices, strict=True)])
            for column in zip(*parts, strict=True)
        )
        pieces.append(_sum_of_equal(codes, counts))
    codes, counts = zip(*pieces, strict=True)
    return torch.cat(codes), torch.cat(counts)


def _sum_of_equal(codes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct codes in ascending order, and the sum of the counts of each."""
    codes, order = codes.sort()
    sums = counts[order].cumsum_(0)
    codes, lengths = torch.unique_consecutive(codes, return_counts=True)
    sums = sums[lengths.cumsum_(0).sub_(1)]
    return codes, torch.diff(sums, prepend=sums.new_zeros(1))


def _prefers_table(pixels: Tensor, min_pixels: int) -> bool:
    """Whether to use a table of all colors: always for 1 and 2 channels, never for 4, for 3 from `min_pixels` on."""
    return pixels.shape[1] < 3 or (pixels.shape[1] == 3 and len(pixels) >= min_pixels)


def _row_table(keys: Tensor, channels: int) -> Tensor:
    # Not initialized, because writing all entries would touch memory pages without a color of the image.
    table = torch.empty(1 << 8 * channels, dtype=torch.int32, device=keys.device)
    table[keys] = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    return table


def _codes(colors: Tensor) -> Tensor:
    """Codes (N,), int32, of colors (N, C). The channels are the bytes of a code; the first channel is the highest byte.

    So the numerical order of codes is the lexicographic order of colors. For four channels, 128 is subtracted from the
    first channel, so that the codes fit into int32.
    """
    codes = colors[:, 0].to(torch.int32)
    if colors.shape[1] == 4:
        codes -= 128
    for channel in range(1, colors.shape[1]):
        codes = codes.mul_(256).add_(colors[:, channel])
    return codes


def _colors(codes: Tensor, channels: int) -> Tensor:
    """Colors (N, C), uint8, of codes (N,): the inverse of `_codes`."""
    colors = torch.empty(len(codes), channels, dtype=torch.uint8, device=codes.device)
    shifts = torch.arange(8 * (channels - 1), -1, -8, dtype=torch.int32, device=codes.device)
    for block in blocks_of(codes, _BLOCK):
        colors[block] = codes[block, None] >> shifts & 255
    if channels == 4:
        colors[:, 0] ^= 128
    return colors


def check_histogram(histogram: object) -> None:
    """TypeError unless this is a histogram."""
    if not isinstance(histogram, ColorHistogram):
        received = type(histogram).__name__
        raise TypeError(f"histogram must be a ColorHistogram, from unique_colors, got {received}")


def check_image(image: object, *, batch: bool = False) -> None:
    """TypeError or ValueError unless the image is a uint8 tensor (H, W, C), H and W at least 1, C from 1 to 4.

    With `batch`, (B, H, W, C) with B at least 1 is accepted too.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if not (image.ndim == 3 or (batch and image.ndim == 4)) or image.numel() == 0 or image.shape[-1] > 4:
        expected = "(H, W, C) or (B, H, W, C), B, H" if batch else "(H, W, C), H"
        received = f"{tuple(image.shape)}{hint_for_channels_first(image)}"
        raise ValueError(f"image must have shape {expected} and W at least 1, C from 1 to 4, got {received}")


def check_colors(colors: object, name: str, image: Tensor, max_colors: int, *, min_colors: int = 0) -> None:
    """TypeError or ValueError unless `colors` are uint8 (K, C), on the device of an image (..., C).

    K must be from `min_colors` to `max_colors`.
    """
    if not isinstance(colors, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(colors).__name__}")
    if colors.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, got {colors.dtype}")
    channels = image.shape[-1]
    if colors.ndim != 2 or colors.shape[1] != channels or colors.device != image.device:
        expected = f"(K, {channels}) on {image.device}, as the image has {channels} channels"
        raise ValueError(f"{name} must have shape {expected}, got shape {tuple(colors.shape)} on {colors.device}")
    if len(colors) > max_colors:
        raise ValueError(f"{name} must have at most {max_colors} colors, got {len(colors)}")
    if len(colors) < min_colors:
        raise ValueError(f"{name} must have at least {min_colors} color, got {len(colors)}")


def hint_for_channels_first(image: Tensor) -> str:
    """Hint to append to an error, for images of shape (C, H, W) or (B, C, H, W), C from 1 to 4. Otherwise empty."""
    if image.ndim not in (3, 4) or not 1 <= image.shape[-3] <= 4:
        return ""
    order = "1, 2, 0" if image.ndim == 3 else "0, 2, 3, 1"
    return f": use permute({order}) if channels are first, or QuantizeColors, whose images are (..., C, H, W)"
