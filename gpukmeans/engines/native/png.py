"""Filters of PNG scanlines chosen by code lengths, and palette orders, by the kernels of png.c.

Tensors are contiguous and on the CPU. `gpukmeans.images.png_rate` and `gpukmeans.images.palette_order` define the
results.
"""

from collections.abc import Callable
from ctypes import POINTER, Structure, c_int64, c_void_p

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel, padded, zeros
from gpukmeans.engines.native.threads import run_chunks

# The number of pixels of one call, which takes at most 50 ms.
_BLOCK = 1 << 20


class _Filtering(Structure):
    """`struct filtering` of png.c."""

    _fields_ = [("width", c_int64), *fields(c_void_p, "rows", "lengths", "filters")]


def cheapest_filters(
    rows: UInt8[Tensor, "h w"], lengths: Int[Tensor, "256"]
) -> tuple[Int[Tensor, " h"], Int[Tensor, "256"]]:
    """The cheapest filter type of each row, int32 (H,), and the counts of the bytes of filtered rows, int64 (256,).

    In addition to the results this takes 6 rows for each thread.

    Args:
        rows: uint8 (H, W).
        lengths: cost of each byte, int32 (256,).
    """
    filters = empty(len(rows), dtype=torch.int32)
    return filters, _filtered(rows, filters, lengths)


def filtered_counts(rows: UInt8[Tensor, "h w"], filters: Int[Tensor, " h"]) -> Int[Tensor, "256"]:
    """Counts (256,), int64, of the bytes of rows (H, W) with these filter types, int32 (H,), 0 to 4."""
    return _filtered(rows, filters, None)


