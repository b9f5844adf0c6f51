"""Estimated bits of the rows of a PNG file: filter residuals of bytes, and the lengths of their Huffman codes.

A PNG row begins with its filter type. The type selects how each byte is predicted from bytes to its left and above
(ISO/IEC 15948, 9.2). The row stores residuals: bytes minus their predictions, modulo 256. Deflate replaces them by
codes. The length of a code is about the negative binary logarithm of the residual's frequency. All arithmetic is on
integers, so every device returns the same bits.
"""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.binary_powers import powers_of_parts
from gpukmeans.engines.fused import png as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.native.png import cheapest_filters, filtered_counts, weighted_counts
from gpukmeans.engines.native.tensors import takes
from gpukmeans.images.contrast import MOST_WEIGHT, WEIGHT, pixel_weights, weighted
from gpukmeans.tiling import blocks

N_FILTERS = 5
"""Filter types 0 to 4: none, sub, up, average, Paeth."""

BIT = 64
"""Number of code length units in a bit: the unit is 1/64 bit."""

# Deflate's codes have 1 to 15 bits.
_SHORTEST, _LONGEST = BIT, 15 * BIT

# Number of bytes filtered at a time.
_BLOCK = 1 << 18

# Rows with several pixels per byte are chosen if they need less than this percentage of the bits of rows with one pixel
# per byte; see `smallest_rate`.
_PACKED_PERCENT = 95

# Number of rounds in which filters are chosen by the code lengths, and code lengths are then fitted to the filters.
_TURNS = 4


@dataclass(frozen=True, eq=False)
class PngRate:
    """Filter type of each row and code length of each residual.

    Args:
        filters: filter type of each row, 0 to 4, int32 (H,).
        lengths: code lengths in 1/64 bit, int32 (256,).
        per_byte: number of pixels in a byte, 1, 2, 4 or 8.
        weights: weights of the code lengths by blocks of 8 x 8 pixels, from `contrast_weights`. None without weights.
            Only for one pixel per byte.
    """

    filters: Int[Tensor, " h"]
    lengths: Int[Tensor, "256"]
    per_byte: int = 1
    weights: UInt8[Tensor, "p q"] | None = None

    def total_bits(self, indices: UInt8[Tensor, "h w"]) -> int:
        """Sum of the code lengths of residuals and filter types for indices (H, W), in 1/64 bit.

        Weights apply to the code lengths of residuals. Code lengths of filter types have a weight of 1.

        Args:
            indices: uint8 (H, W).
        """
        if has_kernels(indices):
            return int(cuda.bits(packed(indices, self.per_byte), self.filters, self.lengths, self.weights))
        rows, lengths = packed(indices, self.per_byte).contiguous(), self.lengths.long()
        by_kernels = takes(rows, dtype=torch.uint8) and takes(self.filters, dtype=torch.int32)
        filters = self.filters.contiguous()
        if self.weights is not None:
            lengths = weighted(lengths, torch.arange(MOST_WEIGHT + 1, device=lengths.device)[:, None])
            counts = (weighted_counts if by_kernels else _weighted_counts)(rows, filters, self.weights.contiguous())
        elif by_kernels:
            counts = filtered_counts(rows, filters)
        else:
            counts = _counts(_all_residuals(rows), filters)
        return int((counts * lengths).sum())


