"""The distinct colors of an image and how many pixels wear each. Histograms add."""

from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.tiling import blocks

# A table with an entry for each of the 2**24 colors costs 50 ms on a CPU before the first pixel, then little for each;
# sorting and searching cost nothing before. Measured on two cores, the table counts faster from about 4 megapixels on
# (85 against 82 ms there, 148 against 418 at 17) and looks up faster from half a megapixel on (23 against 53 ms at 1).
_COUNT_BY_TABLE_FROM = 1 << 22
_LOOK_UP_BY_TABLE_FROM = 1 << 19

# A table of bytes is a quarter of that one, and takes 0.7 ms where the search takes 1.2 for 16,000 pixels.
_SPREAD_BY_TABLE_FROM = 1 << 14

# Pixels whose codes are held at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ColorHistogram:
    """Distinct colors in lexicographic order and the number of pixels of each. The sum of two is that of both images.

    K-means over these colors with these counts as weights is K-means over the pixels.
    """

    colors: UInt8[Tensor, "m c"]
    counts: Int[Tensor, " m"]

    def __add__(self, other: "ColorHistogram") -> "ColorHistogram":
        if self.colors.shape[1] != other.colors.shape[1]:
            raise ValueError(
                "histograms add when their colors have equally many channels,"
                f" got {self.colors.shape[1]} and {other.colors.shape[1]}"
            )
        codes, which = torch.unique(_codes(torch.cat([self.colors, other.colors])), return_inverse=True)
        counts = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        counts.scatter_add_(0, which, torch.cat([self.counts, other.counts]))
        return ColorHistogram(colors=_colors(codes, self.colors.shape[1]), counts=counts)

    def lookup(self, image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "h w"]:
        """For each pixel of an image (H, W, C) the row of its color, int32 (H, W).

        ValueError if the image has other channels, or a color that is not in this histogram.
        """
        check_image(image)
        pixels = image.flatten(0, 1)
        if pixels.shape[1] != self.colors.shape[1]:
            raise ValueError(f"image must have {self.colors.shape[1]} channels, got shape {tuple(image.shape)}")
        known = _codes(self.colors)
        rows = torch.empty(len(pixels), dtype=torch.int32, device=image.device)
        table = _row_table(known, pixels.shape[1]) if _prefers_table(pixels, _LOOK_UP_BY_TABLE_FROM) else None
        for block in blocks(len(pixels), _BLOCK):
            codes = _codes(pixels[block])
            if table is None:
                found = torch.searchsorted(known, codes, out_int32=True).clamp_(max=len(known) - 1)
            else:
                found = table.index_select(0, codes).clamp_(0, len(known) - 1)  # entries never written hold anything
            if not torch.equal(known.index_select(0, found), codes):
                raise ValueError("image must have no other colors than the histogram")
            rows[block] = found
        return rows.reshape(image.shape[:2])

    def spread(self, values: UInt8[Tensor, " m"], image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "h w"]:
        """For each pixel of an image (H, W, C) the value of its color: `values[self.lookup(image)]`, but sooner.

        What a pixel gets whose color is not in this histogram is not defined. ValueError if the image has other
        channels.
        """
        check_image(image)
        pixels = image.flatten(0, 1)
        if pixels.shape[1] != self.colors.shape[1] or not _prefers_table(pixels, _SPREAD_BY_TABLE_FROM):
            return values.index_select(0, self.lookup(image).flatten()).reshape(image.shape[:2])
        table = torch.zeros(1 << 8 * pixels.shape[1], dtype=torch.uint8, device=image.device)
        table[_codes(self.colors)] = values
        spread = [table.index_select(0, _codes(pixels[block])) for block in blocks(len(pixels), _BLOCK)]
        return torch.cat(spread).reshape(image.shape[:2])


def unique_colors(image: UInt8[Tensor, "h w c"]) -> ColorHistogram:
    """The histogram of a uint8 image (H, W, C), C from 1 to 4. Exact; colors in lexicographic order.

    TypeError or ValueError for anything else.
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
    parts = (_count_by_sorting(pixels[block]) for block in blocks(len(pixels), _BLOCK))
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _count_by_sorting(pixels: Tensor) -> ColorHistogram:
    codes, counts = torch.unique(_codes(pixels), return_counts=True)
    return ColorHistogram(colors=_colors(codes, pixels.shape[1]), counts=counts)


def _prefers_table(pixels: Tensor, least: int) -> bool:
    """Whether a table of all colors is affordable and pays: for grey always, for four channels never."""
    return pixels.shape[1] < 3 or (pixels.shape[1] == 3 and len(pixels) >= least)


def _row_table(known: Tensor, channels: int) -> Tensor:
    # Empty, so that the pages of colors that nobody asks for are never touched.
    table = torch.empty(1 << 8 * channels, dtype=torch.int32, device=known.device)
    table[known] = torch.arange(len(known), dtype=torch.int32, device=known.device)
    return table


def _codes(colors: Tensor) -> Tensor:
    """Colors (N, C) as integers of C bytes, the first channel highest: int32, or int64 for four channels."""
    dtype = torch.int64 if colors.shape[1] == 4 else torch.int32
    codes = colors[:, 0].to(dtype)
    for channel in range(1, colors.shape[1]):
        codes = codes.mul_(256).add_(colors[:, channel])
    return codes


def _colors(codes: Tensor, channels: int) -> Tensor:
    """The colors (N, C) of these codes."""
    shifts = range(8 * (channels - 1), -1, -8)
    return torch.stack([(codes >> shift & 255).to(torch.uint8) for shift in shifts], dim=1)


def check_image(image: object, *, batch: bool = False) -> None:
    """TypeError or ValueError unless this is a uint8 tensor (H, W, C), H and W at least 1, C from 1 to 4.

    Or with `batch` as well (B, H, W, C), B at least 1.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if not (image.ndim == 3 or (batch and image.ndim == 4)) or image.numel() == 0 or image.shape[-1] > 4:
        wanted = "(H, W, C) or (B, H, W, C), B, H" if batch else "(H, W, C), H"
        raise ValueError(f"image must have shape {wanted} and W at least 1, C from 1 to 4, got {tuple(image.shape)}")