def weighted_counts(
    rows: UInt8[Tensor, "h w"], filters: Int[Tensor, " h"], weights: UInt8[Tensor, "p q"]
) -> Int[Tensor, "n 256"]:
    """Counts, int64 (33, 256), of the bytes of filtered rows, separate for each weight of a block.

    Filter types have the weight 16.

    Args:
        rows: uint8 (H, W).
        filters: int32 (H,), 0 to 4.
        weights: uint8 (ceil(H / 8), ceil(W / 8)), up to 32.
    """
    (height, width), n_weights = rows.shape, 33
    if filters.shape != (height,) or weights.shape != (-(-height // 8), -(-width // 8)) or int(weights.max()) > 32:
        raise ValueError("rows, filters and weights must have shapes (H, W), (H,) and (H / 8, W / 8), weights up to 32")
    state = _Filtering(width, *addresses(rows, None, filters))
    run = kernel("png_count", POINTER(_Filtering), c_void_p, c_int64, c_int64, c_void_p, c_void_p)

    def count(start: int, stop: int, counts: Tensor) -> None:
        scratch = empty(2 * width, dtype=torch.uint8)
        run(state, weights.data_ptr(), start, stop, *addresses(scratch, counts))

    return _summed(count, rows.shape, (n_weights, 256), torch.int64)


def _filtered(rows: Tensor, filters: Tensor, lengths: Tensor | None) -> Tensor:
    height, width = rows.shape
    if filters.shape != (height,) or (lengths is not None and lengths.shape != (256,)):
        raise ValueError("rows, filters and lengths must have shapes (H, W), (H,) and (256,)")
    state = _Filtering(width, *addresses(rows, lengths, filters))
    run = kernel("png_filter", POINTER(_Filtering), c_int64, c_int64, c_void_p, c_void_p)

    def count(start: int, stop: int, counts: Tensor) -> None:
        scratch = empty(6 * width, dtype=torch.uint8)
        run(state, start, stop, *addresses(scratch, counts))

    return _summed(count, rows.shape, (256,), torch.int64)


def adjacency_counts(indices: UInt8[Tensor, "h w"], n_colors: int) -> Int[Tensor, "k k"]:
    """Counts, int64 (K, K), of pairs of neighbors by their indices: a pixel and its right or lower neighbor.

    In addition to the result this takes 4 K² bytes for each million pixels.

    Args:
        indices: uint8 (H, W), below K.
        n_colors: K.
    """
    height, width = indices.shape
    if int(indices.max()) >= n_colors:
        raise ValueError(f"indices must be below {n_colors}")
    run = kernel("png_adjacency", c_void_p, *[c_int64] * 5, c_void_p)

    def count(start: int, stop: int, counts: Tensor) -> None:
        run(indices.data_ptr(), height, width, n_colors, start, stop, counts.data_ptr())

    return _summed(count, indices.shape, (n_colors, n_colors), torch.int32)


def _summed(
    count: Callable[[int, int, Tensor], None], image: tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Sums, int64 of a shape, over chunks of rows of an image (H, W). `count` adds the counts of rows to zeros."""
    parts: list[Tensor] = []

    def compute(start: int, stop: int) -> None:
        counts = zeros(*shape, dtype=dtype)
        count(start, stop, counts)
        parts.append(counts)

    height, width = image
    run_chunks(compute, height, max(1, _BLOCK // width))
    return torch.stack(parts).sum(dim=0)


def mapped(bytes_: UInt8[Tensor, "h w"], table: UInt8[Tensor, " n"]) -> UInt8[Tensor, "h w"]:
    """Table entries (H, W) of bytes, 0 for bytes from N on. The table is (N,)."""
    values, table = torch.empty_like(bytes_), padded(table, 256)
    run = kernel("png_map", c_void_p, c_int64, c_int64, c_void_p, c_void_p)

    def compute(start: int, stop: int) -> None:
        run(bytes_.data_ptr(), start, stop, *addresses(table, values))

    run_chunks(compute, bytes_.numel(), _BLOCK)
    return values


def chained_order(counts: Int[Tensor, "k k"]) -> Int[Tensor, " k"]:
    """Greedy Hamiltonian path, int64 (K,), for counts of adjacent colors, int64 (K, K), K from 2 to 256."""
    order, n_colors = zeros(_checked_size(counts), dtype=torch.int64), len(counts)
    n_bytes = kernel("png_chain_bytes", c_int64, restype=c_int64)(n_colors)
    scratch = empty(n_bytes, dtype=torch.uint8)
    run = kernel("png_chain", c_void_p, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), n_colors, *addresses(scratch, order))
    return order


def grown_order(counts: Int[Tensor, "k k"]) -> Int[Tensor, " k"]:
    """Modified Zeng order, int64 (K,), for counts of adjacent colors, int64 (K, K), K from 2 to 256."""
    order = zeros(_checked_size(counts), dtype=torch.int64)
    run = kernel("png_grow", c_void_p, c_int64, c_void_p)
    run(counts.data_ptr(), len(counts), order.data_ptr())
    return order


def refined_order(
    counts: Int[Tensor, "k k"], order: Int[Tensor, " k"], lengths: Int[Tensor, "256"], reach: int
) -> Int[Tensor, " k"]:
    """The order, int64 (K,), after each color has moved by up to `reach` places to the place of the least code length.

    Args:
        counts: counts of adjacent colors, int64 (K, K), K from 2 to 256, symmetric.
        order: a permutation, int64 (K,).
        lengths: code length of each difference, int64 (256,).
        reach: the largest number of places that a color moves.
    """
    colors = order.clone()
    run = kernel("png_refine", c_void_p, c_int64, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), _checked_size(counts), reach, *addresses(lengths, colors))
    return colors


def difference_counts(counts: Int[Tensor, "k k"], order: Int[Tensor, " k"]) -> Int[Tensor, "256"]:
    """Counts, int64 (256,), of the differences modulo 256 of adjacent pixels, whose indices are numbered in `order`.

    Args:
        counts: counts of adjacent colors, int64 (K, K), K from 2 to 256.
        order: a permutation, int64 (K,).
    """
    frequencies = zeros(256, dtype=torch.int64)
    run = kernel("png_differences", c_void_p, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), _checked_size(counts), *addresses(order, frequencies))
    return frequencies


def _checked_size(counts: Tensor) -> int:
    """K of counts (K, K). ValueError unless K is from 2 to 256."""
    if not 2 <= len(counts) <= 256 or counts.shape[1] != len(counts):
        raise ValueError(f"counts must have shape (K, K), K from 2 to 256, got {tuple(counts.shape)}")
    return len(counts)
