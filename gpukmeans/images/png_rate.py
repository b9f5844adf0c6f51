"""Bits that the rows of a PNG file take: filter residuals of bytes, and the lengths of their Huffman codes.

A row of a PNG is stored as a filter type and the differences of its bytes from predictions by bytes to the left and
above (ISO/IEC 15948, 9.2). Deflate then stores a byte in a code whose length is about the binary logarithm of its
frequency. All arithmetic is on integers, so every device returns the same bits.
"""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.png import cheapest_filters, filtered_counts
from gpukmeans.engines.native.tensors import takes
from gpukmeans.tiling import blocks

N_FILTERS = 5
"""Filter types 0 to 4: none, sub, up, average, Paeth."""

BIT = 64
"""Units of a code length: 1/64 bit."""

# Deflate's codes have 1 to 15 bits.
_SHORTEST, _LONGEST = BIT, 15 * BIT

# Number of bytes filtered at a time.
_BLOCK = 1 << 18

# Times that filters are chosen by code lengths, and code lengths by filters.
_TURNS = 4


@dataclass(frozen=True, eq=False)
class PngRate:
    """The filter types of rows (H,), and the code length of each residual (256,), both int32.

    Args:
        filters: filter type of each row, 0 to 4.
        lengths: code lengths in 1/64 bit.
    """

    filters: Int[Tensor, " h"]
    lengths: Int[Tensor, "256"]


def fitted_rate(rows: UInt8[Tensor, "h w"]) -> PngRate:
    """Filter types and code lengths for rows of bytes (H, W), each chosen for the other in turn.

    The first filters are those of the least sum of absolute residuals. Of equal filters the lowest is taken.

    Args:
        rows: uint8 (H, W).

    Example:
        >>> fitted_rate(torch.tensor([[7, 7, 7], [7, 7, 7]], dtype=torch.uint8)).filters.tolist()
        [1, 2]
    """
    if takes(rows, dtype=torch.uint8):
        choose = functools.partial(cheapest_filters, rows.contiguous())
    else:
        choose = functools.partial(_cheapest, _all_residuals(rows))
    levels = torch.arange(256, dtype=torch.int32, device=rows.device)
    filters, counts = choose(torch.minimum(levels, 256 - levels))
    for _ in range(_TURNS):
        filters, counts = choose(_code_lengths(counts))
    return PngRate(filters, _code_lengths(counts))


def png_scanlines(rows: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "h w+1"]:
    """The uncompressed image data of a PNG: each row of bytes filtered, after its filter type.

    The filters are those of the fewest bits in Huffman codes, which they and the codes are fitted to in turn. A byte is
    predicted from the bytes beside it, so a pixel is a byte, or a part of one.

    Args:
        rows: uint8 (H, W), such as palette indices.

    Example:
        >>> png_scanlines(torch.tensor([[7, 7, 7], [7, 7, 8]], dtype=torch.uint8)).tolist()
        [[1, 7, 0, 0], [2, 0, 0, 1]]
    """
    filters = fitted_rate(rows).filters
    lines = torch.empty(rows.shape[0], rows.shape[1] + 1, dtype=torch.uint8, device=rows.device)
    lines[:, 0] = filters
    for block in blocks(len(rows), max(1, _BLOCK // rows.shape[1])):
        padded = torch.nn.functional.pad(rows[max(0, block.start - 1) : block.stop].int(), (1, 0, block.start == 0, 0))
        own = filters[block, None]
        lines[block, 1:] = (padded[1:, 1:] - predicted(own, padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1])) & 255
    return lines


def free_rate(rows: UInt8[Tensor, "h w"]) -> PngRate:
    """The rate of no bits for any residual.

    Args:
        rows: uint8 (H, W).
    """
    filters = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    return PngRate(filters, torch.zeros(256, dtype=torch.int32, device=rows.device))


def total_bits(rows: UInt8[Tensor, "h w"], rate: PngRate) -> int:
    """Bits of the rows (H, W) with their filter types, in 1/64 bit.

    Args:
        rows: uint8 (H, W).
        rate: filter types and code lengths.
    """
    if takes(rows, dtype=torch.uint8) and takes(rate.filters, dtype=torch.int32):
        counts = filtered_counts(rows.contiguous(), rate.filters.contiguous())
    else:
        counts = _counts(_all_residuals(rows), rate.filters)
    return int((counts * rate.lengths).sum())


def predicted(filters: Tensor, left: Tensor, above: Tensor, above_left: Tensor) -> Tensor:
    """Predictions of bytes by filter types and the bytes around them, all int32 of shapes that broadcast."""
    by_left, by_above = (above - above_left).abs(), (left - above_left).abs()
    by_both = (left + above - 2 * above_left).abs()
    paeth = torch.where(
        (by_left <= by_above) & (by_left <= by_both), left, torch.where(by_above <= by_both, above, above_left)
    )
    average = (left + above) >> 1
    zero = torch.zeros((), dtype=left.dtype, device=left.device)
    found = torch.where(filters == 4, paeth, torch.where(filters == 3, average, zero))
    return torch.where(filters == 1, left, torch.where(filters == 2, above, found))


def _all_residuals(rows: Tensor) -> Tensor:
    """Residuals (5, H, W), int32 from 0 to 255, by all filter types."""
    return torch.stack([_residuals(rows, filter_type) for filter_type in range(N_FILTERS)])


def _residuals(rows: Tensor, filter_type: int) -> Tensor:
    """Residuals (H, W), int32 from 0 to 255, of rows that all have one filter type."""
    padded = torch.nn.functional.pad(rows.int(), (1, 0, 1, 0))
    number = torch.tensor(filter_type, dtype=torch.int32, device=rows.device)
    prediction = predicted(number, padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1])
    return (padded[1:, 1:] - prediction) & 255


def _cheapest(residuals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The filter type (H,), int32, of the least cost of each row of residuals (5, H, W), its own byte included.

    With the counts (256,), int64, of the bytes of the rows filtered so.
    """
    costs = lengths.long()[residuals].sum(dim=2) + lengths[:N_FILTERS, None]
    ranked = costs * N_FILTERS + torch.arange(N_FILTERS, device=costs.device)[:, None]
    filters = ranked.amin(dim=0).remainder(N_FILTERS).int()
    return filters, _counts(residuals, filters)


def _counts(residuals: Tensor, filters: Tensor) -> Tensor:
    """Counts (256,), int64, of the bytes of filtered rows: residuals (5, H, W) of the filters (H,), and these."""
    chosen = residuals[filters.long(), torch.arange(len(filters), device=filters.device)]
    return torch.bincount(chosen.flatten(), minlength=256) + torch.bincount(filters, minlength=256)


def _code_lengths(counts: Tensor) -> Tensor:
    """Code lengths (256,), int32, of bytes with these counts (256,). One that does not occur counts as a tenth."""
    tenths = [10 * count + 1 for count in counts.tolist()]
    all_bits = binary_logarithm(sum(tenths))
    lengths = [min(max(all_bits - binary_logarithm(n), _SHORTEST), _LONGEST) for n in tenths]
    return torch.tensor(lengths, dtype=torch.int32, device=counts.device)


def binary_logarithm(number: int) -> int:
    """The binary logarithm in units of 1/64, rounded down: exact, unlike a floating-point logarithm."""
    return (number**BIT).bit_length() - 1
