"""Distinct colors of 8-bit pixels with their counts, and look-up of colors in a list, by the kernels of colors.c."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import load
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.tiling import blocks

# The number of pixels of one call, which takes at most 50 ms.
_BLOCK = 1 << 20

# The number of values of the first two channels together.
_PAIRS = 1 << 16


class _ColorScan(ctypes.Structure):
    """`struct color_scan` of colors.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("rests", "ends", "part", "colors", "counts")),
        *((name, ctypes.c_int64) for name in ("part_number", "n_colors")),
    ]


class _ColorRows(ctypes.Structure):
    """`struct color_rows` of colors.c."""

    _fields_ = [
        ("colors", ctypes.c_void_p),
        ("n_colors", ctypes.c_int64),
        ("groups", ctypes.c_void_p),
        ("firsts", ctypes.c_void_p),
    ]


def count_colors(pixels: UInt8[Tensor, "n c"]) -> tuple[UInt8[Tensor, "m c"], Int[Tensor, " m"]]:
    """Distinct colors (M, C) in lexicographic order, and the number of pixels of each color, int64 (M,).

    In addition to the result this takes 1 MB, and for each pixel 1 byte for C = 3 and 2 bytes for C = 4.

    Args:
        pixels: contiguous (N, C), C from 1 to 4, N below 2**31, on the CPU.
    """
    n_pixels, channels = pixels.shape
    if channels < 3:
        ends, rests = torch.tensor([n_pixels], dtype=torch.int32, device="cpu"), pixels
    else:
        ends, rests = _partition(pixels)
    part = _zeros(_function("part_counts_bytes", restype=ctypes.c_int64)(), torch.uint8)
    count = _function("count", ctypes.c_int, ctypes.POINTER(_ColorScan), ctypes.c_int64, ctypes.c_int64)

    def scan(colors: Tensor | None, counts: Tensor | None) -> int:
        state = _ColorScan(*(_address(tensor) for tensor in (rests, ends, part, colors, counts)))
        for block in blocks(n_pixels, _BLOCK):
            count(channels, state, block.start, block.stop)
        return state.n_colors

    max_colors = 256**channels if channels < 3 else scan(None, None)
    colors = torch.empty(max_colors, channels, dtype=torch.uint8, device="cpu")
    counts = torch.empty(max_colors, dtype=torch.int64, device="cpu")
    n_colors = scan(colors, counts)
    return (colors, counts) if n_colors == max_colors else (colors[:n_colors].clone(), counts[:n_colors].clone())


def _partition(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels grouped by their first two channels: the ends (65536,) of the groups, and the other channels (N,)."""
    n_pixels, channels = pixels.shape
    arguments = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    add_sizes = _function("part_sizes", *arguments)
    append = _function("partition", *arguments, ctypes.c_void_p, ctypes.c_int64)
    sizes = _zeros(_PAIRS, torch.int32)
    for block in blocks(n_pixels, _BLOCK):
        add_sizes(channels, _address(pixels), block.start, block.stop, _address(sizes))
    ends = sizes.cumsum(0, dtype=torch.int32)
    places = ends - sizes
    rests = torch.empty(n_pixels, dtype=torch.uint8 if channels % 2 else torch.int16, device="cpu")
    for block in blocks(n_pixels, _BLOCK):
        append(channels, _address(pixels), block.start, block.stop, _address(places), _address(rests), n_pixels)
    return ends, rests


class ColorRows:
    """Index of a list of colors, which finds the row of the color of a pixel.

    It takes 4 MiB, and with four channels 4 bytes for each color.

    Args:
        colors: contiguous (M, C), C from 1 to 4, M below 2**31, distinct and in lexicographic order, on the CPU.

    Raises:
        ValueError: for colors in another order.
    """

    def __init__(self, colors: UInt8[Tensor, "m c"]) -> None:
        n_colors, self._channels = colors.shape
        groups = _zeros(2 << max(0, 8 * min(self._channels, 3) - 6), torch.int64)
        firsts = torch.empty(n_colors + 1 if self._channels == 4 else 0, dtype=torch.int32, device="cpu")
        self._tensors = colors, groups, firsts
        self._rows = _ColorRows(_address(colors), n_colors, _address(groups), _address(firsts))
        index = _function("index", ctypes.c_int, ctypes.POINTER(_ColorRows), restype=ctypes.c_int)
        if not index(self._channels, self._rows):
            raise ValueError("colors of a histogram must be distinct and in lexicographic order")

    def look_up(self, pixels: UInt8[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """Row of the color of each pixel (N, C), contiguous: int32 (N,). ValueError for a color that is not listed."""
        rows = torch.empty(len(pixels), dtype=torch.int32, device="cpu")
        look_up = self._function("look_up", 1, restype=ctypes.c_int64)
        n_missing: list[int] = []

        def run(start: int, stop: int) -> None:
            n_missing.append(look_up(self._channels, self._rows, _address(pixels), start, stop, _address(rows)))

        run_chunks(run, len(pixels), _BLOCK)
        if any(n_missing):
            raise ValueError("image must have no other colors than the histogram")
        return rows

    def map_values(self, values: UInt8[Tensor, " m"], pixels: UInt8[Tensor, "n c"]) -> UInt8[Tensor, " n"]:
        """Value (N,) of the color of each pixel, 0 for a color that is not in the list.

        Args:
            values: contiguous (M,), one for each color of the list.
            pixels: contiguous (N, C).

        Raises:
            ValueError: unless there is one value for each color.
        """
        if len(values) != self._rows.n_colors:
            raise ValueError(f"values must be one for each of {self._rows.n_colors} colors, got {len(values)}")
        mapped = torch.empty(len(pixels), dtype=torch.uint8, device="cpu")
        map_values = self._function("map_values", 2)

        def run(start: int, stop: int) -> None:
            addresses = _address(values), _address(mapped)
            map_values(self._channels, self._rows, _address(pixels), start, stop, *addresses)

        run_chunks(run, len(pixels), _BLOCK)
        return mapped

    def _function(self, name: str, n_more: int, **options: Any) -> Callable[..., Any]:
        more = [ctypes.c_void_p] * n_more
        pixels = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        return _function(name, ctypes.c_int, ctypes.POINTER(_ColorRows), *pixels, *more, **options)


def _function(name: str, *argtypes: Any, restype: Any = None) -> Callable[..., Any]:
    return load().function(f"gpukmeans_colors_{name}", *argtypes, restype=restype)


def _zeros(size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype, device="cpu")


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
