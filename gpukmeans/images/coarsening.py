"""Coarse histograms: colors in the same bin of color space are replaced by their mean."""

from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.tiling import blocks_of

# Bins per channel, from coarse to fine. Each value has about twice as many bins in three channels as the one before.
_BINS_PER_CHANNEL = (32, 40, 50, 64, 80, 101)
# Means per palette color. With fewer, a palette found among the means has a larger error over the colors themselves.
_MEANS_PER_PALETTE_COLOR = 12
# Largest ratio of means to colors. Above it, clustering the means saves too little time.
_MAX_MEANS_RATIO = 0.5
# Up to this many bins, colors are numbered by a table of all bins, which is faster than sorting.
_MAX_TABLE = 1 << 20
# Points that are multiplied by their counts at a time.
_BLOCK = 1 << 17


class ColorMeans(NamedTuple):
    """Mean points (M, D) of groups of similar colors, float32, and their weights (M,), int64."""

    x: Tensor
    weights: Tensor


def merge_similar_colors(colors: Tensor, x: Tensor, counts: Tensor, n_colors: int) -> ColorMeans | None:
    """Means of similar colors, for a faster search of a palette, or None if merging colors would save too little.

    Bins divide each channel evenly, and all colors in a bin are replaced by their mean. The widest bins with at least
    12 means for each palette color are used. The result is None if they have more than half as many means as there are
    colors, or if even the narrowest bins have fewer than 12 means for each palette color.

    Args:
        colors: distinct colors, uint8 (N, C).
        x: points of the colors in the color space used, float32 integers (N, D).
        counts: number of pixels of each color, int64 (N,).
        n_colors: number of colors of the palette.
    """
    for bins_per_channel in _BINS_PER_CHANNEL:
        bins = bin_colors(colors, bins_per_channel)
        if bins.n > _MAX_MEANS_RATIO * len(colors):
            return None
        if bins.n >= _MEANS_PER_PALETTE_COLOR * n_colors:
            return bin_means(bins, x, counts)
    return None


class Bins(NamedTuple):
    """The index of the bin of each color (N,), int64, from 0 to `n` - 1 without gaps."""

    indices: Tensor
    n: int


def bin_colors(colors: Tensor, bins_per_channel: int) -> Bins:
    """The bins of colors (N, C), in lexicographic order of the bins."""
    powers = [bins_per_channel**i for i in range(colors.shape[1] - 1, -1, -1)]
    factors = torch.tensor(powers, dtype=torch.int32, device="cpu").to(colors.device, non_blocking=True)
    parts = (colors.int() * bins_per_channel >> 8).mul_(factors)
    codes, n_codes = parts.sum(dim=1, dtype=torch.int32), bins_per_channel ** colors.shape[1]
    if n_codes > _MAX_TABLE:
        values, indices = torch.unique(codes, return_inverse=True)
        return Bins(indices, len(values))
    used = torch.zeros(n_codes, dtype=torch.int32, device=colors.device).index_fill_(0, codes.long(), 1)
    ends = used.cumsum(0, dtype=torch.int32)
    return Bins(ends.index_select(0, codes).long().sub_(1), int(ends[-1]))


def bin_means(bins: Bins, x: Tensor, counts: Tensor) -> ColorMeans:
    """Means of the integer points x (N, D) in each bin, weighted by counts (N,)."""
    sums, weights = cluster_sums(x, bins.indices, counts, bins.n)
    return ColorMeans((sums / weights[:, None]).float(), weights)


def cluster_sums(x: Tensor, labels: Tensor, counts: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and total counts (K,) of integer points (N, D) with labels (N,) below K, int64.

    The sums are of integers, because these do not depend on the order of addition.
    """
    sums = torch.zeros(n, x.shape[1], dtype=torch.int64, device=x.device)
    for block in blocks_of(x, _BLOCK):
        sums.index_add_(0, labels[block], x[block].long().mul_(counts[block, None]))
    return sums, torch.zeros(n, dtype=torch.int64, device=x.device).index_add_(0, labels, counts)
