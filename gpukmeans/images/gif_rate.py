"""Estimated bits of indices in a GIF file: code lengths of an index given the index to its left.

LZW replaces sequences of indices that occurred before by codes. The number of bits is near the conditional entropy of
an index given the index to its left. All arithmetic is on integers, so every device returns the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import png as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.images.contrast import pixel_weights, weighted
from gpukmeans.images.png_rate import BIT, binary_logarithms
from gpukmeans.tiling import blocks

# LZW's codes have at most 12 bits.
_LONGEST = 12 * BIT

# Pseudo-count of each index to the left. It is divided among the indices to the right in proportion to their counts in
# the whole image, and so smooths the frequencies of rare pairs.
_PRIOR = 2048

# Number of pixels counted at a time.
_BLOCK = 1 << 18

# Number of possible indices.
_N = 256


@dataclass(frozen=True, eq=False)
class GifRate:
    """Code length of each index given the index to its left. In the first column the index to the left is 0.

    Args:
        lengths: code lengths in 1/64 bit, int32 (256, 256). Row i has the code lengths after index i.
        weights: weights of the code lengths by blocks of 8 x 8 pixels, from `contrast_weights`. None without weights.
    """

    lengths: Int[Tensor, "256 256"]
    weights: UInt8[Tensor, "p q"] | None = None
    filters: ClassVar[None] = None
    per_byte: ClassVar[int] = 1

    def total_bits(self, indices: UInt8[Tensor, "h w"]) -> int:
        """Sum of the code lengths of indices (H, W), weighted if the rate has weights, in 1/64 bit.

        Args:
            indices: uint8 (H, W).
        """
        if has_kernels(indices):
            return int(cuda.bits(indices, None, self.lengths, self.weights))
        weights, total = None if self.weights is None else pixel_weights(self.weights, *indices.shape), 0
        for block, before, after in _pairs(indices):
            lengths = self.lengths[before, after]
            total += int(weighted(lengths, None if weights is None else weights[block]).sum())
        return total


def fitted_gif_rate(indices: UInt8[Tensor, "h w"]) -> GifRate:
    """A `GifRate` fitted to indices: code lengths from the frequencies of pairs of horizontal neighbors.

    Args:
        indices: uint8 (H, W), up to 3e9 pixels, so that products of two counts fit into int64.

    Example:
        >>> indices = torch.tensor([[0, 1] * 10000], dtype=torch.uint8)
        >>> fitted_gif_rate(indices).lengths[:2, :2].tolist()
        [[228, 9], [9, 228]]
    """
    if has_kernels(indices):
        return GifRate(cuda.pair_lengths(indices, prior=_PRIOR, longest=_LONGEST))
    counts = _pair_counts(indices)
    before, after, n = counts.sum(dim=1, keepdim=True), counts.sum(dim=0), indices.numel()
    numbers = torch.cat([n * (before + _PRIOR), n * counts + _PRIOR * after], dim=1)
    logarithms = binary_logarithms(numbers)
    return GifRate((logarithms[:, :1] - logarithms[:, 1:]).clamp_(max=_LONGEST).int())


def _pair_counts(indices: Tensor) -> Tensor:
    """Counts (256, 256), int64, of the pairs (index to the left, index) in rows of indices (H, W)."""
    counts = torch.zeros(_N * _N, dtype=torch.int64, device=indices.device)
    for _, before, after in _pairs(indices):
        counts += torch.bincount((before * _N + after).flatten(), minlength=_N * _N)
    return counts.view(_N, _N)


def _pairs(indices: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of blocks of rows of indices (H, W), the indices to the left of the pixels, and their indices, int32."""
    for block in blocks(len(indices), max(1, _BLOCK // indices.shape[1])):
        rows = torch.nn.functional.pad(indices[block].int(), (1, 0))
        yield block, rows[:, :-1], rows[:, 1:]