def packed(indices: UInt8[Tensor, "h w"], per_byte: int) -> UInt8[Tensor, "h b"]:
    """Bytes (H, B) with 1, 2, 4 or 8 pixels each, as in a PNG: the first pixel has the highest bits.

    The last byte of a row ends with zeros if the width is not a multiple of `per_byte`.

    Args:
        indices: uint8 (H, W), below 2 to the power of `8 / per_byte`.
        per_byte: number of pixels in a byte.

    Example:
        >>> packed(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 2).tolist()
        [[18, 48]]
    """
    if has_kernels(indices):
        return cuda.packed(indices, per_byte)
    indices = torch.nn.functional.pad(indices, (0, -indices.shape[1] % per_byte))
    rows = indices[:, ::per_byte].clone()
    for pixel in range(1, per_byte):
        rows = (rows << 8 // per_byte) | indices[:, pixel::per_byte]
    return rows


def unpacked(rows: Tensor, per_byte: int) -> Tensor:
    """Indices (..., `per_byte`) of the pixels in bytes (...), with the dtype of the bytes."""
    bits = 8 // per_byte
    shifts = torch.arange(8 - bits, -1, -bits, dtype=rows.dtype, device=rows.device)
    return (rows[..., None] >> shifts) & (1 << bits) - 1


def smallest_rate(indices: UInt8[Tensor, "h w"], n_colors: int) -> PngRate:
    """The `fitted_rate` with several pixels per byte (2, 4 or 8) if they save more than 5 % of the bits, else with one.

    As many pixels as fit are tried, and the bits are estimated. Deflate also saves bits where bytes repeat, which the
    estimate ignores. Rows with one pixel per byte have more repeats, hence the margin of 5 %.

    Args:
        indices: uint8 (H, W), below `n_colors`.
        n_colors: length of the palette.
    """
    most = next((per_byte for per_byte in (8, 4, 2) if n_colors <= 1 << 8 // per_byte), 1)
    if most == 1:
        return fitted_rate(indices)
    (rate, n_bits), (packed_rate, n_packed_bits) = (_fitted_with_bits(indices, per_byte) for per_byte in (1, most))
    return packed_rate if 100 * n_packed_bits < _PACKED_PERCENT * n_bits else rate


def _fitted_with_bits(indices: Tensor, per_byte: int) -> tuple[PngRate, int]:
    """`fitted_rate`, and its number of bits for the indices."""
    if has_kernels(indices):
        filters, lengths, n_bits = cuda.fitted(packed(indices, per_byte), _TURNS)
        return PngRate(filters, lengths, per_byte), int(n_bits)
    rate = fitted_rate(indices, per_byte)
    return rate, rate.total_bits(indices)


def fitted_rate(indices: UInt8[Tensor, "h w"], per_byte: int = 1) -> PngRate:
    """A `PngRate` fitted to indices: filter types and code lengths are alternately fitted to each other.

    At first each row has the filter type with the least sum of absolute residuals. A residual r counts as
    min(r, 256 - r). The lowest filter type wins a tie.

    Args:
        indices: uint8 (H, W).
        per_byte: number of pixels in a byte.

    Example:
        >>> fitted_rate(torch.tensor([[7, 7, 7], [7, 7, 7]], dtype=torch.uint8)).filters.tolist()
        [1, 2]
    """
    rows = packed(indices, per_byte)
    if has_kernels(rows):
        return PngRate(*cuda.fitted(rows, _TURNS)[:2], per_byte)
    if takes(rows, dtype=torch.uint8):
        choose = functools.partial(cheapest_filters, rows.contiguous())
    else:
        choose = functools.partial(_cheapest, _all_residuals(rows))
    levels = torch.arange(256, dtype=torch.int32, device=rows.device)
    filters, counts = choose(torch.minimum(levels, 256 - levels))
    for _ in range(_TURNS):
        filters, counts = choose(_code_lengths(counts))
    return PngRate(filters, _code_lengths(counts), per_byte)


def png_scanlines(rows: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "h w+1"]:
    """Uncompressed image data of a PNG: the filter type of each row, then the filtered bytes of the row.

    The filter types are chosen by `fitted_rate`. Bytes are predicted from the bytes directly to the left and above, as
    in a PNG with at most one byte per pixel.

    Args:
        rows: bytes of the rows, such as palette indices, uint8 (H, W).

    Example:
        >>> png_scanlines(torch.tensor([[7, 7, 7], [7, 7, 8]], dtype=torch.uint8)).tolist()
        [[1, 7, 0, 0], [2, 0, 0, 1]]
    """
    filters = fitted_rate(rows).filters
    lines = torch.empty(rows.shape[0], rows.shape[1] + 1, dtype=torch.uint8, device=rows.device)
    lines[:, 0] = filters
    for block in blocks(len(rows), max(1, _BLOCK // rows.shape[1])):
        padded = torch.nn.functional.pad(rows[max(0, block.start - 1) : block.stop].int(), (1, 0, block.start == 0, 0))
        lines[block, 1:] = _residuals(padded, filters[block, None])
    return lines


def free_rate(rows: UInt8[Tensor, "h w"]) -> PngRate:
    """A rate in which every residual has 0 bits.

    Args:
        rows: uint8 (H, W).
    """
    filters = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    return PngRate(filters, torch.zeros(256, dtype=torch.int32, device=rows.device))


def predicted(filters: Tensor, left: Tensor, above: Tensor, above_left: Tensor) -> Tensor:
    """Predictions of bytes by filter types from the bytes to the left and above. All int32; the shapes broadcast."""
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
    """Residuals (5, H, W), int32 from 0 to 255, of each filter type."""
    padded = torch.nn.functional.pad(rows.int(), (1, 0, 1, 0))
    filter_types = torch.arange(N_FILTERS, dtype=torch.int32, device=rows.device)
    return torch.stack([_residuals(padded, filter_type) for filter_type in filter_types])


def _residuals(padded: Tensor, filters: Tensor) -> Tensor:
    """Residuals (H, W), int32 from 0 to 255, of the bytes `padded[1:, 1:]`, for filter types that broadcast to (H, W).

    `padded` (H + 1, W + 1), int32, begins with the row above the bytes and with a column of zeros.
    """
    prediction = predicted(filters, padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1])
    return (padded[1:, 1:] - prediction) & 255


def _cheapest(residuals: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Filter type of the least code length for each row, int32 (H,), and counts of the stored bytes, int64 (256,).

    Stored bytes are filter types and residuals (5, H, W). The lowest filter type wins a tie.
    """
    costs = lengths.long()[residuals].sum(dim=2) + lengths[:N_FILTERS, None]
    ranked = costs * N_FILTERS + torch.arange(N_FILTERS, device=costs.device)[:, None]
    filters = ranked.amin(dim=0).remainder(N_FILTERS).int()
    return filters, _counts(residuals, filters)


def _counts(residuals: Tensor, filters: Tensor) -> Tensor:
    """Counts (256,), int64, of the filters (H,) and of their residuals among the residuals (5, H, W)."""
    chosen = residuals[filters.long(), torch.arange(len(filters), device=filters.device)]
    return torch.bincount(chosen.flatten(), minlength=256) + torch.bincount(filters, minlength=256)


def _weighted_counts(rows: Tensor, filters: Tensor, weights: Tensor) -> Tensor:
    """Counts (33, 256), int64, of stored bytes by weight, 0 to 32, for rows (H, W). Filter types have weight 16."""
    chosen = _all_residuals(rows)[filters.long(), torch.arange(len(filters), device=filters.device)]
    bins = torch.cat([(256 * pixel_weights(weights, *rows.shape) + chosen).flatten(), 256 * WEIGHT + filters])
    return torch.bincount(bins, minlength=256 * (MOST_WEIGHT + 1)).view(-1, 256)


def _code_lengths(counts: Tensor) -> Tensor:
    """Code lengths (256,), int32, of bytes by their counts (256,). A tenth is added to each count to avoid zeros."""
    tenths = 10 * counts + 1
    lengths = binary_logarithms(tenths.sum()) - binary_logarithms(tenths)
    return lengths.clamp(_SHORTEST, _LONGEST).int()


def binary_logarithms(numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Binary logarithms of integers, int64 (...), in units of 1/64, rounded down exactly. The logarithm of 0 is 0.

    Args:
        numbers: int64 (...), not negative.

    Example:
        >>> binary_logarithms(torch.tensor([0, 1, 2, 3, 2**62])).tolist()
        [0, 0, 64, 101, 3968]
    """
    powers = torch.tensor([1 << exponent for exponent in range(1, 63)], device=numbers.device)
    exponents = torch.bucketize(numbers, powers, right=True)
    parts = torch.tensor(powers_of_parts(), device=numbers.device)
    return BIT * exponents + torch.bucketize(numbers << (62 - exponents), parts, right=True)
