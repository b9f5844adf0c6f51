"""Color histograms: the distinct colors of an image and the number of pixels of each. Histograms add."""

import functools
import operator
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.summaries import summary_of_fields
from gpukmeans.tiling import blocks

# A table of all 2**24 colors costs 50 ms on a CPU to set up and little per pixel; sorting and searching have no setup
# cost. Measured on two cores, counting by table is faster above 4 megapixels (85 ms to 82 at 4, 148 to 418 at 17) and
# lookup by table above half a megapixel (23 ms to 53 at 1).
_COUNT_BY_TABLE_FROM = 1 << 22
_LOOK_UP_BY_TABLE_FROM = 1 << 19

# The table of bytes in `map_values` is a quarter of that size: 0.7 ms to 1.2 for a search, at 16,000 pixels.
_MAP_BY_TABLE_FROM = 1 << 14

# Number of pixels processed at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ColorHistogram:
    """Distinct colors (M, C), uint8, in lexicographic order, and the number of pixels of each (M,).

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
        codes, rows = torch.unique(_codes(torch.cat([self.colors, other.colors])), return_inverse=True)
        counts = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        counts.scatter_add_(0, rows, torch.cat([self.counts, other.counts]))
        return ColorHistogram(colors=_colors(codes, self.colors.shape[1]), counts=counts)

    def __radd__(self, other: object) -> "ColorHistogram":
        return self if other == 0 else NotImplemented  # the start of `sum`

    def __repr__(self) -> str:
        return summary_of_fields("ColorHistogram", vars(self))

    def lookup(self, image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "h w"]:
        """Rows of the colors of the pixels of an image (H, W, C), int32 (H, W).

        ValueError if the number of channels differs or a color is not in the histogram.
        """
        check_image(image)
        pixels = image.flatten(0, 1)
        if pixels.shape[1] != self.colors.shape[1]:
            raise ValueError(f"image must have {self.colors.shape[1]} channels, got shape {tuple(image.shape)}")
        keys = _codes(self.colors)
        rows = torch.empty(len(pixels), dtype=torch.int32, device=image.device)
        table = _row_table(keys, pixels.shape[1]) if _prefers_table(pixels, _LOOK_UP_BY_TABLE_FROM) else None
        for block in blocks(len(pixels), _BLOCK):
            codes = _codes(pixels[block])
            if table is None:
                index = torch.searchsorted(keys, codes, out_int32=True).clamp_(max=len(keys) - 1)
            else:
                index = table.index_select(0, codes).clamp_(0, len(keys) - 1)  # unwritten entries are arbitrary
            if not torch.equal(keys.index_select(0, index), codes):
                raise ValueError("image must have no other colors than the histogram")
            rows[block] = index
        return rows.reshape(image.shape[:2])

    def map_values(self, values: UInt8[Tensor, " m"], image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "h w"]:
        """Values (H, W) of the colors of the pixels of an image (H, W, C): a faster `values[self.lookup(image)]`.

        The value of a pixel whose color is not in the histogram is undefined. ValueError if the number of channels
        differs.
        """
        check_image(image)
        pixels = image.flatten(0, 1)
        if pixels.shape[1] != self.colors.shape[1] or not _prefers_table(pixels, _MAP_BY_TABLE_FROM):
            return values.index_select(0, self.lookup(image).flatten()).reshape(image.shape[:2])
        table = torch.zeros(1 << 8 * pixels.shape[1], dtype=torch.uint8, device=image.device)
        table[_codes(self.colors)] = values
        mapped = [table.index_select(0, _codes(pixels[block])) for block in blocks(len(pixels), _BLOCK)]
        return torch.cat(mapped).reshape(image.shape[:2])


@eager
def unique_colors(image: UInt8[Tensor, "h w c"]) -> ColorHistogram:
    """The exact color histogram of a uint8 image (H, W, C).

    TypeError or ValueError for other input.

    Args:
        image: uint8 (H, W, C), H and W at least 1, C from 1 to 4.

    Example:
        >>> histogram = unique_colors(torch.tensor([[[1, 2, 3], [0, 9, 9], [1, 2, 3]]], dtype=torch.uint8))
        >>> histogram.colors.tolist(), histogram.counts.tolist()
        ([[0, 9, 9], [1, 2, 3]], [1, 2])
    """
    check_image(image)
    pixels = image.flatten(0, 1)
    channels = pixels.shape[1]
    if _prefers_table(pixels, _COUNT_BY_TABLE_FROM):
        table = torch.zeros(1 << 8 * channels, dtype=torch.int64, device=image.device)
        one = torch.ones(1, dtype=torch.int64, device=image.device)
        for block in blocks(len(pixels), _BLOCK):
            codes = _codes(pixels[block]).long()
            table.scatter_add_(0, codes, one.expand(len(codes)))
        codes = table.nonzero().squeeze(1)
        return ColorHistogram(colors=_colors(codes, channels), counts=table[codes])
    return functools.reduce(operator.add, (_count_by_sorting(pixels[block]) for block in blocks(len(pixels), _BLOCK)))


def _count_by_sorting(pixels: Tensor) -> ColorHistogram:
    codes, counts = torch.unique(_codes(pixels), return_counts=True)
    return ColorHistogram(colors=_colors(codes, pixels.shape[1]), counts=counts)


def _prefers_table(pixels: Tensor, min_pixels: int) -> bool:
    """Whether a table of all colors is faster: for grey always, for four channels never."""
    return pixels.shape[1] < 3 or (pixels.shape[1] == 3 and len(pixels) >= min_pixels)


def _row_table(keys: Tensor, channels: int) -> Tensor:
    # Uninitialized, so that memory pages without a color of the image are never touched.
    table = torch.empty(1 << 8 * channels, dtype=torch.int32, device=keys.device)
    table[keys] = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    return table


def _codes(colors: Tensor) -> Tensor:
    """Colors (N, C) as integers of C bytes, the first channel highest: int32, or int64 for four channels."""
    dtype = torch.int64 if colors.shape[1] == 4 else torch.int32
    codes = colors[:, 0].to(dtype)
    for channel in range(1, colors.shape[1]):
        codes = codes.mul_(256).add_(colors[:, channel])
    return codes


def _colors(codes: Tensor, channels: int) -> Tensor:
    """Colors (N, C) of integer codes (N,)."""
    shifts = range(8 * (channels - 1), -1, -8)
    return torch.stack([(codes >> shift & 255).to(torch.uint8) for shift in shifts], dim=1)


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


def hint_for_channels_first(image: Tensor) -> str:
    """The end of the error for an image (C, H, W) or (B, C, H, W), C from 1 to 4; empty for other shapes."""
    if image.ndim not in (3, 4) or not 1 <= image.shape[-3] <= 4:
        return ""
    order = "1, 2, 0" if image.ndim == 3 else "0, 2, 3, 1"
    return f": use permute({order}) if channels are first, or QuantizeColors, whose images are (..., C, H, W)"
