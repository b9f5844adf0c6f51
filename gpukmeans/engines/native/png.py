"""PNG filter types chosen by code lengths, and orders of palette colors, by the kernels of png.c.

Tensors are contiguous and on the CPU. Rows are scanlines of bytes, uint8 (H, W). Counts of adjacent colors are int64
(K, K), K from 2 to 256, as from `adjacency_counts`. `gpukmeans.images.png_rate` and `gpukmeans.images.palette_order`
define the results.
"""

from collections.abc import Callable
from ctypes import POINTER, Structure, c_int64, c_void_p

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel, padded, zeros
from gpukmeans.engines.native.threads import run_chunks

# The number of bytes of one call of a kernel. A call takes at most 50 ms.
_BLOCK = 1 << 20


class _Filtering(Structure):
    """`struct filtering` of png.c."""

    _fields_ = [("width", c_int64), *fields(c_void_p, "rows", "lengths", "filters")]


def cheapest_filters(
    rows: UInt8[Tensor, "h w"], lengths: Int[Tensor, "256"]
) -> tuple[Int[Tensor, " h"], Int[Tensor, "256"]]:
    """The filter type of least code length for each row, int32 (H,), the lowest on ties, and counts, int64 (256,).

    Counts and code lengths include the filtered bytes and the filter type of a row. The function needs the memory of 6
    rows for each thread besides the results.

    Args:
        lengths: code length of each value of a byte, int32 (256,).
    """
    filters = empty(len(rows), dtype=torch.int32)
    return filters, _filtered(rows, filters, lengths)


def filtered_counts(rows: UInt8[Tensor, "h w"], filters: Int[Tensor, " h"]) -> Int[Tensor, "256"]:
    """Counts, int64 (256,), of the filter types (H,), int32, 0 to 4, and of the filtered bytes of rows (H, W)."""
    return _filtered(rows, filters, None)


def weighted_counts(
    rows: UInt8[Tensor, "h w"], filters: Int[Tensor, " h"], weights: UInt8[Tensor, "p q"]
) -> Int[Tensor, "n 256"]:
    """Counts, int64 (33, 256), of the filtered bytes of rows. Counts are separate for each weight from 0 to 32.

    A byte has the weight of its block of 8 x 8 bytes. The filter types count as bytes of weight 16.

    Args:
        filters: filter types, int32 (H,), 0 to 4.
        weights: weight of each block, uint8 (ceil(H / 8), ceil(W / 8)), up to 32.
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
    """Counts, int64 (K, K), of pairs of the index of a pixel and the index of its right or lower neighbor.

    The function needs 4 K² bytes for each million pixels besides the result.

    Args:
        indices: uint8 (H, W), below K.
        n_colors: K, from 1 to 256.
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
    """Counts of an image (H, W), as int64 of a shape: the sum of the counts of chunks of rows.

    `count` is a function of the start and stop of a chunk and of a tensor of zeros, to which it adds the counts. The
    tensor has this shape and dtype.
    """
    parts: list[Tensor] = []

    def compute(start: int, stop: int) -> None:
        counts = zeros(*shape, dtype=dtype)
        count(start, stop, counts)
        parts.append(counts)

    height, width = image
    run_chunks(compute, height, max(1, _BLOCK // width))
    return torch.stack(parts).sum(dim=0)


def mapped(bytes_: UInt8[Tensor, "h w"], table: UInt8[Tensor, " n"]) -> UInt8[Tensor, "h w"]:
    """The entry of a table (N,) for each byte, uint8 (H, W). It is 0 for bytes from N on."""
    values, table = torch.empty_like(bytes_), padded(table, 256)
    run = kernel("png_map", c_void_p, c_int64, c_int64, c_void_p, c_void_p)

    def compute(start: int, stop: int) -> None:
        run(bytes_.data_ptr(), start, stop, *addresses(table, values))

    run_chunks(compute, bytes_.numel(), _BLOCK)
    return values


def chained_order(counts: Int[Tensor, "k k"]) -> Int[Tensor, " k"]:
    """Greedy Hamiltonian path, int64 (K,), for counts of adjacent colors (K, K)."""
    order, n_colors = zeros(_checked_size(counts), dtype=torch.int64), len(counts)
    n_bytes = kernel("png_chain_bytes", c_int64, restype=c_int64)(n_colors)
    scratch = empty(n_bytes, dtype=torch.uint8)
    run = kernel("png_chain", c_void_p, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), n_colors, *addresses(scratch, order))
    return order


def grown_order(counts: Int[Tensor, "k k"]) -> Int[Tensor, " k"]:
    """Modified Zeng order, int64 (K,), for counts of adjacent colors (K, K)."""
    order = zeros(_checked_size(counts), dtype=torch.int64)
    run = kernel("png_grow", c_void_p, c_int64, c_void_p)
    run(counts.data_ptr(), len(counts), order.data_ptr())
    return order


def refined_order(
    counts: Int[Tensor, "k k"], order: Int[Tensor, " k"], lengths: Int[Tensor, "256"], reach: int
) -> Int[Tensor, " k"]:
    """The order, int64 (K,), after each color has moved by at most `reach` places to the place of least code length.

    Args:
        counts: counts of adjacent colors (K, K), symmetric.
        order: the color at each place, int64 (K,).
        lengths: code length of two adjacent pixels by the distance between the places of their colors, int64 (256,).
        reach: the largest number of places that a color moves.
    """
    colors = order.clone()
    run = kernel("png_refine", c_void_p, c_int64, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), _checked_size(counts), reach, *addresses(lengths, colors))
    return colors


def difference_counts(counts: Int[Tensor, "k k"], order: Int[Tensor, " k"]) -> Int[Tensor, "256"]:
    """Counts, int64 (256,), of the differences modulo 256 of adjacent pixels, if colors are numbered by `order`.

    Args:
        counts: counts of adjacent colors (K, K).
        order: the color at each place, int64 (K,).
    """
    frequencies = zeros(256, dtype=torch.int64)
    run = kernel("png_differences", c_void_p, c_int64, c_void_p, c_void_p)
    run(counts.data_ptr(), _checked_size(counts), *addresses(order, frequencies))
    return frequencies


def _checked_size(counts: Tensor) -> int:
    """K of counts (K, K). ValueError unless counts have this shape and K is from 2 to 256."""
    if not 2 <= len(counts) <= 256 or counts.shape[1] != len(counts):
        raise ValueError(f"counts must have shape (K, K), K from 2 to 256, got {tuple(counts.shape)}")
    return len(counts)
