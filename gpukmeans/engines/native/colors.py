"""Distinct colors of 8-bit pixels with their counts, and look-up of colors in a list, by the kernels of colors.c.

All tensors are contiguous and on the CPU. Kernels group pixels of three or four channels by the first two channels.
"""

from ctypes import POINTER, Structure, c_int, c_int64, c_void_p

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel, zeros
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.tiling import blocks

# The number of pixels of one call of a kernel. A call takes at most 50 ms.
_BLOCK = 1 << 20

# The number of pairs of values of two channels, and so of groups of pixels.
_PAIRS = 1 << 16


class _ColorScan(Structure):
    """`struct color_scan` of colors.c."""

    _fields_ = [
        *fields(c_void_p, "rests", "ends", "part", "colors", "counts"),
        *fields(c_int64, "part_number", "n_colors"),
    ]


class _ColorRows(Structure):
    """`struct color_rows` of colors.c."""

    _fields_ = [("colors", c_void_p), ("n_colors", c_int64), *fields(c_void_p, "groups", "firsts")]


# The first arguments of the kernels that look up pixels: the channels, the list, and a range of pixels.
_LOOK_UP = c_int, POINTER(_ColorRows), c_void_p, c_int64, c_int64


def count_colors(pixels: UInt8[Tensor, "n c"]) -> tuple[UInt8[Tensor, "m c"], Int[Tensor, " m"]]:
    """Distinct colors (M, C) in lexicographic order, and the number of pixels of each color, int64 (M,).

    The function needs 1 MB in addition to the results. For each pixel it also needs 1 byte if C = 3, 2 bytes if C = 4.

    Args:
        pixels: uint8 (N, C), C from 1 to 4, N below 2**31.
    """
    n_pixels, channels = pixels.shape
    if channels < 3:
        ends, rests = torch.tensor([n_pixels], dtype=torch.int32, device="cpu"), pixels
    else:
        ends, rests = _partition(pixels)
    part = zeros(kernel("colors_part_counts_bytes", restype=c_int64)(), dtype=torch.uint8)
    count = kernel("colors_count", c_int, POINTER(_ColorScan), c_int64, c_int64)

    def scan(colors: Tensor | None, counts: Tensor | None) -> int:
        state = _ColorScan(*addresses(rests, ends, part, colors, counts))
        for block in blocks(n_pixels, _BLOCK):
            count(channels, state, block.start, block.stop)
        return state.n_colors

    max_colors = 256**channels if channels < 3 else scan(None, None)
    colors, counts = empty(max_colors, channels, dtype=torch.uint8), empty(max_colors, dtype=torch.int64)
    n_colors = scan(colors, counts)
    return (colors, counts) if n_colors == max_colors else (colors[:n_colors].clone(), counts[:n_colors].clone())


def _partition(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels grouped by their first two channels: the end of each group (65536,) int32, and the other channels (N,).

    The other channels are uint8 for pixels of three channels, and the bits of uint16 in int16 for pixels of four.
    """
    n_pixels, channels = pixels.shape
    arguments = c_int, c_void_p, c_int64, c_int64, c_void_p
    add_sizes = kernel("colors_part_sizes", *arguments)
    append = kernel("colors_partition", *arguments, c_void_p, c_int64)
    sizes = zeros(_PAIRS, dtype=torch.int32)
    for block in blocks(n_pixels, _BLOCK):
        add_sizes(channels, pixels.data_ptr(), block.start, block.stop, sizes.data_ptr())
    ends = sizes.cumsum(0, dtype=torch.int32)
    places = ends - sizes
    rests = empty(n_pixels, dtype=torch.uint8 if channels % 2 else torch.int16)
    for block in blocks(n_pixels, _BLOCK):
        append(channels, pixels.data_ptr(), block.start, block.stop, *addresses(places, rests), n_pixels)
    return ends, rests


class ColorRows:
    """Index of a list of colors. It finds the row of the color of a pixel.

    The list is `colors` of a `gpukmeans.images.histogram.ColorHistogram`. So error messages call it a histogram.

    The index takes 4 MiB for three or four channels, and with four channels 4 bytes more for each color.

    Args:
        colors: uint8 (M, C), C from 1 to 4, M below 2**31, distinct and in lexicographic order.

    Raises:
        ValueError: if colors are not distinct or not in lexicographic order.
    """

    def __init__(self, colors: UInt8[Tensor, "m c"]) -> None:
        n_colors, self._channels = colors.shape
        groups = zeros(2 << max(0, 8 * min(self._channels, 3) - 6), dtype=torch.int64)
        firsts = empty(n_colors + 1 if self._channels == 4 else 0, dtype=torch.int32)
        self._tensors = colors, groups, firsts
        self._rows = _ColorRows(colors.data_ptr(), n_colors, *addresses(groups, firsts))
        index = kernel("colors_index", c_int, POINTER(_ColorRows), restype=c_int)
        if not index(self._channels, self._rows):
            raise ValueError("colors of a histogram must be distinct and in lexicographic order")

    def look_up(self, pixels: UInt8[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """Row in the list of the color of each pixel (N, C), int32 (N,). ValueError for a color that is not listed."""
        rows = empty(len(pixels), dtype=torch.int32)
        look_up = kernel("colors_look_up", *_LOOK_UP, c_void_p, restype=c_int64)
        n_missing: list[int] = []

        def run(start: int, stop: int) -> None:
            n_missing.append(look_up(self._channels, self._rows, pixels.data_ptr(), start, stop, rows.data_ptr()))

        run_chunks(run, len(pixels), _BLOCK)
        if any(n_missing):
            raise ValueError("image must have no other colors than the histogram")
        return rows

    def map_values(self, values: UInt8[Tensor, " m"], pixels: UInt8[Tensor, "n c"]) -> UInt8[Tensor, " n"]:
        """Value (N,), uint8, of the color of each pixel; 0 for a color that is not in the list.

        Args:
            values: uint8 (M,), one for each color of the list.
            pixels: uint8 (N, C).

        Raises:
            ValueError: unless there is one value for each color.
        """
        if len(values) != self._rows.n_colors:
            raise ValueError(f"values must be one for each of {self._rows.n_colors} colors, got {len(values)}")
        mapped = empty(len(pixels), dtype=torch.uint8)
        map_values = kernel("colors_map_values", *_LOOK_UP, c_void_p, c_void_p)

        def run(start: int, stop: int) -> None:
            results = addresses(values, mapped)
            map_values(self._channels, self._rows, pixels.data_ptr(), start, stop, *results)

        run_chunks(run, len(pixels), _BLOCK)
        return mapped
