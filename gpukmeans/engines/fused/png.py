"""Estimated bits of PNG and GIF files, packed rows, and counts of adjacent colors, by Triton kernels.

Tensors are on CUDA and contiguous. `gpukmeans.images.png_rate`, `gif_rate` and `palette_order` define the results.
"""

from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.binary_powers import powers_of_parts

# Pixels of a program, and rows and columns of a tile of bytes.
_BLOCK, _N_ROWS, _N_COLUMNS = 512, 4, 128


def fitted(rows: UInt8[Tensor, "h w"], n_repeats: int) -> tuple[Int[Tensor, " h"], Int[Tensor, "256"], Int[Tensor, ""]]:
    """Filter types (H,) and code lengths (256,), int32, that are fitted to each other in a number of repeats.

    The last result is the sum of the code lengths of the rows, int64.
    """
    import gpukmeans.engines.fused.png_kernels as kernels

    (height, width), n_counts = rows.shape, (n_repeats + 1) * 256
    filters = torch.empty(height, dtype=torch.int32, device=rows.device)
    lengths = torch.empty(n_repeats + 1, 256, dtype=torch.int32, device=rows.device)
    bits = torch.empty((), dtype=torch.int64, device=rows.device)
    # Counts, numbers of programs, and constants of logarithms in one copy.
    values = torch.cat([torch.zeros(n_counts + n_repeats + 1, dtype=torch.int64, device="cpu"), _powers()])
    values = values.to(rows.device, non_blocking=True)
    counts, n_done, powers = values[:n_counts].view(-1, 256), values[n_counts:], values[n_counts + n_repeats + 1 :]
    tile = {"n_rows": _N_ROWS, "block": _N_COLUMNS, "num_warps": 8}
    for repeat in range(n_repeats + 1):
        before = lengths[repeat - 1] if repeat else None
        tensors = filters, lengths[repeat], bits, counts[repeat], n_done[repeat], before, powers, rows
        launch(kernels.filter_kernel, -(-height // _N_ROWS), *tensors, height, width, **tile)
    return filters, lengths[-1], bits


def bits(
    rows: UInt8[Tensor, "h w"],
    filters: Int[Tensor, " h"] | None,
    lengths: Int[Tensor, "..."],
    weights: UInt8[Tensor, "p q"] | None,
    total: Int[Tensor, ""] | None = None,
) -> Int[Tensor, ""]:
    """Sum of the code lengths of rows, int64. It is added to `total`, if given.

    Args:
        rows: bytes of the rows.
        filters: filter types, int32 (H,). None for code lengths of a byte after the byte to its left.
        lengths: code lengths, int32 (256,), or (256, 256) without filters.
        weights: weights by blocks of 8 x 8 bytes in sixteenths, or None.
        total: the sum so far.
    """
    import gpukmeans.engines.fused.png_kernels as kernels

    height, width = rows.shape
    total = torch.zeros((), dtype=torch.int64, device=rows.device) if total is None else total
    tensors = total, rows.contiguous(), filters, lengths, weights
    tile = {"n_rows": _N_ROWS, "block": _N_COLUMNS, "num_warps": 8}
    launch(kernels.bits_kernel, -(-height // _N_ROWS), *tensors, height, width, **tile)
    return total


def pair_lengths(indices: UInt8[Tensor, "h w"], *, prior: int, longest: int) -> Int[Tensor, "256 256"]:
    """Code lengths, int32, of an index after the index to its left, see `gpukmeans.images.gif_rate`."""
    import gpukmeans.engines.fused.png_kernels as kernels

    n_rows = 8
    counts = torch.zeros(257, 256, dtype=torch.int64, device=indices.device)
    lengths = torch.empty(256, 256, dtype=torch.int32, device=indices.device)
    launch_over(kernels.pairs_kernel, indices.numel(), counts, indices.contiguous(), *indices.shape)
    constants = {"prior": prior, "longest": longest, "n_rows": n_rows}
    powers = _powers().to(indices.device, non_blocking=True)
    launch(kernels.pair_lengths_kernel, 256 // n_rows, lengths, counts, powers, indices.numel(), **constants)
    return lengths


def adjacency_counts(indices: UInt8[Tensor, "h w"], n_colors: int) -> Int[Tensor, "k k"]:
    """Number of adjacent pixels of each pair of colors, int64 (K, K), symmetric, diagonal 0."""
    import gpukmeans.engines.fused.png_kernels as kernels

    counts = torch.zeros(n_colors, n_colors, dtype=torch.int64, device=indices.device)
    launch_over(kernels.adjacency_kernel, indices.numel(), counts, indices.contiguous(), *indices.shape, n_colors)
    return counts


def mapped(indices: UInt8[Tensor, "h w"], table: Int[Tensor, " k"]) -> UInt8[Tensor, "h w"]:
    """The entry of a table, int64 (K,), for each index below K."""
    import gpukmeans.engines.fused.png_kernels as kernels

    values = torch.empty(indices.shape, dtype=torch.uint8, device=indices.device)
    launch_over(kernels.map_kernel, values.numel(), values, indices.contiguous(), table, values.numel(), len(table))
    return values


def packed(indices: UInt8[Tensor, "h w"], per_byte: int) -> UInt8[Tensor, "h b"]:
    """Bytes with `per_byte` pixels each, as by `gpukmeans.images.png_rate.packed`. With one pixel, the indices."""
    import gpukmeans.engines.fused.png_kernels as kernels

    if per_byte == 1:
        return indices.contiguous()
    height, width = indices.shape
    rows = torch.empty(height, -(-width // per_byte), dtype=torch.uint8, device=indices.device)
    arguments = rows, indices.contiguous(), height, width, rows.shape[1]
    launch_over(kernels.pack_kernel, rows.numel(), *arguments, per_byte=per_byte)
    return rows


def unpack(rows: UInt8[Tensor, "h b"], per_byte: int, indices: UInt8[Tensor, "h w"]) -> None:
    """Write the indices of the pixels in bytes."""
    import gpukmeans.engines.fused.png_kernels as kernels

    arguments = indices, rows, *indices.shape, rows.shape[1]
    launch_over(kernels.unpack_kernel, indices.numel(), *arguments, per_byte=per_byte)


def _powers() -> Tensor:
    """`powers_of_parts`, int64 (63,) on the CPU."""
    return torch.tensor(powers_of_parts(), dtype=torch.int64, device="cpu")


def launch_over(kernel: Any, n: int, *args: Tensor | int | None, **constants: int) -> None:
    """Launch a kernel with a program for each block of n pixels or bytes."""
    launch(kernel, -(-n // _BLOCK), *args, block=_BLOCK, **constants)


def launch(kernel: Any, n_programs: int, *args: Tensor | int | None, **constants: int) -> None:
    """Launch a kernel with a number of programs."""
    from gpukmeans.engines.fused.launch import run_kernel

    run_kernel(kernel, (n_programs,), *args, **constants)
